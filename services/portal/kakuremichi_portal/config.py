"""The portal's settings, each from `KAKUREMICHI_<NAME>` or, as secrets are mounted, `KAKUREMICHI_<NAME>_FILE`."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from kakuremichi.runtime.config import PREFIX, ConfigError, Secret
from kakuremichi.wire.enrolment import BusAccess
from kakuremichi.wire.identity import Role
from kakuremichi_portal.token_routes import JoinAnchor

Sha256Hex = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="64 lower-case hex digits")]


class PortalConfig(Struct, frozen=True, kw_only=True):
    """`nats_*` is how the portal reaches the bus; `node_nats_url`, `gateway_*`, `agent_*` is what nodes are told."""

    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="nats://HOST:PORT, separated by commas")]
    nats_password: Annotated[Secret, Meta(description="the password of the role portal")]
    nats_user: str = "portal"
    listen: Annotated[str, Meta(pattern=r"\A.+:\d{1,5}\Z", description="ADDRESS:PORT, [ADDRESS]:PORT")] = (
        "127.0.0.1:8080"
    )
    public_url: Annotated[
        str, Meta(pattern=r"\Ahttps?://[^/]+\Z", max_length=256, description="how nodes reach this portal, no path")
    ]
    api_tokens: Annotated[Path, Meta(description="the file with the hashes of the API tokens")]
    trust_sha256: Annotated[Sha256Hex, Meta(description="SHA-256 of the trust set's body, 64 hex digits")]
    ca_sha256: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z", description="64 hex digits, or empty")] = ""
    node_nats_url: Annotated[str, Meta(min_length=1, description="how nodes reach NATS, nats://HOST:PORT")]
    gateway_nats_user: str = "gateway"
    gateway_nats_password: Annotated[Secret, Meta(description="the password of the role gateway")]
    agent_nats_user: str = "agent"
    agent_nats_password: Annotated[Secret, Meta(description="the password of the role agent")]
    log_level: Annotated[str, Meta(pattern=r"\A(?i:debug|info|warning|error)\Z")] = "info"

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen; :class:`ConfigError` if the port is none."""
        try:
            parts = urlsplit(f"//{self.listen}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or port is None:
            raise ConfigError((f"{PREFIX}LISTEN: {self.listen} is not ADDRESS:PORT",))
        return host, port

    @property
    def anchor(self) -> JoinAnchor:
        return JoinAnchor(self.public_url, bytes.fromhex(self.ca_sha256), bytes.fromhex(self.trust_sha256))

    @property
    def bus_access(self) -> dict[Role, BusAccess]:
        gateway, agent = self.gateway_nats_password.reveal(), self.agent_nats_password.reveal()
        return {
            "gateway": BusAccess(url=self.node_nats_url, user=self.gateway_nats_user, password=gateway),
            "agent": BusAccess(url=self.node_nats_url, user=self.agent_nats_user, password=agent),
        }
