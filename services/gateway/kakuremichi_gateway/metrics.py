"""What passed through each service of this gateway, from HAProxy's and nftables' own counters. Never who it was."""

import asyncio
from collections.abc import Iterable

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.dataplane.haproxy.stats import Counters, Ledger, read_workers
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.node import metrics as node
from kakuremichi.runtime.metrics import Family, Sample
from kakuremichi_gateway.publishing import L4Section

HAPROXY = Family("kakuremichi_gateway_haproxy_up", "gauge", "1 if HAProxy answered.")
SERVICES = Family("kakuremichi_gateway_services", "gauge", "Services by what carries them.", ("carried_by",))
REQUESTS = Family("kakuremichi_service_requests_total", "counter", "Answers by class of status.", ("service", "code"))
CONNECTIONS = Family("kakuremichi_service_connections_total", "counter", "Connections of visitors (tcp), flows (udp), "
                     "requests (http).", ("service", "carried_by"))  # fmt: skip
BYTES = Family("kakuremichi_service_bytes_total", "counter", "Bytes: `in` from visitors, `out` to them; of what "
               "nftables carries `both` together.", ("service", "direction"))  # fmt: skip
REFUSED = Family("kakuremichi_service_refused_total", "counter", "First packets of connections beyond a limit.",
                 ("service",))  # fmt: skip
FAILED = Family("kakuremichi_service_upstream_errors_total", "counter", "What went wrong towards the targets.",
                ("service", "error"))  # fmt: skip
FAMILIES = (*node.FAMILIES, HAPROXY, SERVICES, REQUESTS, CONNECTIONS, BYTES, REFUSED, FAILED)


class GatewayMetrics:
    """Two scrapes at one time would read the same counters twice into the ledger, so they take turns."""

    def __init__(self, l4: L4Section, proxy: Reconciler, layout: Layout) -> None:
        self._l4, self._proxy, self._layout = l4, proxy, layout
        self._ledger, self._turn = Ledger(), asyncio.Lock()

    async def collect(self) -> Iterable[Sample]:
        async with self._turn:
            return (*await self._of_haproxy(), *await self._of_nftables())

    async def _of_haproxy(self) -> list[Sample]:
        owners = self._proxy.owners
        try:
            totals = self._ledger.update(await read_workers(self._layout), owners)
        except (ProxyError, OSError):
            return [(HAPROXY, (), 0)]
        found: list[Sample] = [(HAPROXY, (), 1), (SERVICES, ("haproxy",), len(totals))]
        for service, counters in totals.items():
            found += _of_service(str(service), counters)
        return found

    async def _of_nftables(self) -> list[Sample]:
        try:
            counted = await self._l4.counts()
        except TableError:
            return []
        found: list[Sample] = [(SERVICES, ("nftables",), len(counted))]
        for service, counters in counted.items():
            found += [
                (CONNECTIONS, (str(service), "nftables"), counters.connections),
                (BYTES, (str(service), "both"), counters.bytes),
                (REFUSED, (str(service),), counters.refused),
            ]
        return found


def _of_service(service: str, counters: Counters) -> list[Sample]:
    codes = (counters.status_1xx, counters.status_2xx, counters.status_3xx, counters.status_4xx, counters.status_5xx)
    failed = {
        "connect": counters.connect_errors, "response": counters.response_errors, "retry": counters.retries,
        "redispatch": counters.redispatches,
    }  # fmt: skip
    return [
        (CONNECTIONS, (service, "haproxy"), counters.requests),
        (BYTES, (service, "in"), counters.bytes_in),
        (BYTES, (service, "out"), counters.bytes_out),
        *((REQUESTS, (service, f"{number}xx"), count) for number, count in enumerate(codes, 1)),
        *((FAILED, (service, error), count) for error, count in failed.items()),
    ]
