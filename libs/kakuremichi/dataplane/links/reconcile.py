"""Make one interface match its desired state: read, compare, write."""

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.device import LinkDevice, Outcome
from kakuremichi.dataplane.links.diff import RemoveAddress, SetUp, steps_between


async def reconcile(desired: LinkState, device: LinkDevice) -> tuple[Outcome, ...]:
    """The outcome of every step taken; empty when nothing differed. Raises LinkError when the interface is gone."""
    outcomes = await device.apply(steps_between(await device.read(), desired))
    # Removing an IPv4 address takes its secondaries along, and an interface that goes down its routes: look again.
    if any(isinstance(outcome.step, RemoveAddress | SetUp) for outcome in outcomes):
        outcomes += await device.apply(steps_between(await device.read(), desired))
    return outcomes
