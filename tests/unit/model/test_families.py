"""Which visitors a service cannot have is said in a sentence."""

import pytest

from kakuremichi.model.families import left_out


@pytest.mark.parametrize(("versions", "lacks"), [([4], "IPv6"), ([6, 6], "IPv4")])
def test_udp_serves_the_visitors_of_its_targets_family_only(versions: list[int], lacks: str) -> None:
    assert f"visitors by {lacks} cannot reach it" in left_out("udp", versions)


@pytest.mark.parametrize(("kind", "versions"), [("tcp", [4]), ("http", [6]), ("udp", [4, 6]), ("udp", [])])
def test_nobody_is_left_out_where_haproxy_carries_or_both_families_have_a_target(
    kind: str, versions: list[int]
) -> None:
    assert left_out(kind, versions) == ""


def test_a_range_of_tcp_ports_has_no_visitors_by_the_other_version() -> None:
    assert "cannot reach a range" in left_out("tcp", (4,), ranged=True)
    assert left_out("tcp", (4,)) == left_out("tcp", (4, 6), ranged=True) == ""
