"""What every write has in common: its terms, the answer, and on request the plan or the wait until it is applied."""

from typing import Any

from aiohttp import web
from msgspec import UNSET, UnsetType

from kakuremichi.wire.commands import AnyCommand, Plan, Result, Terms, Written
from kakuremichi.wire.people import AnyPeopleRequest
from kakuremichi_portal import plan_view
from kakuremichi_portal.conditions import IF_MATCH, wanted_seqs
from kakuremichi_portal.decoding import query_dry_run, query_seconds, query_wait
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.progress import Concern, Standing
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import DRY_RUN, WAIT_QUERY, Answer, Call, json_response
from kakuremichi_portal.shapes import AppliedAnswer, AppliedOn, NodeError, WriteAnswer
from kakuremichi_portal.shapes import Plan as PlanAnswer

DEFAULT_TIMEOUT_S = 5.0
MAX_TIMEOUT_S = 60.0
QUERY = (DRY_RUN, *WAIT_QUERY)
DONE: dict[int, Answer] = {200: (WriteAnswer, AppliedAnswer, PlanAnswer), 202: AppliedAnswer}


def wait_of(call: Call) -> float | None:
    """Seconds to wait for, None if the caller does not; refused before anything is written."""
    timeout_s = query_seconds(call.request, "timeout", DEFAULT_TIMEOUT_S, most=MAX_TIMEOUT_S)
    if query_wait(call.request) and query_dry_run(call.request):
        raise ProblemError(400, "invalid", "wait: a dry run writes nothing that could be waited for", field="wait")
    return timeout_s if query_wait(call.request) else None


def terms_of(call: Call, **others: Any) -> Terms | UnsetType:
    """What the request says about how it is to be written; unset if nothing, as older registries know it."""
    terms = Terms(dry_run=query_dry_run(call.request), if_match=wanted_seqs(call), **others)
    return UNSET if terms == Terms() else terms


def dry_run_of(call: Call, *, seen: int = 0) -> Terms | UnsetType:
    """The terms of a write to what no event numbers; `seen` is its version, as `If-Match` was compared with it."""
    if_match = (seen,) if seen and IF_MATCH.keys() & call.request.headers.keys() else UNSET
    terms = Terms(dry_run=query_dry_run(call.request), if_match=if_match)
    return UNSET if terms == Terms() else terms


async def told(registry: Registry, command: AnyCommand, name: str) -> Written | web.Response:
    """What was written; or of a dry run the answer, which is its plan."""
    return _told(await registry.ask(command, Result), name)


async def told_of_person(registry: Registry, request: AnyPeopleRequest, name: str) -> Written | web.Response:
    """The same of what is written about people."""
    return _told(await registry.person(request, Result), name)


def _told(result: Result, name: str) -> Written | web.Response:
    if isinstance(result, Plan):
        return json_response(plan_view.plan(result, name))
    if not isinstance(result, Written):
        raise ProblemError(502, "registry-answer", f"the registry answered with {type(result).__name__}")
    return result


async def answer(
    call: Call,
    written: Written,
    reports: Reports,
    *,
    name: str,
    wait_s: float | None,
    touched: frozenset[str] = frozenset(),
    created: bool = False,
) -> web.Response:
    """200 (201 if created), or with `wait_s`: 200 when no live node is pending, 202 when one still is by then."""
    headers = {"Location": f"{call.request.path}/{name}"} if created else {}
    if wait_s is None:
        body = WriteAnswer(
            name=name, seq=written.seq, log_id=written.log_id, changed=written.changed, trace_id=call.trace_id
        )
        return json_response(body, 201 if created else 200, headers)
    concern = Concern(written.log_id, written.positions, touched)
    standing = await reports.wait_applied(concern, deadline_s=call.arrived_s + wait_s)
    applied = applied_answer(call, written, concern, standing, name)
    return json_response(applied, 202 if applied.pending else 200, headers)


def applied_answer(call: Call, written: Written, concern: Concern, standing: Standing, name: str) -> AppliedAnswer:
    return AppliedAnswer(
        name=name,
        seq=written.seq,
        log_id=written.log_id,
        changed=written.changed,
        trace_id=call.trace_id,
        applied=tuple(AppliedOn(node=node, ms=_ms(at - call.arrived_s)) for node, at in standing.applied),
        pending=standing.pending,
        offline=standing.offline,
        gateways=concern.gateways,
        errors=tuple(NodeError(node=node, message=message) for node, message in standing.errors),
    )


def _ms(seconds: float) -> float:
    # A write that changed nothing may have been applied long before it was asked for.
    return round(max(0.0, seconds) * 1000, 1)
