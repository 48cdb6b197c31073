"""What a service of tcp is limited to is kept by every gateway, and only for that service."""

from contextlib import ExitStack

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from support import visits
from support.fleet import eventually, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PORT = 7600


def limit(fleet: Fleet, **limits: int) -> None:
    """The echo of site-b under another port, with these limits."""
    target = [{"agent": "site-b", "port": 7007}]
    put(fleet, "echo-limited", kind="tcp", port=PORT, targets=target, options={"limits": limits})


def outcome(fleet: Fleet, gateway: str, source: str) -> str:
    return visits.outcome(fleet.lab, source, fleet.lab.address(gateway), PORT)


def open_connections(fleet: Fleet, stack: ExitStack, source: str, count: int) -> None:
    for _ in range(count):
        connection = stack.enter_context(visits.connect(fleet.lab, source, fleet.lab.address("gw1"), PORT))
        assert stack.enter_context(connection.makefile("rb")).readline() == b"hello from echo-b\n"


async def test_connections_beyond_the_limit_are_refused_until_one_ends(fleet: Fleet) -> None:
    limit(fleet, connections=2)

    with ExitStack() as stack:
        open_connections(fleet, stack, "visitor", 2)
        assert outcome(fleet, "gw1", "office") == "refused"
        assert outcome(fleet, "gw2", "office") == "open"  # each gateway counts its own
        assert visits.greeting(fleet.lab, fleet.lab.address("gw1"), 7000) == "echo-b"
    await eventually(lambda: outcome(fleet, "gw1", "office") == "open")


async def test_a_clients_share_is_his_own(fleet: Fleet) -> None:
    limit(fleet, connections_per_client=1)

    with ExitStack() as stack:
        open_connections(fleet, stack, "visitor", 1)
        assert outcome(fleet, "gw1", "visitor") == "refused"
        assert outcome(fleet, "gw1", "office") == "open"
    await eventually(lambda: outcome(fleet, "gw1", "visitor") == "open")
