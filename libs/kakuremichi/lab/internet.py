"""The lab: a small internet of network namespaces on one machine. The demo, the tests and the benchmarks share it."""

import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kakuremichi.lab import faults, names, namespaces, plan, record
from kakuremichi.lab.namespaces import LabError
from kakuremichi.lab.topology import DOMAIN, INTERNET, Topology

DEFAULT_PREFIX = "kk-"
_PREFIX = re.compile(r"\A[a-z][a-z0-9]{0,15}-\Z")


class Lab:
    """One small internet; several with different prefixes live side by side.

    Everything that it makes is written down first and only that is ever removed: namespaces `<prefix><host>`,
    folders /etc/netns/<prefix><host>, and the processes inside. Needs root.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX, *, topology: Topology = INTERNET) -> None:
        if not _PREFIX.match(prefix):
            raise LabError(f"prefix {prefix!r}: a letter, up to 15 letters or digits, and one '-' at the end")
        self.prefix = prefix
        self.topology = topology if Path("/proc/sys/net/ipv6").exists() else _without_ipv6(topology)
        self._faults: tuple[faults.Fault, ...] = ()

    # -- building ---------------------------------------------------------------------------------------------------

    def up(self, *, foreign: bool = False, fresh: bool = False, bound: bool = False) -> None:
        """Build the lab; a second time does nothing. What a crash left behind is removed first.

        `foreign`: one gateway and one site get a firewall of somebody else (plan.FOREIGN). `fresh`: take a living
        lab of this prefix down first. `bound`: the lab belongs to this process; whoever builds a lab after it has
        died removes it. Raises LabError.
        """
        _need_root()
        _reap_orphans(self.prefix)
        with record.locked():
            known = record.read(self.prefix)
            if known and known.ready and not fresh and all(map(namespaces.exists, known.namespaces)):
                if known.foreign != foreign:
                    raise LabError(f"lab {self.prefix}: it is up {_foreign_text(known.foreign)}; take it down first")
                return
            self._remove(known)
            self._build(foreign=foreign, bound=bound)

    def down(self) -> None:
        """Remove the lab and end the processes in it; a second time does nothing."""
        _need_root()
        with record.locked():
            self._remove(record.read(self.prefix))

    def is_up(self) -> bool:
        known = record.read(self.prefix)
        return known is not None and known.ready and all(map(namespaces.exists, known.namespaces))

    def _build(self, *, foreign: bool, bound: bool) -> None:
        wanted = tuple(self.namespace(host.name) for host in self.topology.hosts)
        if taken := [name for name in wanted if namespaces.exists(name)]:
            raise LabError(f"namespaces {', '.join(taken)}: they exist and this lab did not make them")
        begun = record.Record(wanted, foreign, owner=record.this_process() if bound else None)
        record.write(self.prefix, begun)
        try:
            for namespace in wanted:
                names.write(namespace, names.host_lines(self.topology))
            for step in plan.steps(self.topology, self.prefix, foreign=foreign):
                self._perform(step)
        except BaseException:
            self._remove(begun)
            raise
        record.write(self.prefix, record.Record(begun.namespaces, foreign, ready=True, owner=begun.owner))

    def _perform(self, step: plan.Step) -> None:
        match step:
            case plan.IpBatch(None, lines):
                namespaces.ip_batch(None, lines)
            case plan.IpBatch(str(host), lines):
                namespaces.ip_batch(self.namespace(host), lines)
            case plan.Sysctl(host, key, value, optional):
                namespaces.write_sysctl(self.namespace(host), key, value, optional=optional)
            case plan.Rules(host, script):
                namespaces.nft(self.namespace(host), script)

    def _remove(self, known: record.Record | None) -> None:
        self._faults = ()
        if known is None:
            return
        namespaces.kill_inhabitants(known.namespaces)
        living = [name for name in known.namespaces if namespaces.exists(name)]
        if living:
            namespaces.ip_batch(None, (f"netns delete {name}" for name in living), force=True)
        for name in known.namespaces:
            names.remove(name)
        record.erase(self.prefix)

    # -- using ------------------------------------------------------------------------------------------------------

    def namespace(self, host: str) -> str:
        """The name of the host's network namespace. Raises UnknownHostError."""
        return f"{self.prefix}{self.topology.host(host).name}"

    def address(self, host: str) -> str:
        """The host's IPv4 address as text."""
        return str(self.topology.address(host))

    def address6(self, host: str) -> str:
        """The host's IPv6 address as text. Raises LabError for a host without one: sites have IPv4 only."""
        address = self.topology.address6(host)
        if address is None:
            raise LabError(f"host {host}: it has no IPv6 address")
        return str(address)

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """`argv` as it is to be started on this machine so that it runs on `host`; the pid is the program's own."""
        return namespaces.command(self.namespace(host), argv)

    def run(
        self, host: str, argv: Sequence[str], timeout: float = 30, *, stdin: str | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on `host` and wait for it, `timeout` seconds at most (subprocess.TimeoutExpired)."""
        return subprocess.run(
            self.command(host, argv), input=stdin or "", capture_output=True, text=True, timeout=timeout, check=check
        )

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start `argv` on `host`; options as for subprocess.Popen. The caller ends it, `down` ends it at the latest."""
        return subprocess.Popen(self.command(host, argv), **options)

    def in_namespace(self, host: str) -> AbstractContextManager[None]:
        """This thread on `host`, to make sockets there. Never await inside."""
        return namespaces.in_namespace(self.namespace(host))

    def add_name(self, name: str, *hosts: str) -> None:
        """`name` resolves to these hosts, everywhere in the lab and for running processes too."""
        if not name.endswith(f".{DOMAIN}"):
            raise LabError(f"name {name!r}: names of the lab end in .{DOMAIN}")
        lines = [f"{self.address(host)} {name}" for host in hosts]
        for host in self.topology.hosts:
            names.append(self.namespace(host.name), lines)

    # -- harm -------------------------------------------------------------------------------------------------------

    def partition(self, host_a: str, host_b: str) -> None:
        """No packet between the two any more. A host behind NAT stands for its whole site."""
        self._add_fault(faults.Fault(host_a, host_b))

    def loss(self, host_a: str, host_b: str, percent: int) -> None:
        """Of the packets between the two, `percent` (1 to 100) vanish at random."""
        self._add_fault(faults.Fault(host_a, host_b, percent))

    def heal(self) -> None:
        """All partitions and losses end, also those that another process made."""
        self._faults = ()
        self._apply_faults()

    def _add_fault(self, fault: faults.Fault) -> None:
        self._faults = (*self._faults, fault)
        self._apply_faults()

    def _apply_faults(self) -> None:
        namespaces.nft(self.namespace(self.topology.faults_at), faults.script(self.topology, self._faults))


def _reap_orphans(but: str) -> None:
    for prefix in record.prefixes():
        known = record.read(prefix)
        if prefix != but and known is not None and record.orphaned(known):
            Lab(prefix).down()


def _need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and needs root: run it with sudo, or as root in a container")


def _foreign_text(foreign: bool) -> str:
    return "with foreign firewalls" if foreign else "without foreign firewalls"


def _without_ipv6(topology: Topology) -> Topology:
    return replace(topology, segments=tuple(replace(segment, network6=None) for segment in topology.segments))
