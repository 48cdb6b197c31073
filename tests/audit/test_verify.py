"""Whatever somebody does to an export is found, and where it was done is said: every kind of change, every row."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.audit import export
from kakuremichi.audit.chain import LogRow, row_hash
from kakuremichi.audit.verify import Known, verify
from kakuremichi.wire import facts
from support.exports import LOG_ID, Made, chained, every_kind, made, published, rechained

GOOD = made()
SIZE = len(GOOD.rows)
EVERY_ROW = pytest.mark.parametrize("seq", range(1, SIZE + 1))


def flipped(text: str) -> str:
    """One bit of the middle character is another one; still the same number of bytes."""
    place = len(text) // 2
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def with_row(seq: int, **changes: object) -> list[LogRow]:
    return [row._replace(**changes) if row.seq == seq else row for row in GOOD.rows]  # type: ignore[arg-type]


def found(lines: list[bytes], known: Known | None = None) -> list[tuple[int, str]]:
    return [(finding.seq, finding.field) for finding in verify(lines, known).findings]


def test_the_history_has_every_kind_of_fact() -> None:
    assert {type(fact) for fact in every_kind()} == set(facts.AnyFact.__args__)


def test_an_untouched_export_is_good_and_says_how_far_it_is_vouched_for() -> None:
    report = verify(GOOD.lines())
    assert report.findings == []
    assert (report.rows, report.hash) == (SIZE, GOOD.rows[-1].hash)
    assert (report.checkpoints, report.covered, report.witnessed, report.witnesses) == (2, 12, 12, {"gw1"})


@EVERY_ROW
@pytest.mark.parametrize("name", ["topic", "actor", "at", "fact"])
def test_a_flipped_bit_is_found_in_its_row_and_field(seq: int, name: str) -> None:
    row = GOOD.rows[seq - 1]
    lines = GOOD.lines(with_row(seq, **{name: flipped(getattr(row, name))}))
    assert found(lines) == [(seq, name)]


@EVERY_ROW
def test_contents_that_were_replaced_are_found_in_their_row(seq: int) -> None:
    assert found(GOOD.lines(with_row(seq, actor="somebody else"))) == [(seq, "")]


@EVERY_ROW
@pytest.mark.parametrize("name", ["hash", "prev"])
def test_a_changed_hash_is_told_from_changed_contents(seq: int, name: str) -> None:
    assert found(GOOD.lines(with_row(seq, **{name: b"\1" * 32}))) == [(seq, name)]


@EVERY_ROW
def test_a_changed_number_is_told_from_a_missing_row(seq: int) -> None:
    lines = GOOD.lines()
    place = next(at for at, line in enumerate(lines) if f'"seq":{seq},'.encode() in line)
    lines[place] = lines[place].replace(f'"seq":{seq},'.encode(), f'"seq":{seq + 40},'.encode())
    assert found(lines) == [(seq, "seq")]


@pytest.mark.parametrize("seq", range(1, SIZE))
def test_a_row_that_was_taken_out_is_named_by_the_one_behind_it(seq: int) -> None:
    findings = verify(GOOD.lines([row for row in GOOD.rows if row.seq != seq])).findings
    assert (findings[0].seq, findings[0].sentence) == (seq + 1, f"row {seq} is missing before it")


@EVERY_ROW
def test_a_row_that_was_put_in_is_told_from_the_true_one(seq: int) -> None:
    """It fits behind the row before it, as if the log had always gone on so, but the log does not go on from it."""
    forged = chained([published("evil", "evil.example.com", "site-a")], seq=seq - 1, before=GOOD.rows[seq - 1].prev)
    rows = [*GOOD.rows[: seq - 1], *forged, *GOOD.rows[seq - 1 :]]
    (line,) = [at for at, raw in enumerate(GOOD.lines(rows), 1) if b"evil.example.com" in raw]
    findings = verify(GOOD.lines(rows)).findings
    assert (findings[0].line, findings[0].seq) == (line, seq)
    assert "does not belong" in findings[0].sentence


@pytest.mark.parametrize("seq", range(1, SIZE))
def test_two_rows_that_changed_places_are_both_named(seq: int) -> None:
    rows = list(GOOD.rows)
    rows[seq - 1], rows[seq] = rows[seq], rows[seq - 1]
    assert {(seq + 1, "seq"), (seq, "seq")} <= set(found(GOOD.lines(rows)))


@pytest.mark.parametrize("kept", range(SIZE))
def test_an_export_that_was_cut_off_says_so_wherever(kept: int) -> None:
    whole = GOOD.lines()
    lines = whole[: 1 + kept]
    assert "cut off" in str(verify(lines).findings[-1])
    in_the_middle_of_a_line = [*lines, whole[1 + kept][:-9]]
    assert any("cut off" in str(finding) for finding in verify(in_the_middle_of_a_line).findings)


@pytest.mark.parametrize("kept", range(1, SIZE))
def test_a_shortened_log_with_an_end_of_its_own_is_caught_by_a_checkpoint_or_by_what_was_noted(kept: int) -> None:
    short = Made(GOOD.rows[:kept], marks=tuple(size for size in GOOD.marks if size <= kept), witnessed=())
    noted = Known(seq=SIZE, hash=GOOD.rows[-1].hash)
    assert found(short.lines()) == [], "nothing in the file says that there was more"
    assert found(short.lines(), noted) == [(SIZE, "hash")]
    with_later_checkpoint = short.lines()
    with_later_checkpoint[-1:-1] = [export.encode(GOOD.checkpoint(12))] if kept < 12 else []
    assert (kept >= 12) or (0, "size") in found(with_later_checkpoint)


@pytest.mark.parametrize("seq", range(1, 13))
def test_a_log_that_was_written_anew_from_some_row_on_is_caught_by_the_next_checkpoint(seq: int) -> None:
    """Every hash fits; only the feed key's word does not."""
    forged = rechained(with_row(seq, actor="somebody else"))
    lines = Made(forged, marks=(), witnessed=()).lines()
    for size in reversed(GOOD.marks):
        place = next(at for at, line in enumerate(lines) if f'"seq":{size},'.encode() in line)
        lines.insert(place + 1, export.encode(GOOD.checkpoint(size)))
    first = verify(lines).findings[0]
    size = 5 if seq <= 5 else 12
    assert (first.seq, first.field) == (size, "hash")
    assert f"rows {1 if seq <= 5 else 6} to {size} were written anew" in first.sentence


def test_a_row_taken_out_with_everything_behind_it_written_anew_is_caught_too() -> None:
    forged = rechained([row for row in GOOD.rows if row.seq != 3])
    lines = Made(forged, marks=(), witnessed=()).lines()
    lines.insert(12, export.encode(GOOD.checkpoint(12)))
    assert verify(lines).findings


@pytest.mark.parametrize("name", ["log_id", "deployment", "trust", "feed_key"])
def test_a_header_of_another_deployment_does_not_fit(name: str) -> None:
    header = GOOD.header()
    other: dict[str, object] = {"log_id": "f" * 32, "deployment": b"x" * 16, "trust": b"", "feed_key": header.trust}
    lines = [export.encode(msgspec.structs.replace(header, **{name: other[name]})), *GOOD.lines()[1:]]
    assert verify(lines).findings


def test_a_checkpoint_of_another_key_or_a_witness_of_none_is_refused() -> None:
    lines = GOOD.lines()
    place = next(at for at, line in enumerate(lines) if b'"size":12' in line)
    lines[place] = export.encode(made(feed_key=SigningKey(b"x" * 32)).checkpoint(12))
    assert (0, "signed") in found(lines)
    lines[place] = export.encode(msgspec.structs.replace(GOOD.checkpoint(12), witnesses=(b"nobody",)))
    report = verify(lines)
    assert [finding.field for finding in report.findings] == ["witnesses"]
    assert report.witnessed == 0


def test_an_export_that_is_whole_in_itself_is_not_that_of_a_trust_set_known_from_elsewhere() -> None:
    report = verify(GOOD.lines(), Known(trust_sha256=b"\7" * 32))
    assert [finding.field for finding in report.findings] == ["trust"]
    assert verify(GOOD.lines(), Known(trust_sha256=report.trust_sha256)).pinned


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([], "empty"),
        ([b"\n"], "line 1"),
        ([b"PK\3\4\n"], "line 1"),
        ([b'{"line":"end","rows":0,"hash":""}\n'], "header"),
        ([GOOD.lines()[0].replace(b"export.v1", b"export.v9")], "format"),
    ],
)
def test_what_is_no_export_is_refused_with_a_sentence(lines: list[bytes], word: str) -> None:
    with pytest.raises(export.ExportError, match=word):
        verify(lines)


def test_lines_that_do_not_belong_there_are_named() -> None:
    lines = GOOD.lines()
    odd = [*lines[:3], b"[[[[\n", lines[0], *lines[3:], lines[4]]
    assert [finding.line for finding in verify(odd).findings] == [4, 5, len(odd)]


def test_a_row_of_another_log_is_named() -> None:
    lines = GOOD.lines()
    lines[2] = lines[2].replace(LOG_ID.encode(), b"f" * 32)
    assert found(lines) == [(2, "log_id")]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_single_change_of_bytes_goes_unnoticed(data: st.DataObject) -> None:
    """Any byte of any line: what is still read as it was, is as it was."""
    lines = GOOD.lines()
    at = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[at]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != lines[at][place]))
    lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    try:
        report = verify(lines)
    except export.ExportError:
        return
    assert report.findings, f"line {at + 1}, byte {place} became {byte:#x} and nobody says so"


def test_the_rule_of_the_hash_is_the_documented_one() -> None:
    row = GOOD.rows[0]
    assert row.hash == row_hash(row)
