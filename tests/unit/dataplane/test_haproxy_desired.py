from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server, ServiceRefusedError, is_host
from kakuremichi.model.ids import ServiceId

LOCAL = ip_address("127.0.0.1")


@pytest.mark.parametrize("host", ["app.test", "a.b.c.example.com", "xn--bcher-kva.example", "1.2.test", "a-b.test"])
def test_host_names_are_accepted(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    ["", "app", "App.test", "app.test.", ".test", "a..test", "-a.test", "a-.test", "a_b.test", "*.test", "a.test/x",
     "a.test:80", "a b.test", "a.test\n", "a.test;x", "bü.test", f"{'a' * 64}.test", f"{'a.' * 126}test"],
)  # fmt: skip
def test_what_is_no_exact_lower_case_name_is_refused(host: str) -> None:
    with pytest.raises(ServiceRefusedError, match="service a: host"):
        HttpService(ServiceId("a"), host)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "a b"}, "an id is"),
        ({"id": "a.b"}, "an id is"),
        ({"id": "a;quit"}, "an id is"),
        ({"port": 0}, "port 0"),
        ({"port": 65536}, "port 65536"),
        ({"weight": 257}, "weight 257"),
        ({"weight": -1}, "weight -1"),
        ({"address": ip_address("0.0.0.0")}, "address 0.0.0.0"),  # noqa: S104  # refused, not bound
        ({"address": ip_address("::ffff:1.2.3.4")}, "address ::ffff"),
        ({"address": ip_address("224.0.0.1")}, "address 224"),
    ],
)
def test_servers_that_cannot_be_are_refused(change: dict[str, object], sentence: str) -> None:
    fields: dict[str, object] = {"id": "t", "address": LOCAL, "port": 80} | change
    with pytest.raises(ServiceRefusedError, match=sentence):
        Server(**fields)  # type: ignore[arg-type]


def test_two_servers_of_one_name_are_refused_and_a_backup_is_another_server() -> None:
    with pytest.raises(ServiceRefusedError, match="same id"):
        HttpService(ServiceId("a"), "a.test", (Server("t", LOCAL, 1), Server("t", LOCAL, 2)))
    assert Server("t", LOCAL, 1).name != Server("t", LOCAL, 1, backup=True).name


def test_tls_needs_certificates_and_bind_names_are_checked() -> None:
    with pytest.raises(ServiceRefusedError, match="crt_list"):
        Frontend(tls=("TLS",))
    with pytest.raises(ServiceRefusedError, match="bind name"):
        Frontend(http=("80 }",))
    assert Frontend(tls=("TLS",), crt_list=Path("/c")).strict_sni
