"""Back to an earlier moment: a plan of ordinary writes, and the writes."""

import json

from msgspec import UNSET, structs

from audit.conftest import Deployment
from kakuremichi.cli.restoring import plan_of
from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.wire.commands import PublishService, RemoveNode, Terms, UnpublishService
from kakuremichi_registry.store import history
from support.real_registry import http, tcp


async def last(deployment: Deployment) -> int:
    return (await history.head(deployment.world.database))[1]


async def services(deployment: Deployment) -> list[str]:
    """The lines of services and targets, without what only says when."""
    told = json.loads((await deployment.good("state", "-o", "json")).stdout)["rows"]
    kept = [row for row in told if row["table"] in ("service", "service_target")]
    return [json.dumps({name: value for name, value in row.items() if name != "updated_seq"}) for row in kept]


async def begun(deployment: Deployment) -> tuple[int, list[str]]:
    """Three services, then everything changes: one moves, one goes, one comes, two change places."""
    world = deployment.world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    await world.enrol("site-b")
    for command in (http("wiki"), http("mail", agent="site-b"), tcp("ssh", 10022), tcp("game", 21000, 21010, udp=True)):
        await world.ask(command)
    then, held = await last(deployment), await services(deployment)
    await world.ask(http("wiki", "docs.example.com", agent="site-b"))
    await world.ask(UnpublishService(actor="bob", service_id=ServiceId("mail")))
    await world.ask(UnpublishService(actor="bob", service_id=ServiceId("ssh")))
    await world.ask(tcp("late", 10022))
    return then, held


async def test_a_plan_is_printed_and_writes_nothing(deployment: Deployment) -> None:
    then, _ = await begun(deployment)
    before = await last(deployment)
    said = await deployment.good("restore", "--to", str(then), "--plan")
    words = [line.split()[:2] for line in said.stdout.splitlines()]
    assert words == [["unpublish", "late"], ["publish", "mail"], ["publish", "ssh"], ["replace", "wiki"]]
    assert f"--planned-at {before}" in said.stderr
    assert await last(deployment) == before


async def test_the_plan_applied_leaves_the_services_as_they_were(deployment: Deployment) -> None:
    then, held = await begun(deployment)
    planned_at = str(await last(deployment))
    said = await deployment.good("restore", "--to", str(then), "--apply", "--planned-at", planned_at, "--yes")
    assert "4 of 4 written" in said.stderr
    assert await services(deployment) == held
    again = await deployment.good("restore", "--to", str(then))
    assert again.stdout == ""


async def test_a_plan_is_not_applied_to_a_log_that_has_gone_on(deployment: Deployment) -> None:
    then, _ = await begun(deployment)
    planned_at = str(await last(deployment))
    await deployment.world.ask(http("more"))
    said = await deployment.cli("restore", "--to", str(then), "--apply", "--planned-at", planned_at, "--yes")
    assert said.exit_code == 5
    assert "has gone on" in said.stderr


async def test_what_cannot_come_back_is_named_and_the_rest_does(deployment: Deployment) -> None:
    then, _ = await begun(deployment)
    await deployment.world.ask(RemoveNode(actor="bob", node_id=NodeId("site-b"), role="agent", cascade=True))
    said = await deployment.cli("restore", "--to", str(then), "--apply", "--yes")
    assert said.exit_code == 7
    assert "3 of 4 written" in said.stderr
    assert "mail: agent site-b: is not enrolled" in said.stderr


async def test_an_export_tells_the_moment_too(deployment: Deployment) -> None:
    then, held = await begun(deployment)
    file = await deployment.export()
    await deployment.good("restore", "--to", str(then), "--from", file, "--apply", "--yes")
    assert await services(deployment) == held


async def test_whose_a_service_was_comes_back_too(deployment: Deployment) -> None:
    """One that was a file's and is nobody's, one that was nobody's and is a file's, one of another file, one gone."""
    world = deployment.world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    await world.enrol("site-b")
    owners = {"lost": "fleet", "taken": "", "moved": "fleet", "gone": "fleet", "kept": "fleet"}
    for name, owner in owners.items():
        await world.ask(owned(name, Terms(source=owner or UNSET)))
    then, held = await last(deployment), await services(deployment)
    await world.ask(owned("lost", Terms(adopt="fleet")))
    await world.ask(owned("taken", Terms(source="fleet", adopt="")))
    await world.ask(owned("moved", Terms(source="other", adopt="fleet")))
    await world.ask(UnpublishService(actor="bob", service_id=ServiceId("gone")))
    await world.ask(http("kept", agent="site-b"))
    plan = (await deployment.good("restore", "--to", str(then), "--plan")).stdout
    taken = {line.split()[1]: line.rpartition("taken from ")[2].rstrip(")") for line in plan.splitlines()}
    assert {name: taken[name] for name in ("lost", "taken", "moved")} == {
        "lost": "by-hand", "taken": "fleet", "moved": "other",
    }  # fmt: skip
    said = await deployment.good("restore", "--to", str(then), "--apply", "--yes")
    assert "5 of 5 written" in said.stderr
    assert await services(deployment) == held
    assert (await deployment.good("restore", "--to", str(then))).stdout == ""


def owned(name: str, terms: Terms) -> PublishService:
    return structs.replace(http(name), terms=terms)


def test_a_service_that_had_no_target_is_left() -> None:
    line = (
        '{"table":"service","service_id":"old","pool":"main","kind":"http","host":"a.example.com","path":"",'
        '"first_port":0,"last_port":0,"sources":[],"options":{},"updated_seq":3}'
    )
    plan = plan_of([line], [])
    assert plan.writes == ()
    assert plan.left == ("service old: had no target then, and none can be published without one",)
