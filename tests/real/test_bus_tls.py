"""TLS first on a real nats-server, with the configuration that we write."""

import datetime as dt
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kakuremichi.bus.config import ServerConfig, TlsFiles
from kakuremichi.bus.operator import init_operator
from kakuremichi.bus.port import BusUnavailableError
from kakuremichi.bus.server import NatsServer, find_nats_server, free_port
from kakuremichi.runtime.backoff import Backoff


def self_signed(folder: Path) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    operator = init_operator(tmp_path / "operator")
    config = ServerConfig(
        name="tls",
        listen=f"127.0.0.1:{free_port()}",
        store_dir=tmp_path / "store",
        accounts=operator.accounts,
        monitor=f"127.0.0.1:{free_port()}",
        tls=self_signed(tmp_path),
    )
    server = NatsServer(find_nats_server(), tmp_path, config, operator)
    await server.start()
    yield server
    await server.stop()


def trusting(server: NatsServer) -> ssl.SSLContext:
    assert server.config.tls is not None
    return ssl.create_default_context(cafile=str(server.config.tls.certificate))


async def test_who_trusts_the_certificate_gets_through_and_comes_back(server: NatsServer) -> None:
    async with server.bus("registry", tls=trusting(server), backoff=Backoff(0.05, 0.2)) as registry:
        await registry.wait_connected(10)
        await registry.publish("feed.pool.blue", b"x")
        await server.stop()
        await server.start()
        await registry.wait_connected(10)
        assert registry.generation == 2


async def test_who_does_not_trust_it_sends_no_credentials(server: NatsServer) -> None:
    async with server.bus("registry", tls=ssl.create_default_context(), backoff=Backoff(0.05, 0.2)) as registry:
        with pytest.raises(BusUnavailableError):
            await registry.wait_connected(0.5)
        assert registry.counts["connection_failures"] >= 1


async def test_plain_text_is_refused(server: NatsServer) -> None:
    plain = replace(server.config, tls=None)
    impatient = NatsServer(server.binary, server.folder, plain, server.operator)
    async with impatient.bus("registry", connect_timeout_s=0.3, backoff=Backoff(0.05, 0.2)) as registry:
        with pytest.raises(BusUnavailableError):
            await registry.wait_connected(1)
