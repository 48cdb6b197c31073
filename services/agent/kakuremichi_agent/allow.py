"""The site's own word on what may be published from it. The control plane cannot change it.

The file has one rule a line: `NETWORK [PORT[-PORT]] [tcp|udp]`, `#` begins a comment. Without a file the
default holds: the agent's loopback and the networks of the host's interfaces.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from kakuremichi.model.addresses import AddressRefusedError, IPAddress, IPNetwork, parse_network

# Never, whatever the file says: link-local holds the metadata services of clouds.
LINK_LOCAL = ("169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8", "0.0.0.0/8")
METADATA = ("fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32")  # of clouds, outside link-local
NEVER = tuple(ip_network(text) for text in (*LINK_LOCAL, *METADATA))
LOOPBACK = tuple(ip_network(text) for text in ("127.0.0.0/8", "::1/128"))


class NotAllowedError(ValueError):
    """The site does not permit this target; a sentence that names it."""


class AllowFileError(ValueError):
    """The allow file cannot be read; a sentence that names the line."""


@dataclass(frozen=True, slots=True)
class Rule:
    network: IPNetwork
    first_port: int = 1
    last_port: int = 65535
    proto: str = ""  # "" is both

    def permits(self, proto: str, address: IPAddress, port: int, last_port: int) -> bool:
        fits = self.network.version == address.version and address in self.network
        return fits and self.first_port <= port <= last_port <= self.last_port and self.proto in {"", proto}


@dataclass(frozen=True, slots=True)
class Allow:
    rules: tuple[Rule, ...]
    tunnel: tuple[IPNetwork, ...]  # the agent's own subnet, and the deployment's IPv6 network

    def check(self, target_id: str, proto: str, address: IPAddress, port: int, last_port: int = 0) -> None:
        """:class:`NotAllowedError` unless one rule permits all of the target and nothing forbids it for ever.

        A range ends at `last_port`: the first port alone says nothing about the rest.
        """
        last_port = last_port or port
        if any(address in network for network in NEVER if network.version == address.version):
            raise NotAllowedError(
                f"target {target_id}: {address} is link-local, multicast, metadata or no host; never published"
            )
        if any(address.version == network.version and address in network for network in self.tunnel):
            raise NotAllowedError(f"target {target_id}: {address} is inside the tunnel, it would lead back to itself")
        if not any(rule.permits(proto, address, port, last_port) for rule in self.rules):
            ports = str(port) if last_port == port else f"{port}-{last_port}"
            raise NotAllowedError(
                f"target {target_id}: the agent's allow file does not permit {address} port {ports}/{proto}"
            )


def default_allow(interfaces: Iterable[IPNetwork], *tunnel: IPNetwork) -> Allow:
    return Allow(tuple(Rule(network) for network in (*LOOPBACK, *interfaces)), tunnel)


def read_allow(text: str, *tunnel: IPNetwork) -> Allow:
    """The rules of an allow file; every fault is reported with its line number."""
    rules, faults = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            rules.append(_rule(words))
        except (AddressRefusedError, ValueError) as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise AllowFileError("allow file: " + "; ".join(faults))
    return Allow(tuple(rules), tunnel)


def _rule(words: list[str]) -> Rule:
    network, rest = parse_network(words[0]), words[1:]
    proto = ""
    if rest and rest[-1] in {"tcp", "udp"}:
        proto = rest.pop()
    if not rest:
        return Rule(network, proto=proto)
    low, _, high = rest[0].partition("-")
    if len(rest) > 1 or not low.isdigit() or not (high or low).isdigit():
        raise ValueError(f"{' '.join(words)!r} is not of the form NETWORK [PORT[-PORT]] [tcp|udp]")
    first, last = int(low), int(high or low)
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"ports {rest[0]}: not within 1 to 65535, or the last before the first")
    return Rule(network, first, last, proto)
