"""Somebody who holds every secret of the control plane, and what the owners of the nodes have really signed.

The trust keys are offline: three, of which two have to agree. The forger holds the feed key, one trust key, keys of
his own making, and a node that he enrolled honestly with a narrow certificate.
"""

import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import NO_HASH, Announcement, Certificate, FeedKeyCertificate, Role, TrustSet
from kakuremichi.wire.signing import DeploymentId, Signed, sign, verify_key

DEPLOYMENT = DeploymentId(b"d" * 16)
OTHER_DEPLOYMENT = DeploymentId(b"e" * 16)
TRUST_KEYS = tuple(SigningKey(bytes([n]) * 32) for n in (1, 2, 3))
TRUST = TrustSet(version=1, keys=tuple(map(verify_key, TRUST_KEYS)), threshold=2)
STOLEN_TRUST_KEY = TRUST_KEYS[0]
FEED_KEY = SigningKey(b"f" * 32)  # certified, and in the forger's hands
OWN_KEY = SigningKey(b"x" * 32)  # certified by nobody
NOW = int(time.time())
POOL = PoolName("main")


@dataclass(frozen=True)
class Owner:
    """A node of somebody: what its certificate says. `subnet` for agents, `slot` for gateways."""

    name: str
    role: Role = "agent"
    subnet: str = ""
    slot: int = 0
    pool: str = "main"
    hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    serial: int = 1
    not_after: int = NOW + 3600
    seed: str = ""  # of the identity; another certificate of the same node has the same

    @property
    def identity(self) -> SigningKey:
        return SigningKey((self.seed or self.name).encode().ljust(32, b"-"))

    def key(self, epoch: int) -> PublicKey:
        return PrivateKey(f"{self.name}{epoch}".encode().ljust(32, b"+")).public()

    def certificate_body(self) -> Certificate:
        return Certificate(
            node_id=NodeId(self.name), role=self.role, pool=PoolName(self.pool), slot=self.slot, subnet=self.subnet,
            subnet6="", identity_key=verify_key(self.identity), sealing_key=PrivateKey(b"s" * 32).public(),
            hosts=self.hosts, ports=self.ports, serial=self.serial, not_before=NOW - 7200, not_after=self.not_after,
        )  # fmt: skip

    def certificate(self) -> Signed:
        """As the owner's people signed it: two of the three keys, never the stolen one."""
        return sign(signing.CERTIFICATE, DEPLOYMENT, encode(self.certificate_body()), *TRUST_KEYS[1:])

    def announcement_body(self, epoch: int) -> Announcement:
        return Announcement(
            node_id=NodeId(self.name), serial=self.serial, public_key=self.key(epoch), epoch=epoch, boot_id=bytes(16),
            endpoints=(f"203.0.113.{self.slot}:51820",) if self.role == "gateway" else (), previous=NO_HASH,
        )  # fmt: skip

    def announcement(self, epoch: int) -> Signed:
        return sign(signing.ANNOUNCEMENT, DEPLOYMENT, encode(self.announcement_body(epoch)), self.identity)


SITE_A = Owner("site-a", subnet="10.1.0.0/24", hosts=("wiki.example.com",), ports=("6000-6100", "7000"), serial=2)
SITE_B = Owner("site-b", subnet="10.2.0.0/24", hosts=("*",), ports=("8000",))
MALLORY = Owner("mallory", subnet="10.66.0.0/24", hosts=("mallory.example.com",), ports=("6666",))
GW1 = Owner("gw1", role="gateway", slot=1)
GW2 = Owner("gw2", role="gateway", slot=2)
# What was signed once and must not be good for anything now.
EXPIRED = Owner("site-x", subnet="10.3.0.0/24", hosts=("*",), ports=("*",), not_after=NOW - 3600)
ELSEWHERE = Owner("site-y", subnet="10.4.0.0/24", hosts=("*",), ports=("*",), pool="blue")
# The same site before its certificate was narrowed; at that time it had announced the epochs 1 and 2 only.
SITE_A_BEFORE = Owner("site-a", subnet="10.1.0.0/24", hosts=("*",), ports=("*",), serial=1)

EPOCHS: dict[Owner, tuple[int, ...]] = {
    SITE_A_BEFORE: (1, 2), SITE_A: (3, 4, 5), SITE_B: (1, 2), MALLORY: (1, 2), GW1: (1, 2, 3), GW2: (1,),
    EXPIRED: (1,), ELSEWHERE: (1,),
}  # fmt: skip
OWNERS = tuple(EPOCHS)
CURRENT = (SITE_A, SITE_B, MALLORY, GW1, GW2)

CERTIFICATES = {owner: owner.certificate() for owner in OWNERS}
ANNOUNCEMENTS = {(owner, epoch): owner.announcement(epoch) for owner in OWNERS for epoch in EPOCHS[owner]}


def feed_key_certificate() -> Signed:
    body = FeedKeyCertificate(key=verify_key(FEED_KEY), serial=1, not_before=NOW - 60, not_after=NOW + 3600)
    return sign(signing.FEED_KEY, DEPLOYMENT, encode(body), *TRUST_KEYS[1:])


FEED_KEY_CERTIFICATE = feed_key_certificate()
