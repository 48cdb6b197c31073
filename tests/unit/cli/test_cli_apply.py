"""Applying steps: each with its own outcome, in an order that frees what others want."""

from typing import Any

from kakuremichi.cli.apply import Applying, request_of
from kakuremichi.cli.exits import CONFLICT, UNREACHABLE, USAGE, CliError
from kakuremichi.declarative.diff import Conflict, Create, Remove, Replace
from kakuremichi.declarative.spec import ServiceSpec


def tcp(port: int) -> ServiceSpec:
    return ServiceSpec(kind="tcp", port=port)


class Ports:
    """A portal that gives each port to one service."""

    def __init__(self, **held: int) -> None:
        self.held, self.down, self.asked = dict(held), False, 0

    def call(self, method: str, _kind: str, name: str, *, query: Any, **more: Any) -> dict[str, Any]:
        self.asked += 1
        if self.down:
            raise CliError("no connection", UNREACHABLE)
        dry = "dry_run" in query
        if method == "DELETE":
            if not dry:
                del self.held[name]
            return {"name": name, "changed": True}
        port = more["body"]["port"]
        if port == 443:
            raise CliError("port 443: the gateways' own", USAGE)
        holders = tuple(other for other, held in self.held.items() if held == port and other != name)
        if holders:
            raise CliError(f"port {port}: held", CONFLICT, holders=holders)
        changed = self.held.get(name) != port
        if not dry:
            self.held[name] = port
        return {"name": name, "changed": changed} | ({"pending": ["gw2"]} if "wait" in query and port == 9 else {})


def test_a_port_that_another_change_gives_back_is_taken_after_it() -> None:
    portal = Ports(b=1, z=2)
    steps = (Create("a", tcp(1)), Create("c", tcp(2)), Replace("b", tcp(3), 5, ("port",)), Remove("z", 6))
    done = Applying(portal, "fleet").run(steps, wait_s=None)
    assert [one.error for one in done] == [""] * 4
    assert portal.held == {"a": 1, "b": 3, "c": 2}


def test_what_is_refused_does_not_stop_the_others() -> None:
    portal = Ports(other=1)
    steps = (Create("a", tcp(1)), Create("b", tcp(443)), Conflict("c", "theirs"), Create("d", tcp(4)))
    done = Applying(portal, "fleet").run(steps, wait_s=None)
    assert [one.exit_code for one in done] == [CONFLICT, USAGE, CONFLICT, 0]
    assert portal.held == {"other": 1, "d": 4}
    assert "--adopt theirs" in done[2].error


def test_two_that_want_each_others_port_are_refused_and_it_ends() -> None:
    portal = Ports(a=1, b=2)
    steps = (Replace("a", tcp(2), 5, ("port",)), Replace("b", tcp(1), 6, ("port",)))
    assert [one.exit_code for one in Applying(portal, "fleet").run(steps, wait_s=None)] == [CONFLICT, CONFLICT]
    assert portal.held == {"a": 1, "b": 2}


def test_a_plan_knows_that_a_holder_will_be_gone() -> None:
    portal = Ports(b=1, other=2)
    steps = (Remove("b", 6), Create("a", tcp(1)), Create("c", tcp(2)))
    done = Applying(portal, "fleet").plan(steps)
    assert [(one.changed, bool(one.error)) for one in done] == [(True, False), (True, False), (False, True)]
    assert done[1].sentence == "publish a once b has made room"
    assert portal.held == {"b": 1, "other": 2}


def test_without_a_portal_the_rest_is_not_tried() -> None:
    portal = Ports()
    portal.down = True
    done = Applying(portal, "fleet").run([Create(name, tcp(1)) for name in "abc"], wait_s=None)
    assert [one.exit_code for one in done] == [UNREACHABLE] * 3
    assert portal.asked == 1


def test_once_a_node_is_late_nobody_is_waited_for_again() -> None:
    portal = Ports()
    done = Applying(portal, "fleet").run([Create(name, tcp(port)) for name, port in (("a", 9), ("b", 10))], wait_s=1.0)
    assert [one.late for one in done] == [("gw2",), ()]


def test_each_write_is_for_the_state_that_was_seen() -> None:
    assert request_of(Create("a", tcp(1)), "fleet").headers == {"If-None-Match": "*"}
    replace = request_of(Replace("a", tcp(1), 17, ("port",), ""), "fleet")
    assert (replace.headers, replace.query) == ({"If-Match": '"17"'}, {"adopt": "by-hand"})
    assert replace.body is not None
    assert replace.body["source"] == "fleet"
    remove = request_of(Remove("a", 17), "fleet")
    assert (remove.method, remove.headers, remove.query) == ("DELETE", {"If-Match": '"17"'}, {"source": "fleet"})
