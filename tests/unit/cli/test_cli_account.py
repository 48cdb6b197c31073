"""Accounts, sessions and limited tokens from the command line, against a portal on a real socket."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kakuremichi.cli.up import _setup_link
from kakuremichi.fleet.control_plane import ControlPlane
from unit.cli.test_cli_live import portal, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.usefixtures("portal")


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    (tmp_path / "password").write_text("moss on a stone\nand no more\n")
    return str(tmp_path / "password")


def accounts() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("account", "list", "-o", "json").stdout)
    return found


def test_up_says_a_link_until_there_is_an_administrator(
    request: pytest.FixtureRequest, tmp_path: Path, password_file: str
) -> None:
    url = request.getfixturevalue("portal").url
    control = SimpleNamespace(
        options=SimpleNamespace(portal_url=url), token_file=tmp_path / "admin.token", ca_file=None
    )
    said = _setup_link(cast(ControlPlane, control))
    assert re.fullmatch(r"  setup    \S+/setup\?code=[\w-]{32}   \(makes the first account; [^\n]+\)\n", said)
    assert run("account", "create", "ann", "--role", "admin", "--password-file", password_file).exit_code == 0
    assert _setup_link(cast(ControlPlane, control)) == ""
    control.token_file = tmp_path / "removed.token"
    assert _setup_link(cast(ControlPlane, control)) == ""


def test_an_account_is_made_changed_and_removed(password_file: str) -> None:
    made = run("account", "create", "hana", "--role", "publisher", "--pool", "main", "--agent", "site-a",
               "--password-file", password_file)  # fmt: skip
    assert made.exit_code == 0, made.output
    (hana,) = accounts()
    assert (hana["role"], hana["pools"], hana["agents"]) == ("publisher", ["main"], ["site-a"])
    assert "pool main, agent site-a" in run("account", "list").stdout

    assert run("account", "change", "hana", "--agent", "", "--disable").exit_code == 0
    (hana,) = accounts()
    assert (hana["role"], hana["pools"], hana["agents"], hana["disabled"]) == ("publisher", ["main"], [], True)
    assert run("account", "change", "hana", "--enable").exit_code == 0
    assert not accounts()[0]["disabled"]
    assert run("account", "password", "hana", "--password-file", password_file).exit_code == 0
    assert run("account", "remove", "hana").exit_code == 0
    assert accounts() == []


def test_a_password_is_asked_for_twice_and_shown_nowhere() -> None:
    result = run("account", "create", "hana", input="moss on a stone\nmoss on a stone\n")
    assert result.exit_code == 0, result.output
    assert "moss" not in result.output
    short = run("account", "create", "aki", input="short\nshort\n")
    assert short.exit_code != 0
    assert "12 to 256 characters" in short.output


def test_sessions_are_listed_and_one_that_is_not_there_is_told() -> None:
    assert run("session", "list").stdout.split() == ["ID", "WHO", "METHOD", "SOURCE", "OPENED", "SEEN"]
    assert run("session", "list", "-o", "name").stdout == ""
    result = run("session", "end", "0" * 16)
    assert result.exit_code != 0
    assert "session" in result.output


def test_a_token_may_be_limited(tmp_path: Path) -> None:
    to = tmp_path / "deploy.token"
    made = run("api-token", "create", "deploy", "--scope", "publish", "--pool", "main", "--agent", "site-a", "--to",
               str(to))  # fmt: skip
    assert made.exit_code == 0, made.output
    listed = {item["name"]: item for item in json.loads(run("api-token", "list", "-o", "json").stdout)}
    assert (listed["deploy"]["pools"], listed["deploy"]["agents"]) == (["main"], ["site-a"])
    assert run("get", "services", "--token-file", str(to), "-o", "name").stdout == ""
    assert run("api-token", "list", "--token-file", str(to)).exit_code != 0
