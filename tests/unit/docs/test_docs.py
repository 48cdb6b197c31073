"""What the documents name exists: files, links, commands with their options, make targets, programs, variables."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import msgspec
import pytest

from kakuremichi.bus.provisioner import ProvisionerConfig
from kakuremichi.cli.__main__ import cli
from kakuremichi.runtime.config import PREFIX
from kakuremichi_agent.__main__ import main as agent
from kakuremichi_gateway.__main__ import main as gateway
from kakuremichi_keyring.config import KeyringConfig
from kakuremichi_portal.config import PortalConfig
from kakuremichi_registry.config import RegistryConfig

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    [*(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")), *(ROOT / "docs").rglob("*.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, click.Command | None] = dict.fromkeys(PROJECT["scripts"]) | {
    "kakuremichi": cli,
    "kakuremichi-gateway": gateway,
    "kakuremichi-agent": agent,
}
FOLDERS = ("libs", "services", "docs", "deploy", "tests", "scripts", "requirements", ".ci")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(text: str) -> Iterator[str]:
    """Every code span, and every line of a code block; a line that ends in a backslash goes on in the next one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose))


def code() -> Iterator[tuple[str, str]]:
    return ((shown(path), piece) for path in DOCUMENTS for piece in code_of(path.read_text()))


def faults(found: Iterator[tuple[str, str]]) -> str:
    return "\n".join(f"{document}: {fault}" for document, fault in found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in _anchors(path), f"{target}: there is no such heading"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_that_are_named_exist() -> None:
    def missing() -> Iterator[tuple[str, str]]:
        for document, piece in code():
            for word in re.findall(rf"(?<![\w/.])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./@*-]*", piece):
                if not any(ROOT.glob(word.rstrip("/.") or word)):
                    yield document, word

    assert faults(missing()) == ""


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [
        (document, target) for document, piece in code() for target in re.findall(r"(?:^|sudo )make ([a-z-]+)", piece)
    ]
    assert named
    assert faults((document, target) for document, target in named if target not in targets) == ""


def test_commands_exist_with_their_options() -> None:
    named = [(document, words) for document, piece in code() for words in _commands(piece)]
    assert len(named) > 30
    assert faults((document, fault) for document, words in named for fault in _faults_of(words)) == ""


def _commands(piece: str) -> Iterator[list[str]]:
    """The calls of our programs in one line: a command's words up to a pipe, a redirection or a comment."""
    for part in re.split(r"\s(?:[|>]|&&|#)\s?", piece.partition(" #")[0]):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        words = words[1:] if words[:1] == ["sudo"] else words
        if words and words[0].rpartition("/")[2] in SCRIPTS:
            yield [words[0].rpartition("/")[2], *words[1:]]


def _faults_of(words: list[str]) -> Iterator[str]:
    command, rest = SCRIPTS[words[0]], words[1:]
    if command is None:  # a service without a command line
        yield from (f"{words[0]} has no {word}" for word in rest)
        return
    context = click.Context(command)
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-") and not rest[0].isupper():
        found = command.get_command(context, rest[0])
        if found is None:
            yield f"{' '.join(words)}: there is no command {rest[0]}"
            return
        command, rest = found, rest[1:]
    known = {
        option
        for param in command.get_params(click.Context(command))
        for option in (*param.opts, *param.secondary_opts)
    }
    for word in rest:
        if word == "--":
            return
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", option) and option not in known | {"--help", "-h"}:
            yield f"{' '.join(words)}: there is no option {option}"


def test_modules_that_are_run_exist() -> None:
    named = [(document, name) for document, piece in code() for name in re.findall(r"-m (kakuremichi[\w.]*)", piece)]
    assert named
    assert faults((document, name) for document, name in named if importlib.util.find_spec(name) is None) == ""


def test_programs_and_units_exist() -> None:
    known = {path.name for path in (ROOT / "deploy/systemd").iterdir()} | set(SCRIPTS)

    def missing() -> Iterator[tuple[str, str]]:
        for document, piece in code():
            for word in re.findall(r"(?<![\w/.-])(?:kakuremichi-[a-z-]+|wireguard-go@[a-z0-9]*)(?:\.[a-z]+)?", piece):
                if re.sub(r"@\w+", "@", word) not in known and f"{word}.service" not in known:
                    yield document, word

    assert faults(missing()) == ""


def test_variables_are_read_by_somebody() -> None:
    known = _settings() | _literal_variables()

    def missing() -> Iterator[tuple[str, str]]:
        pattern = r"(?<![\w<])(KAKUREMICHI_[A-Z0-9_]+|OTEL_[A-Z_]+|NATS_[A-Z]+|DATABASE_URL)(?![\w<])"
        for document, piece in code():
            for word in re.findall(pattern, piece):
                if word not in known:
                    yield document, word

    assert faults(missing()) == ""


def _settings() -> set[str]:
    fields = {
        f"{PREFIX}{field.name.upper()}"
        for config in (RegistryConfig, KeyringConfig, PortalConfig, ProvisionerConfig)
        for field in msgspec.structs.fields(config)
    }
    options = {f"{PREFIX}{param.name.upper()}" for node in (gateway, agent) for param in node.params if param.name}
    return fields | {f"{name}_FILE" for name in fields} | options


@cache
def _literal_variables() -> set[str]:
    sources = [path for folder in ("libs", "services") for path in (ROOT / folder).rglob("*.py")]
    found = {word for path in sources for word in re.findall(r"\"([A-Z][A-Z0-9_]{3,})\"", path.read_text())}
    units = "".join(path.read_text() for path in (ROOT / "deploy/systemd").iterdir())
    return found | set(re.findall(r"Environment=([A-Z_]+)=", units))


def _direct_dependencies() -> dict[str, set[str]]:
    """Name → extras that ask for it, the core being ""."""
    asked: dict[str, set[str]] = {}
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for extra, requirements in groups.items():
        for requirement in requirements:
            name = re.split(r"[\[<>=~! ]", requirement)[0]
            if name != PROJECT["name"]:
                asked.setdefault(name, set()).add(extra)
    return asked


def _rows() -> dict[str, str]:
    lines = (ROOT / "docs/dependencies.md").read_text().splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| `([^`]+)` \|", line))}


def test_every_python_dependency_has_a_row_with_its_pinned_version_and_extras() -> None:
    rows = _rows()
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE))
    for name, extras in _direct_dependencies().items():
        assert name in rows, f"{name}: no row in docs/dependencies.md"
        assert f"| {pinned[name]} |" in rows[name], f"{name}: {pinned[name]} is pinned"
        for extra in extras - {"", "dev"}:
            assert f"`{extra}`" in rows[name], f"{name}: is asked for by the extra {extra}"


def test_every_debian_package_has_a_row() -> None:
    script = (ROOT / "scripts/install-debian.sh").read_text()
    packages = {name for block in re.findall(r"_packages=\(([^)]*)\)", script) for name in block.split()} | {
        "wireguard-go",
        "linux-image-amd64",
    }
    assert len(packages) > 10
    assert packages <= _rows().keys(), f"no row for {sorted(packages - _rows().keys())}"


def test_no_row_is_left_of_what_is_not_used_any_more() -> None:
    script = (ROOT / "scripts/install-debian.sh").read_text() + (ROOT / "scripts/debian.sh").read_text()
    asked = _direct_dependencies()
    gone = [
        name for name in _rows() if name not in asked and not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", script)
    ]
    assert gone == []


def test_decisions_are_listed_and_have_their_three_parts() -> None:
    folder = ROOT / "docs/adr"
    pages = sorted(folder.glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == [page.name for page in pages]
    for number, page in enumerate(pages, 1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
