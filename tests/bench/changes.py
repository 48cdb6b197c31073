"""API request → applied on three gateways: changes one after another, and where their time goes."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.api import as_deployed
from bench.harness import Figure, percentile, print_rows, progress
from bench.spans import SPANS_S, Trace, read_traces, rows_of, steps_of
from bench.stage import SITE, Stage
from kakuremichi.fleet.api import Api
from kakuremichi.fleet.lab_fleet import GATEWAYS

COUNT = 200
COUNT_TRACED = 60  # with a file of spans for each process, which costs a tenth and more
WARM_UP = 12  # the first statements on each database connection are parsed, the first spans imported
# A node reports at most every 250 ms: a change that comes sooner after another waits for that, not for the work.
PAUSE_S = (0.3, 0.5)


@dataclass(frozen=True, slots=True)
class Request:
    """One change: what the API is asked."""

    method: str
    path: str
    body: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Change:
    """One change that was applied. `by_gateway` has ms from the request to the report, as the API tells them."""

    by_gateway: dict[str, float]
    trace_id: str
    verb: str

    @property
    def ms(self) -> float:
        """Until the slowest gateway."""
        return max(self.by_gateway.values())


async def measure(stage: Stage) -> list[Figure]:
    """The figure as a server has it: traces of changes go to the portal, no files are written."""
    await stage.nodes()
    async with as_deployed(stage):
        changes = await asyncio.to_thread(make_changes, stage, http_requests(COUNT + WARM_UP))
    traced = COUNT_TRACED + WARM_UP
    http = await asyncio.to_thread(make_changes, stage, http_requests(traced, name="traced"))
    l4 = await asyncio.to_thread(make_changes, stage, tcp_requests(traced))
    await asyncio.sleep(SPANS_S)
    traces = read_traces(stage.directory)
    show("HTTP services", http, traces)
    show("TCP services", l4, traces)
    samples = [change.ms for change in changes]
    slow = percentile([change.ms for change in l4], 99)
    note = f"p50 {percentile(samples, 50):.1f} ms; TCP services, traced, p99 {slow:.1f} ms of {len(l4)}"
    return [Figure("applied_on_3_gateways_p99", percentile(samples, 99), samples, note)]


def make_changes(stage: Stage, requests: Iterator[Request], *, gateways: tuple[str, ...] = GATEWAYS) -> list[Change]:
    """Ask for one after another with pauses; the first WARM_UP are not counted. Blocks: call it in a thread."""
    api = stage.fleet.api()
    try:
        changes = []
        for request in requests:
            time.sleep(random.uniform(*PAUSE_S))
            changes.append(_change(api, request, gateways))
    finally:
        api.close()
    return changes[WARM_UP:]


def _change(api: Api, request: Request, gateways: tuple[str, ...]) -> Change:
    status, answer = api.call(request.method, f"{request.path}?wait=applied&timeout=5", request.body)
    applied = {each["node"]: float(each["ms"]) for each in answer["applied"]}
    if status == 202 or not applied.keys() >= set(gateways):
        raise RuntimeError(f"{request.method} {request.path}: applied on {sorted(applied)} only, {answer}")
    return Change({name: applied[name] for name in gateways}, answer["trace_id"], request.method)


def http_requests(count: int, *, agent: str = SITE, name: str = "change") -> Iterator[Request]:
    """Create, replace (another host name), delete; every host name is new, as freed ones rest for a day."""
    for number in range(count):
        step, service = number % 3, f"{name}-{number // 3}"
        host = f"{service}{'-b' if step else ''}.lab.test"
        yield _request(step, service, {"name": service, "kind": "http", "host": host}, agent)


def tcp_requests(count: int, *, agent: str = SITE, name: str = "change-tcp") -> Iterator[Request]:
    """Create, replace (another public port), delete."""
    for number in range(count):
        step, service = number % 3, f"{name}-{number // 3}"
        yield _request(step, service, {"name": service, "kind": "tcp", "port": 7100 + step}, agent)


def _request(step: int, service: str, body: dict[str, object], agent: str) -> Request:
    body["targets"] = [{"agent": agent, "port": 9000}]
    return (
        Request("POST", "/services", body),
        Request("PUT", f"/services/{service}", body),
        Request("DELETE", f"/services/{service}", None),
    )[step]


def show(what: str, changes: list[Change], traces: dict[str, Trace]) -> None:
    """How long the changes took by verb, and where the time went."""
    for verb in ("POST", "PUT", "DELETE"):
        samples = [change.ms for change in changes if change.verb == verb]
        text = " · ".join(f"p{percent} {percentile(samples, percent):.1f}" for percent in (50, 90, 99))
        progress(f"{what}, {verb}: {text} ms of {len(samples)}")
    steps = [steps_of(traces[change.trace_id], change.by_gateway) for change in changes if change.trace_id in traces]
    print_rows(f"{what}: where the time goes, ms", ("step", "p50", "p90", "p99", "max"), rows_of(steps))
