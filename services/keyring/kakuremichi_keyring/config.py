"""The keyring's settings, from `KAKUREMICHI_*` variables."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct


class KeyringConfig(Struct, frozen=True, kw_only=True):
    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="tls://HOST:PORT, several by commas")]
    nats_credentials: Annotated[Path, Meta(description="the file of the bus user keyring, keyring.creds")]
    nats_ca: Path | None = None
    trust_sha256: Annotated[
        str, Meta(pattern=r"\A([0-9a-f]{64})?\Z", description="SHA-256 of the trust set's body, 64 hex digits")
    ] = ""
    metrics_listen: Annotated[str, Meta(description="unix:/PATH or ADDRESS:PORT of loopback; none: nowhere")] = ""
    log_level: str = "INFO"
