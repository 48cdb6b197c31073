"""Everything that leaves a host is TLS, believed for the CA whose hash the join token carries."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from kakuremichi.fleet.ca import RENEW_DAYS, SERVER_DAYS, Ca
from kakuremichi.fleet.control_plane import ControlPlane, ControlPlaneError, Options
from kakuremichi.node.enrol import EnrolmentRefusedError, enrol
from kakuremichi.node.state import NodeState
from kakuremichi.runtime.tls import (
    CaRefusedError,
    PlainTextError,
    check_ca,
    client_context,
    context_for,
    refuse_plain,
    server_context,
)
from kakuremichi.wire.enrolment import JoinToken


@pytest.fixture
def ca(tmp_path: Path) -> Ca:
    made = Ca(tmp_path / "tls")
    made.prepare({"127.0.0.1", "localhost"})
    return made


class Portal:
    """What the node meets: a CA over /api/v1/ca, and a note of every enrolment that reached it."""

    def __init__(self, pem: bytes) -> None:
        self.pem, self.bodies = pem, 0

    async def give_ca(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.pem)

    async def enrol(self, request: web.Request) -> web.Response:
        await request.read()
        self.bodies += 1
        return web.Response(status=403, text="token refused")


@asynccontextmanager
async def portal(server: Ca, pem: bytes) -> AsyncIterator[tuple[str, Portal]]:
    here, app = Portal(pem), web.Application()
    app.router.add_get("/api/v1/ca", here.give_ca)
    app.router.add_post("/api/v1/enrol", here.enrol)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    tls = server_context(server.server_certificate, server.server_key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}", here
    await runner.cleanup()


def state_in(folder: Path) -> NodeState:
    state = NodeState(folder / "node")
    state.open()
    return state


def token(url: str, ca_hash: bytes) -> JoinToken:
    return JoinToken(url=url, secret=b"s" * 32, ca=ca_hash, trust=b"t" * 32)


async def test_a_node_takes_the_ca_that_its_token_names_and_then_speaks_only_with_who_it_vouches_for(
    ca: Ca, tmp_path: Path
) -> None:
    state = state_in(tmp_path)
    async with portal(ca, ca.certificate.read_bytes()) as (url, here):
        with pytest.raises(EnrolmentRefusedError, match="token refused"):
            await enrol(state, token(url, bytes.fromhex(ca.sha256())), networks=())
        assert here.bodies == 1
    pinned = state.ca_file()
    assert pinned is not None
    assert ssl.PEM_cert_to_DER_cert(pinned.read_text()) == ssl.PEM_cert_to_DER_cert(ca.certificate.read_text())
    assert pinned.stat().st_mode & 0o777 == 0o600


async def test_another_ca_is_refused_before_the_secret_is_sent(ca: Ca, tmp_path: Path) -> None:
    other = Ca(tmp_path / "other")
    other.prepare({"127.0.0.1"})
    state = state_in(tmp_path)
    async with portal(other, other.certificate.read_bytes()) as (url, here):
        with pytest.raises(EnrolmentRefusedError, match="somebody is in between"):
            await enrol(state, token(url, bytes.fromhex(ca.sha256())), networks=())
        assert here.bodies == 0
    assert state.ca_file() is None


async def test_who_shows_the_right_ca_without_a_certificate_by_it_gets_no_secret(ca: Ca, tmp_path: Path) -> None:
    """The CA is public: a man in the middle has it too."""
    other = Ca(tmp_path / "other")
    other.prepare({"127.0.0.1"})
    async with portal(other, ca.certificate.read_bytes()) as (url, here):
        trying = asyncio.create_task(enrol(state_in(tmp_path), token(url, bytes.fromhex(ca.sha256())), networks=()))
        await asyncio.sleep(1)  # it takes it for a portal that cannot be reached, and goes on trying
        assert not trying.done()
        assert here.bodies == 0
        trying.cancel()


@pytest.mark.parametrize("url", ["http://203.0.113.100:8080", "http://control.example.com", "http://[2001:db8::1]:80"])
async def test_no_join_token_makes_a_node_speak_in_plain_text_over_a_network(url: str, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentRefusedError, match="plain text"):
        await enrol(state_in(tmp_path), token(url, b""), networks=())


@pytest.mark.parametrize("url", ["nats://203.0.113.100:4222", "http://localhost:80", "203.0.113.1:4222", ""])
def test_plain_text_is_for_loopback_addresses_only(url: str) -> None:
    with pytest.raises(PlainTextError):
        refuse_plain(url)


def test_plain_text_on_loopback_has_to_be_asked_for_and_stays_there(tmp_path: Path) -> None:
    refuse_plain("http://127.0.0.1:8080")
    refuse_plain("nats://[::1]:4222")
    options = Options(directory=tmp_path / "c", portal_url="http://203.0.113.1:80", plain=True)
    with pytest.raises(ControlPlaneError, match="plain text"):
        ControlPlane(options).prepare()


def test_the_cas_certificates_are_made_anew_before_their_end_and_for_new_names(tmp_path: Path) -> None:
    made, now = Ca(tmp_path), datetime.now(UTC)
    made.prepare({"127.0.0.1"}, now=now)
    first, authority = made.server_certificate.read_bytes(), made.certificate.read_bytes()
    made.prepare({"127.0.0.1"}, now=now + timedelta(days=SERVER_DAYS - RENEW_DAYS - 1))
    assert made.server_certificate.read_bytes() == first
    made.prepare({"127.0.0.1"}, now=now + timedelta(days=SERVER_DAYS - RENEW_DAYS + 1))
    second = made.server_certificate.read_bytes()
    assert second != first
    made.prepare({"127.0.0.1", "control.example.com"}, now=now)
    assert made.server_certificate.read_bytes() != second
    assert made.certificate.read_bytes() == authority


def test_the_keys_are_private_and_the_ca_can_make_no_other_ca(ca: Ca) -> None:
    for name in ("ca.key", "server.key"):
        assert (ca.directory / name).stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    server = x509.load_pem_x509_certificate(ca.server_certificate.read_bytes())
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_our_own_programs_speak_tls_1_3_only(ca: Ca) -> None:
    assert client_context(ca.certificate).minimum_version is ssl.TLSVersion.TLSv1_3
    assert context_for(("nats://127.0.0.1:4222",), None) is None
    assert context_for(("tls://127.0.0.1:4222",), ca.certificate) is not None


@pytest.mark.parametrize(
    "pem", [b"", b"junk", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_no_ca(pem: bytes) -> None:
    with pytest.raises(CaRefusedError):
        check_ca(pem, hashlib.sha256(b"").digest())
