"""Which ordinary writes lead from the services of one state to those of another. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kakuremichi.declarative.spec import BY_HAND

SERVICE, TARGET = '{"table":"service",', '{"table":"service_target",'


@dataclass(frozen=True, slots=True)
class Write:
    """A service to be published with `body`, or, without one, unpublished.

    `adopt` is whom it is taken from, `by-hand` being nobody; "" where it stays whose it is.
    """

    name: str
    body: dict[str, Any] | None
    new: bool = False
    adopt: str = ""

    def __str__(self) -> str:
        if self.body is None:
            return f"unpublish {self.name}"
        text = json.dumps({name: value for name, value in self.body.items() if value}, ensure_ascii=False)
        taken = f" (taken from {self.adopt})" if self.adopt else ""
        return f"{'publish' if self.new else 'replace'} {self.name} {text}{taken}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`left` has a sentence for each service that was different then and cannot be brought back."""

    writes: tuple[Write, ...]
    left: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        writes = [{"name": write.name, "body": write.body, "adopt": write.adopt} for write in self.writes]
        return {"writes": writes, "left": self.left}


def plan_of(then: Iterable[str], now: Iterable[str]) -> Plan:
    """From canonical lines. What goes comes first, so that its place is free; then by name."""
    wanted, held = _services(then), _services(now)
    gone = [Write(name, None) for name in sorted(held.keys() - wanted.keys())]
    back, left = [], []
    for name in sorted(wanted):
        if wanted[name] == held.get(name):
            continue
        if not wanted[name]["targets"]:
            left.append(f"service {name}: had no target then, and none can be published without one")
        else:
            back.append(Write(name, wanted[name], name not in held, _adopted(wanted[name], held.get(name))))
    return Plan((*gone, *back), tuple(left))


def _adopted(then: dict[str, Any], now: dict[str, Any] | None) -> str:
    if now is None or now["source"] == then["source"]:
        return ""
    return now["source"] or BY_HAND


def _services(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the API would have to be told, by name."""
    found: dict[str, dict[str, Any]] = {}
    targets: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line.startswith(SERVICE):
            row = json.loads(line)
            found[row["service_id"]] = _body(row)
        elif line.startswith(TARGET):
            row = json.loads(line)
            target = {"agent": row["agent"], "address": row["address"], "port": row["port"]}
            targets.setdefault(row["service_id"], []).append(target)
    for name, body in found.items():
        body["targets"] = targets.get(name, [])
    return found


def _body(row: dict[str, Any]) -> dict[str, Any]:
    body = {
        "name": row["service_id"], "pool": row["pool"], "kind": row["kind"], "host": row["host"], "path": row["path"],
        "port": row["first_port"], "last_port": row["last_port"] if row["last_port"] > row["first_port"] else 0,
        "sources": row["sources"], "source": row.get("source"),
    }  # fmt: skip
    return body | ({"options": row["options"]} if row["options"] else {})
