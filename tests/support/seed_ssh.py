"""Real OpenSSH at both ends: servers with keys of their own on hosts of the lab, and a client that checks them."""

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.lab.units import Unit

_PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd insists on it; on a server its systemd unit makes it


@dataclass(frozen=True, slots=True)
class SshServer:
    """sshd on `host` at `address`, port 22. Its log has a line for every connection."""

    host: str
    address: str
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "sshd.log"

    def prepare(self, client_key: Path) -> None:
        """Make its host key and its settings: `client_key`.pub may log in as root, nobody else and in no other way."""
        self.directory.mkdir(parents=True)
        _make_key(self.directory / "host_key")
        shutil.copy(client_key.with_suffix(".pub"), self.directory / "authorized_keys")
        (self.directory / "sshd_config").write_text(self._config())

    def unit(self, fleet: Fleet) -> Unit:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
        assert sshd, "sshd: not installed; run 'scripts/install-debian.sh tests'"
        argv = (sshd, "-D", "-e", "-f", str(self.directory / "sshd_config"))  # by its whole path: it starts itself anew
        namespace = fleet.lab.namespace(self.host)
        return Unit(name=f"sshd-{self.host}", argv=argv, namespace=namespace, log=str(self.log))

    def known_hosts_line(self) -> str:
        key_type, key, *_ = (self.directory / "host_key.pub").read_text().split()
        return f"{self.host} {key_type} {key}\n"

    def connections(self) -> int:
        """How many clients it has heard of."""
        return self.log.read_text().count("\nConnection from ")

    def _config(self) -> str:
        return "\n".join(
            (
                f"ListenAddress {self.address}:22",
                f"HostKey {self.directory / 'host_key'}",
                f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
                "PermitRootLogin prohibit-password",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "UsePAM yes",  # without it sshd refuses root where root has no password, as on many servers
                "StrictModes no",  # the keys lie below /tmp
                "PidFile none",
                "LogLevel VERBOSE",
                "UseDNS no",
                "",
            )
        )


@dataclass(frozen=True, slots=True)
class Session:
    process: "subprocess.Popen[str]"

    def echo(self, line: str) -> str:
        """What comes back; "" if the session has ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        return self.process.stdout.readline().rstrip()


@dataclass(frozen=True, slots=True)
class SshClient:
    """A person with one key, who knows the host keys of the servers by the hosts' names."""

    fleet: Fleet
    directory: Path

    @property
    def key(self) -> Path:
        return self.directory / "id_ed25519"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        _make_key(self.key)

    def know(self, *servers: SshServer) -> None:
        (self.directory / "known_hosts").write_text("".join(server.known_hosts_line() for server in servers))

    def command(self, port: int, server: str, *, patience_s: int = 10) -> list[str]:
        """`ssh` with its options. Whoever answers must have the host key of `server`."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(patience_s),
            "HostKeyAlias": server,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.directory / "known_hosts"),
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", "-i", str(self.key), "-p", str(port), *words]

    def run(self, gateway: str, port: int, server: str, remote: str) -> str:
        """What `remote` prints on the server, logged in from `office` through a gateway."""
        argv = [*self.command(port, server), f"root@{gateway}.lab.test", remote]
        return self._must("office", argv)

    def knock(self, source: str, gateway: str, port: int, server: str, *, patience_s: int) -> "subprocess.Popen[str]":
        """ssh from `source`, which gives up after `patience_s`; the caller waits for it."""
        argv = [*self.command(port, server, patience_s=patience_s), f"root@{gateway}.lab.test", "true"]
        return self.fleet.lab.popen(
            source, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @contextmanager
    def session(self, gateway: str, port: int, server: str, remote: str) -> Iterator[Session]:
        """A login from `office` that stays; `remote` has to return each line that it is given."""
        argv = [*self.command(port, server), f"root@{gateway}.lab.test", remote]
        pipe = subprocess.PIPE
        with self.fleet.lab.popen("office", argv, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
            try:
                yield Session(process)
            finally:
                process.terminate()

    def git(self, tree: Path, *words: str, port: int = 0, server: str = "") -> str:
        """git in `tree`, on `office`; its remotes are reached by ssh at `port` of whatever gateway their URL names."""
        settings = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_SSH_COMMAND": shlex.join(self.command(port, server)),
            **{
                f"GIT_{role}_{field}": "office@lab.test"
                for role in ("AUTHOR", "COMMITTER")
                for field in ("NAME", "EMAIL")
            },
        }
        environment = [f"{name}={value}" for name, value in settings.items()]
        return self._must("office", ["env", *environment, "git", "-C", str(tree), *words])

    def rsync(self, source: Path, gateway: str, port: int, server: str, destination: Path) -> list[str]:
        """Bring `destination` on the server up to `source`; the itemised changes."""
        remote_shell = shlex.join(self.command(port, server))
        argv = ["rsync", "-ac", "--delete", "-i", "-e", remote_shell, f"{source}/"]
        return self._must("office", [*argv, f"root@{gateway}.lab.test:{destination}/"]).splitlines()

    def _must(self, host: str, argv: list[str]) -> str:
        done = self.fleet.lab.run(host, argv)
        assert done.returncode == 0, f"{shlex.join(argv)}: {done.returncode}, {done.stderr}"
        return done.stdout + done.stderr


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)
