"""What the forger puts on the wire, as hypothesis draws it: genuine, stale, altered, signed again and invented."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import Announcement, Certificate
from kakuremichi.wire.records import AgentPeer, GatewayPeer, Gone, Kind, Proto, Revocation, Route, RouteTarget, Target
from kakuremichi.wire.signing import Signed, sign, verify_key
from support import forger
from support.forger import (
    ANNOUNCEMENTS,
    CERTIFICATES,
    CURRENT,
    DEPLOYMENT,
    EPOCHS,
    FEED_KEY,
    GW1,
    OTHER_DEPLOYMENT,
    OWN_KEY,
    OWNERS,
    SITE_A,
    SITE_B,
    STOLEN_TRUST_KEY,
    TRUST_KEYS,
    Owner,
)

OWN_WIREGUARD = PrivateKey(b"w" * 32).public()


def _certificates() -> list[Signed]:
    made = list(CERTIFICATES.values())
    for owner in OWNERS:
        body = owner.certificate_body()
        genuine = CERTIFICATES[owner]
        for wish in _wishes(body):
            data = encode(wish)
            mine = [sign(signing.CERTIFICATE, DEPLOYMENT, data, key) for key in (STOLEN_TRUST_KEY, OWN_KEY, FEED_KEY)]
            stolen = mine[0].signatures[0]
            made += mine
            made += [
                Signed(data, genuine.signatures),  # old signatures, new content
                Signed(data, (stolen, stolen)),  # one key twice is not two keys
                Signed(data, (stolen, *genuine.signatures)),
                sign(signing.CERTIFICATE, OTHER_DEPLOYMENT, data, *TRUST_KEYS),  # good, but elsewhere
                sign(signing.ANNOUNCEMENT, DEPLOYMENT, data, *TRUST_KEYS),  # good, but for another purpose
            ]
    made.append(forger.FEED_KEY_CERTIFICATE)
    return made


def _wishes(body: Certificate) -> list[Certificate]:
    return [
        body,
        with_fields(body, hosts=("*",), ports=("*",)),
        with_fields(body, identity_key=verify_key(OWN_KEY)),
        with_fields(body, subnet="10.1.0.0/24", slot=0),
        with_fields(body, serial=body.serial + 1, not_after=body.not_after + 10**8),
        with_fields(body, pool="main", role="agent", subnet=body.subnet or "10.9.0.0/24", slot=0),
    ]


def _announcements() -> list[Signed]:
    made = list(ANNOUNCEMENTS.values())
    for owner in OWNERS:
        for epoch in EPOCHS[owner]:
            body, genuine = owner.announcement_body(epoch), ANNOUNCEMENTS[owner, epoch]
            for wish in _lies(body):
                data = encode(wish)
                made += [sign(signing.ANNOUNCEMENT, DEPLOYMENT, data, key) for key in (OWN_KEY, FEED_KEY)]
                made.append(Signed(data, genuine.signatures))
                made.append(sign(signing.ANNOUNCEMENT, OTHER_DEPLOYMENT, data, owner.identity))
                made.append(sign(signing.CERTIFICATE, DEPLOYMENT, data, owner.identity))
    return made


def _lies(body: Announcement) -> list[Announcement]:
    return [
        with_fields(body, public_key=OWN_WIREGUARD),
        with_fields(body, public_key=OWN_WIREGUARD, epoch=body.epoch + 10),
        with_fields(body, endpoints=("198.51.100.66:51820",)),
        with_fields(body, serial=body.serial + 1),
    ]


ANY_CERTIFICATE = st.sampled_from(_certificates())
ANY_ANNOUNCEMENT = st.sampled_from(_announcements())
NAMES = st.sampled_from([*(owner.name for owner in OWNERS), "nobody"]).map(NodeId)
HOSTS = st.sampled_from(
    [
        "wiki.example.com",
        "bank.example.com",
        "mallory.example.com",
        "*",
        "",
        "a.example.com\nshow info",
        "WIKI.example.com",
    ]
)
PORTS = st.sampled_from([0, -1, 1, 22, 6000, 6050, 6100, 6101, 6666, 7000, 8000, 65535, 65536, 70000, 2**40])
AGENT_PORTS = st.sampled_from([1, 22, 80, 443, 6000, 6100, 8080, 20000, 65535])
ADDRESSES = st.sampled_from(
    ["127.0.0.1", "127.9.9.9", "192.168.2.10", "192.168.2.11", "192.168.3.1", "169.254.169.254", "10.1.0.1",
     "10.1.0.100", "::1", "::ffff:192.168.2.10", "0.0.0.0",  # noqa: S104  # it must be refused
     "255.255.255.255", "fe80::1", "8.8.8.8", "", "localhost", "192.168.2.010"]
)  # fmt: skip


def often(choices: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of these, the repeated ones more often: `one_of` drops repetitions."""
    return st.sampled_from(choices).flatmap(lambda choice: choice)


genuine_pairs = st.sampled_from(list(ANNOUNCEMENTS)).map(
    lambda place: (NodeId(place[0].name), CERTIFICATES[place[0]], ANNOUNCEMENTS[place])
)
odd_pairs = st.tuples(NAMES, ANY_CERTIFICATE, ANY_ANNOUNCEMENT)
# One genuine half with a forged other one: what comes nearest to being believed.
half_pairs = st.one_of(
    st.tuples(genuine_pairs, ANY_ANNOUNCEMENT).map(lambda two: (two[0][0], two[0][1], two[1])),
    st.tuples(genuine_pairs, ANY_CERTIFICATE).map(lambda two: (two[0][0], two[1], two[0][2])),
    st.tuples(genuine_pairs, NAMES).map(lambda two: (two[1], two[0][1], two[0][2])),
)
pairs = often([genuine_pairs] * 3 + [half_pairs] * 3 + [odd_pairs])


def peers(kind: type[AgentPeer] | type[GatewayPeer]) -> st.SearchStrategy[Any]:
    return pairs.map(lambda three: kind(node_id=three[0], certificate=three[1], announcement=three[2]))


route_targets = st.builds(
    RouteTarget,
    target_id=st.sampled_from(["t-0", "t-1", "x y", "a\nset server", "", "t" * 100]),
    agent=NAMES,
    agent_port=AGENT_PORTS,
    weight=st.sampled_from([100, 0, -1, 1000]),
)
routes = st.builds(
    Route,
    service_id=st.sampled_from(["wiki", "bank", "echo"]).map(ServiceId),
    kind=st.sampled_from(["http", "tls", "tcp", "udp"]),
    host=HOSTS,
    path=st.sampled_from(["", "", "", "/admin"]),
    first_port=PORTS,
    last_port=PORTS,
    sources=st.sampled_from([(), (), ("198.51.100.0/24",), ("junk",)]),
    targets=st.lists(route_targets, max_size=3).map(tuple),
    policy=st.sampled_from(["", "", "", "sso"]),
)
# Routes that fit some certificate, so that the others have something to be measured by.
_GOOD: list[tuple[str, Kind, str, int, int]] = [
    ("site-a", "http", "wiki.example.com", 0, 0),
    ("site-a", "tcp", "", 6000, 6100),
    ("site-a", "tcp", "", 7000, 7000),
    ("site-a", "tcp", "", 6000, 6101),
    ("site-a", "tcp", "", 70000, 5),
    ("site-b", "http", "bank.example.com", 0, 0),
    ("site-b", "udp", "", 8000, 8000),
    ("site-b", "tcp", "", 22, 22),
    ("mallory", "http", "wiki.example.com", 0, 0),
    ("mallory", "tcp", "", 6666, 6666),
]
good_routes = st.sampled_from(_GOOD).map(
    lambda spec: Route(
        service_id=ServiceId(f"s-{spec[0]}"), kind=spec[1], host=spec[2], path="", first_port=spec[3],
        last_port=spec[4], sources=(),
        targets=(RouteTarget(target_id="t-0", agent=NodeId(spec[0]), agent_port=min(spec[3], 65535) or 20000),),
    )
)  # fmt: skip
targets = st.builds(
    Target,
    target_id=st.sampled_from(["t-0", "t-1"]),
    service_id=st.just(ServiceId("wiki")),
    proto=st.sampled_from(["tcp", "udp"]),
    agent_port=AGENT_PORTS,
    agent_last_port=AGENT_PORTS,
    address=ADDRESSES,
    name=st.sampled_from(["", "", "db.internal"]),
    port=AGENT_PORTS,
)
# What the site permits, or nearly: (protocol, first port, last port, address, port of the target).
_NEAR: list[tuple[Proto, int, int, str, int]] = [
    ("tcp", 20000, 20000, "192.168.2.10", 8080),
    ("udp", 20000, 20000, "192.168.2.10", 8080),
    ("tcp", 8080, 8090, "192.168.2.10", 8080),
    ("tcp", 6000, 6050, "192.168.2.11", 6000),
    ("udp", 6000, 6051, "192.168.2.11", 6000),
    ("tcp", 6000, 60000, "192.168.2.11", 6000),
    ("tcp", 20000, 20000, "127.0.0.1", 80),
    ("tcp", 20000, 20000, "127.0.0.1", 22),
    ("tcp", 22, 80, "127.0.0.1", 80),
    ("tcp", 20000, 20000, "::ffff:127.0.0.1", 80),
]
near_targets = st.sampled_from(_NEAR).map(
    lambda spec: Target(
        target_id=f"n-{spec[0]}", service_id=ServiceId("wiki"), proto=spec[0], agent_port=spec[1],
        agent_last_port=spec[2], address=spec[3], name="", port=spec[4],
    )
)  # fmt: skip
others = st.one_of(
    st.builds(Revocation, node_id=NAMES, epoch=st.integers(-1, 6)),
    st.builds(Gone, kind=st.sampled_from(["agent-peer", "gateway-peer", "route", "target", "revocation"]),
              key=st.sampled_from([*(owner.name for owner in CURRENT), "wiki", "t-0", "s-site-a"])),
)  # fmt: skip


def _flip(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


for_gateways = often([peers(AgentPeer)] * 4 + [good_routes] * 3 + [routes, routes, others, targets, peers(GatewayPeer)])
for_agents = often([peers(GatewayPeer)] * 4 + [near_targets] * 3 + [targets, targets, others, routes, peers(AgentPeer)])
junk = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([["route.v9", "wiki"], ["agent-peer.v2", "site-a", 1], [], {}, ["gone.v1"], ["target.v1", 3]]).map(
        msgspec.msgpack.encode
    ),
)
# How something is delivered: as the next item of the feed, or in one of the ways that must change nothing.
deliveries = st.sampled_from(["next"] * 12 + ["again", "gap", "fork", "other-feed", "other-log", "own-key"])


def _sequences(records: st.SearchStrategy[Any], opening: list[Any]) -> st.SearchStrategy[list[Any]]:
    """Steps of an attack: on a node that knows nothing yet, or on one that holds `opening`."""
    whole = records.map(encode)
    broken = st.one_of(junk, st.builds(_flip, whole, st.integers(0, 2000), st.integers(0, 7)))
    mixed = often([whole] * 9 + [broken])
    item = st.tuples(st.just("item"), mixed, deliveries)
    snapshot = st.tuples(st.just("snapshot"), st.lists(whole, max_size=6), st.sampled_from([False, False, False, True]))
    odd = st.one_of(
        st.tuples(st.just("snapshot"), st.lists(mixed, max_size=6), st.just(False)),
        st.tuples(st.just("noise"), st.binary(max_size=80), st.booleans()),
        st.tuples(st.just("restart"), st.none(), st.none()),
    )
    step = often([item] * 7 + [snapshot, snapshot, odd])
    begins = st.sampled_from([[], [("snapshot", [encode(record) for record in opening], False)]])
    return st.tuples(begins, st.lists(step, min_size=4, max_size=16)).map(lambda two: [*two[0], *two[1]])


def _peer(kind: type[AgentPeer] | type[GatewayPeer], owner: Owner, epoch: int) -> AgentPeer | GatewayPeer:
    return kind(node_id=NodeId(owner.name), certificate=CERTIFICATES[owner], announcement=ANNOUNCEMENTS[owner, epoch])


gateway_sequences = _sequences(for_gateways, [_peer(AgentPeer, SITE_A, 3), _peer(AgentPeer, SITE_B, 1)])
agent_sequences = _sequences(for_agents, [_peer(GatewayPeer, GW1, 2)])
