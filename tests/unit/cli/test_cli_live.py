"""The command line against a portal that listens on a real socket, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from kakuremichi.cli.__main__ import cli
from kakuremichi.cli.context import save_context
from kakuremichi.wire import commands
from kakuremichi.wire.enrolment import parse_join_token
from unit.portal.fake_registry import GATEWAYS, node_view
from unit.portal.world import World, open_world

PUBLISH = ("service", "publish", "wiki", "--http", "wiki.lab.test", "--to", "site-a:8080")


class LivePortal:
    def __init__(self, loop: asyncio.AbstractEventLoop, world: World) -> None:
        self.loop, self.world = loop, world
        self.url = str(world.client.make_url("")).rstrip("/")

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def apply_at(self, *gateways: str) -> None:
        """From now on these gateways report every write as applied, at once; the others stay where they are."""
        decide = self.world.registry.decide

        async def decide_and_report(command: object) -> commands.Result:
            result = await decide(command)
            if isinstance(result, commands.Written):
                for gateway in gateways:
                    await self.world.node(gateway).report(result.seq)
            return result

        self.world.registry.decide = decide_and_report


@pytest.fixture
def portal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LivePortal]:
    for name in ("KAKUREMICHI_URL", "KAKUREMICHI_TOKEN", "KAKUREMICHI_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAKUREMICHI_CONTEXT", str(tmp_path / "context.json"))
    ready: Future[LivePortal] = Future()
    done = asyncio.Event()

    async def serve() -> None:
        async with open_world(tmp_path) as world:
            ready.set_result(LivePortal(asyncio.get_running_loop(), world))
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    with structlog.testing.capture_logs():  # else the portal's log lines end up in the command's output
        thread.start()
        live = ready.result(10)
        (tmp_path / "admin.token").write_text(live.world.admin + "\n")
        (tmp_path / "viewer.token").write_text(live.world.viewer + "\n")
        save_context(live.url, tmp_path / "admin.token")
        yield live
        live.loop.call_soon_threadsafe(done.set)
        thread.join(10)


def run(*words: str, **kwargs: Any) -> Result:
    return CliRunner().invoke(cli, words, **kwargs)


def test_publish_says_where_it_is_applied(portal: LivePortal) -> None:
    portal.apply_at(*GATEWAYS)
    result = run(*PUBLISH)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("wiki published: applied on 3 of 3 gateways in ")
    assert result.stdout.endswith(" ms\n")
    assert result.stderr == ""


def test_publish_with_a_gateway_that_is_late_ends_with_7_and_names_it(portal: LivePortal) -> None:
    portal.apply_at("gw1", "gw2")
    result = run(*PUBLISH, "--timeout", "0.3")
    assert result.exit_code == 7
    assert "applied on 2 of 3 gateways" in result.stdout
    assert result.stderr == "gw3: not yet\n"


def test_an_offline_gateway_is_told_and_is_no_failure(portal: LivePortal) -> None:
    portal.world.registry.nodes = [node_view("gw1"), node_view("gw2"), node_view("gw3", state="offline")]
    portal.apply_at("gw1", "gw2")
    result = run(*PUBLISH)
    assert result.exit_code == 0
    assert "applied on 2 of 3 gateways" in result.stdout
    assert result.stderr == "gw3: offline, applies it when it returns\n"


def test_without_waiting_it_is_only_published(portal: LivePortal) -> None:
    result = run(*PUBLISH, "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "wiki published\n")


def test_json_is_the_answer_of_the_api(portal: LivePortal) -> None:
    portal.apply_at(*GATEWAYS)
    answer = json.loads(run(*PUBLISH, "-o", "json").stdout)
    assert [one["node"] for one in answer["applied"]] == list(GATEWAYS)
    assert (answer["pending"], answer["offline"]) == ([], [])


def test_services_are_listed_with_what_carries_them(portal: LivePortal) -> None:
    run(*PUBLISH, "--no-wait")
    run("service", "publish", "ssh", "--tcp", "10022", "--to", "site-a=192.168.2.130:22", "--allow", "10.0.0.0/8",
        "--no-wait")  # fmt: skip
    result = run("get", "services")
    head, wiki, ssh = result.stdout.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert wiki.endswith("haproxy")
    assert ssh.endswith("nftables (no listening socket)")
    assert "site-a=192.168.2.130:22" in ssh
    assert run("get", "service", "-o", "name").stdout == "wiki\nssh\n"
    assert json.loads(run("get", "services", "-o", "json").stdout)["items"][1]["port"] == 10022


def test_describe_shows_one_thing_whole(portal: LivePortal) -> None:
    run(*PUBLISH, "--no-wait")
    shown = run("describe", "service", "wiki").stdout
    assert "Where:       http://wiki.lab.test\n" in shown
    assert "Visitors:    everybody\n" in shown
    assert "Subnet:       10.0.0.0/24\n" in run("describe", "agent", "site-a").stdout
    assert json.loads(run("describe", "gateway", "gw1", "-o", "json").stdout)["name"] == "gw1"
    assert "service.published" in run("describe", "event", "1").stdout


def test_unpublish_and_remove(portal: LivePortal) -> None:
    portal.apply_at(*GATEWAYS)
    run(*PUBLISH, "--no-wait")
    refused = run("agent", "remove", "site-a")
    assert refused.exit_code == 5
    assert "held by: wiki" in refused.stderr
    assert "applied on 3 of 3 gateways" in run("agent", "remove", "site-a", "--cascade", "--yes").stdout
    assert "wiki unpublished: applied on 3 of 3 gateways" in run("service", "unpublish", "wiki").stdout
    assert run("agent", "list").stdout.splitlines()[1:] == []
    assert len(run("gateway", "list").stdout.splitlines()) == 4


def test_a_join_line_is_the_only_thing_on_standard_output(portal: LivePortal) -> None:
    result = run("token", "create", "--role", "agent", "--name", "site-x", "--ttl", "60")
    echo, text, pipe, program, verb = result.stdout.split()
    assert (echo, pipe, program, verb) == ("echo", "|", "kakuremichi-agent", "join")
    assert parse_join_token(text).url == "http://control.test:8080"
    assert "site-x" in result.stderr
    assert text not in run("get", "tokens").stdout


def test_the_fields_of_a_join_token_are_json_for_programs(portal: LivePortal) -> None:
    made = json.loads(run("token", "create", "--role", "gateway", "--name", "gw9", "-o", "json").stdout)
    assert (made["role"], made["node"], made["pool"]) == ("gateway", "gw9", "default")
    assert parse_join_token(made["token"]).trust


@pytest.mark.parametrize("words", [("agent", "site-x"), ("--role", "agent"), ("--name", "site-x")])
def test_a_join_token_wants_a_role_and_a_name(portal: LivePortal, words: tuple[str, ...]) -> None:
    assert run("token", "create", *words).exit_code == 2


def test_a_join_token_lives_an_hour_at_most(portal: LivePortal) -> None:
    refused = run("token", "create", "--role", "agent", "--name", "site-x", "--ttl", "3601")
    assert refused.exit_code == 2
    assert "3601" in refused.stderr


def test_events_are_listed_oldest_first(portal: LivePortal) -> None:
    for name in ("a", "b"):
        run("service", "publish", name, "--http", f"{name}.lab.test", "--to", "site-a:1", "--no-wait")
    lines = run("get", "events").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SEQ", "1", "2"]


def test_status_counts_and_names_what_needs_a_look(portal: LivePortal) -> None:
    assert "Needs a look:  nothing" in run("status").stdout
    portal.world.registry.nodes.append(node_view("gw9", state="offline", warnings=("old wireguard-go",)))
    result = run("status")
    assert "Gateways:      3 of 4 live" in result.stdout
    assert "gateway gw9: offline" in result.stdout
    assert "gateway gw9: old wireguard-go" in result.stdout
    assert json.loads(run("status", "-o", "json").stdout)["gateways"] == {"total": 4, "good": 3}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("describe", "service", "nothing"), 3, "service nothing: there is none of this name"),
        (("service", "unpublish", "nothing"), 3, "service nothing: not known"),
        (("describe", "service", "../../healthz"), 3, "there is none of this name"),
        (("service", "publish", "Wiki", "--http", "a.test"), 2, "name: 1 to 31 of a-z"),
        (("get", "services", "--token-file", "/nonexistent"), 4, "token file /nonexistent"),
        (("get", "services", "--url", "http://127.0.0.1:9"), 6, "Connection refused"),
    ],
)
def test_each_kind_of_failure_has_its_code_and_sentence(
    portal: LivePortal, words: tuple[str, ...], code: int, said: str
) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_viewer_is_denied_and_the_registry_down_is_unreachable(portal: LivePortal, tmp_path: Path) -> None:
    denied = run(*PUBLISH, "--token-file", str(tmp_path / "viewer.token"))
    assert (denied.exit_code, denied.stderr.splitlines()[0]) == (
        4, "error: vic has a token of scope read: publish is needed here",
    )  # fmt: skip
    wrong = run("get", "services", env={"KAKUREMICHI_TOKEN": "kkapi.wrong"})
    assert (wrong.exit_code, "this token is not known" in wrong.stderr) == (4, True)
    portal.loop.call_soon_threadsafe(portal.world.registry_bus.disconnect)
    assert run("get", "services").exit_code == 6


def test_create_refuses_to_replace(portal: LivePortal) -> None:
    assert run(*PUBLISH, "--no-wait", "--create").exit_code == 0
    conflict = run(*PUBLISH, "--no-wait", "--create")
    assert conflict.exit_code == 5
    assert conflict.stderr.splitlines()[1:2] == ["  held by: wiki"]


def test_names_of_others_steer_no_terminal(portal: LivePortal) -> None:
    portal.world.registry.nodes = [node_view("gw1\x1b]0;owned\x07", version="\x9b2J")]
    shown = run("get", "gateways").stdout
    assert "\x1b" not in shown
    assert "\x9b" not in shown
