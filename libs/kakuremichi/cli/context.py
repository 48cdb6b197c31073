"""Where the portal is and with which token: flags, then the environment, then the context file that `up` writes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.cli.exits import DENIED, USAGE, CliError


@dataclass(frozen=True, slots=True)
class Context:
    url: str
    token: str
    ca_file: Path | None = None  # of the deployment's own CA; None: the system's CAs count

    def __repr__(self) -> str:
        return f"Context(url={self.url!r}, token=hidden)"


def context_path() -> Path:
    """`KAKUREMICHI_CONTEXT`, else `kakuremichi/context.json` in the user's configuration folder."""
    if named := os.environ.get("KAKUREMICHI_CONTEXT"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "kakuremichi" / "context.json"


def save_context(url: str, token_file: Path, ca_file: Path | None = None) -> Path:
    """Remember a deployment; the token stays in its own file. Returns where the context is kept."""
    path = context_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    known = {"url": url, "token_file": str(token_file)} | ({"ca_file": str(ca_file)} if ca_file else {})
    fresh.write_text(json.dumps(known, indent=2) + "\n")
    fresh.chmod(0o600)
    fresh.replace(path)
    return path


def resolve(url: str | None, token_file: Path | None, ca_file: Path | None = None) -> Context:
    """The context of this call; :class:`CliError` if the portal or the token is nowhere named."""
    saved = _saved()
    url = url or os.environ.get("KAKUREMICHI_URL") or saved.get("url")
    if not url:
        hints = ("kakuremichi up starts one here", "--url URL or KAKUREMICHI_URL names another")
        raise CliError("no portal is known", USAGE, hints)
    if not url.startswith(("http://", "https://")):
        raise CliError(f"url {url}: does not begin with http:// or https://", USAGE)
    # The saved CA is that of the saved portal, and says nothing about another one.
    own_ca = saved.get("ca_file") if url == saved.get("url") else None
    ca = ca_file or os.environ.get("KAKUREMICHI_CA_FILE") or own_ca
    return Context(url.rstrip("/"), _token(token_file, saved), Path(ca) if ca else None)


def _token(token_file: Path | None, saved: dict[str, str]) -> str:
    if token_file is not None:
        return _read(token_file)
    if token := os.environ.get("KAKUREMICHI_TOKEN"):
        return token.strip()
    if named := os.environ.get("KAKUREMICHI_TOKEN_FILE") or saved.get("token_file"):
        return _read(Path(named))
    raise CliError("no API token is known", DENIED, ("--token-file FILE, KAKUREMICHI_TOKEN or KAKUREMICHI_TOKEN_FILE",))


def _read(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"token file {path}: {getattr(error, 'strerror', None) or 'no text'}", DENIED) from error
    if not token.isascii() or not token.isprintable() or not token:
        raise CliError(f"token file {path}: holds no token", DENIED)
    return token


def _saved() -> dict[str, str]:
    path = context_path()
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CliError(f"context {path}: cannot be read ({error})", USAGE) from error
    return {name: value for name, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}
