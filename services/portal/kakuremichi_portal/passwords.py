"""Passwords: what a new one has to be, and Argon2id. The hash of nothing takes as long as any other."""

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from kakuremichi_portal.problems import ProblemError

LEAST, MOST = 12, 256  # characters; nobody types more, and a flood of long ones would only cost
AT_ONCE = 2  # each takes 64 MiB and some 50 ms of a core
MOST_WAITING = 32

T = TypeVar("T")

_hasher = PasswordHasher()  # the library's defaults are RFC 9106's second choice


def check_new(password: str, name: str) -> None:
    """:class:`ProblemError` 422 with what would be right."""
    length = len(_normal(password))
    if not LEAST <= length <= MOST:
        raise ProblemError(422, "invalid", f"password: {LEAST} to {MOST} characters are needed", field="password")
    if len(set(password)) < 4 or (len(name) >= 4 and name in password.lower()):
        detail = "password: is too easy; it may not hold the account's name, nor the same few characters only"
        raise ProblemError(422, "invalid", detail, field="password")


class Passwords:
    """Hashes and verifies, few at once: who comes when too many wait is told to come again."""

    def __init__(self) -> None:
        self._turns, self._waiting = asyncio.Semaphore(AT_ONCE), 0
        # Of nothing that anybody knows. Made now: else the first unknown name would take twice as long.
        self._nobodys = _hasher.hash(secrets.token_urlsafe(16))

    async def hash(self, password: str) -> str:
        return await self._in_turn(lambda: _hasher.hash(_normal(password)))

    async def verify(self, kept: str, given: str) -> bool:
        """Whether `given` is the password that `kept` is the hash of; an empty `kept` costs the same and is no."""
        return await self._in_turn(lambda: _verify(kept or self._nobodys, given[: MOST + 1]) and bool(kept))

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise ProblemError(503, "busy", "too many sign in at once; try again", headers={"Retry-After": "2"})
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


def _verify(kept: str, given: str) -> bool:
    try:
        return _hasher.verify(kept, _normal(given))
    except (VerificationError, InvalidHashError):
        return False


def _normal(password: str) -> str:
    """The same characters typed on another keyboard are the same password."""
    return unicodedata.normalize("NFKC", password)
