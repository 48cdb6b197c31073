"""Subjects as strings: which are sound, which pattern takes which, and how one is called where ids may not appear."""

import re

from kakuremichi.bus.port import BusError
from kakuremichi.wire import subjects

_TOKEN = re.compile(r"\A[A-Za-z0-9_$-]+\Z")

# Subjects that carry an id, an inbox or a topic, and their names in traces and metrics.
_TEMPLATES = (
    subjects.POOL_FEED,
    subjects.FLEET_FEED,
    subjects.AGENT_FEED,
    subjects.BEACON,
    subjects.AUDIT,
    subjects.REPORT,
    subjects.TRACE,
    subjects.ASK_COUNTERS,
    subjects.COUNTERS,
    subjects.ANNOUNCE,
    "req.*.*.*",
    "reply.*.>",
    "_INBOX.*.>",
)
_TEMPLATES_BY_HEAD = {
    head: tuple(known for known in _TEMPLATES if known.startswith(f"{head}."))
    for head in {known.partition(".")[0] for known in _TEMPLATES}
}
_LITERAL = frozenset({subjects.KEY, subjects.COMMAND, subjects.HISTORY, subjects.PEOPLE, subjects.ARRIVALS})


class SubjectRefusedError(BusError):
    """The text is no subject that we send to or listen on."""


def check_subject(subject: str) -> str:
    """`subject` if messages may be sent to it: dot-separated tokens, no wildcard, no blank, no line end."""
    if not all(_TOKEN.match(token) for token in subject.split(".")):
        raise SubjectRefusedError(
            f"subject {subject!r}: not tokens of letters, digits, '_', '$' and '-' with dots between"
        )
    return subject


def check_pattern(pattern: str) -> str:
    """`pattern` if it may be listened on: a subject where a token may be `*` and the last one `>`."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        tokens.pop()
    if not all(token == "*" or _TOKEN.match(token) for token in tokens):
        raise SubjectRefusedError(
            f"subject {pattern!r}: not tokens of letters, digits, '_', '$' and '-', '*' or a last '>'"
        )
    return pattern


def matches(pattern: str, subject: str) -> bool:
    """Whether NATS would deliver a message to `subject` on a subscription of `pattern`."""
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def template(subject: str) -> str:
    """The name of `subject` without ids: `feed.pool.*` for `feed.pool.blue`. Unknown ones lose their last token."""
    if subject in _LITERAL:
        return subject
    for known in _TEMPLATES_BY_HEAD.get(subject.partition(".")[0], ()):
        if matches(known, subject):
            return known
    head, dot, _ = subject.rpartition(".")
    return f"{head}.*" if dot else subject
