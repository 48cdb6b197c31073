"""The text of nats-server's configuration, from the topology and one password per role."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.bus.topology import EXPORTS, MAX_PAYLOAD_BYTES, ROLES, AccountName, Role

_PASSWORD = re.compile(r"\A[A-Za-z0-9_-]{16,128}\Z")
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
    """What differs between servers. `passwords` has one entry for each role; the file is a secret, mode 0600."""

    name: str
    listen: str  # "host:port"
    store_dir: Path
    passwords: Mapping[str, str]
    monitor: str = ""  # "127.0.0.1:port"; the monitor speaks to everybody, so only loopback, or off
    tls: TlsFiles | None = None
    max_connections: int = 12000
    max_file_store_bytes: int = 8 * 1024**3


def render(config: ServerConfig, roles: Iterable[Role] = ROLES) -> str:
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
        "accounts {",
        *_account("CP", "EDGE", roles, config.passwords, ["  jetstream: enabled"]),
        *_account("EDGE", "CP", roles, config.passwords, []),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _account(
    name: AccountName, other: AccountName, roles: Iterable[Role], passwords: Mapping[str, str], first: list[str]
) -> list[str]:
    users = [line for role in roles if role.account == name for line in _user(role.rendered(), passwords)]
    exports = [f"    {{ stream: {_quoted(subject)}, accounts: [{other}] }}" for subject in EXPORTS[name]]
    imports = [f"    {{ stream: {{ account: {other}, subject: {_quoted(subject)} }} }}" for subject in EXPORTS[other]]
    return [
        f"  {name} {{",
        *(f"  {line}" for line in first),
        *("    users: [", *(f"  {line}" for line in users), "    ]"),
        *("    exports: [", *(f"  {line}" for line in exports), "    ]"),
        *("    imports: [", *(f"  {line}" for line in imports), "    ]"),
        "  }",
    ]


def _user(role: Role, passwords: Mapping[str, str]) -> list[str]:
    if not role.publish or not role.subscribe:
        raise ConfigRefusedError(f"role {role.name}: an empty list of subjects would allow all of them")
    return [
        f"    {{ user: {_quoted(role.name)}, password: {_quoted(passwords[role.name])}, permissions: {{",
        f"      publish: {{ allow: [{', '.join(map(_quoted, role.publish))}] }}",
        f"      subscribe: {{ allow: [{', '.join(map(_quoted, role.subscribe))}] }}",
        "    } }",
    ]


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
    for role in ROLES:
        password = config.passwords.get(role.name, "")
        if not _PASSWORD.match(password):
            raise ConfigRefusedError(f"passwords: {role.name} needs 16 to 128 letters, digits, '_' and '-'")


def _quoted(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise ConfigRefusedError(f"{text!r}: quotes, backslashes and control characters cannot stand in the file")
    return f'"{text}"'
