"""A certificate for *.lab.test, signed by nobody but itself: enough for HTTPS in the lab."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kakuremichi.lab.topology import DOMAIN


def make_certificate(directory: Path) -> Path:
    """The crt-list for HAProxy in `directory`, its one PEM file beside it; kept if it is there."""
    crt_list = directory / "crt-list"
    if crt_list.exists():
        return crt_list
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"*.{DOMAIN}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"*.{DOMAIN}")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "lab.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.touch(mode=0o600)
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    crt_list.write_text(f"{pem} [alpn h2,http/1.1]\n")
    return crt_list
