"""What every process on the bus has to tell."""

from collections.abc import Iterable

from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.span_mail import SpanMail
from kakuremichi.runtime.metrics import BUS, SPANS_DROPPED, SPANS_SENT, UP, Sample


def bus_samples(bus: NatsBus, mail: SpanMail | None = None) -> Iterable[Sample]:
    """`mail` where spans are sent."""
    yield UP, (), float(bus.connected)
    for event, count in bus.counts.items():
        yield BUS, (event,), count
    if mail is not None:
        yield SPANS_SENT, (), mail.sent
        yield SPANS_DROPPED, (), mail.dropped
