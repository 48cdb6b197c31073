"""WireGuard's cross-platform configuration protocol (wireguard.com/xplatform), as text. Pure.

Keys are in hexadecimal. A request is lines of `key=value` and an empty line; so is the answer, which ends in `errno=`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step
from kakuremichi.model.addresses import AddressRefusedError, Endpoint, IPNetwork, parse_endpoint, parse_network
from kakuremichi.model.keys import PrivateKey, PublicKey

GET = b"get=1\n\n"
_PRIVATE_KEY = b"private_key="


def configure_request(private_key: PrivateKey, listen_port: int | None) -> bytes:
    port = b"" if listen_port is None else b"listen_port=%d\n" % listen_port
    return b"set=1\nprivate_key=%s\n%s\n" % (private_key.reveal().hex().encode(), port)


def set_request(steps: Iterable[Step]) -> bytes:
    return "\n".join(["set=1", *(line for step in steps for line in _lines(step)), "", ""]).encode()


def _lines(step: Step) -> Iterator[str]:
    match step:
        case RemovePeer(key):
            yield f"public_key={key.hex()}"
            yield "remove=true"
        case SetPeer(peer):
            yield f"public_key={peer.public_key.hex()}"
            if peer.endpoint is not None:
                yield f"endpoint={peer.endpoint}"
            yield f"persistent_keepalive_interval={peer.keepalive_s}"
            yield "replace_allowed_ips=true"
            yield from sorted(f"allowed_ip={network}" for network in peer.allowed_ips)


def error_number(answer: bytes) -> int:
    """The number in the last line of an answer. Raises ValueError if there is none."""
    name, _, number = answer.rstrip(b"\n").rpartition(b"\n")[2].partition(b"=")
    if name != b"errno":
        raise ValueError("the answer does not end in errno=")
    return int(number)


def split_answer(answer: bytes) -> tuple[bool, list[str]]:
    """Whether the engine has a private key, and all other lines. The key comes first; its value is not looked at."""
    has_key = answer.startswith(_PRIVATE_KEY)
    rest = answer[answer.index(b"\n") + 1 :] if has_key else answer
    return has_key, rest.decode("ascii").splitlines()


def device_lines(lines: Sequence[str]) -> tuple[dict[str, str], list[Sequence[str]]]:
    """The lines about the interface by their key, and the lines of each peer."""
    starts = [index for index, line in enumerate(lines) if line.startswith("public_key=")]
    bounds = [*starts, len(lines)]
    return dict(_pairs(lines[: bounds[0]])), [lines[start:end] for start, end in pairwise(bounds)]


@dataclass(slots=True)
class _Draft:
    """One peer while its lines are read."""

    numbers: dict[str, int] = field(default_factory=dict)
    allowed_ips: list[IPNetwork] = field(default_factory=list)
    key: PublicKey | None = None
    endpoint: Endpoint | None = None


def peer_state(lines: Iterable[str]) -> PeerState:
    """Raises ValueError for lines that are no peer's. Lines of later versions of the protocol are passed over."""
    draft = _Draft()
    for name, value in _pairs(lines):
        match name:
            case "public_key":
                draft.key = PublicKey(bytes.fromhex(value))
            case "endpoint":
                draft.endpoint = _heard_from(value)
            case "allowed_ip":
                draft.allowed_ips.append(parse_network(value))
            case (
                "persistent_keepalive_interval"
                | "last_handshake_time_sec"
                | "last_handshake_time_nsec"
                | "rx_bytes"
                | "tx_bytes"
            ):
                draft.numbers[name] = int(value)
    if draft.key is None:
        raise ValueError("a peer without its public_key line")
    return _finished(draft.key, draft)


def _heard_from(text: str) -> Endpoint | None:
    """None for an address with a zone (a neighbour on the same wire): we could neither announce nor set it."""
    try:
        return parse_endpoint(text)
    except AddressRefusedError:
        return None


def _finished(key: PublicKey, draft: _Draft) -> PeerState:
    numbers = draft.numbers
    handshake = numbers.get("last_handshake_time_sec", 0) + numbers.get("last_handshake_time_nsec", 0) / 1e9
    peer = Peer(key, frozenset(draft.allowed_ips), draft.endpoint, numbers.get("persistent_keepalive_interval", 0))
    return PeerState(peer, handshake or None, numbers.get("rx_bytes", 0), numbers.get("tx_bytes", 0))


def _pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition("=")
        yield name, value
