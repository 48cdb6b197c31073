"""The configuration as bytes: what is written today stands in golden files."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.config import (
    Settings,
    describe,
    described,
    render_config,
)
from kakuremichi.dataplane.haproxy.desired import Frontend, RouteState, Server, Tuning
from kakuremichi.dataplane.haproxy.diff import Route
from kakuremichi.dataplane.haproxy.files import Files, Layout, load, save
from kakuremichi.dataplane.haproxy.naming import RouteMap
from kakuremichi.dataplane.haproxy.rendering import parse_maps, render_backend, render_maps
from kakuremichi.model.ids import ServiceId

GOLDEN = Path(__file__).parent / "test_haproxy_golden"
LAYOUT = Layout(Path("/run/kakuremichi/haproxy"))
PLAIN = Frontend()
FULL = Frontend(
    http=("80", "80V6"),
    tls=("TLS",),
    crt_list=Path("/etc/kakuremichi/crt.list"),
    own_service=Path("/run/kakuremichi/gateway.sock"),
    tcp=("TCP",),
)


def config(frontend: Frontend, tuning: Tuning) -> str:
    servers = (
        Server("t1", ip_address("10.1.0.100"), 20001),
        Server("t2", ip_address("fd00::100"), 20002, weight=0, backup=True),
    )
    settings = Settings(LAYOUT, frontend, tuning)
    backends = [render_backend(0), render_backend(1, servers), *([render_backend(1_000_000)] if frontend.tcp else [])]
    return render_config(settings, describe(settings, (2, len(frontend.tcp)), {}), (), backends)


def test_the_plain_configuration_is_the_golden_one() -> None:
    assert config(PLAIN, Tuning()) == (GOLDEN / "plain.cfg").read_text()


def test_the_configuration_with_everything_is_the_golden_one() -> None:
    assert config(FULL, Tuning(threads=4, hard_stop_s=60)) == (GOLDEN / "full.cfg").read_text()


def test_the_description_tells_what_only_a_reload_can_change() -> None:
    settings = Settings(LAYOUT)
    first = describe(settings, (4, 0), {})

    assert describe(settings, (4, 0), {}) == first
    others = {
        describe(Settings(LAYOUT, FULL), (4, 0), {}),
        describe(Settings(LAYOUT, tuning=Tuning(threads=1)), (4, 0), {}),
        describe(settings, (8, 0), {}),
        describe(settings, (4, 1), {}),
        describe(settings, (4, 0), {1: "  timeout server 5s\n"}),
        describe(settings, (4, 0), {2: "  timeout server 5s\n"}),
    }
    assert len(others - {first}) == 6
    assert described(describe(settings, (4, 2), {})) == (4, 2)
    assert [described(text) for text in ("", "other-x-4", "kakuremichi-x-y", "kakuremichi", "kakuremichi-x-y-z")] == [
        None
    ] * 5


def test_route_maps_are_read_as_they_were_written_and_strange_lines_are_left_out() -> None:
    routes = {
        "a.test": Route(0, ServiceId("a")),
        "b.test": Route(7, ServiceId("b"), RouteState.PAUSED),
        "*.test": Route(1, ServiceId("c")),
        "a.test/": Route(2, ServiceId("d")),
        "a.test/api/": Route(2, ServiceId("d")),
        "a.test/health": Route(3, ServiceId("e")),
        ":5006": Route(1_000_000, ServiceId("f")),
    }
    maps = render_maps(routes)

    assert maps[RouteMap.PREFIXES] == "a.test/api/ p2|d|active\n"
    assert maps[RouteMap.PORTS] == "5006 t0|f|active\n"
    hosts = f"# hand-made\nx.test somewhere\n{maps[RouteMap.HOSTS]}a.test p9|z|active\n"
    assert parse_maps({**maps, RouteMap.HOSTS: hosts}) == routes


@pytest.mark.parametrize("directory", ["relative", "/with space", "/a;b", "/a\nb", "/" + "x" * 72])
def test_a_directory_that_cannot_stand_in_a_command_is_refused(directory: str) -> None:
    with pytest.raises(ValueError, match="directory "):
        Layout(Path(directory))


def test_files_are_replaced_whole_and_readable_by_us_only(run_dir: Path) -> None:
    layout = Layout(run_dir / "haproxy")
    assert load(layout) is None
    maps = dict.fromkeys(RouteMap, "map\n")

    save(layout, Files("one", maps, {"old": "certificate", "kept": "another"}))
    save(layout, Files("two", maps, {"kept": "another"}))

    assert load(layout) == Files("two", maps, {"kept": "another"})
    names = {path.name for path in layout.directory.iterdir()}
    assert names == {"haproxy.cfg", "authority-kept.pem", *(f"{route_map}.map" for route_map in RouteMap)}
    assert layout.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in layout.directory.iterdir()} == {0o600}
