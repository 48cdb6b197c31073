"""What one pass of the reconciler did."""

from dataclasses import dataclass, replace
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
