"""The parent's decisions: which sockets, from where, and how many visitors HAProxy may take."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from kakuremichi.dataplane.haproxy.launch import maxconn_for
from kakuremichi.dataplane.haproxy.listening import SocketError, from_process, from_systemd, listen, matches, parse_bind


def test_binds_are_read_for_both_families() -> None:
    assert str(parse_bind("80=0.0.0.0:80").address) == "0.0.0.0"  # noqa: S104  # read, not bound
    assert (parse_bind("tls=[::]:443").name, parse_bind("tls=[::]:443").port) == ("TLS", 443)
    assert not parse_bind("tls=[::]:443").transparent
    assert parse_bind("tcp6=[::]:15080,transparent").transparent


@pytest.mark.root  # the kernel asks for CAP_NET_ADMIN
def test_a_transparent_socket_is_told_from_an_ordinary_one(free_port: Callable[[], int]) -> None:
    bind = parse_bind(f"tcp=127.0.0.1:{free_port()},transparent")
    with listen(bind) as made:
        assert matches(made, bind)
        assert not matches(made, replace(bind, transparent=False))


@pytest.mark.parametrize(
    "text", ["80", "80=", "80=1.2.3.4", "80=1.2.3.4:", "80=1.2.3.4:0", "80=1.2.3.4:65536", "8 0=1.2.3.4:80",
             "80=name:80", "80=1.2.3:80", "80=::1:80", "=1.2.3.4:80", "80=1.2.3.4:80\n",
             "80=1.2.3.4:80,other", "80=1.2.3.4:80,transparent,x"],
)  # fmt: skip
def test_what_is_no_bind_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(SocketError, match="bind "):
        parse_bind(text)


def test_a_port_of_somebody_else_is_named(free_port: Callable[[], int]) -> None:
    bind = parse_bind(f"80=127.0.0.1:{free_port()}")
    with listen(bind) as first:
        assert matches(first, bind)
        assert not matches(first, parse_bind("80=127.0.0.1:1"))
        with pytest.raises(SocketError, match=rf"bind 80: 127\.0\.0\.1 port {bind.port}: Address already in use"):
            listen(bind)


def test_sockets_of_a_unit_are_only_taken_if_they_are_meant_for_us() -> None:
    assert from_systemd({}, 7) == {}
    assert from_systemd({"LISTEN_PID": "8", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "80"}, 7) == {}
    with pytest.raises(SocketError, match="FileDescriptorName"):
        from_systemd({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "80"}, 7)


def test_sockets_of_a_process_that_has_ended_cannot_be_had() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(SocketError, match="cannot be taken over"):
        from_process(child)


@pytest.mark.parametrize(("limit", "visitors"), [(256, 64), (1024, 192), (20_000, 4500), (500_000, 124_500)])
def test_four_descriptors_are_kept_for_each_visitor(limit: int, visitors: int) -> None:
    assert maxconn_for(limit) == visitors
    assert visitors * 4 <= limit
