"""The peers that one WireGuard interface should have."""

from collections.abc import Mapping
from dataclasses import dataclass

from kakuremichi.model.addresses import Endpoint, IPNetwork
from kakuremichi.model.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Peer:
    """`endpoint` None leaves it to the engine: it learns it from the peer's packets. `keepalive_s` 0 is none."""

    public_key: PublicKey
    allowed_ips: frozenset[IPNetwork]
    endpoint: Endpoint | None = None
    keepalive_s: int = 0


Peers = Mapping[PublicKey, Peer]
