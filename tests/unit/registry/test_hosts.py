"""Host names: exact, lower case, A-labels."""

# ruff: noqa: RUF001  # look-alikes are what is tested

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi_registry.hosts import HostRefusedError, check_host

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


@pytest.mark.parametrize(
    "name",
    ["app.example.com", "a.b", "xn--mnchen-3ya.example", "1.example", "a-b.c-d.example", LONGEST],
)
def test_names_that_may_be_published(name: str) -> None:
    assert check_host(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "app", "app.example.com.", ".example.com", "app..example.com", "App.example.com", "app.example.com\n",
        "app.example.com\r\nx", "app.example.com\0", "app example.com", " app.example.com", "app.example.com ",
        "*.example.com", "_acme.example.com", "-a.example.com", "a-.example.com", "ab--cd.example.com",
        "a" * 64 + ".example.com", LONGEST + "d", "münchen.example", "app。example.com", "１.example",
        "192.0.2.1", "app.example.123", "[::1]", "app.example.com:80", "app/example.com", "app;example.com",
        'app"x.example.com', "app#x.example.com", "app\\x.example.com", "app%2e.example.com", "xn--.example",
        "xn--a-.example", "xn--0.example", "xn--\xfc.example", "xn--abc.example", "ｗｗｗ.example", "раураl.com",
        "xn--mnchen-3yA.example", "a\u200d.example",
    ],
)  # fmt: skip
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(HostRefusedError, match="host"):
        check_host(name)


@given(st.text(max_size=300))
def test_what_is_accepted_is_plain_whatever_was_written(name: str) -> None:
    try:
        accepted = check_host(name)
    except HostRefusedError:
        return
    assert accepted == name
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+", name)


@given(st.text("xn-abc019", min_size=1, max_size=20))
def test_a_labels_are_decoded_without_other_errors(label: str) -> None:
    try:
        check_host(f"xn--{label}.example")
    except HostRefusedError:
        return
