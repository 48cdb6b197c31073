"""/api/v1/traces/{trace_id}: one change from the HTTP request to what each node did, as this portal has kept it."""

import asyncio
import re
from dataclasses import replace
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from kakuremichi.wire import commands
from kakuremichi_portal.names import missing
from kakuremichi_portal.principal import Scope
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response
from kakuremichi_portal.scoping import tells_of_others
from kakuremichi_portal.traces import KeptSpan, KeptTrace, Traces

PATH = f"{API}/traces/{{name}}"
CONTROL_PLANE = ("portal", "registry", "keyring")  # a node of such a name tells no more by it than they do
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class TraceSpan(Struct, frozen=True, kw_only=True):
    process: Annotated[str, Meta(description="The service, or the node.")]
    name: str
    span_id: str
    parent_id: Annotated[str, Meta(description="Empty: it began the trace.")]
    start_ns: Annotated[int, Meta(description="Since 1970, by the clock of the machine that made the span.")]
    offset_ms: Annotated[float, Meta(description="From the start of the first span; clocks may differ.")]
    duration_ms: float
    kind: Literal["internal", "server", "client", "producer", "consumer"]
    error: Annotated[str, Meta(description="Empty if all went well.")]
    shared: Annotated[bool, Meta(description="The step was one of several changes at once; it stands in each's trace.")]


class Trace(Struct, frozen=True, kw_only=True):
    trace_id: str
    truncated: Annotated[bool, Meta(description="There were more spans than are kept.")]
    spans: Annotated[tuple[TraceSpan, ...], Meta(description="By their start.")]


class TraceRoutes:
    def __init__(self, traces: Traces, registry: Registry) -> None:
        self._traces, self._registry = traces, registry

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PATH, "getTrace", "The spans of a change that this portal has kept; they come a second late.",
                  Access.READ, self.get, {200: Trace}, refusals=(404,)),
        )  # fmt: skip

    async def get(self, call: Call) -> web.Response:
        text = call.name
        kept = self._traces.find(bytes.fromhex(text)) if _TRACE_ID.fullmatch(text) else None
        if kept is None:
            raise missing("trace", text if _TRACE_ID.fullmatch(text) else "")
        scope = call.caller.scope
        return json_response(shown(text, await self._within(scope, call.actor, text, kept) if scope.limited else kept))

    async def _within(self, scope: Scope, actor: str, text: str, kept: KeptTrace) -> KeptTrace:
        """What somebody with limits may see: of an event of theirs, and no span of others' nodes."""
        events = await self._registry.ask(commands.ListEvents(actor=actor, trace_id=text), commands.Events)
        if not events.items:
            raise missing("trace", text)
        agents, gateways = await asyncio.gather(
            self._registry.nodes(actor, "agent"), self._registry.nodes(actor, "gateway")
        )
        roles = {node.node_id: node.role for node in (*agents, *gateways)} | dict.fromkeys(CONTROL_PLANE, "")
        spans = {
            span_id: _of_others(span) if tells_of_others(scope, roles[span.process]) else span
            for span_id, span in kept.spans.items()
            if span.process in roles
        }
        return replace(kept, spans=spans)


def _of_others(span: KeptSpan) -> KeptSpan:
    """A step of a gateway is one of several changes at once: that it failed is told, and not on what."""
    if not span.record.error:
        return span
    return span._replace(record=structs.replace(span.record, error="failed; the service's own errors say more"))


def shown(trace_id: str, kept: KeptTrace) -> Trace:
    ordered = sorted(kept.spans.values(), key=lambda span: span.record.start_ns)
    began_ns = ordered[0].record.start_ns if ordered else 0
    return Trace(
        trace_id=trace_id,
        truncated=kept.truncated,
        spans=tuple(_span(each, began_ns) for each in ordered),
    )


def _span(kept: KeptSpan, began_ns: int) -> TraceSpan:
    span = kept.record
    return TraceSpan(
        process=kept.process, name=span.name, span_id=span.span_id.hex(), parent_id=kept.parent_id.hex(),
        start_ns=span.start_ns, offset_ms=round((span.start_ns - began_ns) / 1e6, 3),
        duration_ms=round(max(0, span.end_ns - span.start_ns) / 1e6, 3), kind=span.kind, error=span.error,
        shared=bool(span.links),
    )  # fmt: skip
