import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.bus.subject import SubjectRefusedError, check_pattern, check_subject, matches, template


@pytest.mark.parametrize("subject", ["feed.pool.blue", "$JS.API.STREAM.INFO.FEED", "_INBOX.portal.a1B2", "audit.key-1"])
def test_sound_subjects_pass(subject: str) -> None:
    assert check_subject(subject) == subject
    assert check_pattern(subject) == subject


@pytest.mark.parametrize("pattern", ["feed.pool.*", "reply.n1.>", ">", "*", "req.*.*.*"])
def test_patterns_are_for_listening_only(pattern: str) -> None:
    assert check_pattern(pattern) == pattern
    with pytest.raises(SubjectRefusedError):
        check_subject(pattern)


@pytest.mark.parametrize("bad", ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nPUB x", "a.>.b", "a.b*", "a\n", "ü"])
def test_what_could_say_more_than_a_subject_is_refused(bad: str) -> None:
    with pytest.raises(SubjectRefusedError):
        check_subject(bad)
    with pytest.raises(SubjectRefusedError):
        check_pattern(bad)


@given(st.text())
def test_nothing_that_passes_can_end_a_protocol_line(text: str) -> None:
    try:
        check_pattern(text)
    except SubjectRefusedError:
        return
    assert text.isascii()
    assert not set(text) & set(" \t\r\n\0")


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("feed.pool.*", "feed.pool.blue", True),
        ("feed.pool.*", "feed.pool", False),
        ("feed.pool.*", "feed.pool.blue.x", False),
        ("reply.*.>", "reply.n1.a.b", True),
        ("reply.*.>", "reply.n1", False),
        (">", "a", True),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_patterns_match_as_nats_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("feed.pool.blue", "feed.pool.*"),
        ("feed.agent.ag-1", "feed.agent.*"),
        ("beacon.fleet.blue", "beacon.*.*"),
        ("req.registry.snapshot.gw-1", "req.*.*.*"),
        ("report.gw-1", "report.*"),
        ("reply.gw-1.abc.def", "reply.*.>"),
        ("_INBOX.portal.abc.def", "_INBOX.*.>"),
        ("cp.registry.command", "cp.registry.command"),
        ("audit.node", "audit.*"),
        ("something.else.n1", "something.else.*"),
        ("alone", "alone"),
    ],
)
def test_names_in_traces_hold_no_ids(subject: str, name: str) -> None:
    assert template(subject) == name
