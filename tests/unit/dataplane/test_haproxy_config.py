"""The configuration as bytes: what is written today stands in golden files."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.config import (
    describe,
    described_pool,
    parse_routes_file,
    render_backend,
    render_config,
    render_route,
)
from kakuremichi.dataplane.haproxy.desired import Frontend, RouteState, Server, Tuning
from kakuremichi.dataplane.haproxy.diff import Route
from kakuremichi.dataplane.haproxy.files import Files, Layout, load, save
from kakuremichi.model.ids import ServiceId

GOLDEN = Path(__file__).parent / "test_haproxy_golden"
LAYOUT = Layout(Path("/run/kakuremichi/haproxy"))
PLAIN = Frontend()
FULL = Frontend(
    http=("80", "80V6"),
    tls=("TLS",),
    crt_list=Path("/etc/kakuremichi/crt.list"),
    own_service=Path("/run/kakuremichi/gateway.sock"),
)


def config(frontend: Frontend, tuning: Tuning) -> str:
    servers = (
        Server("t1", ip_address("10.1.0.100"), 20001),
        Server("t2", ip_address("fd00::100"), 20002, weight=0, backup=True),
    )
    return render_config(frontend, tuning, LAYOUT, 4, {1: render_backend(1, servers)})


def test_the_plain_configuration_is_the_golden_one() -> None:
    assert config(PLAIN, Tuning()) == (GOLDEN / "plain.cfg").read_text()


def test_the_configuration_with_everything_is_the_golden_one() -> None:
    assert config(FULL, Tuning(threads=4, hard_stop_s=60)) == (GOLDEN / "full.cfg").read_text()


def test_the_description_tells_what_only_a_reload_can_change() -> None:
    first = describe(PLAIN, Tuning(), LAYOUT, 4)

    assert describe(PLAIN, Tuning(), LAYOUT, 4) == first
    assert first not in {describe(FULL, Tuning(), LAYOUT, 4), describe(PLAIN, Tuning(), LAYOUT, 8)}
    assert first != describe(PLAIN, Tuning(threads=1), LAYOUT, 4)
    assert described_pool(first) == 4
    assert [described_pool(text) for text in ("", "other-x-4", "kakuremichi-x-y", "kakuremichi")] == [None] * 4


def test_a_route_map_is_read_as_it_was_written_and_strange_lines_are_left_out() -> None:
    routes = {"a.test": Route(0, ServiceId("a")), "b.test": Route(7, ServiceId("b"), RouteState.PAUSED)}
    text = "".join(render_route(key, route) for key, route in routes.items())

    assert parse_routes_file(f"# hand-made\nx.test somewhere\n{text}a.test p9|z|active\n") == routes


@pytest.mark.parametrize("directory", ["relative", "/with space", "/a;b", "/a\nb", "/" + "x" * 72])
def test_a_directory_that_cannot_stand_in_a_command_is_refused(directory: str) -> None:
    with pytest.raises(ValueError, match="directory "):
        Layout(Path(directory))


def test_files_are_replaced_whole_and_readable_by_us_only(run_dir: Path) -> None:
    layout = Layout(run_dir / "haproxy")
    assert load(layout) is None

    save(layout, Files("one", "two"))
    save(layout, Files("three", "four"))

    assert load(layout) == Files("three", "four")
    assert sorted(path.name for path in layout.directory.iterdir()) == ["haproxy.cfg", "routes.map"]
    assert layout.directory.stat().st_mode & 0o777 == 0o700
    assert layout.config.stat().st_mode & 0o777 == 0o600
