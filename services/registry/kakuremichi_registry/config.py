"""The registry's settings, from `KAKUREMICHI_*` variables."""

from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.addresses import AddressRefusedError, parse_network
from kakuremichi.runtime.config import ConfigError, Secret
from kakuremichi_registry.allocator import DEFAULT_NETWORKS


class RegistryConfig(Struct, frozen=True, kw_only=True):
    database_url: Annotated[Secret, Meta(description="postgresql://USER@HOST/DATABASE")]
    trust_dir: Annotated[Path, Meta(description="the folder of the trust keys, made by `kakuremichi up`")]
    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="tls://HOST:PORT, several by commas")]
    nats_credentials: Annotated[Path, Meta(description="the file of the bus user registry, registry.creds")]
    claims_credentials: Annotated[Path, Meta(description="the file of the bus user claims, claims.creds")]
    issuer_dir: Annotated[Path, Meta(description="the registry's folder of the NATS operator's")]
    node_jwt_s: Annotated[int, Meta(ge=2, le=30 * 86400, description="how long a node's bus JWT holds")] = 86400
    nats_ca: Path | None = None
    networks: Annotated[tuple[str, ...], Meta(description="where subnets come from, in order")] = tuple(
        map(str, DEFAULT_NETWORKS)
    )
    metrics_listen: Annotated[str, Meta(description="unix:/PATH or ADDRESS:PORT of loopback; none: nowhere")] = ""
    log_level: str = "INFO"


def subnet_pools(config: RegistryConfig) -> tuple[IPv4Network, ...]:
    """The networks of the allocator; :class:`ConfigError` names what is not one."""
    found, faults = [], []
    for text in config.networks:
        try:
            network = parse_network(text)
        except AddressRefusedError as error:
            faults.append(f"KAKUREMICHI_NETWORKS: {error}")
            continue
        if isinstance(network, IPv4Network) and network.prefixlen <= 24:
            found.append(network)
        else:
            faults.append(f"KAKUREMICHI_NETWORKS: {text} is not an IPv4 network of /24 or larger")
    if faults:
        raise ConfigError(tuple(faults))
    return tuple(found)
