"""The examples of what portals and gateways say to each other about counters."""

from typing import Any

from kakuremichi.model.ids import ServiceId
from kakuremichi.wire import counters

WEB = counters.Counted(
    service_id=ServiceId("wiki"), open=1, requests=9, statuses=(0, 7, 1, 1, 0), bytes_in=900, bytes_out=70000,
    denied=1, connect_errors=0, response_errors=0, rate=2.0,
)  # fmt: skip
FLOWS = counters.Counted(
    service_id=ServiceId("ssh"), connections=3, bytes_in=500, bytes_out=600, packets_in=5, packets_out=6, limited=1,
    rate=0.5,
)  # fmt: skip

MADE: list[tuple[Any, dict[str, Any]]] = [
    (counters.AskCounters, {"ask_id": b"a" * 16, "services": ("wiki", "ssh")}),
    (
        counters.CountersTold,
        {"ask_id": b"a" * 16, "counting_s": 60.5, "errors": ("conntrack: silent",), "services": (WEB, FLOWS)},
    ),
]
