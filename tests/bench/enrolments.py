"""Join tokens redeemed per second: portal, registry and PostgreSQL, asked as nodes ask, several at once."""

import asyncio
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
from nacl.signing import SigningKey

from bench.crowd import AT_ONCE, each, in_control
from bench.harness import Figure, progress
from bench.stage import Stage
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.renewal import check_jwt
from kakuremichi.node.state import Enrolment
from kakuremichi.runtime.tls import check_ca, client_context
from kakuremichi.wire.enrolment import JoinToken, encode_json, parse_join_token, read_answer, request_to_enrol

WARM_UP, COUNT, BLOCK = 40, 400, 80
TIMEOUT_S = 30.0
# The portal counts attempts by address, and nodes have one each: so these come from loopback addresses of their own.
FIRST_SOURCE = IPv4Address("127.1.0.1")


async def measure(stage: Stage) -> list[Figure]:
    """Whole enrolments, each believed no more than a node would; the nodes are removed afterwards."""
    await stage.nodes()
    names = [f"joiner-{number}" for number in range(1, WARM_UP + COUNT + 1)]
    tokens = await asyncio.to_thread(_make_tokens, stage, names)
    joiners = Joiners(tokens, stage.fleet.control.ca_file)
    try:
        moments = await in_control(stage, joiners.redeem_all)
    finally:
        await asyncio.to_thread(_remove, stage, names)
    counted = moments[WARM_UP - 1 :]
    rate = COUNT / (counted[-1] - counted[0])
    blocks = [BLOCK / (counted[start + BLOCK] - counted[start]) for start in range(0, COUNT, BLOCK)]
    progress(f"{COUNT} enrolments in {counted[-1] - counted[0]:.1f} s")
    note = f"{COUNT} over HTTPS, {AT_ONCE} at once; whoever asks and verifies shares the cores"
    return [Figure("enrolments_per_second", rate, blocks, note)]


@dataclass(frozen=True, slots=True)
class Joiners:
    """One node after another, by name and token; only inside `in_control`."""

    tokens: dict[str, JoinToken]
    ca_file: Path | None

    async def redeem_all(self) -> list[float]:
        """The monotonic moments at which one more was in, in order."""
        tls, moments = client_context(self.ca_file), list[float]()
        sources = {name: str(FIRST_SOURCE + number) for number, name in enumerate(self.tokens)}

        async def redeem(name: str) -> None:
            connector = aiohttp.TCPConnector(ssl=tls, local_addr=(sources[name], 0))
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, raise_for_status=True) as session:
                await _redeem(session, self.tokens[name], name)
            moments.append(time.monotonic())

        await each(list(self.tokens), redeem)
        return moments


async def _redeem(session: aiohttp.ClientSession, token: JoinToken, name: str) -> None:
    """The CA, then the enrolment, and what a node checks before it believes them: its hashes, the chain, its JWT."""
    identity = SigningKey.generate()
    async with session.get(f"{token.url}/api/v1/ca") as answer:
        check_ca(await answer.read(), token.ca)
    body = encode_json(request_to_enrol(token, identity, PrivateKey.generate().public()))
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{token.url}/api/v1/enrol", data=body, headers=headers) as answer:
        enrolment = Enrolment(read_answer(token, await answer.read()))
    enrolment.verifier()
    check_jwt(enrolment.answer.bus.jwt, identity)
    if enrolment.node.node_id != name:
        raise RuntimeError(f"node {name}: its certificate is for {enrolment.node.node_id}")


def _make_tokens(stage: Stage, names: list[str]) -> dict[str, JoinToken]:
    with stage.fleet.api() as api:
        return {name: parse_join_token(api.post("/tokens", {"role": "agent", "node": name})["token"]) for name in names}


def _remove(stage: Stage, names: list[str]) -> None:
    """Those that came in: later figures have the fleet that they name."""
    with stage.fleet.api() as api:
        there = {node["name"] for node in api.get("/agents")["items"]}
        for name in names:
            if name in there:
                api.delete(f"/agents/{name}")
