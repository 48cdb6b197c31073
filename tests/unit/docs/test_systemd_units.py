"""The units for servers: what they start exists, and the data plane outlives Python."""

import importlib.util
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.listening import parse_bind
from kakuremichi.fleet.nodes import DOORS, DOORS6

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy/systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
HARDENING = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "LimitCORE": "0"}


def settings(path: Path) -> dict[str, list[str]]:
    """Name → values in order, of all sections; a name may be given several times."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_what_a_unit_starts_exists(path: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    words = settings(path)["ExecStart"][0].split()
    program = Path(words[0]).name
    if program == "python":
        assert words[1] == "-m"
        assert importlib.util.find_spec(words[2]) is not None
    else:
        assert program in scripts or program == "wireguard-go"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_every_unit_is_confined_and_runs_as_no_root(path: Path) -> None:
    found = settings(path)
    assert found["User"] == ["kakuremichi"]
    assert {name: found[name][-1] for name in HARDENING} == HARDENING
    assert found["CapabilityBoundingSet"][0] in ("", "CAP_NET_ADMIN")
    assert found["Restart"] == ["always"]


def test_haproxy_and_wireguard_go_are_units_of_their_own() -> None:
    for node in ("gateway", "agent"):
        found = settings(FOLDER / f"kakuremichi-{node}.service")
        # Stopping with it would be the data plane stopping with Python.
        assert not {"BindsTo", "Requires", "PartOf"} & found.keys()
    assert settings(FOLDER / "kakuremichi-haproxy.service")["KillMode"] == ["process"]


def test_the_sockets_bear_the_names_that_the_configuration_binds() -> None:
    for path in FOLDER.glob("*.socket"):
        found = settings(path)
        bind = parse_bind(f"{found['FileDescriptorName'][0]}={found['ListenStream'][0]}")
        bind = replace(bind, transparent=found.get("Transparent") == ["yes"])
        assert bind in {parse_bind(door) for door in (*DOORS, *DOORS6)}
        assert (FOLDER / found["Service"][0]).exists()


def test_the_folders_are_those_that_the_programs_use_by_themselves() -> None:
    gateway = (ROOT / "services/gateway/kakuremichi_gateway/__main__.py").read_text()
    haproxy = settings(FOLDER / "kakuremichi-haproxy.service")
    folder = re.search(r"--dir (\S+)", haproxy["ExecStart"][0])
    assert folder is not None
    assert f'Path("{folder[1]}")' in gateway
    assert f"/run/{haproxy['RuntimeDirectory'][0]}" == folder[1]
    assert settings(FOLDER / "kakuremichi-gateway.service")["RuntimeDirectory"] == haproxy["RuntimeDirectory"]
    for node in ("gateway", "agent"):
        assert settings(FOLDER / f"kakuremichi-{node}.service")["StateDirectory"] == [f"kakuremichi/{node}"]
