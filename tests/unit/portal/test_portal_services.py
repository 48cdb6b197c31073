"""The service routes on the memory bus."""

from typing import Any

import pytest
from yarl import URL

from kakuremichi.wire import commands
from unit.portal.world import WIKI, World


async def post(world: World, body: Any, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    async with world.client.post("/api/v1/services", json=body, headers=world.auth, **kwargs) as response:
        return response.status, await response.json()


async def test_a_created_service_is_listed_shown_and_deleted(world: World) -> None:
    status, answer = await post(world, WIKI)
    assert (status, answer["name"], answer["seq"], answer["changed"]) == (201, "wiki", 1, True)
    assert "applied" not in answer

    async with world.client.get("/api/v1/services", headers=world.auth) as response:
        (listed,) = (await response.json())["items"]
    async with world.client.get("/api/v1/services/wiki", headers=world.auth) as response:
        shown = await response.json()
    assert listed == shown
    assert (shown["carried_by"], shown["state"], shown["updated_seq"]) == ("haproxy", "active", 1)
    assert shown["targets"][0] == {
        "id": "wiki-0", "agent": "site-a", "address": "127.0.0.1", "port": 8080, "agent_port": 20000,
    }  # fmt: skip

    async with world.client.delete("/api/v1/services/wiki", headers=world.auth) as response:
        assert response.status == 200
    async with world.client.get("/api/v1/services/wiki", headers=world.auth) as response:
        assert response.status == 404


async def test_the_registry_is_told_who_asks_and_under_which_key(world: World) -> None:
    headers = world.auth | {"Idempotency-Key": "once-1"}
    async with world.client.put("/api/v1/services/ssh", headers=headers, json={
        "kind": "tcp", "port": 10022, "sources": ["198.51.100.0/24"],
        "targets": [{"agent": "site-a", "address": "192.168.2.130", "port": 22}],
    }) as response:  # fmt: skip
        assert response.status == 200

    (command,) = world.registry.asked
    assert isinstance(command, commands.PublishService)
    assert (command.actor, command.idempotency_key, command.create_only) == ("ann", "once-1", False)
    assert (command.first_port, command.last_port, command.sources) == (10022, 10022, ("198.51.100.0/24",))


async def test_a_taken_name_is_a_conflict_that_names_the_holder(world: World) -> None:
    await post(world, WIKI)
    status, problem = await post(world, WIKI)
    assert (status, problem["holders"], problem["field"]) == (409, ["wiki"], "name")
    assert problem["type"] == "urn:kakuremichi:problem:held"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b'{"kind": "http"} x', 400, ""),
        (b'\xff\xfe{"kind"', 400, ""),
        (b'{"name": "\\ud800", "kind": "http"}', 400, ""),
        (b'{"name": "a", "name": "b", "kind": "http"}', 400, ""),
        (b'{"name": "a", "kind": "http", "port": NaN}', 400, ""),
        (b"[" * 10_000, 400, ""),
        (b'{"name": "a", "kind": "http", "targets": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, ""),
        (b"[]", 422, ""),
        (b'{"kind": "http", "host": "a.test"}', 422, "name"),
        (b'{"name": "a"}', 422, "kind"),
        (b'{"name": "a", "kind": "ftp"}', 422, "kind"),
        (b'{"name": "a", "kind": "http", "colour": "red"}', 422, "colour"),
        (b'{"name": "a", "kind": "tcp", "port": "80"}', 422, "port"),
        (b'{"name": "a", "kind": "tcp", "port": 65536}', 422, "port"),
        (b'{"name": "a", "kind": "tcp", "port": 99999999999999999999999}', 422, "port"),
        (b'{"name": "a", "kind": "tcp", "targets": [{"agent": "x", "port": 0}]}', 422, "targets[0].port"),
        (b'{"name": "a", "kind": "tcp", "targets": [{"agent": "A", "port": 1}]}', 422, "targets[0].agent"),
        (b'{"name": "A", "kind": "http"}', 422, "name"),
        (b'{"name": "a b", "kind": "http"}', 422, "name"),
        (b'{"name": "a\\u0000", "kind": "http"}', 422, "name"),
        (b'{"name": "a\\n", "kind": "http"}', 422, "name"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_the_field(
    world: World, body: bytes, status: int, field: str
) -> None:
    headers = world.auth | {"Content-Type": "application/json"}
    async with world.client.post("/api/v1/services", data=body, headers=headers) as response:
        problem = await response.json()
        assert (response.status, problem["field"]) == (status, field), problem
        assert response.content_type == "application/problem+json"
        assert problem["trace_id"] == response.headers["X-Trace-Id"]
    assert world.registry.asked == []


async def test_too_large_a_body_another_media_type_and_compression_are_refused(world: World) -> None:
    url, auth = "/api/v1/services", world.auth
    async with world.client.post(url, data=b" " * 70_000, headers=auth | {"Content-Type": "application/json"}) as r:
        assert r.status == 413
    async with world.client.post(url, data=b"a=b", headers=auth) as r:
        assert r.status == 415
    async with world.client.post(url, json=WIKI, headers=auth, compress="gzip") as r:
        assert r.status == 415
    assert world.registry.asked == []


async def test_the_path_and_the_body_may_not_name_different_services(world: World) -> None:
    async with world.client.put("/api/v1/services/other", json=WIKI, headers=world.auth) as response:
        assert response.status == 422
        assert (await response.json())["field"] == "name"


@pytest.mark.parametrize("name", ["A", "a.b", "*", "%2e%2e", "%00", "a%2fb", "x" * 32, "-rf", "%F0%9F%92%A9"])
async def test_a_name_that_nothing_can_have_is_refused_before_the_registry(world: World, name: str) -> None:
    url = URL(str(world.client.make_url("/api/v1/services/")) + name, encoded=True)
    async with world.client.session.put(url, json=WIKI | {"name": "x"}, headers=world.auth) as response:
        assert response.status in (404, 422)
    async with world.client.session.delete(url, headers=world.auth) as response:
        assert response.status == 404
    assert world.registry.asked == []


@pytest.mark.parametrize(
    "query", ["wait=now", "wait=applied&wait=applied", "timeout=0", "timeout=61", "timeout=1e3", "x=1", "token=abc"]
)
async def test_a_query_that_is_not_known_is_refused_before_anything_is_written(world: World, query: str) -> None:
    status, problem = await post(world, WIKI, params=query)
    assert (status, problem["type"]) == (400, "urn:kakuremichi:problem:invalid")
    assert world.registry.asked == []


@pytest.mark.parametrize("key", ["x" * 129, "tab\tx", "ü"])
async def test_a_bad_idempotency_key_is_refused(world: World, key: str) -> None:
    headers = world.auth | {"Idempotency-Key": key}
    async with world.client.post("/api/v1/services", json=WIKI, headers=headers) as response:
        assert response.status == 400
    assert world.registry.asked == []


async def test_without_a_registry_the_answer_says_so(world: World) -> None:
    world.registry_bus.disconnect()
    status, problem = await post(world, WIKI)
    assert (status, problem["type"]) == (503, "urn:kakuremichi:problem:registry-unavailable")
    async with world.client.get("/readyz") as response:
        assert response.status == 503
    async with world.client.get("/healthz") as response:
        assert response.status == 200


async def test_a_registry_that_is_silent_leaves_the_outcome_unknown(world: World) -> None:
    world.nats.hold("cp.registry.command")
    status, problem = await post(world, WIKI)
    assert (status, problem["type"]) == (504, "urn:kakuremichi:problem:registry-timeout")


async def test_a_refusal_of_the_registry_is_passed_on_word_for_word(world: World) -> None:
    world.registry.problem = commands.Problem(
        status=422, code="host", detail="host: has a trailing dot", field="host", holders=()
    )
    status, problem = await post(world, WIKI)
    assert (status, problem["detail"], problem["field"]) == (422, "host: has a trailing dot", "host")
