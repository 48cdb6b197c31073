"""The kernel's own WireGuard: the contract suites, run inside a machine whose kernel has it."""

import re
import sys
from pathlib import Path

import pytest

from kakuremichi.lab.programs import PROJECT
from real.qemu.machine import MachineMissingError, find_qemu_kernel, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODULES = ("wireguard", "tun", "bridge", "dummy")
KERNEL_CASES = 35  # fewer would mean that the suites left the kernel out
SUITES = ("tests/contract/test_wireguard_device.py", "tests/contract/test_links_device.py")


def test_the_contract_suites_pass_on_debians_kernel(tmp_path: Path) -> None:
    try:
        machine = find_qemu_kernel()
    except MachineMissingError as error:
        pytest.skip(str(error))
    pytest_options = [
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=200",
        "-k",
        "not userspace and not memory",
        "--color=no",
        "--durations=5",
    ]
    command = [sys.executable, "-m", "pytest", *pytest_options, *SUITES]

    status, console = run(machine, command, folder=PROJECT, modules=MODULES, scratch=tmp_path, timeout_s=280)

    assert status == 0, console
    assert "cannot insert" not in console
    passed = re.search(r"(\d+) passed", console)
    assert passed is not None
    assert int(passed.group(1)) >= KERNEL_CASES, console
