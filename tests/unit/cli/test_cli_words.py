"""What the command line reads and prints, without a portal."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kakuremichi.cli import __main__ as entry
from kakuremichi.cli.applied import remarks, sentence
from kakuremichi.cli.context import context_path, resolve, save_context
from kakuremichi.cli.exits import CliError
from kakuremichi.cli.output import print_fields, print_table
from kakuremichi.cli.service import Public, public_of, target_of


@pytest.mark.parametrize(
    ("text", "port", "target"),
    [
        ("site-a:8080", 0, ("site-a", "127.0.0.1", 8080)),
        ("site-a=192.168.2.130:22", 0, ("site-a", "192.168.2.130", 22)),
        ("site-a=[fd00::1]:22", 0, ("site-a", "fd00::1", 22)),
        ("site-a", 6000, ("site-a", "127.0.0.1", 6000)),
        ("site-a=192.168.2.130", 6000, ("site-a", "192.168.2.130", 6000)),
    ],
)
def test_a_target_is_an_agent_an_address_and_a_port(text: str, port: int, target: tuple[str, str, int]) -> None:
    assert tuple(target_of(text, port).values()) == target


@pytest.mark.parametrize("text", ["", ":80", "site-a", "site-a:", "site-a:0", "site-a:65536", "site-a:x", "site-a=:80"])
def test_a_target_that_is_not_whole_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter):
        target_of(text, 0)


def test_an_address_after_a_colon_is_told_its_place() -> None:
    with pytest.raises(click.BadParameter, match=r"as in site-a=192\.168\.2\.130:22$"):
        target_of("site-a:192.168.2.130:22", 0)


def test_the_public_side_is_one_of_four() -> None:
    assert public_of(http="a.test", tls=None, tcp=None, udp=None) == Public("http", host="a.test")
    assert public_of(http=None, tls=None, tcp="6000-6010", udp=None) == Public("tcp", port=6000, last_port=6010)
    assert public_of(http=None, tls=None, tcp=None, udp="53") == Public("udp", port=53, last_port=53)
    for wrong in ({"http": "a", "tcp": "1"}, {}, {"tcp": "0"}, {"tcp": "1-"}, {"tcp": "-5"}, {"udp": "99999"}):
        with pytest.raises(click.UsageError):
            public_of(**{"http": None, "tls": None, "tcp": None, "udp": None} | wrong)


def answer(
    applied: list[tuple[str, float]], pending: list[str], offline: list[str], gateways: list[str]
) -> dict[str, object]:
    return {
        "applied": [{"node": node, "ms": ms} for node, ms in applied], "pending": pending, "offline": offline,
        "gateways": gateways, "errors": [{"node": "gw3", "message": "no room"}],
    }  # fmt: skip


def test_the_sentence_counts_gateways_and_takes_the_slowest() -> None:
    three = ["gw1", "gw2", "gw3"]
    whole = answer([("gw1", 4.2), ("gw2", 9.1), ("gw3", 8.0), ("site-a", 30.0)], [], [], three)
    assert sentence(whole) == "applied on 3 of 3 gateways in 9 ms"
    partial = answer([("gw1", 4.2)], ["gw3", "site-a"], ["gw2"], three)
    assert sentence(partial) == "applied on 1 of 3 gateways in 4 ms"
    assert remarks(partial) == ["gw3: no room", "site-a: not yet", "gw2: offline, applies it when it returns"]
    assert sentence(answer([("site-a", 2.0)], [], [], [])) == "applied on 1 of 1 node in 2 ms"
    assert sentence(answer([], ["gw1"], [], ["gw1"])) == "applied on 0 of 1 gateway"


def test_flags_come_before_the_environment_and_that_before_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KAKUREMICHI_URL", "KAKUREMICHI_TOKEN", "KAKUREMICHI_TOKEN_FILE", "KAKUREMICHI_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(CliError, match="no portal is known") as unknown:
        resolve(None, None)
    assert unknown.value.exit_code == 2

    for name in ("saved", "named", "flag"):
        (tmp_path / name).write_text(f"token-{name}\n")
    assert save_context("http://saved:1/", tmp_path / "saved") == tmp_path / "kakuremichi/context.json"
    assert context_path().stat().st_mode & 0o777 == 0o600
    assert (resolve(None, None).url, resolve(None, None).token) == ("http://saved:1", "token-saved")
    monkeypatch.setenv("KAKUREMICHI_TOKEN_FILE", str(tmp_path / "named"))
    monkeypatch.setenv("KAKUREMICHI_URL", "https://named")
    assert (resolve(None, None).url, resolve(None, None).token) == ("https://named", "token-named")
    monkeypatch.setenv("KAKUREMICHI_TOKEN", "token-direct")
    assert resolve(None, None).token == "token-direct"
    assert resolve("http://flag", tmp_path / "flag").token == "token-flag"
    assert "token" not in repr(resolve("http://flag", tmp_path / "flag")).replace("token=hidden", "")
    with pytest.raises(CliError, match="does not begin with http"):
        resolve("ftp://x", None)


def test_a_context_file_that_is_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAKUREMICHI_CONTEXT", str(tmp_path / "context.json"))
    (tmp_path / "context.json").write_text("{")
    with pytest.raises(CliError, match="cannot be read"):
        resolve(None, None)


def test_tables_align_and_fields_stack(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE"), [("wiki", "active"), ("a-longer-name", "no-target")])
    print_fields([("Name", "wiki"), ("Targets", ["a", "b"]), ("Errors", [])])
    assert capsys.readouterr().out == (
        "NAME           STATE\nwiki           active\na-longer-name  no-target\n"
        "Name:     wiki\nTargets:  a\n          b\nErrors:   -\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    result = CliRunner().invoke(entry.cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_KAKUREMICHI_COMPLETE" in result.stdout


def test_every_command_has_help_and_a_line_in_the_overview() -> None:
    overview = CliRunner().invoke(entry.cli, ["--help"]).stdout
    assert "Exit codes: 0 done" in overview
    for name in entry.COMMANDS:
        assert f"\n  {name} " in overview
        if name not in ("up", "down", "demo", "lab"):
            assert CliRunner().invoke(entry.cli, [name, "--help"]).exit_code == 0
    assert CliRunner().invoke(entry.cli, ["nothing"]).exit_code == 2


def test_a_command_whose_packages_are_not_installed_says_which_extra_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(entry.COMMANDS, "up", ("kakuremichi.cli.no_such_module", "up", ""))
    result = CliRunner().invoke(entry.cli, ["up"])
    assert result.exit_code == 1
    assert "kakuremichi[up]" in result.stderr


def test_help_is_quick_because_it_imports_next_to_nothing() -> None:
    code = "import sys, kakuremichi.cli.__main__; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "rich", "http.client", "msgspec", "nats", "asyncio.events"} & set(loaded)


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "cli", interrupted)
    monkeypatch.setattr(sys, "argv", ["kakuremichi"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_main_passes_on_codes_and_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in ((["--version"], 0), (["get"], 2), (["get", "nothing"], 2), (["--nothing"], 2)):
        monkeypatch.setattr(sys, "argv", ["kakuremichi", *words])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        assert ended.value.code == code
    assert "Error" in capsys.readouterr().err
