"""What passed through each service of this gateway, from HAProxy's and nftables' own counters. Never who it was."""

from collections.abc import Collection, Iterable, Mapping

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.stats import Counters
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.dataplane.nftables.reader import Counters as Flows
from kakuremichi.model.ids import ServiceId
from kakuremichi.node import metrics as node
from kakuremichi.runtime.metrics import Family, Sample
from kakuremichi_gateway.counting import FlowCount, HttpCount

HAPROXY = Family("kakuremichi_gateway_haproxy_up", "gauge", "1 if HAProxy answered.")
SERVICES = Family("kakuremichi_gateway_services", "gauge", "Services by what carries them.", ("carried_by",))
REQUESTS = Family("kakuremichi_service_requests_total", "counter", "Answers by class of status.", ("service", "code"))
CONNECTIONS = Family("kakuremichi_service_connections_total", "counter", "Connections of visitors (tcp), flows (udp), "
                     "requests (http).", ("service", "carried_by"))  # fmt: skip
BYTES = Family("kakuremichi_service_bytes_total", "counter", "Bytes: `in` from visitors, `out` to them; of tcp and "
               "udp with headers.", ("service", "direction"))  # fmt: skip
REFUSED = Family("kakuremichi_service_refused_total", "counter", "First packets of connections beyond a limit.",
                 ("service",))  # fmt: skip
FAILED = Family("kakuremichi_service_upstream_errors_total", "counter", "What went wrong towards the targets.",
                ("service", "error"))  # fmt: skip
FAMILIES = (*node.FAMILIES, HAPROXY, SERVICES, REQUESTS, CONNECTIONS, BYTES, REFUSED, FAILED)


class GatewayMetrics:
    def __init__(self, http: HttpCount, flows: FlowCount) -> None:
        self._http, self._flows = http, flows

    async def collect(self) -> Iterable[Sample]:
        flows = await self._flow_totals()
        return (*await self._of_haproxy(flows.keys()), *_of_nftables(flows))

    async def _of_haproxy(self, counted_else: Collection[ServiceId]) -> list[Sample]:
        """Bytes of what HAProxy carries for a service of tcp are among those that nftables counts."""
        try:
            totals = (await self._http.read()).totals
        except ProxyError:
            return [(HAPROXY, (), 0)]
        found: list[Sample] = [(HAPROXY, (), 1), (SERVICES, ("haproxy",), len(totals))]
        for service, counters in totals.items():
            found += _of_service(str(service), counters)
            if service not in counted_else:
                found += _bytes_of(service, counters.bytes_in, counters.bytes_out)
        return found

    async def _flow_totals(self) -> Mapping[ServiceId, Flows]:
        try:
            return (await self._flows.read()).totals
        except TableError:
            return {}


def _of_nftables(counted: Mapping[ServiceId, Flows]) -> list[Sample]:
    found: list[Sample] = [(SERVICES, ("nftables",), len(counted))]
    for service, flows in counted.items():
        found += [
            (CONNECTIONS, (str(service), "nftables"), flows.connections),
            (REFUSED, (str(service),), flows.refused),
            *_bytes_of(service, flows.bytes - flows.bytes_out, flows.bytes_out),
        ]
    return found


def _bytes_of(service: ServiceId, bytes_in: int, bytes_out: int) -> list[Sample]:
    return [(BYTES, (str(service), "in"), bytes_in), (BYTES, (str(service), "out"), bytes_out)]


def _of_service(service: str, counters: Counters) -> list[Sample]:
    failed = {
        "connect": counters.connect_errors, "response": counters.response_errors, "retry": counters.retries,
        "redispatch": counters.redispatches,
    }  # fmt: skip
    return [
        (CONNECTIONS, (service, "haproxy"), counters.requests),
        *((REQUESTS, (service, f"{number}xx"), count) for number, count in enumerate(counters.statuses, 1)),
        *((FAILED, (service, error), count) for error, count in failed.items()),
    ]
