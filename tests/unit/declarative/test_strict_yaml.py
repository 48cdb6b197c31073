"""The strict reader: what two readers of YAML would understand differently is refused, with its line."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.declarative.strict_yaml import MOST_BYTES, MOST_DEPTH, FileRefusedError, load


def read(text: str) -> Any:
    return load(text.encode(), "f.yaml").value


def test_mappings_lists_and_words() -> None:
    text = "a: 1\nb: [x, 'y', \"z\"]\nc:\n  - d: true\n    e: null\n    f: -0\n    g:\n"
    assert read(text) == {"a": 1, "b": ["x", "y", "z"], "c": [{"d": True, "e": None, "f": 0, "g": None}]}


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "True", "0x10", "0o17", "017", "22:22", "1_000", "1.5", "2026-01-02", "+1", "="]
)
def test_what_yaml_1_1_reads_as_something_else_is_a_word(word: str) -> None:
    assert read(f"a: {word}") == {"a": word}


def test_keys_are_text() -> None:
    assert read("503: a\ntrue: b\n") == {"503": "a", "true": "b"}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a: {b: 1, b: 2}", 1, "twice"),
        ("503: a\n'503': b\n", 2, "twice"),
        ("a: &x [1]\nb: 2\n", 1, "anchors"),
        ("a: 1\nb: *x\n", 2, "anchors"),
        ("&x a: 1\n", 1, "plain word"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: ! x\n", 1, "tag"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", 1, "%TAG"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("? [a]\n: 1\n", 1, "plain word"),
        ("<<: {a: 1}\n", 1, "merge"),
        ("a: [1\nb: 2\n", 2, ""),
        ("a: 1\n\tb: 2\n", 2, ""),
        ("a: 'b\n", 2, ""),
    ],
)
def test_a_text_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(FileRefusedError, match=rf"\Af\.yaml:{line}: .*{reason}"):
        read(text)


def test_a_page_of_aliases_is_refused_before_it_grows() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    with pytest.raises(FileRefusedError, match="anchors"):
        read(bomb)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(opening: str) -> None:
    with pytest.raises(FileRefusedError):
        read(opening * 100_000)
    assert read("[" * MOST_DEPTH + "]" * MOST_DEPTH) is not None


def test_size_and_bytes_are_bounded() -> None:
    with pytest.raises(FileRefusedError, match="8 MiB"):
        load(b" " * (MOST_BYTES + 1), "f.yaml")
    for data in (b"\xff\xfea\x00", b"a: \xc3\x28", b"a: \x00", "a: \u0085\ufffe".encode(), b"\xed\xa0\x80"):
        with pytest.raises(FileRefusedError):
            load(data, "f.yaml")


def test_an_empty_file_is_nothing() -> None:
    assert read("") is None
    assert read("# only words\n") is None


def test_each_value_knows_its_line() -> None:
    loaded = load(b"a:\n  b: 1\n  c:\n    - d\n    - e\n", "f.yaml")
    assert loaded.at(("a", "c", 1)) == "f.yaml:5"
    assert loaded.at(("a", "c", 7, "x")) == "f.yaml:3"
    assert loaded.at(("nowhere",)) == "f.yaml:1"


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_what_pyyaml_writes_is_read_as_it_was(value: Any) -> None:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    text = yaml.dump(value, Dumper=Dumper, allow_unicode=True)
    assert read(text) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    said = "f.yaml"
    try:
        load(data, "f.yaml")
    except FileRefusedError as error:
        said = str(error)
    assert said.startswith("f.yaml")
