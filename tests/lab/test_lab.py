"""The lab is what the topology says, comes up and goes down any number of times, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from kakuremichi.lab import record
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.names import ETC_NETNS
from kakuremichi.lab.namespaces import NETNS, LabError, in_namespace

pytestmark = pytest.mark.root

GATEWAYS = ("gw1", "gw2", "gw3")
SITES = ("site-a", "site-b", "site-c")


def reaches(lab: Lab, host: str, address: str) -> bool:
    return lab.run(host, ["ping", "-c1", "-W0.4", "-n", address]).returncode == 0


def traces(prefix: str) -> list[Path]:
    """What a lab of this prefix has left on the machine."""
    return [path for folder in (NETNS, ETC_NETNS) if folder.exists() for path in folder.glob(f"{prefix}*")]


@pytest.fixture
def other() -> Iterator[Lab]:
    """A second lab beside the session's one."""
    internet = Lab(f"o{os.getpid()}-")
    yield internet
    internet.down()


class TestReachability:
    @pytest.mark.parametrize("gateway", GATEWAYS)
    @pytest.mark.parametrize("host", ["visitor", "office", "stranger", "control", *SITES, "app-b"])
    def test_everybody_reaches_every_gateway(self, lab: Lab, host: str, gateway: str) -> None:
        assert reaches(lab, host, f"{gateway}.lab.test")

    @pytest.mark.parametrize("site", SITES)
    def test_a_site_reaches_the_control_host(self, lab: Lab, site: str) -> None:
        assert reaches(lab, site, "control.lab.test")

    @pytest.mark.parametrize("site", [*SITES, "app-b"])
    @pytest.mark.parametrize("host", ["visitor", "gw1", "control"])
    def test_nobody_outside_has_a_route_to_a_site(self, lab: Lab, host: str, site: str) -> None:
        assert not reaches(lab, host, lab.address(site))

    @pytest.mark.parametrize("site", SITES)
    def test_the_router_lets_nothing_in_even_for_who_has_a_route(self, lab: Lab, site: str) -> None:
        router = site.replace("site", "nat")
        network = IPv4Network(lab.address(site)).supernet(new_prefix=24)
        route = [str(network), "via", lab.address(router)]
        lab.run("gw1", ["ip", "route", "add", *route], check=True)
        try:
            assert not reaches(lab, "gw1", lab.address(site))
        finally:
            lab.run("gw1", ["ip", "route", "del", *route], check=True)

    def test_sites_do_not_reach_each_other(self, lab: Lab) -> None:
        assert not reaches(lab, "site-a", lab.address("site-b"))

    def test_the_machines_of_one_site_reach_each_other(self, lab: Lab) -> None:
        assert reaches(lab, "site-b", lab.address("app-b"))

    def test_a_gateway_sees_a_site_by_the_address_of_its_router(self, lab: Lab) -> None:
        with lab.in_namespace("gw1"):
            listener = socket.create_server(("0.0.0.0", 0))  # noqa: S104  (inside the namespace)
        with lab.in_namespace("site-a"):
            client = socket.create_connection((lab.address("gw1"), listener.getsockname()[1]), timeout=5)
        with listener, client:
            connection, peer = listener.accept()
            connection.close()
        assert peer[0] == lab.address("nat-a")

    def test_ipv6_works_at_once_on_the_backbone(self, lab: Lab) -> None:
        assert reaches(lab, "visitor", "gw2-6.lab.test")


class TestPlan:
    def test_the_network_of_site_c_lies_inside_the_default_address_pool(self, lab: Lab) -> None:
        assert IPv4Network(lab.address("site-c")).subnet_of(IPv4Network("10.0.0.0/8"))

    def test_the_second_machine_of_site_b_answers_through_its_router(self, lab: Lab) -> None:
        route = lab.run("app-b", ["ip", "route", "get", lab.address("visitor")]).stdout
        assert "via 192.168.2.1 " in route

    def test_the_lab_leaves_forwarding_on_gateways_to_the_gateway(self, other: Lab) -> None:
        other.up(fresh=True, bound=True)
        assert other.run("gw1", ["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"

    def test_names_resolve_everywhere_and_others_fail_at_once(self, lab: Lab) -> None:
        for host in lab.topology.hosts:
            assert lab.run(host.name, ["getent", "ahostsv4", "site-a.lab.test"]).stdout.startswith("192.168.10.10 ")
        began = time.monotonic()
        assert lab.run("visitor", ["getent", "ahosts", "unknown.lab.test"]).returncode != 0
        assert time.monotonic() - began < 3

    def test_a_name_can_be_added_and_lead_to_several_hosts(self, lab: Lab) -> None:
        lab.add_name("everywhere.lab.test", *GATEWAYS)
        found = lab.run("visitor", ["getent", "ahostsv4", "everywhere.lab.test"]).stdout
        assert {line.split()[0] for line in found.splitlines()} == {lab.address(gateway) for gateway in GATEWAYS}

    def test_a_host_that_is_not_there_is_told_with_those_that_are(self, lab: Lab) -> None:
        with pytest.raises(KeyError, match=r"host 'gw9': not in this lab, which has backbone, visitor"):
            lab.run("gw9", ["true"])


class TestFaults:
    def test_a_partition_cuts_the_two_and_nobody_else_until_it_heals(self, lab: Lab) -> None:
        lab.partition("visitor", "gw1")
        lab.partition("control", "gw2")  # both on one bridge: nothing is routed between them
        try:
            assert not reaches(lab, "visitor", lab.address("gw1"))
            assert not reaches(lab, "gw2", lab.address("control"))
            assert reaches(lab, "visitor", lab.address("gw2"))
            assert reaches(lab, "control", lab.address("gw1"))
        finally:
            lab.heal()
        assert reaches(lab, "visitor", lab.address("gw1"))
        assert reaches(lab, "gw2", lab.address("control"))

    def test_a_site_is_cut_off_as_a_whole(self, lab: Lab) -> None:
        lab.partition("site-b", "gw3")
        try:
            assert not reaches(lab, "site-b", lab.address("gw3"))
            assert not reaches(lab, "app-b", lab.address("gw3"))
            assert reaches(lab, "site-a", lab.address("gw3"))
        finally:
            lab.heal()

    def test_a_loss_drops_some_packets_and_not_all(self, lab: Lab) -> None:
        lab.loss("visitor", "gw1", 30)
        try:
            done = lab.run("visitor", ["ping", "-c40", "-i0.01", "-W1", "-n", lab.address("gw1")])
        finally:
            lab.heal()
        received = int(done.stdout.partition(" received")[0].rpartition(" ")[2])
        assert 2 < received < 38  # 19.6 are expected; outside is less likely than one in ten million

    def test_a_fault_between_machines_of_one_site_is_refused(self, lab: Lab) -> None:
        with pytest.raises(ValueError, match="no packet between them crosses the backbone"):
            lab.partition("site-b", "app-b")
        lab.heal()


class TestLife:
    def test_up_twice_and_down_twice_are_harmless(self, other: Lab) -> None:
        other.up()
        sleeper = other.popen("visitor", ["sleep", "60"])
        other.up()
        assert sleeper.poll() is None
        assert reaches(other, "visitor", "gw1.lab.test")

        other.down()
        other.down()

        assert sleeper.wait(5) != 0
        assert traces(other.prefix) == []
        assert not other.is_up()

    def test_it_is_built_in_two_seconds(self, other: Lab) -> None:
        began = time.monotonic()
        other.up()
        assert time.monotonic() - began < 2

    def test_what_a_crash_left_half_built_is_removed_by_the_next_up(self, other: Lab) -> None:
        other.up()
        stray = other.popen("gw1", ["sleep", "60"])
        known = record.read(other.prefix)
        assert known is not None
        record.write(other.prefix, record.Record(known.namespaces, foreign=False))  # as if it died while building
        in_the_way = NETNS / other.namespace("gw2")
        subprocess.run(["ip", "netns", "delete", in_the_way.name], check=True)

        other.up()

        assert stray.wait(5) != 0
        assert reaches(other, "visitor", "gw2.lab.test")

    def test_a_lab_of_a_dead_test_run_is_removed_by_whoever_builds_one(self, lab: Lab, other: Lab) -> None:
        code = "import sys; from kakuremichi.lab.internet import Lab; lab = Lab(sys.argv[1]); lab.up(bound=True)"
        orphan = f"d{os.getpid()}-"
        subprocess.run([sys.executable, "-c", f"{code}; assert lab.is_up()", orphan], check=True, timeout=30)

        other.up()  # unless another test run beside this one was faster

        assert traces(orphan) == []
        assert lab.is_up()

    def test_a_namespace_that_somebody_else_made_is_left_alone(self, other: Lab) -> None:
        theirs = f"{other.prefix}gw1"
        subprocess.run(["ip", "netns", "add", theirs], check=True)
        try:
            with pytest.raises(LabError, match=f"namespaces {theirs}: they exist and this lab did not make them"):
                other.up()
            other.down()
            assert traces(other.prefix) == [NETNS / theirs]
        finally:
            subprocess.run(["ip", "netns", "delete", theirs], check=True)

    def test_a_process_outside_is_never_ended(self, other: Lab) -> None:
        other.up()
        bystander = subprocess.Popen(["sleep", "60"])
        other.down()
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()

    def test_the_thread_is_back_where_it_was_after_in_namespace(self, lab: Lab) -> None:
        here = Path("/proc/thread-self/ns/net")
        home = here.readlink()
        with lab.in_namespace("gw1"):
            assert here.readlink() != home
        assert here.readlink() == home
        with pytest.raises(LabError, match="there is none of that name"), in_namespace("kk-nowhere"):
            pass

    def test_a_prefix_that_could_hit_other_names_is_refused(self) -> None:
        for prefix in ("", "kk", "-", "k/k-", "kk--", "../-", "a" * 17 + "-"):
            with pytest.raises(LabError, match="prefix"):
                Lab(prefix)


class TestForeignFirewalls:
    def test_one_gateway_and_one_site_have_rules_of_somebody_else(self, other: Lab) -> None:
        other.up(foreign=True)
        assert "ufw-before-input" in other.run("gw3", ["nft", "list", "ruleset"]).stdout
        assert "DOCKER-USER" in other.run("site-b", ["nft", "list", "ruleset"]).stdout
        assert other.run("gw1", ["nft", "list", "ruleset"]).stdout == ""
        with pytest.raises(LabError, match="it is up with foreign firewalls; take it down first"):
            other.up()

    def test_their_drop_is_real(self, other: Lab) -> None:
        other.up(foreign=True)
        with other.in_namespace("gw3"):
            listener = socket.create_server(("0.0.0.0", 8080))  # noqa: S104  (inside the namespace)
        with listener, other.in_namespace("visitor"), pytest.raises(TimeoutError):
            socket.create_connection((other.address("gw3"), 8080), timeout=0.5)
