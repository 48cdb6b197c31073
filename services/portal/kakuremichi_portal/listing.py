"""What lists have in common: pages and filters."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from kakuremichi.model.ids import TOKEN_PATTERN
from kakuremichi_portal.decoding import query_int, query_text
from kakuremichi_portal.names import RULE
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.route import Call, Query

T = TypeVar("T")

MOST = 1000
AFTER_CHARS = 64
NAME_PATTERN = TOKEN_PATTERN.replace(r"\A", "^").replace(r"\Z", "$")  # as JSON Schema writes it
PAGE_QUERY = (
    Query("limit", "At most so many; without it all of them.", {"type": "integer", "minimum": 1, "maximum": MOST}),
    Query("after", "`next_after` of the page before.", {"type": "string", "maxLength": AFTER_CHARS}),
)


def of_name(name: str, summary: str) -> Query:
    """A filter by the name of something."""
    return Query(name, summary, {"type": "string", "pattern": NAME_PATTERN})


def one_of(name: str, summary: str, *values: str) -> Query:
    return Query(name, summary, {"enum": list(values)})


def page_of(call: Call) -> tuple[int | None, str]:
    """(limit, after); no limit is None."""
    limit = query_int(call.request, "limit", 0, least=1, most=MOST)
    return limit or None, query_text(call.request, "after", AFTER_CHARS)


async def cut(found: AsyncIterator[T], limit: int | None, key: Callable[[T], str]) -> tuple[tuple[T, ...], str]:
    """At most `limit` of them, and the key of the last one if there is more."""
    kept: list[T] = []
    async for each in found:
        if len(kept) == limit:
            return tuple(kept), key(kept[-1])
        kept.append(each)
    return tuple(kept), ""


def filters_of(call: Call, queries: tuple[Query, ...]) -> Mapping[str, Any]:
    """Those that are given, checked against their schemas; as fields of the registry's commands."""
    found = {}
    for query in queries:
        if query.name in call.request.query:
            text = query_text(call.request, query.name, 253)
            _check(query, text)
            found[query.name] = text
    return found


def _check(query: Query, text: str) -> None:
    known, pattern = query.schema.get("enum"), query.schema.get("pattern")
    if isinstance(known, list) and text not in known:
        raise ProblemError(400, "invalid", f"{query.name}: one of {', '.join(known)}", field=query.name)
    if pattern is not None and not re.fullmatch(str(pattern), text):
        raise ProblemError(400, "invalid", f"{query.name}: a name has {RULE}", field=query.name)
