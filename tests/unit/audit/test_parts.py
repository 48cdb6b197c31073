"""Exports of a log that left in parts: each is good, they meet, and whatever somebody does to them is found."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kakuremichi.audit import export
from kakuremichi.audit.joins import joined
from kakuremichi.audit.merkle import root_of
from kakuremichi.audit.verify import Known, verify
from kakuremichi.cli.verifying import checked
from kakuremichi.wire.checkpoints import CHECKPOINT, Checkpoint
from kakuremichi.wire.codec import encode
from kakuremichi.wire.signing import sign
from support.exports import DEPLOYMENT, FEED_KEY, LOG_ID, chained, every_kind, rechained
from support.parts import part_of, retired_in_parts

ROWS = len(every_kind())
several_cuts = st.sets(st.integers(1, ROWS), min_size=1, max_size=4).map(sorted)
reused = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sentences(files: list[Path]) -> list[str]:
    parts, between = checked(files, Known())
    return [str(each) for part in parts for each in part.report.findings] + [str(each) for each in between]


@reused
@given(several_cuts)
def test_parts_cut_anywhere_are_good_alone_and_together(tmp_path: Path, cuts: list[int]) -> None:
    files = retired_in_parts(tmp_path, cuts)
    assert sentences(list(reversed(files))) == []
    for file in files:
        assert sentences([file]) == []
        with file.open("rb") as lines:
            report = verify(lines)
        assert (report.witnesses, report.witnessed) == ({"gw1"}, report.last)


@reused
@given(several_cuts, st.data())
def test_a_part_that_is_left_out_is_named_by_its_rows_and_its_hash(
    tmp_path: Path, cuts: list[int], data: st.DataObject
) -> None:
    files = retired_in_parts(tmp_path, cuts)
    gone = data.draw(st.integers(0, len(files) - 2))
    left = [file for number, file in enumerate(files) if number != gone]
    first = (0, *cuts)[gone] + 1
    if len(left) == 1:
        assert sentences(left) == [], "one alone is a part"
    else:
        (said,) = sentences(left)
        assert f"rows {first} to {cuts[gone]} are missing" in said
        assert part_of(files[gone].read_bytes(), "").sha256 in said


def lines_of(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return retired_in_parts(tmp_path, [8, 17])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_line_that_is_taken_out_of_a_part_is_found(files: list[Path], number: int) -> None:
    file = files[number]
    whole = lines_of(file)
    for at in range(1, len(whole)):
        if number == 2 and whole[at].startswith(b'{"line":"checkpoint"'):
            continue  # one statement less about the end; nothing of the log is missing
        file.write_bytes(b"".join(whole[:at] + whole[at + 1 :]))
        assert sentences(files), whole[at]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_line_with_another_byte_is_found(files: list[Path], number: int) -> None:
    file = files[number]
    whole = lines_of(file)
    for at in range(1, len(whole)):
        middle = len(whole[at]) * 2 // 3
        for place in (middle, middle + 1):
            other = bytes([whole[at][place] ^ 1])
            file.write_bytes(
                b"".join([*whole[:at], whole[at][:place] + other + whole[at][place + 1 :], *whole[at + 1 :]])
            )
            assert sentences(files), (at, place)


def test_rows_written_anew_behind_the_last_checkpoint_are_found_by_the_cover(files: list[Path]) -> None:
    rows = chained(every_kind())
    rows[6] = rows[6]._replace(actor="mallory")
    anew = rechained(rows)
    whole = lines_of(files[0])
    whole[1:9] = [export.encode(export.row_line(row.logged(LOG_ID))) for row in anew[:8]]
    whole[-1] = export.encode(export.End(rows=8, hash=anew[7].hash.hex()))
    with_new = part_of(b"".join(whole), "anew")
    (said,) = map(str, with_new.report.findings)
    assert "rows 1 to 8 are not what was signed" in said


def test_parts_of_two_logs_do_not_meet(files: list[Path]) -> None:
    other = files[1].read_bytes().replace(LOG_ID.encode(), b"f" * 32)
    found = list(joined([part_of(files[0].read_bytes(), "one"), part_of(other, "two")]))
    assert any("is of log" in str(each) for each in found)


@pytest.mark.parametrize(("size", "right", "word"), [
    (12, True, ""), (12, False, "is not the one that the gateway signed"), (900, True, "does not reach"),
])  # fmt: skip
def test_what_a_gateway_holds_has_to_be_in_the_log(files: list[Path], size: int, right: bool, word: str) -> None:
    rows = chained(every_kind())
    root = root_of(row.hash for row in rows[:size]) if right else b"r" * 32
    body = encode(Checkpoint(log_id=LOG_ID, size=size, root=root, hash=b"h" * 32, at="2026-01-02T03:00:00.000000Z"))
    held = encode(sign(CHECKPOINT, DEPLOYMENT, body, FEED_KEY))
    parts, between = checked(files, Known(held=held))
    said = [str(each) for part in parts for each in part.report.findings] + [str(each) for each in between]
    assert len(said) == bool(word)
    assert word in "".join(said)
