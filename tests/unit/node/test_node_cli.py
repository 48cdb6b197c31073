"""What a person meets who runs a node's program by hand."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kakuremichi.node.cli import NodeOptions, node_command
from kakuremichi.runtime.service import EXIT_CONFIG


@node_command("agent")
async def program(options: NodeOptions) -> None:
    """An agent that only enrols."""
    await options.enrolled(networks=())


def run(state: Path, *words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(program, ["--state", str(state), *words], input=stdin)


@pytest.mark.parametrize("stdin", ["", "\n", "site-a\n", "kk1.\n", "kk1.c2VjcmV0LXNlY3JldA\n", "x" * 5000])
def test_what_is_no_token_is_refused_and_neither_kept_nor_repeated(tmp_path: Path, stdin: str) -> None:
    result = run(tmp_path / "state", "join", stdin=stdin)
    assert result.exit_code == 1
    assert "Error: join token: " in result.stderr
    assert "c2VjcmV0" not in result.output
    assert "xxxx" not in result.output
    assert not (tmp_path / "state" / "join-token").exists()


def test_without_a_token_the_service_says_what_to_do_and_is_not_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path / "state")
    assert result.exit_code == EXIT_CONFIG
    assert "kakuremichi token create" in result.output + capfd.readouterr().err


def test_a_token_is_never_an_argument(tmp_path: Path) -> None:
    """A command line is seen by every user of the machine."""
    for words in (("--join-token", "kk1.x"), ("join", "kk1.x"), ("kk1.x",)):
        assert run(tmp_path / "state", *words).exit_code == 2
