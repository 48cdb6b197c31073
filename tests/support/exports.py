"""A small log of every kind of row as an export, with checkpoints and a witness, and what somebody may do to it."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from nacl.signing import SigningKey

from golden.test_wire import FACTS
from kakuremichi.audit import export
from kakuremichi.audit.chain import LogRow, row_hash
from kakuremichi.audit.merkle import root_of
from kakuremichi.wire import facts, signing
from kakuremichi.wire.checkpoints import CHECKPOINT, WITNESS, Checkpoint, Cosignature
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import NO_HASH, Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.signing import DeploymentId, Signed, sign, verify_key

LOG_ID = "0123456789abcdef0123456789abcdef"
DEPLOYMENT = DeploymentId(bytes(range(16)))
TRUST_KEY, FEED_KEY, GATEWAY_KEY = SigningKey(b"t" * 32), SigningKey(b"f" * 32), SigningKey(b"g" * 32)


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def certificate_of(name: str, role: str, key: SigningKey, serial: int = 1) -> Signed:
    body = Certificate(
        node_id=name, role=role, pool="main", slot=1 if role == "gateway" else 0,  # type: ignore[arg-type]
        subnet="" if role == "gateway" else "10.0.0.0/24", subnet6="", identity_key=verify_key(key),
        sealing_key=b"s" * 32, hosts=("*",), ports=("*",), serial=serial, not_before=0, not_after=2**31,  # type: ignore[arg-type]
    )  # fmt: skip
    return sign(signing.CERTIFICATE, DEPLOYMENT, encode(body), TRUST_KEY)


def enrolment(name: str, role: str, token_id: str, key: SigningKey) -> Iterator[facts.Fact]:
    yield facts.TokenCreated(
        token_id=token_id, role=role, node_id=name, pool="main", expires_at="2026-01-02T04:00:00Z",  # type: ignore[arg-type]
    )  # fmt: skip
    yield facts.NodeEnrolled(
        node_id=name, role=role, pool="main", slot=1 if role == "gateway" else 0,  # type: ignore[arg-type]
        subnet="" if role == "gateway" else "10.0.0.0/24", identity_key=text(bytes(key.verify_key)), serial=1,
        token_id=token_id, networks=("192.168.2.0/24",), pending=True,
        certificate=text(encode(certificate_of(name, role, key))),
    )  # fmt: skip
    yield facts.NodeCertified(
        node_id=name, serial=1, hosts=("*",), ports=("*",), signatures=1, needed=1,  # type: ignore[arg-type]
        certificate=text(encode(certificate_of(name, role, key))),
    )  # fmt: skip
    announced = Signed(f"announcement of {name}".encode(), ())
    yield facts.KeyAnnounced(
        node_id=name, public_key=text(name.encode().ljust(32, b"k")), epoch=7, endpoints=(),  # type: ignore[arg-type]
        announcement=text(encode(announced)),
    )  # fmt: skip


def published(name: str, host: str, agent: str) -> facts.ServicePublished:
    target = facts.TargetSpec(target_id=f"{name}-1", agent=agent, agent_port=30000, address="127.0.0.1", port=80)  # type: ignore[arg-type]
    return facts.ServicePublished(
        service_id=name, pool="main", kind="http", host=host, path="", first_port=0, last_port=0, sources=(),  # type: ignore[arg-type]
        targets=(target,),
    )  # fmt: skip


def every_kind() -> list[facts.Fact]:
    """A history with each kind of fact; those that lead nowhere are the golden ones."""
    agent = {"node_id": "site-a", "role": "agent", "pool": "main"}
    key = text(b"site-a".ljust(32, b"k"))
    renewed = text(encode(certificate_of("site-a", "agent", SigningKey(b"a" * 32), 2)))
    history = [
        *enrolment("gw1", "gateway", "aaaaaaaaaaaa", GATEWAY_KEY),
        *enrolment("site-a", "agent", "bbbbbbbbbbbb", SigningKey(b"a" * 32)),
        published("wiki", "wiki.example.com", "site-a"),
        published("wiki", "docs.example.com", "site-a"),
        published("mail", "mail.example.com", "site-a"),
        facts.RotationRequested(**agent, request_id="0a0a", public_key=key),  # type: ignore[arg-type]
        facts.NodeRenewed(
            node_id="site-a", serial=2, hosts=("*",), ports=("*",), signatures=1, needed=1, certificate=renewed,  # type: ignore[arg-type]
        ),
        facts.NodeQuarantined(
            **agent, epoch=7, said_epoch=8, boot_id="07", said_boot_id="08", public_key=key, said_public_key=key,  # type: ignore[arg-type]
        ),
        facts.NodeReleased(**agent),  # type: ignore[arg-type]
        facts.ServiceUnpublished(service_id="mail", pool="main"),  # type: ignore[arg-type]
        facts.NodeRevoked(**agent, epoch=7, identity_key=text(b"i" * 32), services=("wiki",)),  # type: ignore[arg-type]
        facts.NodeRemoved(**agent, epoch=7, services=()),  # type: ignore[arg-type]
    ]  # fmt: skip
    return [*history, *(fact for fact in FACTS.values() if type(fact) not in map(type, history))]


def chained(history: Sequence[facts.Fact], *, seq: int = 0, before: bytes = NO_HASH) -> list[LogRow]:
    rows = []
    for number, fact in enumerate(history, seq + 1):
        topic = str(fact.__struct_config__.tag).rpartition(".v")[0].replace(".", "-")
        at = f"2026-01-02T03:{number // 60:02}:{number % 60:02}.000000Z"
        row = LogRow(number, before, b"", topic, "ann", at, msgspec.json.encode(fact).decode())
        rows.append(row._replace(hash=row_hash(row)))
        before = rows[-1].hash
    return rows


def rechained(rows: Sequence[LogRow]) -> list[LogRow]:
    """The same contents with numbers and hashes that fit: what somebody does who knows the rule but has no key."""
    made: list[LogRow] = []
    for number, row in enumerate(rows, 1):
        fresh = row._replace(seq=number, prev=made[-1].hash if made else NO_HASH)
        made.append(fresh._replace(hash=row_hash(fresh)))
    return made


@dataclass
class Made:
    """An export in parts. `marks` are sizes with a checkpoint; those in `witnessed` are cosigned by gw1."""

    rows: list[LogRow]
    marks: tuple[int, ...] = (5, 12)
    witnessed: tuple[int, ...] = (12,)
    feed_key: SigningKey = FEED_KEY

    def header(self) -> export.Header:
        trust = TrustSet(version=1, keys=(verify_key(TRUST_KEY),), threshold=1)
        key = FeedKeyCertificate(key=verify_key(FEED_KEY), serial=1, not_before=0, not_after=2**31)
        return export.Header(
            format=export.FORMAT, log_id=LOG_ID, deployment=DEPLOYMENT,
            trust=encode(sign(signing.TRUST_SET, DEPLOYMENT, encode(trust), TRUST_KEY)),
            feed_key=encode(sign(signing.FEED_KEY, DEPLOYMENT, encode(key), TRUST_KEY)),
        )  # fmt: skip

    def checkpoint(self, size: int) -> export.CheckpointLine:
        last = self.rows[size - 1]
        root = root_of(row.hash for row in self.rows[:size])
        body = encode(Checkpoint(log_id=LOG_ID, size=size, root=root, hash=last.hash, at=last.at))
        signed = sign(CHECKPOINT, DEPLOYMENT, body, self.feed_key)
        witnesses: tuple[bytes, ...] = ()
        if size in self.witnessed:
            (signature,) = sign(WITNESS, DEPLOYMENT, body, GATEWAY_KEY).signatures
            certificate = certificate_of("gw1", "gateway", GATEWAY_KEY)
            witnesses = (encode(Cosignature(certificate=certificate, signature=signature)),)
        return export.CheckpointLine(size=size, signed=encode(signed), witnesses=witnesses)

    def lines(self, rows: Iterable[LogRow] | None = None) -> list[bytes]:
        """The file; with `rows` in place of the true ones, beside the true checkpoints and end."""
        said = [export.encode(self.header())]
        marks = {size: export.encode(self.checkpoint(size)) for size in self.marks}
        given = list(self.rows if rows is None else rows)
        for at, row in enumerate(given):
            said.append(export.encode(export.row_line(row.logged(LOG_ID))))
            if row.seq in marks and row.seq not in [later.seq for later in given[at + 1 :]]:
                said.append(marks.pop(row.seq))
        said += marks.values()
        said.append(export.encode(export.End(rows=len(self.rows), hash=self.rows[-1].hash.hex())))
        return said


def made(**changes: object) -> Made:
    return Made(chained(every_kind()), **changes)  # type: ignore[arg-type]
