"""The portal's process with the real registry, PostgreSQL and nats-server, from the command line to a node's report."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from nacl.signing import SigningKey

from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire.enrolment import encode_json, parse_join_token, request_to_enrol
from support.deployment import Deployment, running_deployment

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def deployment(run_dir: Path) -> AsyncIterator[Deployment]:
    async with running_deployment(run_dir) as made:
        yield made


async def test_a_service_is_published_and_reported_as_applied(deployment: Deployment) -> None:
    gateway = await deployment.join("gateway", "gw1")
    await deployment.join("agent", "site-a")
    await gateway.follow()

    code, out, said = await deployment.cli(
        "service", "publish", "ssh", "--tcp", "10022", "--to", "site-a=192.168.7.9:22", "--timeout", "1"
    )
    assert "ssh published: applied on 1 of 1 gateway in " in out, (out, said)
    assert code == 0, said
    assert said == "site-a: offline, applies it when it returns\n"

    code, out, _ = await deployment.cli("get", "services")
    assert (code, "nftables (no listening socket)" in out) == (0, True)
    code, out, _ = await deployment.cli("get", "events", "-o", "json")
    topics = [event["fact"]["type"] for event in json.loads(out)["items"]]
    assert topics == ["token.created.v1", "node.enrolled.v1"] * 2 + ["service.published.v1"]
    trace_id = json.loads(out)["items"][-1]["trace_id"]
    await asyncio.sleep(0.5)
    spans = (deployment.folder / "portal.spans").read_text() + (deployment.folder / "registry.spans").read_text()
    names = {span["name"] for span in map(json.loads, spans.splitlines()) if span["trace_id"] == trace_id}
    assert "PUT /api/v1/services/{name}" in names
    assert any("cp.registry" in name for name in names), names


async def test_refusals_of_the_real_registry_reach_the_person(deployment: Deployment) -> None:
    await deployment.join("agent", "site-a")
    publish = ("service", "publish", "--no-wait")
    assert (await deployment.cli(*publish, "a", "--http", "a.lab.test", "--to", "site-a:80"))[0] == 0
    for words, code, sentence in (
        (("b", "--http", "a.lab.test", "--to", "site-a:80"), 5, "held by: a"),
        (("b", "--http", "b.lab.test.", "--to", "site-a:80"), 2, "error: host"),
        (("b", "--tcp", "10022", "--to", "nobody:80"), 3, "nobody"),
        (("b", "--tcp", "10022", "--to", "site-a:80", "--allow", "10.0.0.1/8"), 2, "10.0.0.1/8"),
    ):
        result = await deployment.cli(*publish, *words)
        assert (result[0], sentence in result[2]) == (code, True), result
    assert (await deployment.cli("agent", "remove", "site-a"))[0] == 5
    assert (await deployment.cli("agent", "remove", "site-a", "--cascade", "--yes", "--no-wait"))[0] == 0
    code, out, _ = await deployment.cli("status")
    assert (code, "service a: no-target" in out) == (0, True)


async def test_a_join_token_is_redeemed_once(deployment: Deployment) -> None:
    _, line, _ = await deployment.cli("token", "create", "--role", "agent", "--name", "site-a")
    token_text = line.split()[1]
    token = parse_join_token(token_text)
    statuses = []
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            request = request_to_enrol(token, SigningKey.generate(), PrivateKey.generate().public())
            async with session.post(f"{deployment.url}/api/v1/enrol", json=json.loads(encode_json(request))) as answer:
                statuses.append(answer.status)
    assert statuses == [200, 403]
    logs = (deployment.folder / "portal.log").read_text()
    assert token_text.removeprefix("kk1.") not in logs
    assert (deployment.folder / "admin.token").read_text() not in logs
