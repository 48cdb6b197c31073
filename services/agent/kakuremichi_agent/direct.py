"""When a gateway stops answering in the tunnel: ask it over HTTP which key it has now, and say ours."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import aiohttp
import structlog

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.dataplane.wireguard.diff import PeerState
from kakuremichi.model.addresses import AddressRefusedError, Endpoint, IPAddress, parse_endpoint
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi.node.direct import DirectPeers, DirectRefusedError
from kakuremichi.node.rotation import nothing
from kakuremichi.node.silence import Silence
from kakuremichi.reconcile.holding import Key
from kakuremichi.runtime.errors import reason_of
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.direct import MAX_EXCHANGE_BYTES, PATH, Exchange
from kakuremichi.wire.records import AnyRecord
from kakuremichi_agent.model import AgentModel, GatewayFacts

log = structlog.get_logger()

LOOK_S = 2.0  # an agent has at most 99 peers, so a look costs next to nothing
PROBE_EVERY = 5  # looks
DOORS = (("https", 443), ("http", 80))
TIMEOUT = aiohttp.ClientTimeout(total=4.0, sock_connect=2.0)
_DISCARD = 9


class NoAnswerError(Exception):
    """The gateway could not be asked; a sentence."""


class Door(NamedTuple):
    node_id: NodeId
    endpoint: Endpoint  # of its WireGuard, whose address is that of its web server


@dataclass
class DirectLoop:
    """Watches the tunnels of one agent. `own` is what this agent says of itself, `told` is awaited once a gateway has
    taken it: a key that was announced and not served yet is served from then on. `missed` is called when a silent
    gateway did not take it: it may know another key of ours, by somebody else who has our identity.
    """

    device: Device
    model: AgentModel
    peers: DirectPeers
    listed: Callable[[], Iterable[tuple[Key, AnyRecord]]]  # all that the feeds say
    own: Callable[[], Exchange]
    told: Callable[[], Awaitable[None]] = nothing
    warn: Callable[[str, str], None] = lambda _topic, _sentence: None  # for the report
    missed: Callable[[], None] = lambda: None
    greet: Callable[[AbstractSet[NodeId]], Awaitable[None]] | None = None  # a handshake with these, now
    _warned: set[NodeId] = field(default_factory=set)
    _silence: Silence = field(default_factory=Silence)
    _asking: dict[NodeId, "asyncio.Task[None]"] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        loop, looks = asyncio.get_running_loop(), 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            while not stop.is_set():
                await self._look(self._doors(), loop.time())
                if looks % PROBE_EVERY == 0:
                    _probe(probe, self.model.gateways.values())
                looks += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_S)
        for task in self._asking.values():
            task.cancel()

    def _doors(self) -> dict[PublicKey, Door]:
        """Where each gateway is asked: those that we have a tunnel to, and those of which the disk lost the newest key
        that it knows the epoch of. Their older one is not taken again, so only they themselves can help.
        """
        doors = {facts.public_key: Door(facts.node_id, facts.endpoint) for facts in self.model.gateways.values()}
        for (_, name), record in self.listed():
            if NodeId(name) not in self.model.gateways and (said := self.peers.announced(record)) and said.endpoints:
                with suppress(AddressRefusedError):
                    doors[said.public_key] = Door(said.node_id, parse_endpoint(said.endpoints[0]))
        return doors

    async def _look(self, doors: Mapping[PublicKey, Door], now: float) -> None:
        try:
            states = (await self.device.read()).peers
        except DeviceError as error:
            log.warning("engine not read", reason=str(error))
            return
        seen = {key: states.get(key) or PeerState(Peer(key, frozenset())) for key in doors}
        for key in self._silence.look(now, seen):
            self._ask(doors[key])
        self._tell({doors[key].node_id: seen[key] for key in self._silence.silent})

    def _tell(self, silent: Mapping[NodeId, PeerState]) -> None:
        for node in self._warned - silent.keys():
            self.warn(f"tunnel to {node}", "")
        for node, state in silent.items():
            # A moment and not an age: a sentence that changed with every look would be a report with every look.
            last = f"the last handshake was at {_moment(state.last_handshake)}" if state.last_handshake else "never yet"
            self.warn(f"tunnel to {node}", f"gateway {node}: it does not answer in the tunnel; {last}")
        self._warned = set(silent)

    def _ask(self, gateway: Door) -> None:
        node = gateway.node_id
        if node not in self._asking:
            self._asking[node] = asyncio.create_task(self._exchange(gateway), name=f"ask {node}")
            self._asking[node].add_done_callback(lambda _task: self._asking.pop(node, None))

    async def _exchange(self, gateway: Door) -> None:
        log.info("gateway is silent, asking it directly", gateway=gateway.node_id)
        try:
            answer = await ask(gateway.endpoint.address, self.own())
            await self.told()
            if not self.peers.take(answer):
                log.info("gateway has the key that is known", gateway=gateway.node_id)
                # Left to itself WireGuard would wait up to five seconds for its next attempt.
                if self.greet is not None:
                    await self.greet(frozenset({gateway.node_id}))
        except (NoAnswerError, DirectRefusedError) as error:
            log.info("gateway not reached directly", gateway=gateway.node_id, reason=str(error))
            self.missed()


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _probe(sender: socket.socket, gateways: Iterable[GatewayFacts]) -> None:
    """A packet of data to each, so that WireGuard at the other end owes us an answer; the gateway drops it."""
    for facts in gateways:
        with suppress(OSError):
            sender.sendto(b"", (str(facts.address), _DISCARD))


async def ask(address: IPAddress, own: Exchange, doors: Iterable[tuple[str, int]] = DOORS) -> Exchange:
    """Exchange announcements with the gateway at this public address. Raises NoAnswerError."""
    host = f"[{address}]" if address.version == 6 else str(address)
    reasons = []
    # TLS is not verified: what is said is signed, is no secret, and an address has no name to verify.
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(ssl=False)) as session:
        for scheme, port in doors:
            try:
                return await _post(session, f"{scheme}://{host}:{port}{PATH}", encode(own))
            except (aiohttp.ClientError, TimeoutError) as error:
                reasons.append(f"{scheme}: {reason_of(error)}")
    raise NoAnswerError("; ".join(reasons))


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> Exchange:
    async with session.post(url, data=body, allow_redirects=False) as answer:
        data = b""
        async for part in answer.content.iter_chunked(MAX_EXCHANGE_BYTES):
            data += part
            if len(data) > MAX_EXCHANGE_BYTES:
                raise NoAnswerError(f"more than {MAX_EXCHANGE_BYTES} bytes")
        if answer.status != 200:
            raise NoAnswerError(f"status {answer.status}, {data[:200].decode(errors='replace').strip()}")
        try:
            return decode(data, Exchange, name="exchange")
        except WireError as error:
            raise NoAnswerError(str(error)) from error
