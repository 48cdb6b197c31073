"""The text of nats-server's configuration, in operator mode: accounts and users are what signed JWTs say."""

import re
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.bus.operator import ServerAccounts
from kakuremichi.bus.topology import MAX_PAYLOAD_BYTES

_HOST_PORT = re.compile(r"\A(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}\Z")
_NAME = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")


class ConfigRefusedError(ValueError):
    """A value cannot go into the configuration; the sentence names it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What differs between servers. No secret is in it; `accounts` comes from the operator's folder."""

    name: str
    listen: str  # "host:port"
    store_dir: Path
    accounts: ServerAccounts
    resolver_dir: Path | None = None  # of account JWTs; None: below `store_dir`
    monitor: str = ""  # "127.0.0.1:port"; the monitor speaks to everybody, so only loopback, or off
    tls: TlsFiles | None = None
    max_connections: int = 12000
    max_file_store_bytes: int = 8 * 1024**3


def render(config: ServerConfig) -> str:
    """The configuration file. Raises :class:`ConfigRefusedError` for what could say more than it should."""
    _check(config)
    lines = [
        f"server_name: {_quoted(config.name)}",
        f"listen: {_quoted(config.listen)}",
        *([f"http: {_quoted(config.monitor)}"] if config.monitor else []),
        *(_tls(config.tls) if config.tls else []),
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        f"max_connections: {config.max_connections}",
        "max_pending: 16777216",
        'write_deadline: "5s"',
        'ping_interval: "20s"',
        "ping_max: 2",
        'lame_duck_duration: "60s"',  # a planned restart spreads the fleet's return over a minute
        "jetstream {",
        f"  store_dir: {_quoted(str(config.store_dir))}",
        f"  max_file_store: {config.max_file_store_bytes}",
        "  max_memory_store: 67108864",
        "  sync_interval: always",  # an acked message survives kill -9 and power loss
        "}",
        f"operator: {_quoted(config.accounts.operator_jwt)}",
        f"system_account: {_quoted(config.accounts.public('SYS'))}",
        # Newer account JWTs that were handed in stay in the folder and win over those below: revocations survive.
        "resolver {",
        "  type: full",
        f"  dir: {_quoted(str(config.resolver_dir or config.store_dir / 'accounts'))}",
        "  allow_delete: false",
        "}",
        "resolver_preload {",
        *(f"  {config.accounts.public(name)}: {_quoted(text)}" for name, text in config.accounts.jwts.items()),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _tls(files: TlsFiles) -> list[str]:
    return [
        "tls {",
        f"  cert_file: {_quoted(str(files.certificate))}",
        f"  key_file: {_quoted(str(files.key))}",
        *([f"  ca_file: {_quoted(str(files.ca))}"] if files.ca else []),
        '  min_version: "1.3"',
        "  timeout: 3",
        "  handshake_first: true",
        "}",
    ]


def _check(config: ServerConfig) -> None:
    if not _NAME.match(config.name):
        raise ConfigRefusedError(f"name {config.name!r}: 1 to 64 letters, digits, '_' and '-' are needed")
    for field, value in (("listen", config.listen), ("monitor", config.monitor or "127.0.0.1:0")):
        if not _HOST_PORT.match(value):
            raise ConfigRefusedError(f"{field} {value!r}: not of the form HOST:PORT")
    if config.monitor and config.monitor.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigRefusedError(f"monitor {config.monitor!r}: it asks for no password, only loopback may see it")


def _quoted(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise ConfigRefusedError(f"{text!r}: quotes, backslashes and control characters cannot stand in the file")
    return f'"{text}"'
