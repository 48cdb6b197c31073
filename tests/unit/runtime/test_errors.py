"""A sentence about an error is whole, also when the error has no words of its own."""

import pytest

from kakuremichi.runtime.errors import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (TimeoutError(), "no answer in time"),
        (TimeoutError("after 2 s"), "after 2 s"),
        (EOFError(), "EOFError"),
    ],
)
def test_what_an_error_says_or_what_it_is(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
