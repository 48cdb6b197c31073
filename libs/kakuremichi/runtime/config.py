"""Settings from the environment: one frozen struct per service, read once, all faults reported together."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

T = TypeVar("T", bound=Struct)

PREFIX = "KAKUREMICHI_"


class ConfigError(ValueError):
    """The environment does not fit; `faults` are sentences that each begin with the variable's name."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Secret:
    """A text that hides itself: no repr, no format, no encoder and no log shows it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def read_config(kind: type[T], environ: Mapping[str, str] = os.environ) -> T:
    """A `kind` from `KAKUREMICHI_<FIELD>` variables; :class:`ConfigError` with every fault.

    `KAKUREMICHI_<FIELD>_FILE` names a file that holds the value instead, as secrets are mounted. An empty variable
    is an absent one. Lists are separated by commas; `msgspec.Meta` gives limits and, as description, what is meant.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in msgspec.structs.fields(kind):
        try:
            text = _text(field, environ)
            if text is not None:
                values[field.name] = _convert(field, text)
        except _FaultError as fault:
            faults.append(str(fault))
    if faults:
        raise ConfigError(tuple(faults))
    return kind(**values)


class _FaultError(Exception):
    pass


def _text(field: FieldInfo, environ: Mapping[str, str]) -> str | None:
    name = PREFIX + field.name.upper()
    file_name = f"{name}_FILE"
    value, file = environ.get(name, ""), environ.get(file_name, "")
    if value and file:
        raise _FaultError(f"{name}: set twice, here and in {file_name}")
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise _FaultError(f"{file_name}: {file} cannot be read ({error})") from error
    if value:
        return value
    if field.required:
        meant = _description(field.type)
        raise _FaultError(f"{name}: not set{', ' + meant if meant else ''}")
    return None


def _convert(field: FieldInfo, text: str) -> Any:
    is_list = get_origin(_bare(field.type)) is tuple
    raw: object = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    try:
        return msgspec.convert(raw, field.type, strict=False, dec_hook=_hook)
    except msgspec.ValidationError as error:  # its text shows types and limits, never the value
        meant = _description(field.type)
        raise _FaultError(f"{PREFIX}{field.name.upper()}: {error}{', ' + meant if meant else ''}") from error


def _hook(kind: type[Any], value: object) -> object:
    if kind in (Path, Secret):
        return kind(value)
    raise NotImplementedError(f"settings of type {kind.__name__} are not read")


def _bare(annotation: Any) -> Any:
    return getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation


def _description(annotation: Any) -> str:
    metas = (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, msgspec.Meta))
    return next((meta.description for meta in metas if meta.description), "")
