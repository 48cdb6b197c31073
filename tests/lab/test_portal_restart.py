"""What a portal says of a change outlives the portal: propagation and trace are the same after kill -9 and SIGTERM."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from support.fleet import get, killed, portal_answers, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

READERS = {*GATEWAYS, "site-a"}
WANTED = {(node, step) for node in READERS for step in ("apply", "nftables", "report")} | {
    ("registry", "registry transaction"), ("portal", "PUT /api/v1/services/{name}"),
}  # fmt: skip


def spans(trace: dict[str, Any]) -> dict[str, tuple[str, str, str, float]]:
    return {
        span["span_id"]: (span["process"], span["name"], span["parent_id"], span["duration_ms"])
        for span in trace["spans"]
    }


def said_by_nodes(way: dict[str, Any]) -> dict[tuple[str, str], float]:
    """How long each reader took to decide and to apply: its own word, whoever heard it."""
    return {
        (row["node"], stage["name"]): stage["end_ms"] - stage["start_ms"]
        for row in way["nodes"]
        for stage in row["stages"]
        if stage["name"] in ("decide", "apply")
    }


async def came(found: Callable[[], Any], true: Callable[[Any], object]) -> Any:
    """What is found, once it is as wanted."""
    async with asyncio.timeout(40):
        while True:
            try:
                answer = await asyncio.to_thread(found)
                if true(answer):
                    return answer
            except ApiError:
                pass  # it starts, or does not know of it yet
            await asyncio.sleep(0.1)


def names(trace: dict[str, Any]) -> set[tuple[str, str]]:
    return {(span["process"], span["name"]) for span in trace["spans"]}


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
async def test_propagation_and_trace_are_the_same_after_the_portal_ended(fleet: Fleet, signal: str) -> None:
    port = {"SIGKILL": 7710, "SIGTERM": 7711}[signal]
    name = f"lasting-{signal.lower()}"
    answer = put(fleet, name, kind="tcp", port=port, targets=[{"agent": "site-a", "port": 8080}])
    trace_path, way_path = f"/traces/{answer['trace_id']}", f"/events/{answer['seq']}/propagation"
    before = await came(lambda: get(fleet, trace_path), lambda trace: names(trace) >= WANTED)
    way = get(fleet, way_path)
    assert {row["node"]: len(row["stages"]) for row in way["nodes"]} == dict.fromkeys(READERS, 4)

    await killed(fleet, "portal", signal)
    await portal_answers(fleet)

    after = await came(lambda: get(fleet, trace_path), lambda trace: spans(before).items() <= spans(trace).items())
    assert after["trace_id"] == before["trace_id"]
    again = await came(lambda: get(fleet, way_path), lambda way: all(len(row["stages"]) == 4 for row in way["nodes"]))
    assert (again["applied"], again["pending"], again["offline"]) == (4, 0, 0)
    assert said_by_nodes(again) == pytest.approx(said_by_nodes(way), abs=0.05)
    assert {row["applied_ms"] is not None for row in again["nodes"]} == {True}
    assert get(fleet, "/propagation?limit=50")["samples"] >= 4


async def test_the_trace_of_an_announcement_shows_what_the_keyring_did(fleet: Fleet) -> None:
    since = get(fleet, "/events?newest_first=true&limit=1")["items"][0]["seq"]
    with fleet.api() as api:
        api.post("/agents/site-b/rotate", {})

    def announced() -> list[str]:
        events = get(fleet, f"/events?after={since}")["items"]
        return [event["trace_id"] for event in events if event["fact"]["type"] == "key.announced.v1"]

    (trace_id,) = await came(announced, len)
    wanted = {("site-b", "request req.keyring.announce.*"), ("keyring", "process req.keyring.announce.*")}
    await came(lambda: get(fleet, f"/traces/{trace_id}"), lambda trace: names(trace) >= wanted)
