"""A registry in memory behind the portal: it keeps what it is told, as the real one does, and refuses on demand."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from nacl.signing import SigningKey

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.model.ids import LogId, NodeId, PoolName
from kakuremichi.model.keys import PublicKey, VerifyKey
from kakuremichi.wire import commands, people, subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.identity import Certificate, Role
from kakuremichi.wire.requests import Cursor, ItemError, Report
from kakuremichi.wire.signing import CERTIFICATE, FEED_KEY, TRUST_SET, DeploymentId, sign
from unit.portal.fake_people import FakePeople

LOG_ID = LogId("log-1")
DEPLOYMENT = DeploymentId(bytes(range(16)))
TRUST_KEY = SigningKey(bytes(32))
TRUST_BODY = b"the trust set's body"
TRUST_HASH = hashlib.sha256(TRUST_BODY).digest()
PAGE = 2
GATEWAYS = ("gw1", "gw2", "gw3")


def node_view(node_id: str, role: Role = "gateway", **changes: object) -> commands.NodeView:
    fields: dict[str, object] = {
        "node_id": node_id,
        "role": role,
        "pool": "default",
        "slot": 1 if role == "gateway" else 0,
        "subnet": "" if role == "gateway" else "10.0.0.0/24",
        "endpoints": ("203.0.113.1:51820",) if role == "gateway" else (),
        "public_key": "A" * 43 + "=",
        "epoch": 7,
        "state": "live",
        "last_report_at": "2026-01-02T03:04:00+00:00",
        "cursors": (),
        "behind": 0,
        "errors": (),
        "warnings": (),
        "version": "0.1.0",
    }
    return msgspec.convert(fields | changes, commands.NodeView)


class FakeRegistry:
    def __init__(self) -> None:
        self.seq = 0
        self.people = FakePeople()
        self.asked: list[object] = []
        self.told = asyncio.Event()
        self.decide = self._decide  # for a test to put its own in front
        self.problem: commands.Problem | None = None
        self.nodes = [node_view(name) for name in GATEWAYS] + [node_view("site-a", "agent")]
        self.services: dict[str, commands.ServiceView] = {}
        self.tokens: dict[bytes, commands.TokenView] = {}
        self.used: set[bytes] = set()
        self.events: list[commands.EventView] = []

    async def serve(self, bus: MemoryBus) -> None:
        async def answer(message: Message) -> None:
            command = decode_any(message.data, commands.AnyCommand, name="command")
            await bus.publish(message.reply, encode(await self.decide(command)))

        async def answer_about_people(message: Message) -> None:
            request = decode_any(message.data, people.AnyPeopleRequest, name="request")
            await bus.publish(message.reply, encode(self.people.decide(request)))

        await bus.subscribe(subjects.COMMAND, answer, queue="registry")
        await bus.subscribe(subjects.PEOPLE, answer_about_people, queue="registry")

    async def _decide(self, command: object) -> commands.Result:
        self.asked.append(command)
        self.told.set()
        if self.problem is not None and not isinstance(command, commands.ListNodes):
            return self.problem
        writes: dict[type, Callable[..., commands.Result]] = {
            commands.PublishService: self._publish,
            commands.UnpublishService: self._unpublish,
            commands.RemoveNode: self._remove,
            commands.RevokeNode: self._revoke,
            commands.RotateNode: self._rotate,
            commands.ReleaseNode: lambda _command: self.written(topic="node.released"),
            commands.CreateToken: self._create_token,
            commands.EnrolNode: self._enrol,
        }
        return writes.get(type(command), self._list)(command)

    def _revoke(self, command: commands.RevokeNode) -> commands.Result:
        self._change(command.node_id, state="revoked")
        return self.written(topic="node.revoked")

    def _rotate(self, command: commands.RotateNode) -> commands.Result:
        self._change(command.node_id, public_key="B" * 43 + "=", epoch=8)
        return self.written(topic="rotation.requested")

    def _change(self, node_id: str, **changes: object) -> None:
        self.nodes = [
            msgspec.structs.replace(node, **changes) if node.node_id == node_id else node for node in self.nodes
        ]

    def _list(self, command: object) -> commands.Result:
        """Pages of two, so that whoever reads a list has to turn them."""
        match command:
            case commands.ListNodes(role=role, after=after, node_id=only, limit=limit):
                nodes = {node.node_id: node for node in self.nodes if node.role == role and only in ("", node.node_id)}
                return commands.Nodes(**_page(nodes, after, limit))
            case commands.ListServices(after=after, service_id=only, limit=limit):
                services = {name: view for name, view in self.services.items() if only in ("", name)}
                return commands.Services(**_page(services, after, limit))
            case commands.ListTokens(after=after, limit=limit):
                tokens = {token.token_id: token for token in self.tokens.values()}
                return commands.Tokens(**_page(tokens, after, limit))
            case commands.ListEvents(after=after, limit=limit, newest_first=True):
                found = [event for event in self.events[::-1] if not after or event.seq < after]
                return commands.Events(items=tuple(found[:limit]))
            case commands.ListEvents(after=after, limit=limit):
                return commands.Events(items=tuple([event for event in self.events if event.seq > after][:limit]))
        raise AssertionError(command)

    def written(
        self, *, agents: tuple[str, ...] = (), topic: str = "service.published", about: str = ""
    ) -> commands.Written:
        self.seq += 1
        self.events.append(
            commands.EventView(
                seq=self.seq,
                at="2026-01-02T03:04:05+00:00",
                actor="ann",
                topic=topic,
                fact=msgspec.json.encode({"type": f"{topic}.v1", "service_id": about}).decode(),
                trace_id="0af7651916cd43dd8448eb211c80319c",
                head="00" * 32,
            )
        )
        pool = commands.FeedPosition(feed="feed.pool.default", feed_seq=self.seq, nodes=tuple(map(NodeId, GATEWAYS)))
        own = tuple(
            commands.FeedPosition(feed=f"feed.agent.{agent}", feed_seq=1, nodes=(NodeId(agent),)) for agent in agents
        )
        return commands.Written(seq=self.seq, log_id=LOG_ID, positions=(pool, *own))

    def _publish(self, command: commands.PublishService) -> commands.Result:
        if command.create_only and command.service_id in self.services:
            return commands.Problem(
                status=409, code="held", detail=f"name {command.service_id}: held", field="name", holders=("wiki",)
            )
        answer = self.written(about=command.service_id)
        self.services[command.service_id] = commands.ServiceView(
            service_id=command.service_id,
            pool=command.pool,
            kind=command.kind,
            host=command.host,
            path=command.path,
            first_port=command.first_port,
            last_port=command.last_port,
            sources=command.sources,
            targets=tuple(
                commands.TargetView(
                    target_id=f"{command.service_id}-{number}",
                    agent=target.agent,
                    address=target.address,
                    port=target.port,
                    agent_port=20000 + number,
                )
                for number, target in enumerate(command.targets)
            ),
            state="active" if command.targets else "no-target",
            carried_by="haproxy" if command.kind in ("http", "tls") else "nftables",
            updated_seq=answer.seq,
            errors=(),
        )
        return answer

    def _unpublish(self, command: commands.UnpublishService) -> commands.Result:
        if self.services.pop(command.service_id, None) is None:
            return commands.Problem(status=404, code="not-found", detail=f"service {command.service_id}: not known")
        return self.written(topic="service.unpublished", about=command.service_id)

    def _remove(self, command: commands.RemoveNode) -> commands.Result:
        held = tuple(
            name for name, view in self.services.items() if any(t.agent == command.node_id for t in view.targets)
        )
        if held and not command.cascade:
            detail = f"agent {command.node_id}: services have their target there"
            return commands.Problem(status=409, code="in-use", detail=detail, holders=held)
        self.nodes = [node for node in self.nodes if node.node_id != command.node_id]
        return self.written(topic="node.removed")

    def _create_token(self, command: commands.CreateToken) -> commands.Result:
        token_id = command.secret_hash.hex()[:12]
        self.tokens[command.secret_hash] = commands.TokenView(
            token_id=token_id,
            role=command.role,
            node_id=command.node_id,
            pool=command.pool,
            expires_at="2026-01-02T04:04:05+00:00",
            state="open",
        )
        answer = self.written(topic="token.created")
        return msgspec.structs.replace(answer, token_id=token_id, expires_at="2026-01-02T04:04:05+00:00")

    def _enrol(self, command: commands.EnrolNode) -> commands.Result:
        token = self.tokens.get(command.secret_hash)
        if token is None:
            return commands.Problem(status=404, code="token-unknown", detail="token: not known")
        if command.secret_hash in self.used:
            return commands.Problem(status=410, code="token-used", detail="token: used")
        self.used.add(command.secret_hash)
        body = encode(_certificate(token, command))
        return commands.Enrolled(
            deployment=DEPLOYMENT,
            certificate=sign(CERTIFICATE, DEPLOYMENT, body, TRUST_KEY),
            trust=sign(TRUST_SET, DEPLOYMENT, TRUST_BODY, TRUST_KEY),
            feed_key=sign(FEED_KEY, DEPLOYMENT, b"feed key", TRUST_KEY),
            endpoints=command.endpoints,
            bus_jwt=f"jwt-of-a-{token.role}",
        )


def _page(found: dict[str, Any], after: str, limit: int | UnsetType) -> dict[str, Any]:
    names = [name for name in found if name > after]
    page = names[: PAGE if limit is UNSET else min(PAGE, limit)]
    more = page[-1] if len(names) > len(page) else ""
    return {"items": tuple(found[name] for name in page), "next_after": more}


def _certificate(token: commands.TokenView, command: commands.EnrolNode) -> Certificate:
    return Certificate(
        node_id=NodeId(token.node_id),
        role=token.role,
        pool=PoolName(token.pool),
        slot=1 if token.role == "gateway" else 0,
        subnet="" if token.role == "gateway" else "10.0.0.0/24",
        subnet6="",
        identity_key=VerifyKey(command.identity_key),
        sealing_key=PublicKey(command.sealing_key),
        hosts=("*",),
        ports=("*",),
        serial=1,
        not_before=0,
        not_after=2**31,
    )


class FakeNode:
    """A node that reports on the bus."""

    def __init__(self, nats: MemoryNats, name: str, feed: str = "feed.pool.default") -> None:
        self._bus, self._name, self._feed = nats.connect(f"reply.{name}"), name, feed

    async def report(self, feed_seq: int, *, error: tuple[str, str] | None = None, log_id: str = LOG_ID) -> None:
        errors = (ItemError(self._feed, *error),) if error else ()
        report = Report(
            node_id=NodeId(self._name),
            boot_id=bytes(16),
            version="0.1.0",
            tags=(),
            cursors=(Cursor(self._feed, LogId(log_id), feed_seq),),
            errors=errors,
        )
        await self._bus.publish(subjects.report(NodeId(self._name)), encode(report))
