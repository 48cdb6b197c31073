"""The portal's settings, each from `KAKUREMICHI_<NAME>` or, as secrets are mounted, `KAKUREMICHI_<NAME>_FILE`."""

import hashlib
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from kakuremichi.runtime.config import PREFIX, ConfigError
from kakuremichi.runtime.tls import CaRefusedError, ca_der, server_context
from kakuremichi_portal.oidc_token import OidcConfig
from kakuremichi_portal.token_routes import JoinAnchor

Sha256Hex = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="64 lower-case hex digits")]


class PortalConfig(Struct, frozen=True, kw_only=True):
    """`nats_*` is how the portal reaches the bus; `node_nats_url` is where nodes are sent."""

    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="tls://HOST:PORT, separated by commas")]
    nats_credentials: Annotated[Path, Meta(description="the file of the bus user portal, portal.creds")]
    nats_ca: Annotated[Path | None, Meta(description="PEM; with tls:// and no file the system's CAs count")] = None
    tls_certificate: Annotated[Path | None, Meta(description="PEM with the chain; none: plain HTTP")] = None
    tls_key: Annotated[Path | None, Meta(description="PEM, the certificate's key")] = None
    listen: Annotated[str, Meta(pattern=r"\A.+:\d{1,5}\Z", description="ADDRESS:PORT, [ADDRESS]:PORT")] = (
        "127.0.0.1:8080"
    )
    public_url: Annotated[
        str, Meta(pattern=r"\Ahttps?://[^/]+\Z", max_length=256, description="how nodes reach this portal, no path")
    ]
    api_tokens: Annotated[Path, Meta(description="the file with the hashes of the API tokens")]
    oidc_config: Annotated[Path | None, Meta(description="JSON; none: people sign in by password or token")] = None
    trust_sha256: Annotated[Sha256Hex, Meta(description="SHA-256 of the trust set's body, 64 hex digits")]
    ca_file: Annotated[Path | None, Meta(description="PEM, the deployment's own CA; nodes are given it")] = None
    node_nats_url: Annotated[str, Meta(min_length=1, description="how nodes reach NATS, tls://HOST:PORT")]
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
    def tls(self) -> ssl.SSLContext | None:
        """How to show ourselves; :class:`ConfigError` if the files do not go together."""
        if self.tls_certificate is None or self.tls_key is None:
            if self.tls_certificate or self.tls_key:
                raise ConfigError((f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY: both are needed, or none",))
            return None
        try:
            return server_context(self.tls_certificate, self.tls_key)
        except OSError as error:
            raise ConfigError((f"{PREFIX}TLS_CERTIFICATE, {PREFIX}TLS_KEY: {error}",)) from error

    @property
    def ca(self) -> bytes:
        """The CA's certificate in PEM form; empty while there is none."""
        if self.ca_file is None:
            return b""
        try:
            pem = self.ca_file.read_bytes()
            ca_der(pem)
        except (OSError, CaRefusedError) as error:
            raise ConfigError((f"{PREFIX}CA_FILE: {error}",)) from error
        return pem

    @property
    def oidc(self) -> OidcConfig | None:
        """How people sign in elsewhere; :class:`ConfigError` if the file cannot be used."""
        if self.oidc_config is None:
            return None
        try:
            return msgspec.json.decode(self.oidc_config.read_bytes(), type=OidcConfig)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError((f"{PREFIX}OIDC_CONFIG: {self.oidc_config}: {error}",)) from error

    @property
    def anchor(self) -> JoinAnchor:
        ca = hashlib.sha256(ca_der(self.ca)).digest() if self.ca else b""
        return JoinAnchor(self.public_url, ca, bytes.fromhex(self.trust_sha256))
