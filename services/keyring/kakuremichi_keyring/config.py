"""The keyring's settings, from `KAKUREMICHI_*` variables."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.runtime.config import Secret


class KeyringConfig(Struct, frozen=True, kw_only=True):
    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="nats://HOST:PORT, several by commas")]
    nats_password: Annotated[Secret, Meta(description="of the bus user keyring")]
    nats_ca: Path | None = None
    trust_sha256: Annotated[
        str, Meta(pattern=r"\A([0-9a-f]{64})?\Z", description="SHA-256 of the trust set's body, 64 hex digits")
    ] = ""
    log_level: str = "INFO"
