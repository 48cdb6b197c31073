"""Room for flows: sized from memory, never made smaller, and told of before it is used up."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.links.sysctl import at_least
from kakuremichi.dataplane.nftables.sizing import (
    LEAST,
    MOST,
    Use,
    conntrack_sizes,
    make_room,
    read_use,
    use_warning,
    widened,
)

MAX, COUNT = "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count"
BUCKETS, PORTS = "net/netfilter/nf_conntrack_buckets", "net/ipv4/ip_local_port_range"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net/ipv4").mkdir(parents=True)
    (tmp_path / "net/netfilter").mkdir()
    for name, value in ((MAX, "65536"), (COUNT, "12"), (BUCKETS, "16384"), (PORTS, "32768\t60999")):
        (tmp_path / name).write_text(f"{value}\n")
    return tmp_path


@given(st.integers(0, 2**45))
def test_flows_take_a_sixteenth_of_the_memory_within_bounds(memory: int) -> None:
    sizes = conntrack_sizes(memory)

    assert LEAST <= sizes[MAX] <= MOST
    assert sizes[BUCKETS] * 4 == sizes[MAX] - sizes[MAX] % 4
    assert sizes[MAX] == LEAST or sizes[MAX] * 512 * 16 <= memory
    assert list(sizes) == [BUCKETS, MAX]  # the first one moves the second


def test_room_is_made_and_never_taken(root: Path) -> None:
    assert [setting.error for setting in make_room(root)] == [None, None, None]
    assert int((root / MAX).read_text()) >= LEAST
    assert (root / PORTS).read_text() == "16384 65535"

    (root / MAX).write_text(str(MOST * 2))
    (root / PORTS).write_text("1024 65535")
    make_room(root)
    assert (root / MAX).read_text() == str(MOST * 2)
    assert (root / PORTS).read_text() == "1024 65535"


def test_what_a_container_may_not_set_is_named(root: Path) -> None:
    (root / PORTS).unlink()
    (root / PORTS).mkdir()

    assert [setting.name for setting in make_room(root) if setting.error] == [PORTS]
    (setting,) = at_least({"net/netfilter/none": 5}, root)
    assert setting.error is not None


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_a_range_of_ports_only_grows(first: int, last: int) -> None:
    low, high = map(int, widened(f"{first} {last}").split())

    assert low <= min(first, 16384)
    assert high == 65535


def test_use_is_read_from_the_kernel_or_not_known(root: Path) -> None:
    assert read_use(root) == Use(12, 65536)
    (root / COUNT).unlink()
    assert read_use(root) is None


def test_a_full_table_is_told_of_from_80_percent_until_it_is_below_70() -> None:
    said = ""
    told = []
    for count in (0, 79, 80, 95, 75, 70, 69, 79):
        said = use_warning(Use(count, 100), warned=bool(said))
        told.append(bool(said))

    assert told == [False, False, True, True, True, True, False, False]
    assert "80% of the 100 flows" in use_warning(Use(90, 100), warned=False)
    assert use_warning(Use(90, 100), warned=False) == use_warning(Use(91, 100), warned=True)
    assert use_warning(None, warned=True) == use_warning(Use(0, 0), warned=True) == ""
