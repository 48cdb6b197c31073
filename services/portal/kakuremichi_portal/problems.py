"""Refusals as RFC 9457 problem documents."""

from http import HTTPStatus

import msgspec
from aiohttp import web

from kakuremichi_portal.shapes import Problem

CONTENT_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request is refused: `code` is for programs, `detail` is a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str = "",
        holders: tuple[str, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.field, self.holders, self.headers = field, holders, headers or {}


def response(error: ProblemError, trace_id: str) -> web.Response:
    problem = Problem(
        type=f"urn:kakuremichi:problem:{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        field=error.field,
        holders=error.holders,
        trace_id=trace_id,
    )
    return web.Response(
        body=msgspec.json.encode(problem), status=error.status, content_type=CONTENT_TYPE, headers=error.headers
    )


def from_http(error: web.HTTPException) -> ProblemError:
    """What aiohttp itself refuses, in our form."""
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    status = error.status
    details = {
        404: ("not-found", "there is nothing at this address"),
        405: ("method-not-allowed", "this method is not offered here; the Allow header names those that are"),
        413: ("too-large", "the body is larger than 64 KiB"),
    }
    code, detail = details.get(status, ("bad-request", error.reason.lower()))
    return ProblemError(status, code, detail, headers=headers)
