"""YAML as a file of settings needs it, out of PyYAML's events: nothing that one reader understands differently.

Refused: a key twice, anchors and aliases (a page of them can mean gigabytes), tags, more than one document, depth,
size. Of plain words only `true`, `false`, `null` and whole decimal numbers are more than text: `no` is a country,
`22:22` a time, `0x10` a word.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

MOST_BYTES = 8 * 1024 * 1024  # 10,000 services are about 2 MiB
MOST_DEPTH = 12

Place = tuple[str | int, ...]

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
# The C parser where PyYAML was built with it: ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FileRefusedError(ValueError):
    """The file cannot be used. One sentence a line, each with the file's name and, where known, the line."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Keys are text, whatever they look like. `lines` says where each value stands, counted from 1."""

    name: str
    value: Any
    lines: Mapping[Place, int]

    def at(self, place: Place) -> str:
        """`fleet.yaml:12`, of the place or of what it is in."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.name}:{self.lines.get(place, 1)}"


def load(data: bytes, name: str) -> Loaded:
    """The one document of the file; :class:`FileRefusedError` with file and line. An empty file is None."""
    if len(data) > MOST_BYTES:
        raise FileRefusedError(f"{name}: more than {MOST_BYTES // 1024 // 1024} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FileRefusedError(f"{name}: not UTF-8, byte {error.start} is not") from error
    reader = _Reader(name, yaml.parse(text, Loader=_LOADER))
    try:
        value = reader.document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FileRefusedError(f"{name}:{line}: {error.problem or 'not YAML'}") from error
    except yaml.YAMLError as error:
        raise FileRefusedError(f"{name}: a character that no YAML file may hold") from error
    return Loaded(name, value, reader.lines)


@dataclass(slots=True)
class _Reader:
    name: str
    events: Iterator[Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def document(self) -> Any:
        next(self.events)  # the stream begins
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        if event.tags:
            self._refuse(event, "a %TAG directive is not read")
        value = self._value(next(self.events), ())
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document begins here, one is read")
        return value

    def _value(self, event: Any, place: Place) -> Any:
        self.lines.setdefault(place, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse(event, "anchors and aliases are not read: write it out")
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag[:40]} is not read")
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else _meaning(event.value)
        if len(place) >= MOST_DEPTH:
            self._refuse(event, f"nested more than {MOST_DEPTH} deep")
        return self._list(place) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(place)

    def _list(self, place: Place) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*place, len(values))))
        return values

    def _mapping(self, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in values:
                self._refuse(event, f"{key[:60]!r} stands here twice")
            self.lines[*place, key] = event.start_mark.line + 1  # a value may begin below its key
            values[key] = self._value(next(self.events), (*place, key))
        return values

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            self._refuse(event, "a key is a plain word")
        if not event.style and event.value == "<<":
            self._refuse(event, "merge keys are not read: write it out")
        return str(event.value)

    def _refuse(self, event: Any, reason: str) -> NoReturn:
        raise FileRefusedError(f"{self.name}:{event.start_mark.line + 1}: {reason}")


def _meaning(plain: str) -> Any:
    if plain in _WORDS:
        return _WORDS[plain]
    return int(plain) if _NUMBER.fullmatch(plain) else plain
