from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.runtime.files import read_newest, write_atomically, write_generation

contents = st.binary(max_size=200)


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"

    write_atomically(path, b"one")
    write_atomically(path, b"two")

    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_nothing_written_is_nothing_read(tmp_path: Path) -> None:
    assert read_newest(tmp_path / "state") is None


@given(st.lists(contents, min_size=1, max_size=5))
def test_the_newest_generation_is_read(written: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        for data in written:
            write_generation(path, data)
            assert read_newest(path) == data


@given(contents, contents, st.data())
def test_damage_to_the_newest_brings_back_the_one_before(older: bytes, newer: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        write_generation(path, older)
        write_generation(path, newer)
        damaged = damage(path.read_bytes(), data)
        path.write_bytes(damaged)

        assert read_newest(path) == older

        write_generation(path, b"next")
        assert read_newest(path) == b"next"
        path.write_bytes(b"")
        assert read_newest(path) == older


@given(contents, contents, st.data())
def test_damage_to_both_is_nothing_and_never_other_bytes(older: bytes, newer: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        write_generation(path, older)
        write_generation(path, newer)
        for file in (path, path.with_name("state.old")):
            file.write_bytes(damage(file.read_bytes(), data))

        assert read_newest(path) is None


def damage(raw: bytes, data: st.DataObject) -> bytes:
    """Cut it short, or change some bits of one byte."""
    if data.draw(st.booleans()):
        return raw[: data.draw(st.integers(0, len(raw) - 1))]
    at = data.draw(st.integers(0, len(raw) - 1))
    return raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_generation(path, b"one")
    write_generation(path, b"two")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kakuremichi.runtime.files.write_atomically", crash)
    with pytest.raises(KeyboardInterrupt):
        write_generation(path, b"three")
    assert read_newest(path) == b"two"

    monkeypatch.undo()
    write_generation(path, b"three")
    assert read_newest(path) == b"three"
