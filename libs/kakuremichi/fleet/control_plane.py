"""The control plane of a single server: its folder with secrets and settings, and its programs as units."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kakuremichi.bus.config import ServerConfig, TlsFiles, render
from kakuremichi.bus.issuer import LIFE_S
from kakuremichi.bus.operator import REGISTRY_FOLDER, init_operator
from kakuremichi.bus.own_server import OPERATOR_FOLDER
from kakuremichi.bus.server import find_nats_server
from kakuremichi.bus.topology import CLAIMS, PROVISION
from kakuremichi.fleet.ca import Ca
from kakuremichi.lab.units import Unit
from kakuremichi.runtime.files import write_atomically
from kakuremichi.runtime.tls import PlainTextError, refuse_plain
from kakuremichi.wire.codec import decode
from kakuremichi.wire.signing import Signed


class ControlPlaneError(Exception):
    """The control plane cannot be prepared; a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where things listen and how nodes reach them. `nats_url` and `database_url` name servers of your own."""

    directory: Path
    portal_listen: str = "127.0.0.1:8080"
    portal_url: str = "https://127.0.0.1:8080"
    nats_listen: str = "127.0.0.1:4222"
    node_nats_url: str = "tls://127.0.0.1:4222"
    tls: TlsFiles | None = None  # certificates of your own; None: the deployment's CA makes them
    plain: bool = False  # no TLS at all: only where nothing leaves the host
    trust: Path | None = None  # a folder by `trust init`: the trust keys lie elsewhere
    nats_url: str = ""  # "": the embedded server
    database_url: str = ""  # "": the embedded server
    namespace: str | None = None  # in the lab
    node_jwt_s: int = LIFE_S  # how long a node may be on the bus without asking again
    trace: bool = False  # a file of spans per program below `trace`; nothing rotates them


@dataclass(frozen=True, slots=True)
class ControlPlane:
    options: Options

    @property
    def directory(self) -> Path:
        return self.options.directory

    @property
    def token_file(self) -> Path:
        """The first API token, in clear, for the person who started this: 0600, remove it once you have another."""
        return self.directory / "admin.token"

    def prepare(self) -> None:
        """Make what is missing: the NATS operator, trust keys, the first API token. What is there stays as it is."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("log", "trace", "nats"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        self._prepare_tls()
        self._take_operator()
        init_operator(self._operator)
        self._take_trust()
        _run("kakuremichi_registry.trust", str(self._trust))
        if not self.token_file.exists():
            token = _run("kakuremichi_portal.add_token", str(self._api_tokens), "admin", "admin")
            write_atomically(self.token_file, token.encode())
        # With a NATS of your own this is the configuration to use there: the operator and its accounts.
        write_atomically(self.directory / "nats.conf", self._nats_conf().encode())

    def units(self) -> tuple[Unit, ...]:
        """In the order of start; each waits for what it needs, so the order is a courtesy."""
        units = []
        if not self.options.database_url:
            units.append(self._postgres())
        if not self.options.nats_url:
            units.append(self._nats())
        return (*units, *map(self._service, ("provisioner", "registry", "keyring", "portal")))

    @property
    def ca_file(self) -> Path | None:
        """What clients have to believe; None: TLS is off, or the certificates are those of a CA that they know."""
        return None if self.options.plain or self.options.tls else self._ca.certificate

    @property
    def _ca(self) -> Ca:
        return Ca(self.directory / "tls")

    def _prepare_tls(self) -> None:
        urls = (self.options.portal_url, self.options.node_nats_url)
        if self.options.plain:
            try:
                for url in urls:
                    refuse_plain(url)
            except PlainTextError as error:
                raise ControlPlaneError(str(error)) from error
        elif not self.options.tls:
            hosts = {urlsplit(url).hostname or "" for url in urls} - {""}
            self._ca.prepare({"127.0.0.1", "localhost", *hosts})

    @property
    def _tls_files(self) -> TlsFiles | None:
        if self.options.plain:
            return None
        return self.options.tls or TlsFiles(self._ca.server_certificate, self._ca.server_key)

    def _take_trust(self) -> None:
        """The server's part of a deployment whose trust keys lie elsewhere; what is there already stays."""
        given = self.options.trust
        if given is None or (self._trust / "trust-set").exists():
            return
        try:
            for name in ("deployment", "feed.seed", "feed-key", "trust-set"):
                write_atomically(self._trust / name, (given / name).read_bytes())
        except OSError as error:
            raise ControlPlaneError(f"{error.filename}: {error.strerror}; `trust init` makes that folder") from error

    @property
    def _trust(self) -> Path:
        return self.directory / "trust"

    @property
    def _api_tokens(self) -> Path:
        return self.directory / "api-tokens.json"

    @property
    def _nats_url(self) -> str:
        """How the services on this server reach the bus."""
        if self.options.nats_url:
            return self.options.nats_url
        if self.options.tls:
            return self.options.node_nats_url  # a certificate of the operator's own names the public address only
        host, _, port = self.options.nats_listen.rpartition(":")
        scheme = "nats" if self.options.plain else "tls"
        return f"{scheme}://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  # compared, not bound

    def _take_operator(self) -> None:
        """The NATS operator that `trust init` made for a NATS of your own; what is there already stays."""
        given = self.options.trust
        if given is None or not (given / OPERATOR_FOLDER).is_dir() or self._operator.exists():
            return
        for file in (given / OPERATOR_FOLDER).rglob("*"):
            if file.is_file():
                write_atomically(self._operator / file.relative_to(given / OPERATOR_FOLDER), file.read_bytes())

    @property
    def _operator(self) -> Path:
        return self.directory / OPERATOR_FOLDER

    def bus_credentials(self, role: str) -> str:
        """The file with which a program of the control plane comes on the bus."""
        return str(self._operator / "credentials" / f"{role}.creds")

    def _nats_conf(self) -> str:
        return render(
            ServerConfig(
                name="kakuremichi",
                listen=self.options.nats_listen,
                store_dir=self.directory / "nats",
                accounts=init_operator(self._operator).accounts,
                tls=self._tls_files,
            )
        )

    def _postgres(self) -> Unit:
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait until every client has left.
        argv = (sys.executable, "-m", "kakuremichi_registry.embedded_postgres", str(self.directory / "postgres"))
        return self._unit("postgres", argv, {}, stop_signal="SIGINT")

    def _nats(self) -> Unit:
        return self._unit("nats", (str(find_nats_server()), "-c", str(self.directory / "nats.conf")), {})

    def _service(self, name: str) -> Unit:
        role, module = name, f"kakuremichi_{name}"
        if name == "provisioner":
            role, module = PROVISION.name, "kakuremichi.bus.provisioner"
        settings = {"NATS_URL": self._nats_url, "NATS_CREDENTIALS": self.bus_credentials(role), **self._settings(name)}
        if self.ca_file:
            settings["NATS_CA"] = str(self.ca_file)
        env = {f"KAKUREMICHI_{key}": value for key, value in settings.items()}
        if self.options.trace:
            env["KAKUREMICHI_TRACE_FILE"] = str(self.directory / "trace" / f"{name}.trace")
        return self._unit(name, (sys.executable, "-m", module), env)

    def _settings(self, name: str) -> dict[str, str]:
        match name:
            case "registry":
                return {
                    "DATABASE_URL": self.options.database_url or self._embedded_dsn(),
                    "TRUST_DIR": str(self._trust),
                    "NODE_JWT_S": str(self.options.node_jwt_s),
                    "ISSUER_DIR": str(self._operator / REGISTRY_FOLDER),
                    "CLAIMS_CREDENTIALS": self.bus_credentials(CLAIMS.name),
                }
            case "keyring":
                return {"TRUST_SHA256": self._trust_hash()}
            case "portal":
                tls = self._tls_files
                return {
                    **({"TLS_CERTIFICATE": str(tls.certificate), "TLS_KEY": str(tls.key)} if tls else {}),
                    **({"CA_FILE": str(self.ca_file)} if self.ca_file else {}),
                    "LISTEN": self.options.portal_listen,
                    "PUBLIC_URL": self.options.portal_url,
                    "API_TOKENS": str(self._api_tokens),
                    "TRUST_SHA256": self._trust_hash(),
                    "NODE_NATS_URL": self.options.node_nats_url,
                }
        return {}

    def _embedded_dsn(self) -> str:
        return f"postgresql://kakuremichi@/postgres?host={self.directory / 'postgres' / 'run'}"

    def _trust_hash(self) -> str:
        return hashlib.sha256(decode((self._trust / "trust-set").read_bytes(), Signed).body).hexdigest()

    def _unit(self, name: str, argv: tuple[str, ...], env: dict[str, str], *, stop_signal: str = "SIGTERM") -> Unit:
        return Unit(
            name=name,
            argv=argv,
            env=env,
            namespace=self.options.namespace,
            log=str(self.directory / "log" / f"{name}.log"),
            stop_signal=stop_signal,
        )


def _run(module: str, *arguments: str) -> str:
    """Run one of the services' own small programs; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise ControlPlaneError(f"{module}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout.strip()
