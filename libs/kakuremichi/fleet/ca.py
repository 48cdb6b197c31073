"""The deployment's own CA (X.509): it vouches for the addresses of the portal and of NATS, and for nothing else.

Whoever steals its key can listen to control messages; he makes no peer, which only the trust keys do.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kakuremichi.runtime.files import write_atomically

CA_DAYS = 3650
SERVER_DAYS = 397  # the most that browsers take
RENEW_DAYS = 60  # before the end
SLACK = timedelta(hours=1)  # for clocks that are behind


@dataclass(frozen=True, slots=True)
class Ca:
    """A folder with the CA (`ca.pem`, `ca.key`) and the server's certificate (`server.pem`, `server.key`)."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"

    def prepare(self, names: Iterable[str], *, now: datetime | None = None) -> None:
        """Make the CA if there is none, and a certificate for `names` unless one with some life left is there."""
        at, wanted = now or datetime.now(UTC), frozenset(names)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.certificate.exists():
            self._make_ca(at)
        if not self._is_good(wanted, at):
            self._issue(wanted, at)

    def sha256(self) -> str:
        """Of the CA's certificate (DER), as join tokens name it."""
        der = _load(self.certificate).public_bytes(serialization.Encoding.DER)
        return hashlib.sha256(der).hexdigest()

    def _make_ca(self, at: datetime) -> None:
        key, name = ec.generate_private_key(ec.SECP256R1()), _name("kakuremichi deployment CA")
        certificate = (
            _begin(name, name, key.public_key(), at, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.directory / "ca.key", self.certificate, key, certificate)

    def _issue(self, names: frozenset[str], at: datetime) -> None:
        ca = _load(self.certificate)
        ca_key = serialization.load_pem_private_key((self.directory / "ca.key").read_bytes(), None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.directory / 'ca.key'}: not the key of an own CA")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _begin(_name("kakuremichi control plane"), ca.subject, key.public_key(), at, SERVER_DAYS)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in sorted(names)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write(self.server_key, self.server_certificate, key, certificate)

    def _is_good(self, names: frozenset[str], at: datetime) -> bool:
        if not (self.server_certificate.exists() and self.server_key.exists()):
            return False
        held = _load(self.server_certificate)
        ca = _load(self.certificate)
        try:
            held.verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature):
            return False
        alternative = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = frozenset(str(general.value) for general in alternative)
        return names <= known and at < held.not_valid_after_utc - timedelta(days=RENEW_DAYS)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, at: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - SLACK)
        .not_valid_after(at + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _write(
    key_path: Path, certificate_path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomically(key_path, private)
    write_atomically(certificate_path, certificate.public_bytes(pem))  # last: its presence says that both are there
