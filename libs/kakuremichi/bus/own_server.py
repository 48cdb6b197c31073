"""The configuration for a nats-server that somebody else runs: what `kakuremichi trust init` writes."""

from dataclasses import dataclass
from pathlib import Path

from kakuremichi.bus.config import ServerConfig, TlsFiles, render
from kakuremichi.bus.operator import Operator, init_operator
from kakuremichi.runtime.files import write_atomically

OPERATOR_FOLDER = "nats-operator"
TLS_FILES = TlsFiles(Path("/etc/nats/server.pem"), Path("/etc/nats/server-key.pem"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnServer:
    """Where the server listens and keeps its data, as paths and addresses on its own host. TLS comes first, always."""

    listen: str = "0.0.0.0:4222"  # every node has to reach it
    store_dir: Path = Path("/var/lib/nats")
    name: str = "kakuremichi"
    monitor: str = "127.0.0.1:8222"
    tls: TlsFiles = TLS_FILES


def write_server_config(directory: Path, server: OwnServer) -> tuple[Operator, Path]:
    """Make the operator in `directory` if there is none, and write `nats.conf` beside it.

    No secret is in that file. What each program needs is in the operator's folder: `credentials/<role>.creds` for the
    program of that role, the folder `registry` for the registry. :class:`OperatorError`, :class:`ConfigRefusedError`.
    """
    operator = init_operator(directory / OPERATOR_FOLDER)
    config = ServerConfig(
        name=server.name,
        listen=server.listen,
        store_dir=server.store_dir,
        accounts=operator.accounts,
        monitor=server.monitor,
        tls=server.tls,
    )
    path = directory / "nats.conf"
    write_atomically(path, render(config).encode())
    return operator, path
