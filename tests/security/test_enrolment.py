"""A join token makes one node, once, for the holder of the identity key, and tells a guesser nothing."""

import asyncio
import hashlib
import secrets
from typing import Any

import pytest
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire import commands
from kakuremichi.wire.enrolment import JoinToken, proof_fits, request_to_enrol
from kakuremichi.wire.signing import verify_key
from support.real_registry import POOL, World, redeem

pytestmark = pytest.mark.timeout(120)

HUNDRED = 100


async def expired_token(world: World, name: str) -> bytes:
    """The hash of the secret of a token whose second is over."""
    secret_hash = hashlib.sha256(secrets.token_bytes(32)).digest()
    made = commands.CreateToken(
        actor="ann", role="agent", node_id=NodeId(name), pool=POOL, secret_hash=secret_hash, ttl_s=1
    )
    assert isinstance(await world.ask(made), commands.Written)
    while True:
        tokens = await world.ask(commands.ListTokens(actor="ann"))
        assert isinstance(tokens, commands.Tokens)
        if {token.node_id: token.state for token in tokens.items}[name] == "expired":
            return secret_hash
        await asyncio.sleep(0.1)


async def test_of_a_hundred_redemptions_at_once_exactly_one_succeeds(registry_world: World) -> None:
    secret_hash = await registry_world.token("site-a")
    attempts = [redeem(secret_hash, SigningKey.generate()) for _ in range(HUNDRED)]

    answers = await asyncio.gather(*(registry_world.ask(attempt) for attempt in attempts))

    enrolled = [answer for answer in answers if isinstance(answer, commands.Enrolled)]
    refused = [answer for answer in answers if isinstance(answer, commands.Problem)]
    assert (len(enrolled), len(refused)) == (1, HUNDRED - 1)
    assert {(answer.status, answer.code, answer.detail) for answer in refused} == {
        (403, "token-refused", "join token: unknown, used or expired; ask for a new one")
    }
    assert await registry_world.database.fetch("select node_id from node where removed_at is null") != []
    rows = await registry_world.database.fetch("select count(*) from event_log where topic = 'node-enrolled'")
    assert rows[0][0] == 1


async def test_a_node_whose_answer_was_lost_asks_again_and_is_the_same_node(registry_world: World) -> None:
    """Who proves the identity is known by it: the token is used up for everybody else."""
    secret_hash, identity = await registry_world.token("site-a"), SigningKey.generate()
    attempt = redeem(secret_hash, identity)

    answers = await asyncio.gather(*(registry_world.ask(attempt) for _ in range(20)))

    certificates = {answer.certificate for answer in answers if isinstance(answer, commands.Enrolled)}
    assert len(certificates) == 1
    assert all(isinstance(answer, commands.Enrolled) for answer in answers)
    rows = await registry_world.database.fetch("select count(*) from event_log where topic = 'node-enrolled'")
    assert rows[0][0] == 1
    for stranger in (redeem(secret_hash, SigningKey.generate()), redeem(secret_hash, identity)):  # another sealing key
        refused = await registry_world.ask(stranger)
        assert isinstance(refused, commands.Problem)
        assert refused.code == "token-refused"


async def test_who_was_removed_does_not_come_back_by_its_identity(registry_world: World) -> None:
    secret_hash, identity = await registry_world.token("site-a"), SigningKey.generate()
    attempt = redeem(secret_hash, identity)
    assert isinstance(await registry_world.ask(attempt), commands.Enrolled)
    removed = commands.RemoveNode(actor="ann", role="agent", node_id=NodeId("site-a"))
    assert isinstance(await registry_world.ask(removed), commands.Written)

    refused = await registry_world.ask(attempt)

    assert isinstance(refused, commands.Problem)
    assert refused.code == "token-refused"


async def test_unknown_used_and_expired_tokens_get_the_same_answer(registry_world: World) -> None:
    used, expired = await registry_world.token("site-a"), await expired_token(registry_world, "site-b")
    assert isinstance(await registry_world.ask(redeem(used, SigningKey.generate())), commands.Enrolled)
    unknown = hashlib.sha256(secrets.token_bytes(32)).digest()

    answers = [await registry_world.ask(redeem(each, SigningKey.generate())) for each in (unknown, used, expired)]

    assert len(set(answers)) == 1
    assert isinstance(answers[0], commands.Problem)


@pytest.mark.parametrize("change", ["identity", "sealing", "secret", "proof"])
def test_the_proof_holds_for_one_identity_one_sealing_key_and_one_token(change: str) -> None:
    token = JoinToken(url="https://c", secret=b"s" * 32, ca=b"", trust=b"t" * 32)
    identity, sealing = SigningKey.generate(), PrivateKey.generate().public()
    request = request_to_enrol(token, identity, sealing)
    assert proof_fits(request)
    others: dict[str, dict[str, Any]] = {
        "identity": {"identity_key": verify_key(SigningKey.generate())},
        "sealing": {"sealing_key": PrivateKey.generate().public()},
        "secret": {"secret": b"S" * 32},
        "proof": {"proof": bytes(64)},
    }
    fields = {name: getattr(request, name) for name in request.__struct_fields__} | others[change]
    assert not proof_fits(type(request)(**fields))
