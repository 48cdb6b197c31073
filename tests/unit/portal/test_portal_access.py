"""Who may call, and what a stranger learns."""

import asyncio
import json
import logging
import stat

import pytest
import structlog

from kakuremichi_portal.access import TokenFileError, Tokens, add_token
from kakuremichi_portal.limits import MAX_SOURCES, AttemptLimit, source_key
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.route import Access
from unit.portal.world import WIKI, World


async def test_every_route_of_the_api_wants_a_token(world: World) -> None:
    asked = [route for route in world.portal.routes if route.access in (Access.READ, Access.WRITE, Access.ADMIN)]
    assert len(asked) >= 17
    for route in asked:
        path = route.path.replace("{name}", "x")
        async with world.client.request(route.method, path) as response:
            assert response.status == 401, route.path
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="kakuremichi"'
            assert response.content_type == "application/problem+json"
    assert world.registry.asked == []


def test_only_these_routes_know_no_caller(world: World) -> None:
    """Sync on purpose: the table is data."""
    open_paths = {route.path for route in world.portal.routes if route.access is Access.OPEN}
    assert {path for path in open_paths if not path.startswith("/static/")} == {
        "/api/v1/ca", "/api/v1/enrol", "/api/v1/renew", "/healthz", "/readyz", "/metrics", "/sign-in", "/setup",
    }  # fmt: skip


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer kkapi.wrong", "bearer \udcff"])
async def test_a_wrong_token_is_refused_in_the_same_words(world: World, header: str) -> None:
    raw = header.encode("utf-8", "surrogateescape").decode("latin-1")
    async with world.client.get("/api/v1/services", headers={"Authorization": raw}) as response:
        assert response.status == 401
        assert (await response.json())["detail"] == "authorization: this token is not known"


async def test_two_authorization_headers_are_no_authorization(world: World) -> None:
    headers = [("Authorization", f"Bearer {world.admin}"), ("Authorization", f"Bearer {world.admin}")]
    async with world.client.get("/api/v1/services", headers=headers) as response:
        assert response.status == 401


async def test_a_token_in_the_query_or_in_a_cookie_is_no_authorization(world: World) -> None:
    async with world.client.get("/api/v1/services", params={"access_token": world.admin}) as response:
        assert response.status == 401
    async with world.client.get("/api/v1/services", headers={"Cookie": f"kakuremichi_session={world.admin}"}) as r:
        assert r.status == 401


async def test_a_viewer_reads_and_does_not_write(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.viewer}"}
    async with world.client.get("/api/v1/gateways", headers=headers) as response:
        assert response.status == 200
    for route in world.portal.routes:
        if route.access in (Access.WRITE, Access.ADMIN):
            async with world.client.request(route.method, route.path.replace("{name}", "x"), headers=headers) as r:
                assert r.status == 403
                assert "vic has a token of scope read" in (await r.json())["detail"]


async def test_the_token_file_is_read_again_and_holds_no_token(world: World) -> None:
    assert stat.S_IMODE(world.token_file.stat().st_mode) == 0o600
    assert world.admin not in world.token_file.read_text()
    fresh = add_token(world.token_file, "ann", "admin")
    async with world.client.get("/api/v1/agents", headers=world.auth) as response:
        assert response.status == 401, "a second token of the same name replaces the first"
    async with world.client.get("/api/v1/agents", headers={"Authorization": f"Bearer {fresh}"}) as response:
        assert response.status == 200


async def test_a_token_file_that_breaks_leaves_the_known_tokens_in_force(world: World) -> None:
    world.token_file.write_text("{")
    async with world.client.get("/api/v1/agents", headers=world.auth) as response:
        assert response.status == 200
    with pytest.raises(TokenFileError, match="token file"):
        Tokens(world.token_file)


async def test_no_log_line_holds_a_token(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as lines:
        async with world.client.post(
            "/api/v1/tokens", json={"role": "agent", "node": "site-x"}, headers=world.auth
        ) as response:
            join_token = (await response.json())["token"]
        async with world.client.get(f"/api/v1/{world.admin}", headers=world.auth) as response:
            assert response.status == 404
        async with world.client.post("/sign-in", data={"token": world.admin}, allow_redirects=False) as response:
            assert response.status == 303
        async with world.client.post("/sign-in", data={"token": "kkapi.wrong"}) as response:
            assert response.status == 401
    said = json.dumps(lines, default=repr) + "".join(capsys.readouterr())
    assert len(lines) == 4
    for secret in (world.admin, join_token, join_token.removeprefix("kk1."), "kkapi.wrong"):
        assert secret not in said


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer sesame\r\n\r\n",
        b"sesame\r\n\r\n",
        b"POST /sign-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nsesame\r\n",
    ],
)
async def test_what_is_not_http_is_not_repeated_in_the_log(
    world: World, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    url = world.client.make_url("/")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    with caplog.at_level(logging.DEBUG):
        writer.write(raw)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    assert "sesame" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_metrics_are_for_loopback_or_a_token_and_name_no_names(world: World) -> None:
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=world.auth) as response:
        assert response.status == 200
    async with world.client.get("/metrics") as response:
        text = await response.text()
        assert response.status == 200
    assert 'http_route="/api/v1/services/{name}"' in text
    assert "wiki" not in text
    assert "kakuremichi_portal_nodes_heard 0.0" in text


async def test_what_no_route_is_for_is_a_problem_document_too(world: World) -> None:
    async with world.client.get("/nothing") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
    async with world.client.patch("/api/v1/services", headers=world.auth) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,POST"
    async with world.client.request("TRACE", "/api/v1/services") as response:
        assert response.status == 405


async def test_every_answer_carries_the_headers_that_a_browser_obeys(world: World) -> None:
    for path in ("/healthz", "/api/v1/services", "/sign-in", "/nothing"):
        async with world.client.get(path) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "script-src" not in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"


async def test_the_trace_of_the_caller_goes_on_to_the_registry(world: World) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = world.auth | {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=headers) as response:
        assert response.headers["X-Trace-Id"] == trace_id
        assert (await response.json())["trace_id"] == trace_id
    (sent,) = world.nats.sent_to("cp.registry.command")
    assert sent.headers["traceparent"].split("-")[1] == trace_id


def test_attempts_are_counted_per_source_and_come_back_with_time() -> None:
    now = [0.0]
    limit = AttemptLimit(burst=2, every_s=10, clock=lambda: now[0])
    limit.count("192.0.2.1")
    limit.count("192.0.2.1")
    with pytest.raises(ProblemError) as refused:
        limit.count("::ffff:192.0.2.1")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "10")
    limit.count("192.0.2.2")
    now[0] = 10
    limit.count("192.0.2.1")


def test_the_sources_that_are_remembered_are_bounded() -> None:
    limit = AttemptLimit(burst=1, every_s=1000)
    for number in range(MAX_SOURCES + 10):
        limit.count(f"source-{number}")
    assert len(limit._left) == MAX_SOURCES


def test_an_ipv6_site_is_one_source() -> None:
    assert source_key("2001:db8:1:2:3:4:5:6") == source_key("2001:db8:1:2::1") == "2001:db8:1:2::"
    assert source_key("fe80::1%eth0") == "fe80::"
