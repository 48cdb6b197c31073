"""Which writes lead from the services that stand to those that a file declares. Pure; steps are data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from kakuremichi.declarative.spec import ServiceSpec
from kakuremichi.model.addresses import AddressRefusedError, parse_network
from kakuremichi.model.options import ordered


@dataclass(frozen=True, slots=True)
class Standing:
    """A service as the API tells it. `source` "" is nobody's; `seq` is the event of its last change."""

    spec: ServiceSpec
    source: str
    seq: int


@dataclass(frozen=True, slots=True)
class Remove:
    name: str
    seq: int


@dataclass(frozen=True, slots=True)
class Create:
    name: str
    spec: ServiceSpec


@dataclass(frozen=True, slots=True)
class Replace:
    """`fields` are different; `adopts` is the source that it is taken from, None if it is our own already."""

    name: str
    spec: ServiceSpec
    seq: int
    fields: tuple[str, ...]
    adopts: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """It is somebody else's, and nothing is done to it."""

    name: str
    owner: str


Step = Remove | Create | Replace | Conflict


def steps_between(
    standing: Mapping[str, Standing],
    declared: Mapping[str, ServiceSpec],
    source: str,
    *,
    adopt: frozenset[str] = frozenset(),
) -> tuple[Step, ...]:
    """Removals first: what they give back, such as a port, others may want. `adopt`: sources to take from, "" nobody's.

    What `source` does not own is never removed, and changed only if it is adopted.
    """
    removals = [
        Remove(name, standing[name].seq)
        for name in sorted(standing.keys() - declared.keys())
        if standing[name].source == source
    ]
    wanted = [_step(name, declared[name], standing.get(name), source, adopt) for name in sorted(declared)]
    return (*removals, *(step for step in wanted if step is not None))


def _step(name: str, spec: ServiceSpec, old: Standing | None, source: str, adopt: frozenset[str]) -> Step | None:
    if old is None:
        return Create(name, spec)
    fields = different(old.spec, spec)
    if old.source == source:
        return Replace(name, spec, old.seq, fields) if fields else None
    if old.source not in adopt:
        return Conflict(name, old.source)
    return Replace(name, spec, old.seq, (*fields, "source"), old.source)


def different(one: ServiceSpec, other: ServiceSpec) -> tuple[str, ...]:
    """Names of the fields that mean something else."""
    left, right = normal(one), normal(other)
    return tuple(name for name in left.__struct_fields__ if getattr(left, name) != getattr(right, name))


def normal(spec: ServiceSpec) -> ServiceSpec:
    """The same as the registry keeps it, as far as that can be said here; it has the last word itself."""
    return structs.replace(
        spec, last_port=spec.last_port or spec.port, options=ordered(spec.options),
        sources=tuple(sorted(map(_network, spec.sources))),
    )  # fmt: skip


def _network(text: str) -> str:
    try:
        return str(parse_network(text))
    except AddressRefusedError:
        return text


def standing_of(service: Mapping[str, Any]) -> Standing:
    """Of the API's answer; what a newer portal says beside the fields that are known here is passed over."""
    known = {name: service[name] for name in ServiceSpec.__struct_fields__ if name in service}
    known["targets"] = [
        {name: target[name] for name in ("agent", "address", "port")} for target in service.get("targets", ())
    ]
    spec = msgspec.convert(known, ServiceSpec, str_keys=True)
    return Standing(spec, str(service.get("source", "")), int(service["updated_seq"]))
