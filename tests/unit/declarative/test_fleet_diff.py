"""Which steps lead from what stands to what a file declares."""

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.declarative.diff import (
    Conflict,
    Create,
    Remove,
    Replace,
    Standing,
    Step,
    different,
    standing_of,
    steps_between,
)
from kakuremichi.declarative.spec import ServiceSpec


def tcp(port: int, *sources: str, last: int = 0) -> ServiceSpec:
    return ServiceSpec(kind="tcp", port=port, last_port=last, sources=sources)


def test_a_source_removes_and_changes_its_own_and_leaves_others_alone() -> None:
    standing = {
        "old": Standing(tcp(1), "fleet", 3), "same": Standing(tcp(2), "fleet", 4),
        "moved": Standing(tcp(3), "fleet", 5), "theirs": Standing(tcp(4), "other", 6),
        "hand": Standing(tcp(5), "", 7), "unnamed": Standing(tcp(6), "other", 8),
    }  # fmt: skip
    declared = {"same": tcp(2), "moved": tcp(33), "theirs": tcp(4), "hand": tcp(5), "new": tcp(9)}
    assert steps_between(standing, declared, "fleet") == (
        Remove("old", 3),
        Conflict("hand", ""),
        Replace("moved", tcp(33), 5, ("port", "last_port")),
        Create("new", tcp(9)),
        Conflict("theirs", "other"),
    )


def test_adoption_names_from_whom() -> None:
    standing = {"hand": Standing(tcp(5), "", 7), "theirs": Standing(tcp(4), "other", 6)}
    declared = {"hand": tcp(5), "theirs": tcp(44)}
    assert steps_between(standing, declared, "fleet", adopt=frozenset({""})) == (
        Replace("hand", tcp(5), 7, ("source",), ""),
        Conflict("theirs", "other"),
    )
    assert steps_between(standing, declared, "fleet", adopt=frozenset({"other"}))[1] == Replace(
        "theirs", tcp(44), 6, ("port", "last_port", "source"), "other"
    )


def test_two_ways_to_say_the_same_are_no_difference() -> None:
    assert different(tcp(1, "10.0.0.0/8", "192.0.2.1/32"), tcp(1, "192.0.2.1/32", "10.0.0.0/8", last=1)) == ()
    assert different(tcp(1), tcp(1, last=2)) == ("last_port",)


def test_what_a_newer_portal_says_beside_is_passed_over() -> None:
    service = {
        "name": "ssh", "kind": "tcp", "pool": "default", "host": "", "path": "", "port": 1, "last_port": 1,
        "sources": [], "options": {}, "updated_seq": 17, "source": "fleet", "colour": "red",
        "targets": [{"id": "ssh-1", "agent": "site-a", "address": "127.0.0.1", "port": 22, "agent_port": 20000}],
    }  # fmt: skip
    found = standing_of(service)
    assert (found.source, found.seq, found.spec.targets[0].port) == ("fleet", 17, 22)


specs = st.builds(tcp, st.integers(1, 3))
sources = st.sampled_from(["", "fleet", "other"])
fleets = st.dictionaries(st.sampled_from("abcde"), st.builds(Standing, specs, sources, st.integers(1, 9)))


def after(standing: dict[str, Standing], steps: tuple[Step, ...]) -> dict[str, Standing]:
    """What the registry makes of the steps."""
    found = dict(standing)
    for step in steps:
        match step:
            case Remove(name):
                del found[name]
            case Create(name, spec) | Replace(name, spec):
                found[name] = Standing(spec, "fleet", 10)
    return found


@given(fleets, st.dictionaries(st.sampled_from("abcde"), specs), st.frozensets(sources))
def test_applying_reaches_the_file_touches_nobody_and_is_done_once(
    standing: dict[str, Standing], declared: dict[str, ServiceSpec], adopt: frozenset[str]
) -> None:
    steps = steps_between(standing, declared, "fleet", adopt=adopt)
    reached = after(standing, steps)
    conflicts = {step.name for step in steps if isinstance(step, Conflict)}
    own = {name: one.spec for name, one in reached.items() if one.source == "fleet"}
    assert own == {name: spec for name, spec in declared.items() if name not in conflicts}
    for name, one in standing.items():
        if one.source not in {"fleet", *adopt} or (one.source != "fleet" and name not in declared):
            assert reached[name] == one
    again = steps_between(reached, declared, "fleet", adopt=adopt)
    assert {step.name for step in again} == conflicts
