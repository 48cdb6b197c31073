"""The second seed: ssh to two repository servers behind one public address, at ports 10022 and 20022.

Only the office may. One of the two is a machine whose default route is another router: its answers reach the visitor
only if they go back to whom the question came from.
"""

import filecmp
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from support import visits
from support.fleet import drop, eventually, get, put
from support.seed_ssh import SshClient, SshServer
from support.seed_watch import watching

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PORTS = {"site-b": 10022, "app-b": 20022}


@dataclass(frozen=True)
class Office:
    """Both servers, published for the office alone, and its client. `directory` is empty."""

    fleet: Fleet
    client: SshClient
    servers: dict[str, SshServer]
    directory: Path


@pytest.fixture
async def office(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Office]:
    lab = fleet.lab
    addresses = {"site-b": "127.0.0.1", "app-b": lab.address("app-b")}
    servers = {host: SshServer(host, addresses[host], tmp_path / host) for host in PORTS}
    client = SshClient(fleet, tmp_path / "client")
    client.prepare()
    for server in servers.values():
        server.prepare(client.key)
    client.know(*servers.values())
    try:
        for host, server in servers.items():
            await fleet.units.start(server.unit(fleet))
            await eventually(lambda host=host: visits.outcome(lab, host, addresses[host], 22) == "open")  # type: ignore[misc]
            target = {"agent": "site-b", "address": addresses[host], "port": 22}
            sources = [f"{lab.address('office')}/32"]
            put(fleet, f"ssh-{host}", kind="tcp", port=PORTS[host], sources=sources, targets=[target])
        (tmp_path / "work").mkdir()
        yield Office(fleet, client, servers, tmp_path / "work")
    finally:
        for host in PORTS:
            await fleet.units.stop(f"sshd-{host}")


def agent_port(fleet: Fleet, host: str) -> int:
    port: int = get(fleet, f"/services/ssh-{host}")["targets"][0]["agent_port"]
    return port


async def test_the_office_logs_in_to_both_machines_through_every_gateway(office: Office) -> None:
    lab, subnet = office.fleet.lab, get(office.fleet, "/agents/site-b")["subnet"].rpartition(".")[0]
    for gateway in GATEWAYS:
        slot = get(office.fleet, f"/gateways/{gateway}")["slot"]
        seen = {
            host: office.client.run(gateway, PORTS[host], host, "echo $SSH_CONNECTION; ip -4 -o addr show eth0")
            for host in PORTS
        }
        for host, text in seen.items():
            assert f" inet {lab.address(host)}/" in text, "another machine answered"
        assert seen["site-b"].startswith(
            f"{subnet}.{slot} "
        )  # on the agent itself: the gateway's address in the tunnel
        assert seen["app-b"].startswith(f"{lab.address('site-b')} ")  # elsewhere at the site: the agent's own


async def test_a_stranger_is_refused_before_any_byte_reaches_the_site(office: Office) -> None:
    fleet, lab = office.fleet, office.fleet.lab
    heard = {host: server.connections() for host, server in office.servers.items()}
    tunnel = f'iifname "{fleet.node_host("site-b").interface}"'
    doors = {host.replace("-", "_"): f"{tunnel} tcp dport {agent_port(fleet, host)}" for host in PORTS}
    with ExitStack() as stack:
        agent = stack.enter_context(watching(lab, "site-b", doors))
        target = stack.enter_context(watching(lab, "app-b", {"ssh": "tcp dport 22"}))
        knocks = [
            office.client.knock("stranger", gateway, port, host, patience_s=2)
            for gateway in GATEWAYS
            for host, port in PORTS.items()
        ]
        said = [knock.communicate(timeout=30)[1] for knock in knocks]
        assert all("Connection timed out" in text for text in said), said
        assert {knock.returncode for knock in knocks} == {255}
        assert set(agent.packets().values()) == {0}
        assert target.packets() == {"ssh": 0}
        assert {host: server.connections() for host, server in office.servers.items()} == heard

        for host, port in PORTS.items():  # and who counts sees the office
            office.client.run("gw1", port, host, "true")
        assert all(agent.packets().values())
        assert all(target.packets().values())
    assert {host: server.connections() - heard[host] for host, server in office.servers.items()} == dict.fromkeys(
        PORTS, 1
    )


async def test_the_other_default_route_of_a_machine_sees_none_of_its_answers(office: Office) -> None:
    lab = office.fleet.lab
    (route,) = json.loads(lab.run("app-b", ["ip", "-j", "route", "get", lab.address("office")], check=True).stdout)
    assert route["gateway"] not in (lab.address("site-b"), None)

    with watching(lab, "nat-b", {"answers": f"ip saddr {lab.address('app-b')} tcp sport 22"}) as router:
        office.client.run("gw2", PORTS["app-b"], "app-b", "true")
        assert router.packets() == {"answers": 0}


async def test_git_push_and_clone_through_different_gateways(office: Office) -> None:
    work, port = office.directory, PORTS["app-b"]
    tree, bare, copy = work / "tree", work / "project.git", work / "copy"
    fill(tree, files=60)
    git = office.client.git
    git(work, "init", "-q", "--bare", "-b", "main", str(bare))
    hook = bare / "hooks" / "post-receive"
    hook.write_text("#!/bin/sh\nip -4 -o addr show eth0\n")
    hook.chmod(0o755)
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "sixty files")

    said = git(tree, "push", f"ssh://root@gw1.lab.test{bare}", "main", port=port, server="app-b")
    assert f"inet {office.fleet.lab.address('app-b')}/" in said, "the hook ran on another machine"
    git(work, "clone", "-q", f"ssh://root@gw3.lab.test{bare}", str(copy), port=port, server="app-b")

    assert git(copy, "rev-parse", "HEAD") == git(tree, "rev-parse", "HEAD")
    assert same(tree, copy, but=".git")


async def test_rsync_brings_a_folder_over_and_then_only_what_changed(office: Office) -> None:
    source, destination = office.directory / "source", office.directory / "destination"
    fill(source, files=100)

    first = office.client.rsync(source, "gw2", PORTS["site-b"], "site-b", destination)
    assert sum(line.startswith("<f+++++++++") for line in first) == 100
    assert same(source, destination)

    (source / "7").write_bytes(os.urandom(1000))
    (source / "8").unlink()
    second = office.client.rsync(source, "gw3", PORTS["site-b"], "site-b", destination)
    assert {line.split()[1] for line in second if line.startswith(("<f", "*deleting"))} == {"7", "8"}
    assert same(source, destination)


async def test_withdrawing_one_machine_leaves_an_open_session_of_the_other_alone(office: Office) -> None:
    fleet, lab, port = office.fleet, office.fleet.lab, PORTS["site-b"]
    with office.client.session("gw1", PORTS["app-b"], "app-b", "cat") as session:
        assert session.echo("before") == "before"
        drop(fleet, "/services/ssh-site-b")
        for gateway in GATEWAYS:
            assert visits.outcome(lab, "office", lab.address(gateway), port) == "refused"
        assert session.echo("after") == "after"


def fill(folder: Path, files: int) -> None:
    folder.mkdir()
    for number in range(files):
        (folder / str(number)).write_bytes(os.urandom(40_000))


def same(one: Path, other: Path, but: str = "") -> bool:
    """Whether two flat folders hold the same files, byte for byte."""
    names = {path.name for path in one.iterdir()} - {but}
    if names != {path.name for path in other.iterdir()} - {but}:
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
