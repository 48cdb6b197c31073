"""What a caller with limits sees of what the portal itself remembers: live events, traces, the way of changes."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from kakuremichi.bus.port import Message
from kakuremichi.model.ids import NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import encode
from kakuremichi.wire.spans import SpanBatch, SpanRecord
from support.portal_https import Browser, PortalWorld
from support.real_registry import World
from support.two_pools import BODY, MAIN, SITE_A, THEIRS, portal_of_two_pools


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, quick_passwords: None) -> AsyncIterator[PortalWorld]:
    async with portal_of_two_pools(registry_world, tmp_path) as made:
        yield made


class TestWhatHappens:
    """Events as they come, their traces and their way to the nodes, by an administrator without limits."""

    @pytest.fixture
    async def bob(self, at: PortalWorld) -> Browser:
        browser = await at.browser()
        browser.session.headers.update(at.token("bob", "read", SITE_A))
        return browser

    async def seqs(self, at: PortalWorld) -> dict[str, int]:
        """Of the event of each service's publication."""
        rows = await at.registry.database.fetch("select seq, fact from event_log where topic = 'service-published'")
        return {json.loads(row["fact"])["service_id"]: row["seq"] for row in rows}

    async def written(self, at: PortalWorld, name: str, agent: str, pool: str = "main") -> str:
        """The trace of a service's publication, with a span of the portal and one of each node."""
        admin, trace_id = await at.browser(), secrets.token_hex(16)
        body = BODY | {"host": f"{name}.example.com", "pool": pool, "targets": [{"agent": agent, "port": 80}]}
        headers = at.header | {"traceparent": f"00-{trace_id}-{'1' * 16}-01"}
        made = await admin.ask("PUT", f"/api/v1/services/{name}", json=body, headers=headers)
        assert (made.status, made.json["trace_id"]) == (200, trace_id), made.text
        for number, subject in enumerate((
            subjects.service_spans("portal"),
            *(subjects.node_spans(NodeId(node)) for node in ("gw-main", "site-a", "site-b", "site-z")),
        )):  # fmt: skip
            span = SpanRecord("step", bytes.fromhex(trace_id), bytes([number] * 8), b"", 1, 2, error="address in use")
            at.portal.traces.take(Message(subject, encode(SpanBatch(spans=(span,)))))
        return trace_id

    async def test_a_trace_is_seen_by_who_sees_its_event_and_without_others_nodes(
        self, at: PortalWorld, bob: Browser
    ) -> None:
        ours, others = await self.written(at, "fresh", "site-a"), await self.written(at, "other", "site-b")
        theirs = await self.written(at, "far", "site-z", "zoo")
        for trace_id in (others, theirs, "0" * 32):
            answer = await bob.get(f"/api/v1/traces/{trace_id}")
            assert (answer.status, answer.json["detail"]) == (404, "trace: there is none of this name"), answer.text
        spans = (await bob.get(f"/api/v1/traces/{ours}")).json["spans"]
        said = {span["process"]: span["error"] for span in spans}
        assert said.keys() == {"portal", "gw-main", "site-a"}
        assert said["site-a"] == "address in use"
        assert "address" not in said["gw-main"], "a gateway's step is one of several changes at once"
        everything = (await (await at.browser()).get(f"/api/v1/traces/{ours}", headers=at.header)).json["spans"]
        assert len(everything) == 5
        of_pool = at.token("pia", "read", MAIN)
        assert (await (await at.browser()).get(f"/api/v1/traces/{others}", headers=of_pool)).status == 200
        assert (await (await at.browser()).get(f"/api/v1/traces/{theirs}", headers=of_pool)).status == 404

    async def test_the_way_of_a_change_is_seen_by_who_sees_its_event(self, at: PortalWorld, bob: Browser) -> None:
        for name, agent, pool in (("one", "site-a", "main"), ("two", "site-b", "main"), ("far", "site-z", "zoo")):
            await self.written(at, name, agent, pool)
        seqs = await self.seqs(at)
        for name in ("two", "beta", "zeta", "far"):
            assert (await bob.get(f"/api/v1/events/{seqs[name]}/propagation")).status == 404, name
        seen = (await bob.get(f"/api/v1/events/{seqs['one']}/propagation")).json
        assert {row["node"] for row in seen["nodes"]} == {"gw-main", "site-a"}

    async def test_of_the_fleet_only_the_own_part_counts(self, at: PortalWorld, bob: Browser) -> None:
        await self.written(at, "one", "site-a")
        await self.written(at, "two", "site-b")
        seen = (await bob.get("/api/v1/propagation?limit=200")).json
        everything = (await (await at.browser()).get("/api/v1/propagation?limit=200", headers=at.header)).json
        assert {row["node"] for row in seen["behind"]} <= {"gw-main", "site-a"}
        assert "site-b" in {row["node"] for row in everything["behind"]}
        assert 0 < seen["events"] < everything["events"]

    async def test_the_state_and_its_changes_are_those_of_the_own_part(self, at: PortalWorld, bob: Browser) -> None:
        rows = (await bob.get("/api/v1/state")).json
        about = {row.get("service_id") or row.get("node_id") or row.get("pool") for row in rows["items"]}
        assert about == {"alpha", "site-a", "gw-main", "main"}
        assert rows["place"]["count"] == len(rows["items"])
        before = rows["place"]["seq"]
        for name, agent, pool in (("one", "site-a", "main"), ("two", "site-b", "main"), ("far", "site-z", "zoo")):
            await self.written(at, name, agent, pool)
        changes = (await bob.get(f"/api/v1/diff?from={before}")).json
        assert {change["after"]["service_id"] for change in changes["items"]} == {"one"}
        past = (await bob.get(f"/api/v1/state?at={before}")).json
        assert past["items"] == rows["items"]
        everything = await (await at.browser()).get(f"/api/v1/diff?from={before}", headers=at.header)
        assert {change["after"]["service_id"] for change in everything.json["items"]} == {"one", "two", "far"}

    async def test_a_live_view_tells_of_the_own_part_and_what_was_missed_of_it(
        self, at: PortalWorld, bob: Browser
    ) -> None:
        async with watching(at, bob, {"Last-Event-ID": "0"}) as lines:
            missed = await events_until(lines, "alpha")
            for name, agent, pool in (("far", "site-z", "zoo"), ("two", "site-b", "main"), ("one", "site-a", "main")):
                await self.written(at, name, agent, pool)
            fresh = await events_until(lines, "one")
        for event in (*missed, *fresh):
            assert [name for name in (*THEIRS, "beta", "site-b", "far", "two") if f'"{name}"' in event] == []


@asynccontextmanager
async def watching(at: PortalWorld, browser: Browser, headers: dict[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
    """An open live view, with the portal's loop behind it."""
    stop = asyncio.Event()
    running = asyncio.create_task(at.portal.live.run(stop))
    listening = await at.portal.live.listen(at.registry.portal)
    async with browser.session.get(f"{browser.url}/api/v1/live", headers=headers) as response:
        assert response.status == 200
        yield response.content
    stop.set()
    await running
    await listening.unsubscribe()


async def events_until(lines: aiohttp.StreamReader, service: str) -> list[str]:
    """The data of the events up to that of this service."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while not found or f'"{service}"' not in found[-1]:
            line = (await lines.readline()).decode()
            assert line, "the stream ended"
            if line.startswith("data: "):
                found.append(line)
    return found


class TestLiveViewsEnd:
    """Within the time that a fact needs to come round: nobody waits for the view's own end."""

    async def ended(self, lines: aiohttp.StreamReader) -> None:
        async with asyncio.timeout(30):
            while await lines.readline():
                pass

    async def test_when_the_token_is_removed(self, at: PortalWorld) -> None:
        browser, admin = await at.browser(), await at.browser()
        async with watching(at, browser, at.token("deploy", "publish")) as lines:
            assert (await admin.ask("DELETE", "/api/v1/api-tokens/deploy", headers=at.header)).status == 200
            await self.ended(lines)

    @pytest.mark.parametrize("act", ["narrow", "disable", "remove", "end", "sign out"])
    async def test_when_account_or_session_are_no_more_what_they_were(self, at: PortalWorld, act: str) -> None:
        await at.account("vic")
        browser, other, admin = await at.signed_in("vic"), await at.signed_in("vic"), await at.browser()
        account = "/api/v1/accounts/vic"
        async with watching(at, browser, {"Sec-Fetch-Site": "same-origin"}) as lines:
            if act in ("narrow", "disable"):
                body = {"role": "viewer"} | ({"pools": ["main"]} if act == "narrow" else {"disabled": True})
                assert (await admin.ask("PUT", account, json=body, headers=at.header)).status == 200
            elif act == "remove":
                assert (await admin.ask("DELETE", account, headers=at.header)).status == 200
            elif act == "end":
                for one in (await other.get("/api/v1/sessions")).json["items"]:
                    await admin.ask("DELETE", f"/api/v1/sessions/{one['id']}", headers=at.header)
            else:
                await browser.post("/sign-out", {"form_key": await browser.form_key()})
            await self.ended(lines)
        assert len(at.portal.live) == 0
