"""TLS of everything that leaves a host: whom we believe, and how we show ourselves."""

import hashlib
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

SECURE = frozenset({"https", "tls", "wss"})


class PlainTextError(ValueError):
    """Something is to cross a network without TLS; a sentence that names the address."""


class CaRefusedError(ValueError):
    """The CA certificate is none, or not the one that was named; a sentence."""


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Believe the certificates of the deployment's own CA; without one those of the system's store."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if ca_file else ssl.TLSVersion.TLSv1_2
    return context


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """`certificate` is PEM, with the whole chain. Raises OSError, of which ssl.SSLError is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # browsers and operators' proxies; our own programs speak 1.3
    context.load_cert_chain(certificate, key)
    return context


def context_for(urls: Iterable[str], ca_file: Path | None) -> ssl.SSLContext | None:
    """What to connect to these with; None if none of them is spoken to in TLS."""
    return client_context(ca_file) if any(urlsplit(url).scheme in SECURE for url in urls) else None


def refuse_plain(url: str) -> None:
    """:class:`PlainTextError` unless `url` is spoken to in TLS, or never leaves the host."""
    parts = urlsplit(url)
    if parts.scheme not in SECURE and not is_loopback(parts.hostname or ""):
        raise PlainTextError(
            f"{url}: would cross the network in plain text; a deployment there has https:// and tls://"
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name is what a resolver makes of it


def ca_der(pem: bytes) -> bytes:
    """The one certificate in `pem`; :class:`CaRefusedError`."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ValueError, ssl.SSLError) as error:
        raise CaRefusedError("CA: not one certificate in PEM form") from error
    return der


def check_ca(pem: bytes, sha256: bytes) -> bytes:
    """The same certificate as canonical PEM, if its hash is the one that was named; :class:`CaRefusedError`."""
    der = ca_der(pem)
    if hashlib.sha256(der).digest() != sha256:
        raise CaRefusedError("CA: not the one that the join token names; somebody is in between, or the CA is new")
    return ssl.DER_cert_to_PEM_cert(der).encode()
