"""Nodes with keys and certificates, for tests: what the trust keys and the nodes themselves would have signed."""

import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import NO_HASH, Announcement, Certificate, Role
from kakuremichi.wire.records import AgentPeer, GatewayPeer, Route, RouteTarget, Target
from kakuremichi.wire.signing import Signed, sign, verify_key
from support.feedmaker import DEPLOYMENT, TRUST_KEY

MAIN = PoolName("main")


@dataclass
class Person:
    """One node: its identity, its WireGuard key, and what it may do."""

    name: str
    role: Role = "agent"
    subnet: str = "10.9.0.0/24"
    slot: int = 0
    pool: str = "main"
    hosts: tuple[str, ...] = ("*",)
    ports: tuple[str, ...] = ("*",)
    endpoint: str = "203.0.113.1:51820"
    serial: int = 1

    def __post_init__(self) -> None:
        self.identity = SigningKey(self.name.encode().ljust(32, b"-"))
        self.wireguard = PrivateKey(self.name.encode().ljust(32, b"+"))

    @property
    def node_id(self) -> NodeId:
        return NodeId(self.name)

    @property
    def public_key(self) -> PublicKey:
        return self.wireguard.public()

    def certificate(self, signer: SigningKey = TRUST_KEY) -> Signed:
        now = int(time.time())
        body = Certificate(
            node_id=self.node_id,
            role=self.role,
            pool=PoolName(self.pool),
            slot=self.slot,
            subnet=self.subnet if self.role == "agent" else "",
            subnet6="",
            identity_key=verify_key(self.identity),
            sealing_key=PrivateKey(b"s" * 32).public(),
            hosts=self.hosts,
            ports=self.ports,
            serial=self.serial,
            not_before=now - 60,
            not_after=now + 3600,
        )
        return sign(signing.CERTIFICATE, DEPLOYMENT, encode(body), signer)

    def announcement(self, epoch: int = 1, key: PublicKey | None = None, signer: SigningKey | None = None) -> Signed:
        body = Announcement(
            node_id=self.node_id,
            serial=self.serial,
            public_key=key or self.public_key,
            epoch=epoch,
            boot_id=bytes(16),
            endpoints=(self.endpoint,) if self.role == "gateway" else (),
            previous=NO_HASH,
        )
        return sign(signing.ANNOUNCEMENT, DEPLOYMENT, encode(body), signer or self.identity)

    def agent_peer(self, epoch: int = 1, key: PublicKey | None = None) -> AgentPeer:
        return AgentPeer(
            node_id=self.node_id, certificate=self.certificate(), announcement=self.announcement(epoch, key)
        )

    def gateway_peer(self, epoch: int = 1, key: PublicKey | None = None) -> GatewayPeer:
        return GatewayPeer(
            node_id=self.node_id, certificate=self.certificate(), announcement=self.announcement(epoch, key)
        )


def http_route(service: str, agent: str | None, host: str | None = None, port: int = 20000) -> Route:
    return _route(service, "http", agent, port, host=host or f"{service}.lab.test")


def tcp_route(service: str, agent: str | None, public: int, port: int = 20000, sources: tuple[str, ...] = ()) -> Route:
    return _route(service, "tcp", agent, port, first_port=public, last_port=public, sources=sources)


def _route(service: str, kind: str, agent: str | None, port: int, **fields: object) -> Route:
    target = RouteTarget(target_id=f"{service}-0", agent=NodeId(agent or "-"), agent_port=port)
    whole: dict[str, object] = {"host": "", "path": "", "first_port": 0, "last_port": 0, "sources": (), **fields}
    return Route(service_id=service, kind=kind, targets=(target,) if agent else (), **whole)  # type: ignore[arg-type]


def target_record(name: str, port: int = 80, address: str = "127.0.0.1", agent_port: int = 20000) -> Target:
    return Target(
        target_id=name,
        service_id=name,  # type: ignore[arg-type]
        proto="tcp",
        agent_port=agent_port,
        agent_last_port=agent_port,
        address=address,
        name="",
        port=port,
    )
