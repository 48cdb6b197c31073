"""A feed held in memory: brought forward change by change, cut into pages by bytes."""

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi_registry.snapshot import SIGNATURE_BYTES, LiveFeed, may_read
from kakuremichi_registry.store.feeds import Change, LiveItem

paths = st.text("abc/", min_size=1, max_size=3)
changes = st.lists(st.tuples(paths, st.booleans(), st.binary(max_size=40)), max_size=40)


@given(changes, st.integers(0, 400))
def test_pages_hold_every_item_once_in_order_and_stay_small(said: list[tuple[str, bool, bytes]], limit: int) -> None:
    feed = LiveFeed(0, {})
    expected: dict[str, bytes] = {}
    for number, (path, gone, body) in enumerate(said, 1):
        feed.apply(Change(number, path, gone, LiveItem(body, body)))
        expected.pop(path, None)
        if not gone:
            expected[path] = body
    assert feed.paths == sorted(expected)

    got: list[bytes] = []
    after = ""
    while True:
        page, after = feed.page(after, limit)
        assert len(page) <= 1 or sum(len(item.body) + SIGNATURE_BYTES for item in page) <= limit
        got += [item.body for item in page]
        if not after:
            break
    assert got == [expected[path] for path in sorted(expected)]


def test_who_reads_what() -> None:
    main, gateway, agent = PoolName("main"), NodeId("gw1"), NodeId("site-a")
    feeds = (
        "feed.pool.main",
        "feed.pool.other",
        "feed.fleet.main",
        "feed.agent.gw1",
        "feed.agent.site-a",
        "feed.agent.x",
    )
    assert [feed for feed in feeds if may_read(gateway, "gateway", main, feed)] == ["feed.pool.main"]
    assert [feed for feed in feeds if may_read(agent, "agent", main, feed)] == ["feed.fleet.main", "feed.agent.site-a"]
