"""The declarative file: which services there are to be, each under its name, and what the file calls itself."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from kakuremichi.declarative.spec import BY_HAND, ServiceSpec
from kakuremichi.declarative.strict_yaml import FileRefusedError, Loaded, Place, load
from kakuremichi.model.ids import is_token

KEYS = ("source", "services")
NAME_RULE = "1 to 31 of a-z, 0-9 and `-`, not led by `-`"
MOST_FAULTS = 20

_UNKNOWN = re.compile(r"unknown field `([^`]{1,64})`")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")


@dataclass(frozen=True, slots=True)
class FleetFile:
    """`source` is "" if the file does not say it."""

    source: str
    services: Mapping[str, ServiceSpec]


def parse(data: bytes, name: str) -> FleetFile:
    """:class:`FileRefusedError` tells all faults of the file at once, each with its line."""
    loaded = load(data, name)
    top = loaded.value
    if not isinstance(top, dict):
        raise FileRefusedError(f"{name}: a mapping with `services` is needed, and `source` if it has a name")
    faults = list(_top_faults(loaded, top))
    services: dict[str, ServiceSpec] = {}
    listed = top.get("services")
    for key, given in listed.items() if isinstance(listed, dict) else ():
        try:
            services[key] = service_of(loaded, key, given)
        except FileRefusedError as fault:
            faults.append(str(fault))
    if faults:
        more = len(faults) - MOST_FAULTS
        raise FileRefusedError("\n".join(faults[:MOST_FAULTS] + ([f"{name}: and {more} more"] if more > 0 else [])))
    return FleetFile(top.get("source") or "", services)


def _top_faults(loaded: Loaded, top: dict[str, Any]) -> Iterator[str]:
    for key in top:
        if key not in KEYS:
            yield f"{loaded.at((key,))}: {key[:60]!r} is not known here; there are {' and '.join(KEYS)}"
    if not isinstance(top.get("services"), dict):
        # An empty file would mean that all of its services go: who wants that writes `services: {}`.
        yield f"{loaded.at(('services',))}: services: a mapping from names to services is needed; {{}} is none"
    if "source" in top and (fault := source_fault(top["source"])):
        yield f"{loaded.at(('source',))}: {fault}"


def source_fault(source: object) -> str:
    """What is wrong with the name of a source; "" if nothing is."""
    if not isinstance(source, str) or not is_token(source):
        return f"source: {NAME_RULE}"
    return f"source: {BY_HAND} stands for services that were published by hand" if source == BY_HAND else ""


def service_of(loaded: Loaded, key: str, given: object) -> ServiceSpec:
    place: Place = ("services", key)
    if not is_token(key):
        raise FileRefusedError(f"{loaded.at(place)}: service {key[:60]!r}: {NAME_RULE}")
    try:
        return msgspec.convert(given, ServiceSpec, str_keys=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        if "matching regex" in reason:  # of all patterns that a service is checked with there is one: that of names
            reason = NAME_RULE
        steps = [word or number for word, number in _STEP.findall(path)]
        if unknown := _UNKNOWN.search(reason):
            steps.append(unknown[1])
        inner: Place = tuple(int(step) if step.isdigit() else step for step in steps)
        where = ".".join(("service " + key, *steps))
        raise FileRefusedError(f"{loaded.at((*place, *inner))}: {where}: {reason[:200]}") from error


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # PyYAML's name; our reader refuses aliases
        return True


def write(file: FleetFile) -> str:
    """The text that `parse` reads as this file; what is usual is left out."""
    services = {name: _unusual(spec) for name, spec in sorted(file.services.items())}
    shown = ({"source": file.source} if file.source else {}) | {"services": services}
    text: str = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _unusual(spec: ServiceSpec) -> dict[str, Any]:
    given: dict[str, Any] = msgspec.to_builtins(spec, str_keys=True)
    usual = msgspec.to_builtins(ServiceSpec(kind=spec.kind), str_keys=True)
    kept = {name: value for name, value in given.items() if name == "kind" or value != usual[name]}
    if kept.get("last_port") == kept.get("port"):
        kept.pop("last_port", None)
    return kept
