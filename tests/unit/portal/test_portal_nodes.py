"""Gateways, agents and events."""

import pytest

from kakuremichi.wire import commands
from unit.portal.world import WIKI, World


async def test_gateways_and_agents_are_listed_and_shown(world: World) -> None:
    async with world.client.get("/api/v1/gateways", headers=world.auth) as response:
        assert [node["name"] for node in (await response.json())["items"]] == ["gw1", "gw2", "gw3"]
    async with world.client.get("/api/v1/agents/site-a", headers=world.auth) as response:
        agent = await response.json()
    assert (agent["role"], agent["subnet"], agent["state"]) == ("agent", "10.0.0.0/24", "live")
    for path in ("/api/v1/agents/gw1", "/api/v1/gateways/site-a", "/api/v1/gateways/A", "/api/v1/tokens/x"):
        async with world.client.get(path, headers=world.auth) as response:
            assert response.status == 404


async def test_an_agent_with_services_is_removed_only_with_cascade(world: World) -> None:
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=world.auth) as response:
        assert response.status == 200
    async with world.client.delete("/api/v1/agents/site-a", headers=world.auth) as response:
        assert (response.status, (await response.json())["holders"]) == (409, ["wiki"])
    async with world.client.delete("/api/v1/agents/site-a?cascade=yes", headers=world.auth) as response:
        assert response.status == 400
    async with world.client.delete("/api/v1/agents/site-a?cascade=true", headers=world.auth) as response:
        assert response.status == 200
    command = world.registry.asked[-1]
    assert isinstance(command, commands.RemoveNode)
    assert (command.role, command.cascade) == ("agent", True)


@pytest.mark.parametrize(
    ("act", "kind"),
    [("revoke", commands.RevokeNode), ("rotate", commands.RotateNode), ("release", commands.ReleaseNode)],
)
async def test_nodes_are_revoked_rotated_and_released_by_whoever_administers(
    world: World, act: str, kind: type[commands.Command]
) -> None:
    for path, role, name in (("agents/site-a", "agent", "site-a"), ("gateways/gw1", "gateway", "gw1")):
        async with world.client.post(f"/api/v1/{path}/{act}", headers=world.auth) as response:
            assert (response.status, (await response.json())["name"]) == (200, name)
        command = world.registry.asked[-1]
        assert type(command) is kind
        assert (command.node_id, command.role, command.actor) == (name, role, "ann")  # type: ignore[attr-defined]
    viewer = {"Authorization": f"Bearer {world.viewer}"}
    async with world.client.post(f"/api/v1/agents/site-a/{act}", headers=viewer) as response:
        assert response.status == 403
    async with world.client.post(f"/api/v1/agents/A/{act}", headers=world.auth) as response:
        assert response.status == 404


async def test_the_answer_to_a_revocation_has_the_time_to_the_last_gateway(world: World) -> None:
    decide = world.registry.decide

    async def decide_and_report(command: object) -> commands.Result:
        result = await decide(command)
        if isinstance(result, commands.Written):
            for gateway in ("gw1", "gw2"):
                await world.node(gateway).report(result.seq)
        return result

    world.registry.decide = decide_and_report
    await world.hear("gw3", 0)
    url = "/api/v1/agents/site-a/revoke?wait=applied&timeout=0.3"
    async with world.client.post(url, headers=world.auth) as response:
        answer = await response.json()
        assert response.status == 202
    assert {one["node"] for one in answer["applied"]} == {"gw1", "gw2"}
    assert all(one["ms"] >= 0 for one in answer["applied"])
    assert answer["pending"] == ["gw3"]


async def test_events_are_paged_and_their_facts_are_json(world: World) -> None:
    for name in ("a", "b", "c"):
        async with world.client.put(f"/api/v1/services/{name}", json=WIKI | {"name": name}, headers=world.auth) as r:
            assert r.status == 200
    async with world.client.get("/api/v1/events?after=1&limit=1", headers=world.auth) as response:
        (event,) = (await response.json())["items"]
    assert (event["seq"], event["fact"]) == (2, {"type": "service.published.v1", "service_id": "b"})
    async with world.client.get("/api/v1/events?newest_first=true&limit=1", headers=world.auth) as response:
        assert (await response.json())["items"][0]["seq"] == 3
    async with world.client.get("/api/v1/events/2", headers=world.auth) as response:
        assert await response.json() == event
    for missing in ("9", "0", "-1", "x", "9" * 30):
        async with world.client.get(f"/api/v1/events/{missing}", headers=world.auth) as response:
            assert response.status == 404
    for query in ("after=-1", "limit=0", "limit=201", "limit=9e9", "after=9223372036854775808", "newest_first=1"):
        async with world.client.get(f"/api/v1/events?{query}", headers=world.auth) as response:
            assert response.status == 400
