"""Every version of every message that was ever sent, as bytes. A file here never changes: a change is a new tag.

`PYTHONPATH=tests python tests/golden/test_wire.py` writes the files of messages that have none yet.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from kakuremichi.model.options import Http, Limits, Options
from kakuremichi.wire import (
    arrivals,
    checkpoints,
    commands,
    facts,
    identity,
    key_requests,
    people,
    plans,
    records,
    requests,
    spans,
)
from kakuremichi.wire.codec import encode
from kakuremichi.wire.signing import Signature, Signed
from support import counters_messages

FOLDER = Path(__file__).parent / "wire"
K1, K2, H = b"\x01" * 32, b"\x02" * 32, b"\x0a" * 32
SIGNED = Signed(b"body", (Signature(K1, b"\x05" * 64),))  # type: ignore[arg-type]
TARGET = commands.TargetInput(agent="site-a", address="192.168.2.130", port=22)  # type: ignore[arg-type]
TARGET_SPEC = facts.TargetSpec(target_id="ssh-1", agent="site-a", agent_port=30000, address="127.0.0.1", port=22)  # type: ignore[arg-type]
PASSWORD = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA"
ACCOUNT = people.AccountView(
    name="bob", label="Bob", role="publisher", pools=("main",), agents=("site-a",), disabled=False, subject="",
    has_password=True, version=2, created_at="2026-01-01T00:00:00Z", changed_at="2026-01-02T00:00:00Z",
)  # fmt: skip
SESSION = people.SessionView(
    session_id="0a" * 8, who="person/bob", account="bob", token_sha256="", method="password", source="198.51.100.7",
    client="Firefox", opened_at="2026-01-01T00:00:00Z", seen_at="2026-01-01T00:01:00Z",
    ends_at="2026-01-01T12:00:00Z",
)  # fmt: skip

# Built from plain values, so that the newtypes of ids and keys need no casts here.
_MADE: list[tuple[Any, dict[str, Any]]] = [
    (identity.TrustSet, {"version": 1, "keys": (K1, K2), "threshold": 2}),
    (identity.FeedKeyCertificate, {"key": K1, "serial": 1, "not_before": 1700000000, "not_after": 1800000000}),
    (
        identity.Certificate,
        {
            "node_id": "site-a", "role": "agent", "pool": "main", "slot": 0, "subnet": "10.0.0.0/24", "subnet6": "",
            "identity_key": K1, "sealing_key": K2, "hosts": ("*",), "ports": ("443", "6000-6100"), "serial": 3,
            "not_before": 1700000000, "not_after": 1734560000,
        },
    ),
    (
        identity.Announcement,
        {
            "node_id": "gw1", "serial": 3, "public_key": K1, "epoch": 1700000000123, "boot_id": b"\x07" * 16,
            "endpoints": ("192.0.2.1:51820", "[2001:db8::1]:51820"), "previous": H,
        },
    ),
    (records.AgentPeer, {"node_id": "site-a", "certificate": SIGNED, "announcement": SIGNED}),
    (records.GatewayPeer, {"node_id": "gw1", "certificate": SIGNED, "announcement": SIGNED}),
    (
        records.Route,
        {
            "service_id": "ssh", "kind": "tcp", "host": "", "path": "", "first_port": 10022, "last_port": 10022,
            "sources": ("10.0.0.0/8",),
            "targets": (records.RouteTarget(target_id="ssh-1", agent="site-a", agent_port=30000),),  # type: ignore[arg-type]
        },
    ),
    (
        records.RouteWithOptions,
        {
            "service_id": "wiki", "kind": "http", "host": "*.example.com", "path": "/docs", "first_port": 0,
            "last_port": 0, "sources": (), "targets": (),
            "options": Raw(encode(Options(limits=Limits(rate=10), http=Http(strip_prefix=True)))),
        },
    ),
    (
        records.Target,
        {
            "target_id": "ssh-1", "service_id": "ssh", "proto": "tcp", "agent_port": 30000, "agent_last_port": 30000,
            "address": "192.168.2.130", "name": "", "port": 22,
        },
    ),
    (records.Revocation, {"node_id": "site-a", "epoch": 77}),
    (records.Rotate, {"node_id": "site-a", "request_id": "0a0a0a0a0a0a0a0a", "public_key": K1}),
    (records.Gone, {"kind": "route", "key": "ssh"}),
    (
        records.FeedItem,
        {"log_id": "log-1", "feed": "feed.pool.main", "feed_seq": 7, "prev_hash": H,
         "record": msgspec.Raw(encode(records.Gone(kind="route", key="ssh")))},
    ),
    (
        records.Head,
        {"log_id": "log-1", "feed": "feed.pool.main", "feed_seq": 7, "hash": H, "count": 2, "sum": H,
         "at_ms": 1700000000123},
    ),
    (
        checkpoints.Checkpoint,
        {"log_id": "log-1", "size": 1000, "root": H, "hash": K1, "at": "2026-01-02T03:04:05.000006Z"},
    ),
    (checkpoints.AskCheckpoint, {"log_id": "log-1", "size": 1000, "signature": SIGNED.signatures[0]}),
    (checkpoints.NewestCheckpoint, {"feed_key": SIGNED, "checkpoint": SIGNED, "proof": (H, K1)}),
    (checkpoints.CheckpointRefused, {"code": "none-yet", "detail": "checkpoint: there is none yet"}),
    (checkpoints.Cosignature, {"certificate": SIGNED, "signature": SIGNED.signatures[0]}),
    (requests.Announce, {"announcement": SIGNED}),
    (requests.AnnounceAfter, {"announcement": SIGNED, "before": (SIGNED,)}),
    (requests.Renew, {}),
    (requests.Renewed, {"jwt": "the-jwt"}),
    (requests.RenewCertificate, {}),
    (requests.CertificateRenewed, {"certificate": SIGNED}),
    (requests.CertificateWaiting, {}),
    (requests.RenewalRefused, {"code": "unknown-node", "detail": "node site-a: is not enrolled any more"}),
    (requests.KeyAccepted, {"epoch": 77}),
    (requests.KeyRefused, {"code": "not-newer", "detail": "epoch 7 is not above 77", "epoch": 77}),
    (requests.SnapshotRequest, {"feed": "feed.pool.main", "after": "route/ssh", "limit_bytes": 60000}),
    (
        requests.SnapshotPage,
        {"feed": "feed.pool.main", "feed_key": SIGNED, "head": SIGNED, "items": (SIGNED,), "next_after": "route/ssh"},
    ),
    (requests.SnapshotRefused, {"code": "unavailable", "detail": "database: silent", "retry_after_ms": 1000}),
    (
        requests.Report,
        {
            "node_id": "site-a", "boot_id": b"\x07" * 16, "version": "0.1.0", "tags": ("route.v1",),
            "cursors": (requests.Cursor("feed.fleet.main", "log-1", 7),),  # type: ignore[arg-type]
            "errors": (requests.ItemError("feed.agent.site-a", "target/ssh-1", "not allowed here"),),
            "timings": (requests.Timing("feed.fleet.main", 7, 150, 900),), "networks": ("192.168.2.0/24",),
            "held": ("feed.fleet.main: 9",), "warnings": ("slow",),
        },
    ),
    (
        requests.TimedReport,
        {
            "node_id": "site-a", "boot_id": b"\x07" * 16, "version": "0.2.0", "tags": ("route.v1",),
            "cursors": (requests.Cursor("feed.fleet.main", "log-1", 7),),  # type: ignore[arg-type]
            "timings": (requests.Timing("feed.fleet.main", 7, 150, 900),), "ages_us": (1200,),
        },
    ),
    (requests.ReportAnswer, {"heads": (SIGNED,)}),
    *counters_messages.MADE,
    (
        arrivals.ArrivalBatch,
        {
            "items": (
                arrivals.ItemArrivals("log-1", "feed.pool.main", 7, (  # type: ignore[arg-type]
                    arrivals.NodeArrival("gw1", 1_700_000_000_123_456, 150, 900, 1200),  # type: ignore[arg-type]
                    arrivals.NodeArrival("gw2", 1_700_000_000_123_999, 150, 900),  # type: ignore[arg-type]
                )),
            )
        },
    ),
    (
        spans.SpanBatch,
        {
            "spans": (
                spans.SpanRecord("apply", b"t" * 16, b"s" * 8, b"p" * 8, 1700, 1800, "internal", "late", (b"l" * 24,)),
            )
        },
    ),
    (key_requests.AcceptKey, {"announcement": SIGNED}),
    (key_requests.AcceptKeyAfter, {"announcement": SIGNED, "before": (SIGNED,)}),
    (key_requests.GetCertificate, {"node_id": "site-a"}),
    (key_requests.GetCertificateOf, {"node_id": "site-a", "serial": 2}),
    (key_requests.NodeCertificate, {"deployment": b"d" * 16, "trust": SIGNED, "certificate": SIGNED}),
    (
        commands.CreateToken,
        {"actor": "admin", "idempotency_key": "k", "role": "agent", "node_id": "site-a", "pool": "main",
         "secret_hash": H, "ttl_s": 600},
    ),
    (
        commands.EnrolNode,
        {"actor": "node", "secret_hash": H, "identity_key": K1, "sealing_key": K2, "networks": ("192.168.2.0/24",),
         "endpoints": (), "source": "198.51.100.7"},
    ),
    (commands.RenewAccess, {"actor": "node", "renewal": SIGNED, "source": "198.51.100.7"}),
    (commands.RemoveNode, {"actor": "admin", "node_id": "site-a", "role": "agent", "cascade": True}),
    (commands.RevokeNode, {"actor": "admin", "idempotency_key": "k", "node_id": "site-a", "role": "agent"}),
    (commands.RotateNode, {"actor": "admin", "node_id": "gw1", "role": "gateway"}),
    (commands.ReleaseNode, {"actor": "admin", "node_id": "site-a", "role": "agent"}),
    (commands.ListPending, {"actor": "admin"}),
    (commands.ListPositions, {"actor": "admin", "seq": 7, "limit": 1}),
    (
        commands.Positions,
        {"log_id": "log-1",
         "items": (commands.EventPositions(seq=7, at="2026-01-02T03:04:05+00:00", topic="service.published",
                                           trace_id="0a" * 16, positions=(("feed.pool.main", 7),)),)},
    ),
    (commands.SubmitGrant, {"actor": "admin", "certificate": SIGNED}),
    (
        commands.PublishService,
        {"actor": "admin", "service_id": "ssh", "pool": "main", "kind": "tcp", "first_port": 10022,
         "sources": ("10.0.0.0/8",), "targets": (TARGET,), "create_only": True},
    ),
    (commands.UnpublishService, {"actor": "admin", "service_id": "ssh"}),
    (commands.ListNodes, {"actor": "admin", "role": "gateway"}),
    (commands.ListServices, {"actor": "admin"}),
    (commands.ListTokens, {"actor": "admin"}),
    (commands.ListEvents, {"actor": "admin", "after": 5, "limit": 10, "newest_first": True}),
    (
        commands.Written,
        {"seq": 9, "log_id": "log-1",
         "positions": (commands.FeedPosition(feed="feed.pool.main", feed_seq=7, nodes=("gw1",)),)},  # type: ignore[arg-type]
    ),
    (
        commands.Plan,
        {"changed": True,
         "changes": (plans.PlannedChange(
             feed="feed.pool.main", kind="route", key="ssh", action="add", what="tcp 10022 to site-a"),),
         "readers": (plans.FeedReaders(feed="feed.pool.main", nodes=("gw1",), left_out=2),)},  # type: ignore[arg-type]
    ),
    (
        commands.Enrolled,
        {"deployment": b"d" * 16, "certificate": SIGNED, "trust": SIGNED, "feed_key": SIGNED,
         "endpoints": ("192.0.2.1:51820",)},
    ),
    (commands.EnrolmentWaiting, {"node_id": "site-a"}),
    (commands.PendingCertificates, {"deployment": b"d" * 16, "trust": SIGNED, "certificates": (SIGNED,)}),
    (commands.GrantTaken, {"node_id": "site-a", "signatures": 1, "needed": 2}),
    (commands.AccessRenewed, {"jwt": "the-jwt"}),
    (
        commands.Problem,
        {"status": 409, "code": "host-taken", "detail": "held by wiki", "field": "host", "holders": ("wiki",)},
    ),
    (
        commands.Nodes,
        {"items": (commands.NodeView(
            node_id="site-a", role="agent", pool="main", slot=0, subnet="10.0.0.0/24", endpoints=(), public_key="AQ==",
            epoch=77, state="live", last_report_at="2026-01-01T00:00:00Z", cursors=(("feed.fleet.main", 7),), behind=1,
            errors=(("target/ssh-1", "not allowed here"),), warnings=("slow",), version="0.1.0",
        ),), "next_after": "site-a"},
    ),
    (
        commands.Services,
        {"items": (commands.ServiceView(
            service_id="ssh", pool="main", kind="tcp", host="", path="", first_port=10022, last_port=10022, sources=(),
            targets=(commands.TargetView(
                target_id="ssh-1", agent="site-a", address="127.0.0.1", port=22, agent_port=30000),),
            state="active", carried_by="nftables", updated_seq=9, errors=(("gw1", "port taken"),),
        ),)},
    ),
    (
        commands.Tokens,
        {"items": (commands.TokenView(
            token_id="0a0a", role="agent", node_id="site-a", pool="main", expires_at="2026-01-01T00:00:00Z",
            state="open",
        ),)},
    ),
    (
        commands.Events,
        {"items": (commands.EventView(
            seq=9, at="2026-01-01T00:00:00.000000Z", actor="admin", topic="service-unpublished", fact="{}",
            trace_id="0af7651916cd43dd8448eb211c80319c", head="0a",
        ),)},
    ),
    (people.OpenSetup, {"actor": "admin", "code_hash": H, "ttl_s": 600}),
    (people.SetUp, {"actor": "set-up", "code_hash": H, "name": "ann", "password": PASSWORD}),
    (
        people.PutAccount,
        {"actor": "admin", "name": "bob", "label": "Bob", "role": "publisher", "pools": ("main",),
         "agents": ("site-a",), "disabled": True, "password": PASSWORD, "subject": "https://idp.example.com 17",
         "create_only": True, "seen_version": 3},
    ),
    (people.RemoveAccount, {"actor": "admin", "name": "bob"}),
    (people.FindAccount, {"actor": "portal", "name": "bob"}),
    (people.ListAccounts, {"actor": "admin", "after": "ann"}),
    (
        people.OpenSession,
        {"actor": "person/bob", "session_hash": H, "account": "bob", "version": 2, "token_sha256": "0a" * 32,
         "token_name": "deploy", "method": "password", "source": "198.51.100.7", "client": "Firefox",
         "idle_s": 3600, "ttl_s": 43200},
    ),
    (people.FindSession, {"actor": "portal", "session_hash": H}),
    (people.EndSessions, {"actor": "admin", "who": "person/bob", "session_id": "0a" * 8, "signed_out": True}),
    (people.ListSessions, {"actor": "admin", "who": "person/bob", "after": "0a0a"}),
    (people.NoteFailure, {"actor": "198.51.100.7", "code": "sign-in", "detail": "account bob: not let in"}),
    (
        people.NoteApiToken,
        {"actor": "admin", "name": "deploy", "act": "created", "scope": "publish", "pools": ("main",),
         "agents": ("site-a",), "expires_at": "2026-01-01T00:00:00Z"},
    ),
    (people.AccountFound, {"account": ACCOUNT, "password": PASSWORD}),
    (people.Accounts, {"items": (ACCOUNT,), "next_after": "bob"}),
    (people.SessionFound, {"session": SESSION, "account": ACCOUNT}),
    (people.Sessions, {"items": (SESSION,), "next_after": "0a0a"}),
    (people.Noted, {}),
]  # fmt: skip
_FACTS: list[tuple[Any, dict[str, Any]]] = [
    (facts.TokenCreated, {"token_id": "0a0a", "role": "agent", "node_id": "site-a", "pool": "main",
                          "expires_at": "2026-01-01T00:00:00Z"}),
    (facts.NodeEnrolled, {"node_id": "site-a", "role": "agent", "pool": "main", "slot": 0, "subnet": "10.0.0.0/24",
                          "identity_key": "AQ==", "serial": 1, "token_id": "0a0a", "networks": ("192.168.2.0/24",)}),
    (facts.KeyAnnounced, {"node_id": "site-a", "public_key": "AQ==", "epoch": 77, "endpoints": ()}),
    (facts.NodeRemoved, {"node_id": "site-a", "role": "agent", "pool": "main", "epoch": 77, "services": ("ssh",)}),
    (facts.NodeCertified, {"node_id": "site-a", "serial": 1, "hosts": ("*",), "ports": ("443",), "signatures": 1,
                           "needed": 2}),
    (facts.NodeRenewed, {"node_id": "site-a", "serial": 2, "hosts": ("*",), "ports": ("443",), "signatures": 1,
                         "needed": 2, "certificate": "AQ=="}),
    (facts.NodeRevoked, {"node_id": "site-a", "role": "agent", "pool": "main", "epoch": 77, "identity_key": "AQ==",
                         "services": ("ssh",)}),
    (facts.RotationRequested, {"node_id": "site-a", "role": "agent", "pool": "main",
                               "request_id": "0a0a0a0a0a0a0a0a", "public_key": "AQ=="}),
    (facts.NodeQuarantined, {"node_id": "site-a", "role": "agent", "pool": "main", "epoch": 77, "said_epoch": 78,
                             "boot_id": "07", "said_boot_id": "08", "public_key": "AQ==", "said_public_key": "Ag=="}),
    (facts.NodeReleased, {"node_id": "site-a", "role": "agent", "pool": "main"}),
    (facts.ServicePublished, {"service_id": "ssh", "pool": "main", "kind": "tcp", "host": "", "path": "",
                              "first_port": 10022, "last_port": 10022, "sources": (), "targets": (TARGET_SPEC,)}),
    (facts.ServiceUnpublished, {"service_id": "ssh", "pool": "main"}),
    (facts.SetupOpened, {"expires_at": "2026-01-01T00:00:00Z"}),
    (facts.AccountCreated, {"account": "bob", "label": "Bob", "role": "publisher", "pools": ("main",),
                            "agents": ("site-a",), "subject": "https://idp.example.com 17", "disabled": False}),
    (facts.AccountChanged, {"account": "bob", "label": "Bob", "role": "viewer", "pools": (), "agents": (),
                            "subject": "", "disabled": True, "password_changed": True}),
    (facts.AccountRemoved, {"account": "bob"}),
    (facts.PersonSignedIn, {"who": "person/bob", "session_id": "0a" * 8, "method": "password",
                            "source": "198.51.100.7"}),
    (facts.PersonSignedOut, {"who": "person/bob", "session_id": "0a" * 8}),
    (facts.SessionsEnded, {"sessions": (("person/bob", "0a" * 8),)}),
    (facts.ApiTokenCreated, {"name": "deploy", "scope": "publish", "pools": ("main",), "agents": (),
                             "expires_at": "2026-01-01T00:00:00Z"}),
    (facts.ApiTokenRemoved, {"name": "deploy"}),
    (facts.LogRetired, {"first": 1, "last": 65536, "hash": "0a" * 32, "root": "0b" * 32, "checkpoint": "Y2g=",
                        "checkpoint_size": 66000, "witnesses": ("gw1",), "export_sha256": "0c" * 32,
                        "state_sha256": "0d" * 32}),
]  # fmt: skip


def name_of(message: Any) -> str:
    tag = message.__struct_config__.tag
    return str(tag) if tag else type(message).__name__.lower()


MESSAGES = {name_of(made): made for made in (kind(**fields) for kind, fields in _MADE)}
FACTS = {name_of(made): made for made in (kind(**fields) for kind, fields in _FACTS)}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_bytes_that_it_always_had(name: str) -> None:
    assert encode(MESSAGES[name]).hex() == (FOLDER / f"{name}.hex").read_text().strip()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.hex")), ids=lambda path: path.stem)
def test_the_bytes_of_every_release_are_understood(path: Path) -> None:
    """Also those of files whose message is made differently today: older nodes and clients still send them."""
    data = bytes.fromhex(path.read_text().strip())
    kind = type(MESSAGES[path.stem])
    assert msgspec.msgpack.decode(data, type=kind) == MESSAGES[path.stem]


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_reads_as_it_always_read(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text().strip()
    assert msgspec.json.decode(text, type=facts.AnyFact) == FACTS[name]
    assert msgspec.json.encode(FACTS[name]).decode() == text


def test_every_message_and_fact_has_a_file() -> None:
    of_records = {str(kind.__struct_config__.tag) for kind in records.AnyRecord.__args__}
    of_commands = {str(kind.__struct_config__.tag) for kind in commands.AnyCommand.__args__}
    of_facts = {str(kind.__struct_config__.tag) for kind in facts.AnyFact.__args__}
    of_results = {str(kind.__struct_config__.tag) for kind in commands.AnyResult.__args__}
    of_people = {
        str(kind.__struct_config__.tag)
        for kind in (*people.AnyPeopleRequest.__args__, *people.AnyPeopleResult.__args__)
    }
    assert of_records | of_commands | of_results | of_people <= MESSAGES.keys()
    assert of_facts == FACTS.keys()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    files = {FOLDER / f"{name}.hex": encode(message).hex() for name, message in MESSAGES.items()}
    files |= {FOLDER / f"{name}.json": msgspec.json.encode(fact).decode() for name, fact in FACTS.items()}
    for path, text in files.items():
        if not path.exists():
            path.write_text(text + "\n")


if __name__ == "__main__":
    main()
