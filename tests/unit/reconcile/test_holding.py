"""What a node holds of a feed equals what the registry says, whatever was lost, repeated or cut in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.reconcile.follow import HeadVerdict, Verdict, judge_head, judge_item
from kakuremichi.reconcile.holding import Holding
from kakuremichi.reconcile.verify import OpenedItem
from kakuremichi.wire.codec import encode
from kakuremichi.wire.records import AnyRecord, Gone, Revocation, Target, UnknownRecord, decode_record, key_of
from kakuremichi.wire.signing import Signed
from support.feedmaker import FeedMaker, verifier

VERIFIER = verifier()


def target(name: str, port: int = 80) -> Target:
    return Target(
        target_id=name,
        service_id=ServiceId("s"),
        proto="tcp",
        agent_port=20000,
        agent_last_port=20000,
        address="127.0.0.1",
        name="",
        port=port,
    )


def opened(signed: Signed) -> OpenedItem:
    return VERIFIER.signed_item(signed)


def content(holding: Holding) -> dict[tuple[str, str], AnyRecord]:
    return dict(holding.records())


def snapshot_into(maker: FeedMaker, holding: Holding, now: float = 0.0) -> None:
    page = maker.page("", size=1000)
    holding.replace(VERIFIER.head(page.head), [opened(signed) for signed in page.items], now)


changes = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(1, 9))), min_size=1, max_size=40
)


def write(maker: FeedMaker, change: tuple[str, int | None]) -> Signed:
    name, port = change
    return maker.write(Gone(kind="target", key=name) if port is None else target(name, port))


@given(changes, changes, st.integers(1, 3))
def test_pages_of_different_moments_and_the_items_after_the_first_converge(
    before: list[tuple[str, int | None]], during: list[tuple[str, int | None]], size: int
) -> None:
    maker, holding = FeedMaker(feed="feed.agent.a"), Holding("feed.agent.a")
    for change in before:
        write(maker, change)
    live: list[Signed] = []
    todo = list(during)
    page = maker.page("", size)
    head, items = page.head, list(page.items)
    while page.next_after:
        if todo:
            live.append(write(maker, todo.pop(0)))
        page = maker.page(page.next_after, size)
        items.extend(page.items)
    holding.replace(VERIFIER.head(head), [opened(signed) for signed in items], 0.0)
    live.extend(write(maker, change) for change in todo)
    for signed in live:
        item = opened(signed)
        assert holding.cursor is not None
        assert judge_item(holding.cursor, item.item) is Verdict.APPLY
        holding.apply(item)

    expected = {key: decode_record(bytes(opened(signed).item.record)) for key, (_, signed, _) in maker.live.items()}
    assert content(holding) == expected
    assert holding.cursor is not None
    assert judge_head(holding.cursor, holding.total, VERIFIER.head(maker.head())) is HeadVerdict.CURRENT


@given(changes, st.data())
def test_any_loss_repeat_or_swap_is_seen_before_it_is_applied(
    written: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    maker, holding = FeedMaker(feed="feed.agent.a"), Holding("feed.agent.a")
    snapshot_into(maker, holding)
    sent = [write(maker, change) for change in written]
    order = data.draw(st.lists(st.integers(0, len(sent) - 1), max_size=60))
    for place in order:
        item = opened(sent[place])
        assert holding.cursor is not None
        if judge_item(holding.cursor, item.item) is Verdict.APPLY:
            assert item.item.feed_seq == holding.cursor.feed_seq + 1
            holding.apply(item)
    snapshot_into(maker, holding)
    assert holding.cursor is not None
    assert judge_head(holding.cursor, holding.total, VERIFIER.head(maker.head())) is HeadVerdict.CURRENT


class TestMassRemoval:
    """A snapshot that takes away much is not believed at once."""

    def full(self) -> tuple[FeedMaker, Holding]:
        maker, holding = FeedMaker(feed="feed.agent.a"), Holding("feed.agent.a")
        for number in range(10):
            maker.write(target(f"t{number}"))
        snapshot_into(maker, holding)
        return maker, holding

    def test_it_is_held_and_additions_apply(self) -> None:
        maker, holding = self.full()
        for number in range(5):
            maker.write(Gone(kind="target", key=f"t{number}"))
        maker.write(target("new"))

        page = maker.page("", size=1000)
        change = holding.replace(VERIFIER.head(page.head), [opened(signed) for signed in page.items], 0.0)

        assert change.keys == {("target", "new")}
        assert len(content(holding)) == 11
        assert len(holding.withheld) == 5

    def test_a_second_head_after_thirty_seconds_releases_it(self) -> None:
        maker, holding = self.full()
        for number in range(5):
            maker.write(Gone(kind="target", key=f"t{number}"))
        snapshot_into(maker, holding)

        assert holding.confirm(29.9).keys == frozenset()
        assert holding.confirm(30.0).keys == {("target", f"t{number}") for number in range(5)}
        assert len(content(holding)) == 5

    def test_a_signed_tombstone_is_believed_at_once(self) -> None:
        maker, holding = self.full()
        for number in range(5):
            maker.write(Gone(kind="target", key=f"t{number}"))
        snapshot_into(maker, holding)

        change = holding.apply(opened(maker.write(Gone(kind="target", key="t0"))))

        assert change.keys == {("target", "t0")}
        assert ("target", "t0") not in content(holding)

    def test_three_may_go_at_once_and_so_may_the_revoked(self) -> None:
        maker, holding = self.full()
        for number in range(3):
            maker.write(Gone(kind="target", key=f"t{number}"))
        for number in range(3, 9):
            maker.write(Revocation(node_id=NodeId(f"t{number}"), epoch=1))
            maker.write(Gone(kind="target", key=f"t{number}"))

        snapshot_into(maker, holding)

        assert not holding.withheld
        assert ("target", "t9") in content(holding)
        assert ("target", "t0") not in content(holding)


class TestUnknownRecords:
    """A newer registry may send what this program does not know."""

    def test_the_cursor_moves_the_sum_fits_and_the_tag_is_reported(self) -> None:
        maker, holding = FeedMaker(feed="feed.agent.a"), Holding("feed.agent.a")
        snapshot_into(maker, holding)
        body = encode(["policy.v7", "p1", {"deny": ["everybody"]}])
        record = decode_record(body)

        assert record == UnknownRecord("policy.v7", "p1")
        assert key_of(record) == ("policy", "p1")

        holding.apply(opened(self.raw(maker, body)))

        assert holding.unsupported() == ("policy.v7",)
        assert holding.desired(("policy", "p1")) is None
        assert holding.cursor is not None
        assert judge_head(holding.cursor, holding.total, VERIFIER.head(maker.head())) is HeadVerdict.CURRENT

    def test_the_tag_is_reported_as_long_as_the_record_lives(self) -> None:
        maker, holding, late = FeedMaker(feed="feed.agent.a"), Holding("feed.agent.a"), Holding("feed.agent.a")
        snapshot_into(maker, holding)
        holding.apply(opened(self.raw(maker, encode(["policy.v7", "p1", {"deny": ["everybody"]}]))))

        snapshot_into(maker, late)
        assert holding.unsupported() == late.unsupported() == ("policy.v7",)

        gone = maker.write(Gone(kind="policy", key="p1"))
        holding.apply(opened(gone))
        snapshot_into(maker, late)
        assert holding.unsupported() == late.unsupported() == ()

    def raw(self, maker: FeedMaker, body: bytes) -> Signed:
        return maker.write_raw(body, key_of(decode_record(body)))


@pytest.mark.parametrize("junk", [b"", b"\x90", b"\x93\x01\x02\x03", b"\xc1", b"\x91\xa1x"])
def test_a_record_that_is_none_is_refused_with_a_sentence(junk: bytes) -> None:
    with pytest.raises(ValueError, match="record: "):
        decode_record(junk)
