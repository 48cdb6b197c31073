"""Targets behind HAProxy that speak something else than plain HTTP/1.1, and certificates for them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kakuremichi.dataplane.haproxy.desired import Server
from support.haproxy import LOOPBACK, Target

DAY = timedelta(days=1)


def certificate(folder: Path, *names: str, valid: timedelta = DAY) -> Path:
    """A self-signed certificate with its key in one PEM file, as HAProxy wants it; negative `valid` has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{names[0]}.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + encoded)
    return path


def public_part(pem: Path) -> str:
    """The certificate alone, for those who are to trust it."""
    return x509.load_pem_x509_certificate(pem.read_bytes()).public_bytes(serialization.Encoding.PEM).decode()


@asynccontextmanager
async def tls_target(port: int, pem: Path) -> AsyncIterator[Target]:
    """As `support.haproxy.targets`, behind TLS with this certificate."""
    target = Target("tls", port)
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", target.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    try:
        await web.TCPSite(runner, str(LOOPBACK), port, ssl_context=context).start()
        yield target
    finally:
        target.released.set()
        await runner.cleanup()


@dataclass
class RawTarget:
    """Takes any connection, keeps what it hears up to `last`, says `greeting`, and ends when the other side does."""

    port: int
    greeting: bytes = b""
    last: bytes = b"hello\n"
    heard: list[bytes] = field(default_factory=list)
    _open: list[asyncio.StreamWriter] = field(default_factory=list)

    def server(self) -> Server:
        return Server("raw", LOOPBACK, self.port)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        try:
            self.heard.append(await reader.readuntil(self.last))
            writer.write(self.greeting)
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.remove(writer)
            writer.close()

    async def end(self) -> None:
        """What is still open ends, so that no task is left behind."""
        for writer in self._open:
            writer.close()
        while self._open:  # noqa: ASYNC110  # each leaves by itself
            await asyncio.sleep(0)


@asynccontextmanager
async def raw_target(
    free_port: Callable[[], int], greeting: bytes = b"", *, last: bytes = b"hello\n"
) -> AsyncIterator[RawTarget]:
    target = RawTarget(free_port(), greeting, last)
    server = await asyncio.start_server(target.take, str(LOOPBACK), target.port)
    async with server:
        yield target
        await target.end()
