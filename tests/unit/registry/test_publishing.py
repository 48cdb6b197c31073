"""What a service may be, as far as it can be said without a database."""

import msgspec
import pytest

from kakuremichi.model.addresses import AGENT_PORTS
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.options import Headers, Http, Options, Upstream
from kakuremichi.wire.commands import PublishService, TargetInput
from kakuremichi.wire.records import IPV6_OF_NAME, RouteWithOptions, Target, decode_record
from kakuremichi_registry.contexts import NamedNode, PublishContext, TargetRow
from kakuremichi_registry.forms import check_form
from kakuremichi_registry.publishing import Publication, decide, first_choice, route, route_tag, wanted_tag
from kakuremichi_registry.refusal import Refusal
from support.real_registry import http, tcp


def target(address: str = "192.168.2.130", port: int = 22) -> tuple[TargetInput, ...]:
    return (TargetInput(agent=NodeId("site-a"), address=address, port=port),)


PROXY = Options(upstream=Upstream(proxy_protocol=2))
BASE = {"http": http("svc"), "tcp": tcp("svc", 10022)}


@pytest.mark.parametrize(
    ("base", "change", "field"),
    [
        ("http", {"host": ""}, "host"),
        ("http", {"host": "app.example.com\0"}, "host"),
        ("http", {"host": "app.example.com\r\nevil"}, "host"),
        ("http", {"host": "app example.com"}, "host"),
        ("http", {"host": "app.example.com."}, "host"),
        ("http", {"host": "a." * 126 + "ab"}, "host"),
        ("http", {"first_port": 8080}, "first_port"),
        ("http", {"sources": ("10.0.0.0",)}, "sources"),
        ("http", {"path": "docs"}, "path"),
        ("http", {"path": "/a/../b"}, "path"),
        ("http", {"path": "/a b"}, "path"),
        ("http", {"path": "/a\n"}, "path"),
        ("http", {"path": "/" + "a" * 300}, "path"),
        ("http", {"path": "/docs/"}, "path"),
        ("http", {"path": "/%2e"}, "path"),
        ("http", {"path": "/a" * 129}, "path"),
        ("http", {"host": "*"}, "host"),
        ("http", {"host": "*.com"}, "host"),
        ("http", {"host": "*.*.example.com"}, "host"),
        ("http", {"host": "a.*.example.com"}, "host"),
        ("http", {"options": Options(http=Http(strip_prefix=True))}, "options.http"),
        ("http", {"options": Options(http=Http(request=Headers(set={"a b": "x"})))}, "options.http.request"),
        ("http", {"options": Options(http=Http(response=Headers(set={"a": "x\r\nb: y"})))}, "options.http.response"),
        ("http", {"options": Options(http=Http(request=Headers(remove=("Host",))))}, "options.http.request"),
        ("http", {"options": Options(http=Http(pages={404: "gone"}))}, "options.http.pages"),
        ("http", {"options": Options(upstream=Upstream(ca="x"))}, "options.upstream"),
        ("tcp", {"options": Options(http=Http(https_only=True))}, "options.http"),
        ("tcp", {"options": Options(paused=True)}, "options.paused"),
        ("tcp", {"options": Options(upstream=Upstream(protocol="https"))}, "options.upstream"),
        ("tcp", {"kind": "udp", "options": PROXY}, "options.upstream.proxy_protocol"),
        ("tcp", {"last_port": 10030, "targets": target(port=0), "options": PROXY}, "options.upstream.proxy_protocol"),
        ("http", {"kind": "tls"}, "kind"),
        ("http", {"targets": ()}, "targets"),
        ("http", {"targets": target() * 2}, "targets"),
        ("tcp", {"host": "app.example.com"}, "host"),
        ("tcp", {"path": "/docs"}, "path"),
        ("tcp", {"first_port": 0}, "first_port"),
        ("tcp", {"first_port": -1}, "first_port"),
        ("tcp", {"first_port": 65536}, "first_port"),
        ("tcp", {"last_port": 65536}, "last_port"),
        ("tcp", {"first_port": 10, "last_port": 9}, "last_port"),
        ("tcp", {"first_port": 80}, "first_port"),
        ("tcp", {"first_port": 443}, "first_port"),
        ("tcp", {"first_port": 400, "last_port": 500, "targets": target(port=0)}, "first_port"),
        ("tcp", {"kind": "udp", "first_port": 51820}, "first_port"),
        ("tcp", {"sources": ("10.0.0.1/24",)}, "sources"),
        ("tcp", {"sources": ("10.0.0.0",)}, "sources"),
        ("tcp", {"sources": (" 10.0.0.0/8",)}, "sources"),
        ("tcp", {"sources": ("010.0.0.0/8",)}, "sources"),
        ("tcp", {"sources": ("10.0.0.0/33",)}, "sources"),
        ("tcp", {"sources": ("10.0.0.0/255.0.0.0",)}, "sources"),
        ("tcp", {"sources": ("fe80::%eth0/64",)}, "sources"),
        ("tcp", {"sources": tuple(f"10.0.{n >> 8}.{n & 255}/32" for n in range(501))}, "sources"),
        ("tcp", {"targets": target(port=0)}, "targets.port"),
        ("tcp", {"targets": target(port=65536)}, "targets.port"),
        ("tcp", {"first_port": 6000, "last_port": 6010, "targets": target(port=7000)}, "targets.port"),
        *(
            ("tcp", {"targets": target(address)}, "targets.address")
            for address in (
                "", "App.example.com", "a b", "-a.example.com", "a..b", "0.0.0.0",  # noqa: S104
                "0.1.2.3", "::", "::2", "fe80::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "169.254.169.254",
                "169.254.0.1", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "100.100.100.200",
                "168.63.129.16", "::ffff:127.0.0.1", "::127.0.0.1", "fe80::1%eth0", "127.1", "0x7f.0.0.1", "127.0.0.1 ",
                "127.0.0.1\n", "192.168.2.130:22",
            )
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_field(base: str, change: dict[str, object], field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check_form(msgspec.structs.replace(BASE[base], **change))
    problem = refusal.value.problem
    assert (problem.status, problem.field) == (422, field)
    assert len(problem.detail) > 20


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "192.168.2.130", "10.1.2.3", "8.8.8.8"])
def test_targets_that_may_be(address: str) -> None:
    assert check_form(msgspec.structs.replace(BASE["tcp"], targets=target(address))).address == address


def test_what_was_left_out_is_filled_in() -> None:
    one = check_form(BASE["tcp"])
    assert (one.row.first_port, one.row.last_port) == (10022, 10022)
    ranged = check_form(tcp("svc", 6000, 6010))
    assert (ranged.row.first_port, ranged.row.last_port, ranged.target.port) == (6000, 6010, 6000)
    sources = check_form(msgspec.structs.replace(BASE["tcp"], sources=("10.0.0.0/8", "::/0", "10.0.0.0/8")))
    assert sources.row.sources == ("10.0.0.0/8", "::/0")


def seen(**fields: object) -> PublishContext:
    known: dict[str, object] = {
        "log_id": "log", "known_pool": True, "old": None, "gateways": (), "lacking": (), "host_holder": None,
        "host_elsewhere": None,
        "freed_host": None, "port_holders": (), "gateway_ports": (), "target_holders": (), "agent_port_holders": (),
        "free_agent_port": 30000, "heads": {}, "nodes": (NamedNode(NodeId("site-a"), "agent", PoolName("main")),),
    }  # fmt: skip
    return PublishContext(**{**known, **fields})  # type: ignore[arg-type]


def published(base: str, **fields: object) -> Publication:
    return decide(BASE[base], check_form(BASE[base]), seen(**fields))


def test_an_agent_port_is_kept_else_the_first_that_is_free() -> None:
    assert published("tcp").row.targets[0].agent_port == 30000
    kept = msgspec.structs.replace(published("tcp").row, updated_seq=7)
    again = published("tcp", old=kept, free_agent_port=40000)
    assert again.row.targets[0].agent_port == 30000
    assert (again.unchanged, again.seen_seq) == (True, 7)
    with pytest.raises(Refusal, match="in use"):
        published("tcp", free_agent_port=None)
    assert first_choice(check_form(BASE["tcp"])) in AGENT_PORTS


def test_a_moved_target_is_taken_back_where_it_was() -> None:
    old = published("http").row
    target = TargetRow("svc-1", NodeId("site-b"), "tcp", 30001, 30001, "127.0.0.1", 80)
    moved = msgspec.structs.replace(old, pool=PoolName("other"), targets=(target,))
    publication = published("http", old=moved)
    assert [(item.feed, item.path, item.gone) for item in publication.items] == [
        ("feed.agent.site-a", "target/svc-1", False),
        ("feed.pool.main", "route/svc", False),
        ("feed.agent.site-b", "target/svc-1", True),
        ("feed.pool.other", "route/svc", True),
    ]
    assert publication.readers.keys() == {item.feed for item in publication.items}


@pytest.mark.parametrize("host", ["*.example.com", "a.example.com"])
def test_a_name_is_of_one_pool_and_a_path_of_one_service(host: str) -> None:
    command = msgspec.structs.replace(BASE["http"], host=host, path="/docs")
    for field, other in (("host_holder", "held by service wiki"), ("host_elsewhere", "in another pool")):
        with pytest.raises(Refusal, match=other) as refusal:
            decide(command, check_form(command), seen(**{field: ServiceId("wiki")}))
        assert refusal.value.problem.holders == ("wiki",)


def test_a_route_says_no_more_than_it_needs_to() -> None:
    """Gateways of the release before carry what they understand whole."""
    plain = published("http").row
    assert route_tag(plain, ["192.168.2.1"]) == "route.v1"
    for more in (
        {"path": "/docs"}, {"host": "*.example.com"}, {"sources": ("10.0.0.0/8",)},
        {"options": Options(paused=True)},
    ):  # fmt: skip
        row = msgspec.structs.replace(plain, **more)
        assert route_tag(row, []) == "route.v2"
        assert isinstance(route(row), RouteWithOptions)


def told_of(command: PublishService) -> tuple[RouteWithOptions, Target]:
    """What gateways and the agent are told."""
    records = [decode_record(item.record) for item in decide(command, check_form(command), seen()).items]
    (route_told,) = (record for record in records if isinstance(record, RouteWithOptions))
    (target_told,) = (record for record in records if isinstance(record, Target))
    return route_told, target_told


@pytest.mark.parametrize(("address", "written"), [("::1", "::1"), ("FD00:9:0::0:1", "fd00:9::1")])
def test_gateways_are_told_that_a_target_has_ipv6(address: str, written: str) -> None:
    command = msgspec.structs.replace(BASE["tcp"], targets=target(address))
    route_told, target_told = told_of(command)
    assert target_told.address == written
    assert msgspec.msgpack.decode(route_told.options, type=Options) == Options(upstream=Upstream(ipv6=True))
    # What was asked for stays what was written: a file of the fleet would differ from it for ever.
    assert decide(command, check_form(command), seen()).row.options == Options()
    assert wanted_tag(check_form(command)) == "route.v2"


def test_a_name_is_resolved_to_ipv6_if_that_is_asked_for() -> None:
    command = msgspec.structs.replace(
        BASE["tcp"], targets=target("db.lan"), options=Options(upstream=Upstream(ipv6=True))
    )
    assert (told_of(command)[1].name, told_of(command)[1].address) == ("db.lan", IPV6_OF_NAME)
    with pytest.raises(Refusal, match=r"target address 10\.0\.0\.1 is IPv4"):
        check_form(msgspec.structs.replace(command, targets=target("10.0.0.1")))


@pytest.mark.parametrize("name", ["nas", "localhost", "web.lan", "db_1.site.internal", "xn--e1afmkfd.example"])
def test_a_target_may_be_a_name_of_the_site(name: str) -> None:
    wanted = check_form(msgspec.structs.replace(BASE["tcp"], targets=target(name)))
    assert (wanted.address, wanted.literals) == (name, [])
    command = msgspec.structs.replace(BASE["tcp"], targets=target(name))
    record = next(
        decode_record(item.record) for item in decide(command, wanted, seen()).items if item.path.startswith("target/")
    )
    assert isinstance(record, Target)
    assert (record.name, record.address) == (name, "")


def test_the_command_of_the_tests_is_sound() -> None:
    assert isinstance(BASE["http"], PublishService)
    assert check_form(BASE["http"]).row.host == "svc.example.com"
