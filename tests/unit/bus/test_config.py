import re
from dataclasses import replace
from pathlib import Path

import pytest

from kakuremichi.bus import topology
from kakuremichi.bus.config import ConfigRefusedError, ServerConfig, TlsFiles, render
from kakuremichi.bus.operator import init_operator
from kakuremichi.bus.topology import AGENT, GATEWAY, REGISTRY, ROLES, STREAMS, inbox_prefix


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    accounts = init_operator(tmp_path_factory.mktemp("operator")).accounts
    return ServerConfig(name="n1", listen="127.0.0.1:4222", store_dir=Path("/var/lib/nats"), accounts=accounts)


def test_the_limits_that_the_design_promises_are_in_the_text(good: ServerConfig) -> None:
    lines = [line.strip() for line in render(good).splitlines()]

    assert "max_payload: 65536" in lines
    assert "sync_interval: always" in lines
    assert 'write_deadline: "5s"' in lines
    assert not any(line.startswith(("http", "tls")) for line in lines)
    assert "no_auth_user" not in render(good)


def test_monitor_and_tls_are_there_when_asked_for(good: ServerConfig) -> None:
    text = render(
        replace(good, monitor="127.0.0.1:8222", tls=TlsFiles(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem")))
    )

    assert 'http: "127.0.0.1:8222"' in text
    assert "handshake_first: true" in text
    assert 'ca_file: "/ca.pem"' in text


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "n 1"}, "name 'n 1'"),
        ({"listen": "4222"}, "listen '4222'"),
        ({"listen": '0.0.0.0:4222"\nhttp: "0.0.0.0:1'}, "listen"),
        ({"monitor": "0.0.0.0:8222"}, "only loopback may see it"),
        ({"store_dir": Path('/x"\nhttp: 8222')}, "control characters"),
        ({"resolver_dir": Path("/x\\y")}, "backslashes"),
    ],
)
def test_a_value_that_could_say_more_is_refused(good: ServerConfig, changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigRefusedError, match=sentence.replace("'", "['\"]")):
        render(replace(good, **changed))  # type: ignore[arg-type]


def test_no_seed_is_in_the_text(good: ServerConfig) -> None:
    assert not re.search(r"\bS[OAU][A-Z2-7]{50,}", render(good))


def test_a_role_of_one_node_names_it_and_nobody_else() -> None:
    gateway = GATEWAY.rendered(node="gw-1", pool="blue")
    assert gateway.subscribe == ("feed.pool.blue", "beacon.pool.blue", "ask.counters.blue", "reply.gw-1.>")
    assert all(subject.endswith(".gw-1") for subject in gateway.publish)
    assert AGENT.rendered().subscribe == ("feed.fleet.*", "feed.agent.*", "beacon.fleet.*", "reply.*.>")
    assert inbox_prefix(REGISTRY) == "_INBOX.registry"


def test_nodes_have_no_jetstream_and_only_one_role_may_write_feeds() -> None:
    for role in ROLES:
        if role.account == "EDGE":
            assert not any(subject.startswith("$") for subject in (*role.publish, *role.subscribe))
        writes = [subject for subject in role.publish if subject.startswith(("feed.", "audit.", "beacon."))]
        assert bool(writes) == (role is REGISTRY)
        forbidden = ("DELETE", "PURGE", "CONSUMER", "SNAPSHOT", "RESTORE", "DIRECT")
        assert not any(word in subject for subject in role.publish for word in forbidden)


def test_streams_keep_history_from_being_eaten_or_deleted() -> None:
    assert [stream.name for stream in STREAMS if stream.discard == "new"] == ["AUDIT"]
    assert topology.AUDIT.deny_purge
    assert topology.AUDIT.max_age_s == 0


def test_what_is_kept_for_portals_has_an_end_in_time_and_bytes_and_answers_nobody() -> None:
    for stream in topology.FOR_PORTALS:
        assert (stream.discard, stream.max_age_s, stream.no_ack) == ("old", 86400, True)
        assert 0 < stream.max_bytes <= 16 * 1024**2
