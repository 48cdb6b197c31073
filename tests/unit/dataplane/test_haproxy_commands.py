"""Steps in HAProxy's words, and its replies (copied from 2.6.12) as values."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.commands import (
    Running,
    commands_of,
    fault_in,
    is_busy,
    parse_found,
    parse_map,
    parse_running,
    parse_servers,
)
from kakuremichi.dataplane.haproxy.desired import Server
from kakuremichi.dataplane.haproxy.diff import (
    ActualServer,
    AddMap,
    AddServer,
    CutServer,
    DelMap,
    MoveServer,
    RemoveServer,
    Route,
    WeighServer,
)
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.model.ids import ServiceId

V4 = Server("t1", ip_address("10.1.0.100"), 20001, weight=7)
V6 = Server("t2", ip_address("fd00::1"), 80, backup=True)
ROUTE = Route(3, ServiceId("a"))
LAYOUT = Layout(Path("/run/kk"))
BUSY = "Server still has connections attached to it, cannot remove it."


def words(step: AddServer | CutServer | MoveServer | RemoveServer | AddMap) -> list[str]:
    return [" ".join(command) for command in commands_of(step, LAYOUT)]


def test_servers_are_added_with_the_options_that_keep_connections() -> None:
    assert words(AddServer(3, V4)) == [
        "add server p3/t1 10.1.0.100:20001 weight 7 pool-max-conn -1 pool-purge-delay 5s",
        "enable server p3/t1",
    ]
    assert words(AddServer(3, V6))[0] == (
        "add server p3/t2.backup [fd00::1]:80 weight 100 backup pool-max-conn -1 pool-purge-delay 5s"
    )


def test_removal_goes_through_maintenance_and_may_cut() -> None:
    assert words(RemoveServer(3, "t1")) == ["set server p3/t1 state maint", "del server p3/t1"]
    assert words(RemoveServer(3, "t1", cut=True))[1] == "shutdown sessions server p3/t1"
    assert words(CutServer(3, "t1")) == ["set server p3/t1 state maint", "shutdown sessions server p3/t1"]
    assert fault_in(CutServer(3, "t1"), ["No such server.", ""]) is None
    assert words(MoveServer(3, V6)) == ["set server p3/t2.backup addr fd00::1 port 80"]
    assert words(AddMap("a.test", ROUTE)) == ["add map /run/kk/routes.map a.test p3|a|active"]


def test_success_is_told_from_refusal() -> None:
    assert fault_in(AddServer(3, V4), ["New server registered.", ""]) is None
    assert fault_in(MoveServer(3, V4), ["IP changed from '::1' to '::2', no need to change the port by 'x'"]) is None
    assert fault_in(MoveServer(3, V4), ["no need to change the addr, port changed from '1' to '2' by 'x'"]) is None
    assert fault_in(AddServer(9, V4), ["No such backend.", "No such server."]) == "No such backend."
    assert fault_in(WeighServer(3, V4), ["Absolute weight can only be between 0 and 256 inclusive."]) is not None


def test_what_is_already_gone_counts_as_removed_and_connections_as_busy() -> None:
    assert fault_in(RemoveServer(3, "t1"), ["No such server.", "No such server."]) is None
    assert fault_in(DelMap("a.test"), ["Key not found."]) is None
    busy = fault_in(RemoveServer(3, "t1"), ["", BUSY])
    assert busy == BUSY
    assert is_busy(busy)
    assert not is_busy("No such backend.")


def test_the_route_map_is_read_with_its_duplicates() -> None:
    reply = "0x55 a.test p3|a|active\n0x56 a.test p4|b|active\n0x57 z.test by hand"

    assert parse_map(reply) == {
        "a.test": frozenset((ROUTE, Route(4, ServiceId("b")))),
        "z.test": frozenset((None,)),
    }
    assert parse_map("") == {}
    assert parse_map("Unknown map identifier. Please use #<id> or <file>.") == {}  # of an older version of ours
    with pytest.raises(ProxyError, match="Permission denied"):
        parse_map("Permission denied")


def test_one_key_of_the_map_is_read() -> None:
    found = 'type=str, case=sensitive, found=yes, idx=tree, key="a.test", value="p3|a|active", type="str"'

    assert parse_found(found, "a.test") == frozenset((ROUTE,))
    assert parse_found(found, "a.test/") == frozenset()  # a shorter prefix was found
    assert parse_found("type=str, case=sensitive, found=no", "a.test") == frozenset()
    with pytest.raises(ProxyError, match="get map"):
        parse_found("Permission denied", "a.test")


def test_servers_are_read_with_weight_and_maintenance() -> None:
    head = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n"
    rows = (
        "3 p0 1 t1 10.0.0.1 2 0 5 5 0 1 0 0 0 0 0 0 - 9 - 0 0 - - 0\n"
        "3 p0 2 t2.backup fd00::1 0 1 0 5 0 1 0 0 0 0 0 0 - 10 - 0 0 - - 0\n"
        "9 own 1 gateway - 2 0 1 1 1 1 0 0 0 0 0 0 - 0 - 0 0 - - 0\n"
    )

    assert parse_servers(head + rows) == {
        0: {"t1": ActualServer("10.0.0.1", 9, 5, ready=True), "t2.backup": ActualServer("fd00::1", 10, 0, ready=False)}
    }
    for reply in ("Can't find backend.", "2\n# x", "1\n#\nshort line"):
        with pytest.raises(ProxyError, match="show servers state"):
            parse_servers(reply)


def test_the_running_process_is_known_by_pid_and_description() -> None:
    reply = "Name: HAProxy\nPid: 77\nStopping: 0\nnode: n\ndescription: kakuremichi-ab-4\nempty:"

    assert parse_running(reply) == Running(77, "kakuremichi-ab-4", stopping=False)
    with pytest.raises(ProxyError, match="no process id"):
        parse_running("Permission denied")
