"""`kakuremichi counters`: figures in columns, and who did not answer on standard error."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kakuremichi.cli.counters import HEAD, cells, counters

UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("connections", "open", "requests", "statuses", "bytes_in", "bytes_out", "packets_in", "packets_out", "denied",
     "limited", "connect_errors", "response_errors", "rate")
)  # fmt: skip
WEB = UNKNOWN | {
    "open": 1, "requests": 9, "statuses": {"1xx": 0, "2xx": 7, "3xx": 1, "4xx": 1, "5xx": 0}, "bytes_in": 900,
    "bytes_out": 70300, "denied": 1, "rate": 2.0,
}  # fmt: skip
FLOWS = UNKNOWN | {
    "connections": 3, "bytes_in": 999_999, "bytes_out": 1_234_567_890, "limited": 2, "rate": 0.25,
}  # fmt: skip
ONE = {
    "name": "wiki", "kind": "http", "pool": "default", "total": WEB, "gateways": [{"node": "gw1", **WEB}],
    "silent": ["gw2"], "errors": [{"node": "gw3", "message": "haproxy: nobody answers"}],
}  # fmt: skip
ALL = {
    "items": [{"name": "ssh", "total": FLOWS}, {"name": "wiki", "total": WEB}], "silent": [], "errors": [],
    "next_after": "",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def call(_method: str, *where: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        calls.append((*where, query))
        return ONE if where[0] == "services" else ALL

    monkeypatch.setattr("kakuremichi.cli.client.Client", lambda *_args, **_kwargs: SimpleNamespace(call=call))
    monkeypatch.setattr("kakuremichi.cli.options.resolve", lambda *_args, **_kwargs: SimpleNamespace())
    return calls


def run(*words: str) -> Result:
    done = CliRunner().invoke(counters, words)
    assert done.exit_code == 0, done.output
    return done


def test_a_service_is_shown_in_all_and_by_gateway_and_the_silent_are_named(asked: list[tuple[Any, ...]]) -> None:
    done = run("wiki")

    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["GATEWAY", *HEAD]
    figures = ["1", "9", "2.0", "0", "7", "1", "1", "0", "1", "900", "70.3k"]
    assert rows[1:] == [["(all)", *figures], ["gw1", *figures]]
    assert "gateway gw2: did not answer" in done.stderr
    assert "gateway gw3: haproxy: nobody answers" in done.stderr
    assert asked == [("services", "wiki", "counters", None)]


def test_all_services_are_one_line_each(asked: list[tuple[Any, ...]]) -> None:
    rows = [line.split() for line in run("--pool", "main").stdout.splitlines()]

    assert [row[0] for row in rows] == ["SERVICE", "ssh", "wiki"]
    assert asked == [("counters", {"pool": "main"})]


def test_programs_have_json_and_names(asked: list[tuple[Any, ...]]) -> None:
    assert json.loads(run("wiki", "-o", "json").stdout) == ONE
    assert run("-o", "name").stdout == "ssh\nwiki\n"
    assert run("wiki", "-o", "name").stdout == "gw1\n"
    assert len(asked) == 3


def test_what_is_not_known_is_no_number() -> None:
    assert cells(UNKNOWN) == ("-",) * len(HEAD)
    assert cells(FLOWS) == ("-", "3", "0.2", "-", "-", "-", "-", "-", "2", "1000.0k", "1.2G")
