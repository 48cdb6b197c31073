"""`apply`, `diff -f` and `export` against a real control plane: sources, dry runs, partial failure, bad files."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.deployment import Deployment, running_deployment

pytestmark = pytest.mark.timeout(180)

FLEET = """\
source: fleet
services:
  ssh:
    kind: tcp
    port: 10022
    sources: [198.51.100.0/24]
    targets: [{agent: site-a, address: 192.168.7.9, port: 22}]
  wiki:
    kind: http
    host: wiki.example.com
    targets: [{agent: site-a, port: 8080}]
    options:
      limits: {rate: 20}
      http: {pages: {503: "<h1>später</h1>"}}
"""


@pytest.fixture
async def deployment(run_dir: Path) -> AsyncIterator[Deployment]:
    async with running_deployment(run_dir) as made:
        gateway = await made.join("gateway", "gw1")
        await made.join("agent", "site-a")
        await gateway.follow()
        yield made


class Files:
    """Files, and what the command line makes of them."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.path = deployment, deployment.folder / "fleet.yaml"

    async def run(self, command: str, text: str | bytes, *words: str) -> tuple[int, str, str]:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return await self.deployment.cli(command, "-f", str(self.path), *words)

    async def applied(self, text: str, *words: str) -> str:
        code, out, said = await self.run("apply", text, *words)
        assert code == 0, (out, said)
        return out

    async def services(self) -> dict[str, Any]:
        _, out, _ = await self.deployment.cli("get", "services", "-o", "json")
        return {item["name"]: item for item in json.loads(out)["items"]}

    async def last_event(self) -> int:
        _, out, _ = await self.deployment.cli("get", "events", "-o", "json", "--limit", "1")
        return int(json.loads(out)["items"][-1]["seq"])

    async def by_hand(self, *words: str) -> None:
        code, _, said = await self.deployment.cli("service", *words, "--no-wait")
        assert code == 0, said


@pytest.fixture
def files(deployment: Deployment) -> Files:
    return Files(deployment)


async def test_a_file_is_planned_applied_once_changed_exported_and_emptied(files: Files) -> None:
    before = await files.last_event()
    for command, words in (("apply", ("--dry-run",)), ("diff", ())):
        code, out, said = await files.run(command, FLEET, *words)
        assert code == 0, said
        assert "publish ssh\n  + site-a: target ssh-1" in out
        assert "  + gw1: port tcp 10022" in out
        assert "2 changed, 0 refused" in out
    assert (await files.run("diff", FLEET, "--exit-code"))[0] == 1
    assert await files.last_event() == before

    assert "2 changed" in await files.applied(FLEET)
    services = await files.services()
    assert {name: one["source"] for name, one in services.items()} == {"ssh": "fleet", "wiki": "fleet"}
    assert services["wiki"]["options"]["http"]["pages"] == {"503": "<h1>später</h1>"}

    applied = await files.last_event()
    assert await files.applied(FLEET) == "nothing to change\n"
    assert (await files.run("diff", FLEET, "--exit-code"))[:2] == (0, "nothing to change\n")
    code, exported, said = await files.deployment.cli("export", "--source", "fleet")
    assert (code, said) == (0, "")
    assert await files.applied(exported) == "nothing to change\n"
    assert await files.last_event() == applied

    changed = FLEET.replace("port: 10022", "port: 10023")
    assert "change ssh: port, last_port" in await files.applied(changed)
    assert (await files.services())["ssh"]["port"] == 10023
    assert "2 changed" in await files.applied("source: fleet\nservices: {}\n", "--yes")
    assert await files.services() == {}
    # The exported file brings it all back.
    assert "2 changed" in await files.applied(exported)


async def test_nobody_touches_what_another_source_or_a_person_has(files: Files) -> None:
    await files.by_hand("publish", "hand", "--tcp", "10100", "--to", "site-a:22")
    await files.applied(FLEET)
    other = "services:\n" + "".join(
        f"  {name}: {{kind: tcp, port: {port}, targets: [{{agent: site-a, port: 22}}]}}\n"
        for name, port in (("hand", 10200), ("mine", 10300), ("wiki", 10400))
    )
    before = await files.services()
    code, out, said = await files.run("apply", other, "--source", "other")
    assert code == 7, said
    assert "1 changed, 2 refused" in out
    assert "hand: service hand: was published by hand, not touched; --adopt by-hand takes it over" in said
    assert "wiki: service wiki: comes from source fleet, not touched; --adopt fleet takes it over" in said
    after = await files.services()
    assert {name: after[name] for name in before} == before
    # An empty file of one source removes nothing of the others.
    await files.applied("services: {}", "--source", "other", "--yes")
    assert await files.services() == before

    await files.applied(other, "--source", "other", "--adopt", "by-hand", "--adopt", "fleet")
    assert {one["source"] for one in (await files.services()).values()} == {"other", "fleet"}
    code, _, said = await files.run("apply", FLEET)
    assert code == 5, said
    assert "comes from source other" in said


async def test_a_person_may_change_a_declared_service_and_the_file_puts_it_back(files: Files) -> None:
    await files.applied(FLEET)
    await files.by_hand("publish", "ssh", "--tcp", "10999", "--to", "site-a=192.168.7.9:22")
    assert (await files.services())["ssh"]["source"] == "fleet"
    assert "change ssh: port, last_port, sources" in await files.applied(FLEET)
    assert (await files.services())["ssh"]["port"] == 10022


async def test_each_refusal_is_told_and_the_rest_is_done(files: Files) -> None:
    text = """\
source: fleet
services:
  good: {kind: tcp, port: 10500, targets: [{agent: site-a, port: 22}]}
  gone: {kind: tcp, port: 10501, targets: [{agent: nobody, port: 22}]}
  web: {kind: tcp, port: 443, targets: [{agent: site-a, port: 22}]}
"""
    for words in (("--dry-run",), ()):
        code, out, said = await files.run("apply", text, *words, "-o", "json")
        assert code == 7, said
        assert {one["name"]: bool(one["error"]) for one in json.loads(out)["items"]} == {
            "good": False, "gone": True, "web": True,
        }  # fmt: skip
        assert "gone: agent nobody: is not enrolled" in said
        assert "web: port 443" in said
    assert set(await files.services()) == {"good"}


async def test_a_port_moves_from_one_service_to_another_in_one_go(files: Files) -> None:
    await files.applied(FLEET)
    text = FLEET.replace("  ssh:\n", "  login:\n")
    code, out, said = await files.run("diff", text)
    assert (code, "publish login once ssh has made room" in out) == (0, True), (out, said)
    await files.applied(text, "--yes")
    assert set(await files.services()) == {"login", "wiki"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (FLEET + "  ssh: {kind: tcp}\n", "fleet.yaml:15: 'ssh' stands here twice"),
        (FLEET + "colour: red\n", "fleet.yaml:15: 'colour' is not known here"),
        (FLEET.replace("kind: tcp", "kind: &k tcp"), "anchors and aliases are not read"),
        (FLEET.replace("host:", "hots:"), "service wiki.hots: Object contains unknown field `hots`"),
        ("services: " + "[" * 100_000, "fleet.yaml:1"),
        (b"services: \xff", "not UTF-8"),
        (b"#" * (8 * 1024 * 1024 + 1), "more than 8 MiB"),
        ("services: {}\n", "says no `source`"),
        ("", "`services`"),
    ],
)  # fmt: skip
async def test_a_bad_file_is_refused_before_anybody_is_asked(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    from click.testing import CliRunner  # noqa: PLC0415

    from kakuremichi.cli.__main__ import cli  # noqa: PLC0415

    path = tmp_path / "fleet.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in (["apply"], ["diff"]):
        # Nothing listens there: whoever asked would be told so.
        result = CliRunner().invoke(
            cli, [*command, "-f", str(path), "--url", "http://127.0.0.1:9"], env={"KAKUREMICHI_TOKEN": "t"}
        )
        assert result.exit_code == 2, result.output
        assert sentence in str(result.exception or "") + result.output
