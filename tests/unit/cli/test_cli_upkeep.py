"""`kakuremichi revoke`, `rotate` and `release`: by name, whatever role it has."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kakuremichi.cli.exits import CONFLICT, NOT_FOUND, PARTIAL, CliError
from kakuremichi.cli.nodes import agent
from kakuremichi.cli.upkeep import revoke, rotate

WRITTEN = {"name": "site-a", "changed": True}
APPLIED = WRITTEN | {
    "applied": [{"node": "gw1", "ms": 9.4}, {"node": "gw2", "ms": 12.6}],
    "pending": [], "offline": [], "gateways": ["gw1", "gw2"], "errors": [],
}  # fmt: skip


class Portal:
    """Knows one agent, site-a. `keys` are what it shows as its key, one after the other."""

    def __init__(self, *keys: str) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.keys = list(keys) or ["old"]

    def call(self, method: str, *where: str, **_options: Any) -> dict[str, Any]:
        self.asked.append((method, *where))
        if where[:2] != ("agents", "site-a"):
            raise CliError("there is none of this name", NOT_FOUND)
        if method == "GET":
            key = self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]
            return {"name": "site-a", "public_key": key, "epoch": 7}
        return APPLIED if where[-1] == "revoke" else WRITTEN


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Portal:
    made = Portal()
    monkeypatch.setattr("kakuremichi.cli.client.Client", lambda *_args, **_kwargs: made)
    monkeypatch.setattr("kakuremichi.cli.options.resolve", lambda *_args, **_kwargs: SimpleNamespace())
    monkeypatch.setattr("kakuremichi.cli.upkeep.POLL_S", 0)
    return made


def run(command: Any, *words: str) -> Result:
    return CliRunner().invoke(command, words)


def test_a_revocation_says_where_it_is_applied_and_how_long_the_last_took(portal: Portal) -> None:
    done = run(revoke, "site-a", "--yes")

    assert done.exit_code == 0, done.output
    assert done.output == "agent site-a revoked: applied on 2 of 2 gateways in 13 ms\n"
    assert portal.asked[-1] == ("POST", "agents", "site-a", "revoke")


def test_a_rotation_waits_for_the_new_key(portal: Portal) -> None:
    portal.keys = ["old", "old", "old", "new"]

    done = run(rotate, "site-a")

    assert done.output == "agent site-a rotated: its key is new, epoch 7\n"
    portal.keys = ["new", "new", "newer"]
    assert json.loads(run(rotate, "site-a", "-o", "json").output)["public_key"] == "newer"
    assert run(rotate, "site-a", "--no-wait").output == "agent site-a: asked for a new key\n"


def test_a_node_that_makes_no_key_in_time_is_done_in_part(portal: Portal) -> None:
    done = run(rotate, "site-a", "--timeout", "0.01")

    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == PARTIAL
    assert "no new key within 0.01 s" in done.output


@pytest.mark.parametrize("command", [revoke, rotate])
def test_an_unknown_name_is_not_found(portal: Portal, command: Any) -> None:
    done = run(command, "nobody")

    assert done.exit_code == NOT_FOUND
    assert "there is no gateway or agent of this name" in done.output


def test_another_refusal_is_passed_on(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: str, **_options: Any) -> dict[str, Any]:
        raise CliError("agent site-a: is revoked already", CONFLICT)

    monkeypatch.setattr(portal, "call", refuse)
    assert run(revoke, "site-a", "--yes").exit_code == CONFLICT


def test_a_release_is_said(portal: Portal) -> None:
    assert run(agent, "release", "site-a").output == "agent site-a released\n"
