"""What one pass of the reconciler did."""

from dataclasses import dataclass, field, replace
from typing import Self

from kakuremichi.dataplane.haproxy.diff import RemoveServer
from kakuremichi.dataplane.haproxy.proxy import Outcome
from kakuremichi.model.ids import ServiceId


@dataclass(frozen=True, slots=True)
class Report:
    """Done if `errors` is empty; the servers of `pending` get no visitors any more and are removed when their last
    connections have ended. An error of one of the services in `blamed` begins with its name and a colon.
    """

    outcomes: tuple[Outcome, ...] = ()
    errors: tuple[str, ...] = ()
    pending: tuple[RemoveServer, ...] = ()
    reloaded: bool = False
    blamed: frozenset[ServiceId] = frozenset()

    def concerning(self, service: ServiceId) -> Self:
        """Without what other services are to blame for, whose changes were part of the same pass."""
        others = tuple(f"{other}: " for other in self.blamed - {service})
        mine = tuple(error for error in self.errors if not error.startswith(others)) if others else self.errors
        return replace(self, errors=mine, blamed=self.blamed & {service})


@dataclass(slots=True)
class Pass:
    """What becomes a report, while it goes on."""

    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    reloaded: bool = False
    blamed: set[ServiceId] = field(default_factory=set)

    def blame(self, service: ServiceId, reason: str) -> None:
        self.blamed.add(service)
        self.errors.append(f"{service}: {reason}")

    def report(self, pending: tuple[RemoveServer, ...]) -> Report:
        return Report(tuple(self.outcomes), tuple(self.errors), pending, self.reloaded, frozenset(self.blamed))
