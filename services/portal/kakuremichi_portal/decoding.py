"""Request bodies and queries, decoded strictly: each refusal names the field and what would be right."""

import asyncio
import json
import re
from typing import Any, Literal, NoReturn, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from kakuremichi_portal.names import RULE
from kakuremichi_portal.problems import ProblemError

MAX_BODY_BYTES = 64 * 1024
BODY_WITHIN_S = 10.0
T = TypeVar("T", bound=Struct)

_AT = re.compile(r"^(?P<reason>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"(?:unknown|required) field `(?P<name>[^`]{1,64})`")
_SHOWN_CHARS = 200  # of a reason that repeats what the client sent


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as one `kind`. Refuses other media types (415), too much (413), bad JSON (400), bad shape (422)."""
    if request.content_type != "application/json":
        raise ProblemError(415, "media-type", "content-type: application/json is needed")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(415, "media-type", "content-encoding: a compressed body is not read")
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            body = await request.read()
    except TimeoutError as error:
        raise ProblemError(408, "too-slow", f"body: not here within {BODY_WITHIN_S:g} s") from error
    if not body:
        raise ProblemError(400, "malformed", "body: empty, a JSON object is needed")
    refuse_ambiguous_json(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        refuse_shape(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(400, "malformed", f"body: not JSON ({str(error)[:_SHOWN_CHARS]})") from error


def refuse_ambiguous_json(body: bytes) -> None:
    """Refuse what readers of JSON understand differently: a field given twice, lone surrogates, no JSON at all."""
    try:
        value = json.loads(body, object_pairs_hook=_object_of_distinct, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except ProblemError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "malformed", "body: not JSON in UTF-8, or nested too deeply") from error


def _object_of_distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProblemError(400, "malformed", "body: a field is given twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ProblemError(400, "malformed", f"body: {name} is not JSON")


def refuse_shape(error: msgspec.ValidationError) -> NoReturn:
    reason, field = _split(str(error))
    detail = f"{field}: {reason}" if field else reason
    raise ProblemError(422, "invalid", detail[:_SHOWN_CHARS], field=field[:_SHOWN_CHARS]) from error


def _split(sentence: str) -> tuple[str, str]:
    """(reason, field) of msgspec's sentence: "Expected `int`, got `str` - at `$.targets[0].port`"."""
    match = _AT.match(sentence)
    reason, path = (match["reason"], match["path"] or "") if match else (sentence, "")
    if named := _NAMED.search(reason):
        path = f"{path}.{named['name']}" if path else named["name"]
    if "matching regex" in reason:  # of all patterns that bodies are checked with there is one: that of names
        return f"a name has {RULE}", path
    return reason[:1].lower() + reason[1:], path


def query_int(request: web.Request, name: str, default: int, *, least: int, most: int) -> int:
    text = _query(request, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most):
        raise ProblemError(400, "invalid", f"{name}: a whole number from {least} to {most} is needed", field=name)
    return int(text)


def query_seconds(request: web.Request, name: str, default: float, *, most: float) -> float:
    text = _query(request, name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text, re.ASCII) or not 0 < float(text) <= most:
        raise ProblemError(400, "invalid", f"{name}: seconds, more than 0 and at most {most:g}", field=name)
    return float(text)


def query_text(request: web.Request, name: str, most: int) -> str:
    """At most `most` printable ASCII characters; "" if it is not given."""
    text = _query(request, name) or ""
    if len(text) > most or not (text + "x").isprintable() or not text.isascii():
        raise ProblemError(400, "invalid", f"{name}: at most {most} printable ASCII characters", field=name)
    return text


def query_flag(request: web.Request, name: str) -> bool:
    text = _query(request, name)
    if text not in (None, "true", "false"):
        raise ProblemError(400, "invalid", f"{name}: true or false", field=name)
    return text == "true"


def query_dry_run(request: web.Request) -> bool:
    text = _query(request, "dry_run")
    if text not in (None, "1"):
        raise ProblemError(400, "invalid", "dry_run: `1`, or left out", field="dry_run")
    return text == "1"


def query_wait(request: web.Request) -> Literal["applied", ""]:
    text = _query(request, "wait")
    if text not in (None, "applied"):
        raise ProblemError(400, "invalid", "wait: `applied` is the only thing to wait for", field="wait")
    return "applied" if text else ""


def refuse_unknown_query(request: web.Request, known: tuple[str, ...]) -> None:
    for name in request.query:
        if name not in known:
            detail = f"query: unknown parameter {name[:40]!r}; known here: {', '.join(known) or 'none'}"
            raise ProblemError(400, "invalid", detail, field=name[:40])


def _query(request: web.Request, name: str) -> str | None:
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise ProblemError(400, "invalid", f"{name}: given {len(values)} times", field=name)
    return values[0] if values else None
