"""The control plane of a single server: its folder with secrets and settings, and its programs as units."""

import hashlib
import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.bus.config import ServerConfig, render
from kakuremichi.bus.server import find_nats_server
from kakuremichi.bus.topology import PROVISION, ROLES
from kakuremichi.lab.units import Unit
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.codec import decode
from kakuremichi.wire.signing import Signed


class ControlPlaneError(Exception):
    """The control plane cannot be prepared; a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where things listen and how nodes reach them. `nats_url` and `database_url` name servers of your own."""

    directory: Path
    portal_listen: str = "127.0.0.1:8080"
    portal_url: str = "http://127.0.0.1:8080"
    nats_listen: str = "127.0.0.1:4222"
    node_nats_url: str = "nats://127.0.0.1:4222"
    nats_url: str = ""  # "": the embedded server
    database_url: str = ""  # "": the embedded server
    namespace: str | None = None  # in the lab
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
        """Make what is missing: passwords, trust keys, the first API token. What is there stays as it is."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("log", "trace", "nats"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        self._make_passwords()
        _run("kakuremichi_registry.trust", str(self._trust))
        if not self.token_file.exists():
            token = _run("kakuremichi_portal.add_token", str(self._api_tokens), "admin", "admin")
            write_atomically(self.token_file, token.encode())
        # With a NATS of your own this is the configuration to use there: accounts, roles and their passwords.
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
        host, _, port = self.options.nats_listen.rpartition(":")
        return f"nats://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  # compared, not bound

    def passwords(self) -> dict[str, str]:
        known: dict[str, str] = json.loads((self.directory / "passwords.json").read_text())
        return known

    def _make_passwords(self) -> None:
        path = self.directory / "passwords.json"
        known = self.passwords() if path.exists() else {}
        made = {role.name: known.get(role.name) or secrets.token_urlsafe(32) for role in ROLES}
        if made != known:
            write_atomically(path, json.dumps(made).encode())

    def _nats_conf(self) -> str:
        return render(
            ServerConfig(
                name="kakuremichi",
                listen=self.options.nats_listen,
                store_dir=self.directory / "nats",
                passwords=self.passwords(),
            )
        )

    def _postgres(self) -> Unit:
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait until every client has left.
        argv = (sys.executable, "-m", "kakuremichi_registry.embedded_postgres", str(self.directory / "postgres"))
        return self._unit("postgres", argv, {}, stop_signal="SIGINT")

    def _nats(self) -> Unit:
        return self._unit("nats", (str(find_nats_server()), "-c", str(self.directory / "nats.conf")), {})

    def _service(self, name: str) -> Unit:
        passwords = self.passwords()
        role, module = name, f"kakuremichi_{name}"
        if name == "provisioner":
            role, module = PROVISION.name, "kakuremichi.bus.provisioner"
        settings = {"NATS_URL": self._nats_url, "NATS_PASSWORD": passwords[role], **self._settings(name, passwords)}
        env = {f"KAKUREMICHI_{key}": value for key, value in settings.items()}
        if self.options.trace:
            env["KAKUREMICHI_TRACE_FILE"] = str(self.directory / "trace" / f"{name}.trace")
        return self._unit(name, (sys.executable, "-m", module), env)

    def _settings(self, name: str, passwords: dict[str, str]) -> dict[str, str]:
        match name:
            case "registry":
                return {
                    "DATABASE_URL": self.options.database_url or self._embedded_dsn(),
                    "TRUST_DIR": str(self._trust),
                }
            case "keyring":
                return {"TRUST_SHA256": self._trust_hash()}
            case "portal":
                return {
                    "LISTEN": self.options.portal_listen,
                    "PUBLIC_URL": self.options.portal_url,
                    "API_TOKENS": str(self._api_tokens),
                    "TRUST_SHA256": self._trust_hash(),
                    "NODE_NATS_URL": self.options.node_nats_url,
                    "GATEWAY_NATS_PASSWORD": passwords["gateway"],
                    "AGENT_NATS_PASSWORD": passwords["agent"],
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
