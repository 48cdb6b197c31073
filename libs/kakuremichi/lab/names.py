"""Names in the lab: what `ip netns exec` mounts over /etc/hosts and /etc/resolv.conf of each namespace."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from kakuremichi.lab.namespaces import LabError
from kakuremichi.lab.topology import DOMAIN, Topology

ETC_NETNS = Path("/etc/netns")
MARK = "# written by kakuremichi lab; removed by `kakuremichi lab down`"

# No name server: what the hosts file does not know fails at once instead of after ten seconds,
# and no question leaves the machine.
_RESOLV_CONF = f"{MARK}\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


def host_lines(topology: Topology) -> tuple[str, ...]:
    """`<host>.lab.test` for the IPv4 address, `<host>-6.lab.test` for the IPv6 one: a test chooses the family."""
    lines = []
    for host in topology.hosts:
        lines.append(f"{topology.address(host.name)} {host.name}.{DOMAIN}")
        if address6 := topology.address6(host.name):
            lines.append(f"{address6} {host.name}-6.{DOMAIN}")
    return tuple(lines)


def write(namespace: str, lines: Iterable[str]) -> None:
    """Names for `namespace`, beside what the machine's own hosts file says. Raises LabError for a folder not ours."""
    folder = ETC_NETNS / namespace
    if folder.exists() and not _is_ours(folder):
        raise LabError(f"{folder}: it exists and this lab did not make it; take another prefix")
    folder.mkdir(parents=True, exist_ok=True)
    own = _read(Path("/etc/hosts"))
    # Written in place, not renamed: the mounts of running processes keep showing this very file.
    (folder / "hosts").write_text("\n".join((MARK, own.rstrip("\n"), *lines, "")))
    if Path("/etc/resolv.conf").exists():  # a mount needs something to be put over
        (folder / "resolv.conf").write_text(_RESOLV_CONF)


def append(namespace: str, lines: Iterable[str]) -> None:
    with (ETC_NETNS / namespace / "hosts").open("a") as hosts:
        hosts.writelines(f"{line}\n" for line in lines)


def remove(namespace: str) -> None:
    """Take our folder away; somebody else's stays."""
    folder = ETC_NETNS / namespace
    if folder.exists() and _is_ours(folder):
        shutil.rmtree(folder)


def _is_ours(folder: Path) -> bool:
    return _read(folder / "hosts").startswith(MARK) or not any(folder.iterdir())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
