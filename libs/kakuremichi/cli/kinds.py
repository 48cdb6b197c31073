"""The kinds of things that the portal knows, as columns and as fields. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]
CARRIED_BY = {"nftables": "nftables (no listening socket)", "haproxy": "haproxy"}


@dataclass(frozen=True, slots=True)
class Kind:
    """`columns` are headings with what stands under them; `fields` the same for `describe`."""

    plural: str
    key: str
    columns: tuple[tuple[str, Callable[[Item], object]], ...]
    fields: tuple[tuple[str, Callable[[Item], object]], ...]

    @property
    def head(self) -> tuple[str, ...]:
        return tuple(heading for heading, _ in self.columns)

    def row(self, item: Item) -> tuple[object, ...]:
        return tuple(read(item) for _, read in self.columns)

    def described(self, item: Item) -> tuple[tuple[str, object], ...]:
        return tuple((label, read(item)) for label, read in self.fields)


def _get(name: str) -> Callable[[Item], object]:
    return lambda item: item.get(name, "")


def where(service: Item) -> str:
    """Where visitors find a service: `http://wiki.lab.test`, `tcp 10022`, `udp 6000-6010`."""
    kind, port, last = service.get("kind", ""), service.get("port", 0), service.get("last_port", 0)
    if kind in ("http", "tls"):
        return f"{kind}://{service.get('host', '')}{service.get('path', '')}"
    return f"{kind} {port}-{last}" if last > port else f"{kind} {port}"


def targets(service: Item) -> list[str]:
    return [f"{target['agent']}={_hostport(target['address'], target['port'])}" for target in service["targets"]]


def _hostport(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def carried_by(service: Item) -> str:
    carrier = str(service.get("carried_by", ""))
    return CARRIED_BY.get(carrier, carrier)


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or "-"


def _errors(item: Item) -> list[str]:
    return [f"{error.get('node') or error.get('key')}: {error['message']}" for error in item.get("errors", ())]


def _behind(node: Item) -> str:
    return "all applied" if node.get("behind") == 0 else f"{node.get('behind')} to come"


def about(event: Item) -> object:
    fact = event.get("fact")
    names = ("service_id", "node_id", "account", "who", "name")
    return next((fact[name] for name in names if fact.get(name)), "") if isinstance(fact, dict) else ""


def _node(plural: str, heading: str, address: Callable[[Item], object]) -> Kind:
    return Kind(
        plural, "name",
        (("NAME", _get("name")), ("STATE", _get("state")), ("POOL", _get("pool")), (heading.upper(), address),
         ("CHANGES", _behind), ("ERRORS", lambda node: len(node["errors"])), ("VERSION", _get("version"))),
        (("Name", _get("name")), ("Role", _get("role")), ("State", _get("state")), ("Pool", _get("pool")),
         ("Slot", _get("slot")), ("Subnet", _get("subnet")), ("Endpoints", _get("endpoints")),
         ("Public key", _get("public_key")), ("Epoch", _get("epoch")), ("Changes", _behind),
         ("Last report", _get("last_report_at")), ("Version", _get("version")), ("Errors", _errors),
         ("Warnings", _get("warnings"))),
    )  # fmt: skip


KINDS = {
    "gateways": _node("gateways", "Endpoint", lambda node: _joined(node["endpoints"])),
    "agents": _node("agents", "Subnet", _get("subnet")),
    "services": Kind(
        "services", "name",
        (("NAME", _get("name")), ("STATE", _get("state")), ("POOL", _get("pool")), ("WHERE", where),
         ("TARGETS", lambda service: _joined(targets(service))), ("VISITORS", lambda s: _joined(s["sources"])),
         ("CARRIED BY", carried_by)),
        (("Name", _get("name")), ("State", _get("state")), ("Pool", _get("pool")), ("Where", where),
         ("Targets", targets), ("Visitors", lambda s: s["sources"] or "everybody"), ("Carried by", carried_by),
         ("Changed at", lambda s: f"event {s['updated_seq']}"), ("Source", lambda s: s.get("source") or "by hand"),
         ("Errors", _errors)),
    ),
    "tokens": Kind(
        "tokens", "id",
        (("ID", _get("id")), ("STATE", _get("state")), ("ROLE", _get("role")), ("NODE", _get("node")),
         ("POOL", _get("pool")), ("EXPIRES", _get("expires_at"))),
        (("Id", _get("id")), ("State", _get("state")), ("Role", _get("role")), ("Node", _get("node")),
         ("Pool", _get("pool")), ("Expires", _get("expires_at"))),
    ),
    "events": Kind(
        "events", "seq",
        (("SEQ", _get("seq")), ("AT", _get("at")), ("TOPIC", _get("topic")), ("ABOUT", about),
         ("BY", _get("actor")), ("TRACE", _get("trace_id"))),
        (("Seq", _get("seq")), ("At", _get("at")), ("Topic", _get("topic")), ("By", _get("actor")),
         ("Trace", _get("trace_id")), ("Chain", _get("head")), ("Fact", _get("fact"))),
    ),
}  # fmt: skip


def kind_named(name: str) -> Kind:
    """Of a singular or a plural; KeyError if there is no such kind."""
    return KINDS[name if name.endswith("s") else f"{name}s"]
