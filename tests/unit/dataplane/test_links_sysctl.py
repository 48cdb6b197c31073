"""Kernel settings: written where they differ, read back, refused with a sentence."""

from pathlib import Path

import pytest

from kakuremichi.dataplane.links.device import LinkError
from kakuremichi.dataplane.links.sysctl import Setting, ensure, per_interface, without_ipv6

NAME = "net/ipv4/ip_forward"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net/ipv4").mkdir(parents=True)
    (tmp_path / NAME).write_text("0\n")
    return tmp_path


def test_a_value_that_differs_is_written(root: Path) -> None:
    assert ensure({NAME: "1"}, root) == (Setting(NAME, "1"),)
    assert (root / NAME).read_text() == "1"


def test_a_value_that_is_right_is_not_written(root: Path) -> None:
    before = (root / NAME).stat().st_mtime_ns

    assert ensure({NAME: "0"}, root) == (Setting(NAME, "0"),)
    assert (root / NAME).stat().st_mtime_ns == before


def test_a_setting_that_does_not_exist_is_named(root: Path) -> None:
    (setting,) = ensure({"net/ipv4/nothing": "1"}, root)

    assert setting.error == "sysctl net/ipv4/nothing: this kernel or network namespace does not have it"


def test_a_setting_that_cannot_be_written_says_what_is_needed(root: Path) -> None:
    # A folder in its place refuses reading and writing to root as well.
    (root / "net/ipv4/folder").mkdir()

    (setting,) = ensure({"net/ipv4/folder": "1"}, root)

    assert setting.error is not None
    assert "1 is needed, writing it failed (Is a directory); set it from outside" in setting.error


def test_a_value_that_the_kernel_does_not_take_is_an_error(root: Path) -> None:
    (root / "null").symlink_to("/dev/null")

    (setting,) = ensure({"null": "1"}, root)

    assert setting.error == "sysctl null: 1 is needed, the kernel says "


def test_one_bad_setting_does_not_stop_the_others(root: Path) -> None:
    assert [setting.error is None for setting in ensure({"no": "1", NAME: "1"}, root)] == [False, True]


def test_an_interface_name_with_dots_stays_one_folder() -> None:
    assert per_interface("eth0.7", rp_filter="2") == {"net/ipv4/conf/eth0.7/rp_filter": "2"}
    with pytest.raises(LinkError, match="interface name"):
        per_interface("../all", rp_filter="2")


def test_an_interface_has_ipv6_where_the_kernel_has_it_and_nobody_has_turned_it_off(root: Path) -> None:
    assert without_ipv6("kk0", root).startswith("this host has no IPv6")
    setting = root / "net/ipv6/conf/kk0/disable_ipv6"
    setting.parent.mkdir(parents=True)
    setting.write_text("1\n")
    assert without_ipv6("kk0", root).startswith("sysctl net/ipv6/conf/kk0/disable_ipv6: is not 0")
    setting.write_text("0\n")
    assert without_ipv6("kk0", root) == ""
