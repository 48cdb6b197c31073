"""ETags, If-Match and If-None-Match (RFC 9110).

An ETag is `"SEQ-DIGEST"`: the event of the last change, and what the answer's bytes say beside it, such as errors that
nodes have reported since. If-Match looks at SEQ alone: what nodes report is no reason to refuse a write.
"""

import hashlib
import re

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.route import Call

IF_MATCH = {"If-Match": "The ETag that it has to have, or `*`; 412 with the present one if it has another."}
IF_NONE_MATCH = {"If-None-Match": "An ETag that the asker has already; 304 if it is still this."}
CREATE_ONLY = {"If-None-Match": "`*`: only if there is none of this name yet, else 412."}

MOST = 16
ANY = 0
_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"', re.ASCII)
_OURS = re.compile(r"([1-9][0-9]{0,18})(-[0-9a-f]{16})?", re.ASCII)


def seq_tag(seq: int) -> str:
    """The ETag of what stands after this event, whatever nodes report about it."""
    return f'"{seq}"'


def tagged(call: Call, body: Struct, updated_seq: int) -> web.Response:
    """`body` with its ETag, or 304 if the asker has it already."""
    data = msgspec.json.encode(body)
    etag = _etag(data, updated_seq)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    known = _tags(call, "If-None-Match")
    if known is not UNSET and (known == ("*",) or etag in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, content_type="application/json", headers=headers)


def refuse_changed(call: Call, what: str, body: Struct, number: int) -> None:
    """412 unless `If-Match`, where there is one, names `body` as it is; for what the log does not number.

    `number` alone does as well, or `*`.
    """
    tags = _tags(call, "If-Match")
    etag = _etag(msgspec.json.encode(body), number)
    if tags is UNSET or {"*", etag, seq_tag(number)} & set(tags):
        return
    detail = f"{what}: was changed by somebody else; look again"
    raise ProblemError(412, "changed", detail, field="If-Match", headers={"ETag": etag})


def _etag(data: bytes, number: int) -> str:
    return f'"{number}-{hashlib.sha256(data).hexdigest()[:16]}"'


def wanted_seqs(call: Call) -> tuple[int, ...] | UnsetType:
    """What `If-Match` asks for; an ETag that is not one of ours matches nothing, as a weak one does."""
    tags = _tags(call, "If-Match")
    if tags is UNSET:
        return UNSET
    if tags == ("*",):
        return (ANY,)
    return tuple(int(match[1]) for tag in tags if (match := _OURS.fullmatch(tag.removeprefix("W/").strip('"'))))


def create_only(call: Call) -> bool:
    """`If-None-Match: *` of a write; nothing else has a meaning there."""
    tags = _tags(call, "If-None-Match")
    if tags not in (UNSET, ("*",)):
        raise ProblemError(400, "invalid", "if-none-match: `*` is all that a write takes", field="If-None-Match")
    return tags is not UNSET


def _tags(call: Call, name: str) -> tuple[str, ...] | UnsetType:
    lines = call.request.headers.getall(name, [])
    if not lines:
        return UNSET
    text = ",".join(lines).strip()
    if text == "*":
        return ("*",)
    tags = tuple(tag.strip() for tag in text.split(","))
    if len(tags) > MOST or not all(_ETAG.fullmatch(tag) for tag in tags):
        raise ProblemError(
            400,
            "invalid",
            f'{name.lower()}: `*`, or at most {MOST} ETags such as "17", with commas between',
            field=name,
        )
    # A strong comparison: a weak one is like nothing.
    return tuple(tag for tag in tags if not tag.startswith("W/") or name == "If-None-Match")
