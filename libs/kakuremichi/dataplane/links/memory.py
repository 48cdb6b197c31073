"""An interface in memory that behaves like the kernel's, for tests; it can be told to fail."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.device import Outcome
from kakuremichi.dataplane.links.diff import (
    AddAddress,
    AddRoute,
    RemoveAddress,
    RemoveRoute,
    SetAlias,
    SetMtu,
    SetUp,
    Step,
)
from kakuremichi.model.addresses import IPNetwork


class MemoryLink:
    """`state` is what the kernel would tell; `fail_at` numbers the steps (from 0, over all calls) that are refused.

    As in the kernel: no route enters an interface that is down, going down removes the routes, and a route that
    somebody else has (`strangers`) is not taken over.
    """

    def __init__(
        self, name: str, state: LinkState, fail_at: Iterable[int] = (), strangers: Iterable[IPNetwork] = ()
    ) -> None:
        self.name = name
        self.state = state
        self.fail_at = frozenset(fail_at)
        self.strangers = frozenset(strangers)
        self.applied: list[Step] = []

    async def read(self) -> LinkState:
        return self.state

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        return tuple(self._apply(step) for step in steps)

    def _apply(self, step: Step) -> Outcome:
        self.applied.append(step)
        if len(self.applied) - 1 in self.fail_at:
            return Outcome(step, "no buffer space available")
        state = self.state
        match step:
            case SetAlias(alias):
                self.state = replace(state, alias=alias)
            case SetMtu(mtu):
                self.state = replace(state, mtu=mtu)
            case SetUp(up):
                self.state = replace(state, up=up, routes=state.routes if up else frozenset())
            case AddAddress(address):
                self.state = replace(state, addresses=state.addresses | {address})
            case RemoveAddress(address):
                self.state = replace(state, addresses=state.addresses - {address})
            case AddRoute(network):
                if not state.up or network in self.strangers:
                    return Outcome(
                        step, f"route {network}: {'there is one already' if state.up else 'network is down'}"
                    )
                self.state = replace(state, routes=state.routes | {network})
            case RemoveRoute(network):
                self.state = replace(state, routes=state.routes - {network})
        return Outcome(step)
