"""`kakuremichi lab` as a person types it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kakuremichi.lab.internet import Lab

pytestmark = pytest.mark.root


def kakuremichi_lab(*argv: str) -> "subprocess.CompletedProcess[str]":
    code = "from kakuremichi.cli.lab import lab; lab()"
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def prefix() -> Iterator[str]:
    name = f"c{os.getpid()}-"
    yield name
    Lab(name).down()


def test_exec_passes_on_output_and_exit_code(prefix: str) -> None:
    assert kakuremichi_lab("up", "--prefix", prefix).returncode == 0

    done = kakuremichi_lab("exec", "--prefix", prefix, "visitor", "--", "sh", "-c", "hostname -I; exit 7")

    assert done.returncode == 7
    assert done.stdout.split()[0] == "198.51.100.10"


def test_status_lists_the_hosts_and_fails_when_the_lab_is_down(prefix: str) -> None:
    assert kakuremichi_lab("status", "--prefix", prefix).returncode == 1
    kakuremichi_lab("up", "--prefix", prefix)
    assert "site-c     10.1.0.50" in kakuremichi_lab("status", "--prefix", prefix).stdout
    assert kakuremichi_lab("down", "--prefix", prefix).returncode == 0
    assert kakuremichi_lab("status", "--prefix", prefix).returncode == 1


def test_what_cannot_be_done_is_said_in_a_sentence(prefix: str) -> None:
    down = kakuremichi_lab("exec", "--prefix", prefix, "visitor", "--", "true")
    assert (down.returncode, down.stderr) == (1, f"Error: lab {prefix} is not up: run 'kakuremichi lab up' first\n")

    unknown = kakuremichi_lab("exec", "--prefix", prefix, "mars", "--", "true")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("Error: host 'mars': not in this lab, which has backbone,")
