"""The line that `kakuremichi token create` prints, run as it is by a shell at the site."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import Fleet, fleet_in
from kakuremichi.lab.internet import Lab
from kakuremichi.node.state import NodeState
from kakuremichi.wire.enrolment import parse_join_token

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

NAME = "site-join"
NOBODY = 65534
AS_JOIN_DOES = """
import os, sys
from pathlib import Path
from kakuremichi.node.join import become_owner
from kakuremichi.node.state import NodeState
state = NodeState(Path(sys.argv[1]))
become_owner(state.directory)
state.open()
state.save_join_token("kk1.token")
state.identity()
assert os.getresuid() == (65534,) * 3 and os.getgroups() == []
"""


@pytest.fixture
async def fleet(key_fleet: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*key_fleet) as running:
        yield running


@pytest.fixture
def line(fleet: Fleet) -> Iterator[str]:
    """As the operator gets it at the control plane; the node is removed again."""
    options = ("--url", fleet.control.options.portal_url, "--token-file", str(fleet.control.token_file))
    made = fleet.lab.run(
        "control",
        [sys.executable, "-m", "kakuremichi.cli", "token", "create", "--role", "agent", "--name", NAME,
         *options, "--ca-file", str(fleet.control.ca_file)],
        check=True,
    )  # fmt: skip
    yield made.stdout
    with fleet.api() as api:
        api.call("DELETE", f"/agents/{NAME}", None)


def paste(fleet: Fleet, line: str, state: Path) -> "subprocess.CompletedProcess[str]":
    """Into a shell of the site, as a person does: the line is in no argument of any program."""
    programs = Path(sys.executable).parent
    script = f"PATH={programs}:$PATH\nexport KAKUREMICHI_STATE={state}\n{line}"
    return fleet.lab.run("site-a", ["sh"], stdin=script, timeout=60)


async def test_the_printed_line_makes_the_machine_that_node_once(fleet: Fleet, line: str, tmp_path: Path) -> None:
    assert line.count("\n") == 1
    state = NodeState(tmp_path / "state")

    joined = await asyncio.to_thread(paste, fleet, line, state.directory)

    assert (joined.returncode, joined.stdout) == (0, f"agent {NAME} of pool default: enrolled\n"), joined.stderr
    enrolment = state.enrolment()
    assert enrolment is not None
    assert enrolment.node.node_id == NAME
    enrolment.verifier().certificate(enrolment.answer.certificate, new=True)
    token = line.split()[1]
    assert parse_join_token(token).ca, "the deployment's own CA is pinned"
    assert state.ca_file() is not None
    assert not [path for path in state.directory.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    with fleet.api() as api:
        assert api.get(f"/agents/{NAME}")["state"] == "enrolled"

    again = await asyncio.to_thread(paste, fleet, line, state.directory)
    assert again.returncode == 1
    assert f"{NAME} is enrolled here already" in again.stderr
    elsewhere = await asyncio.to_thread(paste, fleet, line, tmp_path / "elsewhere")
    assert elsewhere.returncode == 1
    assert "unknown, used or expired" in elsewhere.stderr
    assert token not in again.stderr + elsewhere.stderr


def test_what_root_writes_belongs_to_the_user_of_the_state_directory(run_dir: Path) -> None:
    """The service does not run as root, and has to read what `join` wrote."""
    run_dir.chmod(0o755)
    state = NodeState(run_dir / "state")
    state.directory.mkdir(mode=0o700)
    os.chown(state.directory, NOBODY, NOBODY)

    subprocess.run([sys.executable, "-c", AS_JOIN_DOES, str(state.directory)], check=True)

    files = list(state.directory.iterdir())
    assert {file.name for file in files} == {"join-token", "identity.seed"}
    assert {(file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) for file in files} == {
        (NOBODY, NOBODY, 0o600)
    }
