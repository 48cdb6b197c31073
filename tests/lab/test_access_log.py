"""The access log: JSON lines of the services that ask for it, of nobody else, from the gateway that keeps one."""

import json
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from support import visits
from support.fleet import drop, eventually, forget, get, put

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


async def test_a_service_that_asks_is_logged_where_the_gateway_keeps_a_log(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    await fleet.start_gateway("gw4", env={"KAKUREMICHI_ACCESS_LOG": str(file)})
    await fleet.all_live(["gw4"])
    with fleet.api() as api:
        _, answer = api.call(
            "PUT",
            "/services/logged?wait=applied&timeout=8",
            {
                "kind": "http", "host": "logged.lab.test", "options": {"access_log": 1},
                "targets": [{"agent": "site-a", "port": 8080}],
            },
        )  # fmt: skip
    assert {error["node"] for error in answer["errors"]} == {"gw1", "gw2", "gw3"}, "they keep no log and say so"
    try:
        for gateway in ("gw1", "gw4"):
            assert visits.http_get(fleet.lab, gateway, "logged.lab.test", "/a?secret=1").status == 200
            assert visits.http_get(fleet.lab, gateway, "web-a.lab.test", "/b").status == 200
        await eventually(lambda: file.exists() and file.read_text().count("\n") == 1)
        (line,) = map(json.loads, file.read_text().splitlines())
        assert (line["service"], line["path"], line["status"]) == ("logged", "/a", 200)
        assert line["client"] == fleet.lab.address("visitor")
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        put(fleet, "logged", kind="http", host="logged.lab.test")
        drop(fleet, "/gateways/gw4")
        await forget(fleet, "gw4")
    assert not get(fleet, "/gateways/gw1")["errors"]
