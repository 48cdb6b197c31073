"""Join tokens and their redemption."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire import commands
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.enrolment import (
    EnrolmentRequest,
    JoinToken,
    JoinTokenRefusedError,
    encode_json,
    hash_of,
    join_token_text,
    parse_join_token,
    proof_fits,
    read_answer,
    request_to_enrol,
)
from kakuremichi.wire.identity import Certificate, Role
from unit.portal.fake_registry import DEPLOYMENT, TRUST_HASH
from unit.portal.world import NATS_URL, World

NOT_VALID = "secret: this join token is unknown, used or expired; ask for a new one"


async def token_for(world: World, node: str, role: Role = "agent") -> JoinToken:
    async with world.client.post("/api/v1/tokens", json={"role": role, "node": node}, headers=world.auth) as response:
        assert response.status == 201
        return parse_join_token((await response.json())["token"])


def request_for(token: JoinToken, **kwargs: Any) -> EnrolmentRequest:
    return request_to_enrol(token, SigningKey.generate(), PrivateKey.generate().public(), **kwargs)


async def enrol(world: World, request: EnrolmentRequest | bytes) -> tuple[int, bytes]:
    data = request if isinstance(request, bytes) else encode_json(request)
    headers = {"Content-Type": "application/json"}
    async with world.client.post("/api/v1/enrol", data=data, headers=headers) as response:
        return response.status, await response.read()


async def test_the_registry_gets_the_hash_and_the_token_is_shown_once(world: World) -> None:
    token = await token_for(world, "site-b")
    command = world.registry.asked[0]
    assert isinstance(command, commands.CreateToken)
    assert command.secret_hash == hash_of(token.secret)
    assert (token.url, token.ca, token.trust) == ("http://control.test:8080", b"", TRUST_HASH)
    assert all(token.secret not in message.data for message in world.nats.sent)
    async with world.client.get("/api/v1/tokens", headers=world.auth) as response:
        (listed,) = (await response.json())["items"]
    assert set(listed) == {"id", "role", "node", "pool", "expires_at", "state"}
    async with world.client.get(f"/api/v1/tokens/{listed['id']}", headers=world.auth) as response:
        assert await response.json() == listed


@pytest.mark.parametrize("role", ["gateway", "agent"])
async def test_a_token_is_redeemed_for_a_certificate_and_the_bus_access_of_its_role(world: World, role: Role) -> None:
    token = await token_for(world, "new-node", role)
    status, data = await enrol(
        world, request_for(token, networks=("192.168.2.0/24",), endpoints=("203.0.113.9:51820",))
    )
    answer = read_answer(token, data)
    certificate = decode(answer.certificate.body, Certificate)

    assert (status, certificate.node_id, certificate.role) == (200, "new-node", role)
    assert (answer.deployment, answer.bus.url, answer.bus.jwt) == (DEPLOYMENT, NATS_URL, f"jwt-of-a-{role}")
    assert "jwt-of" not in repr(answer.bus)
    command = world.registry.asked[-1]
    assert isinstance(command, commands.EnrolNode)
    assert (command.networks, command.source) == (("192.168.2.0/24",), "127.0.0.1")


async def test_unknown_used_and_expired_are_the_same_answer(world: World) -> None:
    token = await token_for(world, "site-b")
    assert (await enrol(world, request_for(token)))[0] == 200
    unknown = JoinToken(url=token.url, secret=bytes(32), ca=b"", trust=TRUST_HASH)
    answers = [await enrol(world, request_for(token)), await enrol(world, request_for(unknown))]
    world.registry.problem = commands.Problem(status=403, code="token-expired", detail="expired on Monday")
    answers.append(await enrol(world, request_for(token)))

    problems = [msgspec.json.decode(data) for _, data in answers]
    assert [status for status, _ in answers] == [403, 403, 403]
    for problem in problems:
        problem.pop("trace_id")
    assert problems[0] == problems[1] == problems[2]
    assert problems[0]["detail"] == NOT_VALID


async def test_a_conflict_of_networks_is_told_to_who_holds_a_valid_token(world: World) -> None:
    token = await token_for(world, "gw9", "gateway")
    detail = "networks: 10.0.0.0/8 overlaps subnets of agents"
    world.registry.problem = commands.Problem(status=409, code="overlap", detail=detail, holders=("site-a",))
    status, data = await enrol(world, request_for(token))
    problem = msgspec.json.decode(data)
    assert (status, problem["detail"], problem["holders"]) == (409, detail, ["site-a"])


async def test_a_proof_by_another_key_or_over_another_sealing_key_is_refused(world: World) -> None:
    token = await token_for(world, "site-b")
    good = request_for(token)
    other = request_for(token)
    assert proof_fits(good)
    for bad in (
        msgspec.structs.replace(good, proof=other.proof),
        msgspec.structs.replace(good, sealing_key=other.sealing_key),
        msgspec.structs.replace(good, identity_key=bytes(32)),
    ):
        status, data = await enrol(world, bad)
        assert (status, msgspec.json.decode(data)["field"]) == (422, "proof")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"secret": "AA=="}', b'{"secret": 5}', b'{"node_id": "gw1"}', b"\x00" * 100]
)
async def test_a_request_that_does_not_fit_is_refused(world: World, body: bytes) -> None:
    status, _ = await enrol(world, body)
    assert status in (400, 422)
    assert world.registry.asked == []


async def test_an_address_that_tries_too_often_has_to_wait(world: World) -> None:
    statuses = [(await enrol(world, b"{}"))[0] for _ in range(25)]
    assert statuses[:20] == [422] * 20
    assert statuses[-1] == 429


def test_an_answer_with_another_trust_set_is_not_believed() -> None:
    token = JoinToken(url="http://x", secret=bytes(32), ca=b"", trust=bytes(32))
    signed: list[Any] = ["AAAA", []]
    answer = {
        "deployment": "AAAAAAAAAAAAAAAAAAAAAA==", "certificate": signed, "trust": signed, "feed_key": signed,
        "endpoints": [], "bus": {"url": "", "jwt": ""},
    }  # fmt: skip
    with pytest.raises(JoinTokenRefusedError, match="trust set is not the one"):
        read_answer(token, msgspec.json.encode(answer))
    with pytest.raises(WireError):
        read_answer(token, b"{}")


@given(st.text(max_size=200) | st.text(max_size=200).map(lambda text: "kk1." + text))
def test_any_text_is_a_token_or_a_sentence_that_does_not_repeat_it(text: str) -> None:
    sentence = ""
    try:
        parse_join_token(text)
    except JoinTokenRefusedError as error:
        sentence = str(error)
    assert len(text) < 8 or text not in sentence


def test_a_token_hides_its_secret_and_reads_back() -> None:
    token = JoinToken(url="http://control.test:8080", secret=b"s" * 32, ca=b"", trust=bytes(32))
    text = join_token_text(token)
    assert text.startswith("kk1.")
    assert parse_join_token(text) == token
    assert "sss" not in repr(token) + str(token) + f"{token}"
    for damaged in (text[:-1], text[:10] + "!" + text[11:], text + "AAAA", text.replace("kk1", "kk2")):
        with pytest.raises(JoinTokenRefusedError):
            parse_join_token(damaged)
