"""`kakuremichi trust`: trust keys that do not lie on the server, and the certificates that wait for them."""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace
from nacl.signing import SigningKey

from kakuremichi.bus.own_server import OwnServer, write_server_config
from kakuremichi.cli.exits import USAGE, CliError
from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import talk
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import key_text
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.granting import (
    Founded,
    GrantRefusedError,
    Grants,
    TrustKeyFile,
    check_hosts,
    check_ports,
    found,
    granted,
)
from kakuremichi.wire.identity import Certificate, TrustSet
from kakuremichi.wire.signing import DEPLOYMENT_ID_BYTES, DeploymentId, SignatureRefusedError, Signed, verify_key

MOST_IN_FILE = 500
SERVER = "server"  # the folder that goes to the server; no trust key is in it
_path = click.Path(path_type=Path)


@click.group()
def trust() -> None:
    """Keep the keys that say who is a peer away from the server, and sign with them."""


@trust.command()
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=_path)
@click.option("--keys", default=3, show_default=True, type=click.IntRange(1, 16), help="How many trust keys.")
@click.option("--threshold", default=2, show_default=True, type=click.IntRange(1, 16), help="How many have to agree.")
def init(directories: tuple[Path, ...], keys: int, threshold: int) -> None:
    """Make the trust keys of a new deployment: all in one DIR, or one in each of as many.

    \b
    kakuremichi trust init --keys 3 --threshold 2 /media/a /media/b /media/c
    kakuremichi up --trust /media/a/server        # on the server; it has no trust key
    """
    if len(directories) not in (1, keys):
        raise CliError(f"{len(directories)} folders for {keys} keys: one for all, or one for each is needed", USAGE)
    try:
        founded = found(
            DeploymentId(secrets.token_bytes(DEPLOYMENT_ID_BYTES)), keys=keys, threshold=threshold, now=int(time.time())
        )
    except GrantRefusedError as error:
        raise CliError(str(error), USAGE) from error
    for number, key in enumerate(founded.trust_keys, start=1):
        folder = directories[(number - 1) % len(directories)]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(folder / f"trust-{number}.key", _key_file(founded, key))
    server = _write_server_folder(directories[0] / SERVER, founded)
    _, nats_conf = write_server_config(server, OwnServer())
    click.echo(f"{keys} trust keys, {threshold} have to agree; deployment {founded.deployment.hex()}")
    click.echo(f"bring {server} to the server (kakuremichi up --trust FOLDER), then remove it here")
    click.echo(f"{nats_conf} is for a NATS of your own: look at its paths and addresses; no secret is in it")
    click.echo("the trust-N.key files stay away from every server; losing too many of them means enrolling anew")


@trust.command()
@click.argument("file", type=_path)
def show(file: Path) -> None:
    """What a file of pending or signed certificates would grant."""
    grants = _read_grants(file)
    members = _members(grants)
    for certificate in grants.certificates:
        good = signing.valid_signatures(
            signing.CERTIFICATE, DeploymentId(grants.deployment), certificate, frozenset(members.keys)
        )
        click.echo(f"{_sentence(decode(certificate.body, Certificate))}; {len(good)} of {members.threshold} signatures")


@trust.command()
@click.argument("file", type=_path)
@click.option("--key", "key_path", required=True, type=_path, metavar="FILE", help="A trust-N.key.")
@click.option("--hosts", help="Host names that may be routed to the nodes, by commas; * is any, '' none.")
@click.option("--ports", help="Public ports, by commas: 443, 6000-6100; * is any, '' none.")
@click.option("--node", "only", multiple=True, metavar="NAME", help="Sign only for this node; may be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign(file: Path, key_path: Path, hosts: str | None, ports: str | None, only: tuple[str, ...], *, yes: bool) -> None:
    """Sign the certificates in FILE with one trust key. Needs no network.

    Whoever signs first says with --hosts and --ports what may be routed there; the others sign what they see.
    """
    grants = _read_grants(file)
    members, key = _members(grants), _read_key(key_path, grants)
    if verify_key(key) not in members.keys:
        raise CliError(f"{key_path}: not a trust key of this deployment")
    former = _former(grants, members)
    try:
        signed = [
            granted(
                certificate, DeploymentId(grants.deployment), key,
                hosts=None if hosts is None else check_hosts(_words(hosts)),
                ports=None if ports is None else check_ports(_words(ports)),
                former=former.get(decode(certificate.body, Certificate).node_id),
            )
            for certificate in _checked(grants, members)
            if not only or decode(certificate.body, Certificate).node_id in only
        ]  # fmt: skip
    except GrantRefusedError as error:
        raise CliError(str(error), USAGE) from error
    if not signed:
        raise CliError(f"{file}: no certificate in it is to be signed", USAGE)
    for certificate in signed:
        click.echo(_sentence(decode(certificate.body, Certificate)))
    if not yes:
        click.confirm(f"Sign {'this' if len(signed) == 1 else f'these {len(signed)}'}?", abort=True, err=True)
    _write_grants(file, replace(grants, certificates=tuple(signed)))
    talk(f"signed; kakuremichi trust submit {file} brings it to the server, once or after the next key")


@trust.command()
@click.option("-o", "--output", required=True, type=_path, metavar="FILE", help="Where the certificates go.")
@with_client
def pending(client: Any, *, output: Path) -> None:
    """Export the certificates that wait for a signature."""
    answer = client.call("GET", "trust", "pending", query={"limit": str(MOST_IN_FILE)})
    try:
        grants = msgspec.convert(answer, Grants)
    except msgspec.ValidationError as error:
        raise CliError(f"the portal's answer: {error}") from error
    _write_grants(output, replace(grants, next_after=""))
    for certificate in grants.certificates:
        click.echo(_sentence(decode(certificate.body, Certificate)))
    if grants.next_after:
        talk("more wait than one file holds; sign and submit these, then ask again")
    talk(f"{len(grants.certificates)} wait; sign them with kakuremichi trust sign {output} --key FILE")


@trust.command()
@click.argument("file", type=_path)
@with_client
def submit(client: Any, *, file: Path) -> None:
    """Bring signed certificates back to the server."""
    missing = 0
    for certificate in _read_grants(file).certificates:
        if not certificate.signatures:
            continue
        answer = client.call("POST", "trust", "signatures", body={"certificate": msgspec.to_builtins(certificate)})
        missing += answer["signatures"] < answer["needed"]
        click.echo(f"{answer['node']}: {answer['signatures']} of {answer['needed']} signatures")
    if missing:
        talk(f"{missing} still wait for another key")


def _key_file(founded: Founded, key: SigningKey) -> bytes:
    return msgspec.json.encode(TrustKeyFile(deployment=founded.deployment, seed=bytes(key))) + b"\n"


def _write_server_folder(folder: Path, founded: Founded) -> Path:
    """What the registry opens. Without `trust.seed` it waits for signatures from elsewhere."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_new(folder / "deployment", founded.deployment.hex().encode())
    _write_new(folder / "feed.seed", bytes(founded.feed_key).hex().encode())
    _write_new(folder / "feed-key", encode(founded.feed_certificate))
    _write_new(folder / "trust-set", encode(founded.trust_set))  # last: its presence says that the folder is complete
    return folder


def _write_new(path: Path, content: bytes) -> None:
    if path.exists():
        raise CliError(f"{path}: exists; keys are never written over", USAGE)
    write_atomically(path, content)


def _write_grants(path: Path, grants: Grants) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(grants)) + b"\n")


def _read_grants(path: Path) -> Grants:
    try:
        grants = msgspec.json.decode(path.read_bytes(), type=Grants)
        for certificate in grants.certificates:
            decode(certificate.body, Certificate)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", USAGE) from error
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError, RecursionError) as error:
        raise CliError(f"{path}: not a file of certificates ({error})", USAGE) from error
    return grants


def _members(grants: Grants) -> TrustSet:
    """The deployment's trust set, which has signed itself."""
    try:
        members = decode(grants.trust.body, TrustSet)
        signing.verify(
            signing.TRUST_SET, DeploymentId(grants.deployment), grants.trust, frozenset(members.keys),
            threshold=members.threshold,
        )  # fmt: skip
    except (WireError, SignatureRefusedError) as error:
        raise CliError(f"the file's trust set: {error}") from error
    return members


def _checked(grants: Grants, members: TrustSet) -> list[Signed]:
    """What waits, with those signatures only that are good: others would pass for a word that somebody has given."""
    deployment, keys = DeploymentId(grants.deployment), frozenset(members.keys)
    return [
        Signed(certificate.body, signing.valid_signatures(signing.CERTIFICATE, deployment, certificate, keys))
        for certificate in grants.certificates
    ]


def _former(grants: Grants, members: TrustSet) -> dict[NodeId, Certificate]:
    """The certificates that nodes have already, by the word of the trust keys and not by that of the server."""
    found: dict[NodeId, Certificate] = {}
    for signed in grants.former:
        try:
            body = signing.verify(
                signing.CERTIFICATE, DeploymentId(grants.deployment), signed, frozenset(members.keys),
                threshold=members.threshold,
            )  # fmt: skip
            certificate = decode(body, Certificate)
        except (WireError, SignatureRefusedError) as error:
            raise CliError(f"the file's former certificates: {error}") from error
        found[certificate.node_id] = certificate
    return found


def _read_key(path: Path, grants: Grants) -> SigningKey:
    try:
        if path.stat().st_mode & 0o077 and os.name == "posix":
            sys.stderr.write(f"{path}: readable by others; chmod 600 it\n")
        file = msgspec.json.decode(path.read_bytes(), type=TrustKeyFile)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", USAGE) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CliError(f"{path}: not a trust key", USAGE) from error
    if file.deployment != grants.deployment:
        raise CliError(f"{path}: of another deployment than the certificates")
    return SigningKey(file.seed)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _sentence(certificate: Certificate) -> str:
    where = f"slot {certificate.slot}" if certificate.role == "gateway" else f"subnet {certificate.subnet}"
    until = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
    return (
        f"{certificate.role} {certificate.node_id}, pool {certificate.pool}, {where},"
        f" identity {key_text(certificate.identity_key)}, until {until},"
        f" hosts {', '.join(certificate.hosts) or 'none'}, ports {', '.join(certificate.ports) or 'none'}"
    )
