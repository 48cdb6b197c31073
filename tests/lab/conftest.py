"""The fleet of the whole run: started by the first test that asks for it, shared by all, mended after each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kakuremichi.fleet.lab_fleet import Fleet, fleet_in
from support.fleet import KEEPER_HOST, Place, running_fleet, tidy
from support.history import fleet_folds_into_its_tables


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    with running_fleet() as where:
        yield where


@pytest.fixture
async def fleet(place: Place) -> AsyncIterator[Fleet]:
    """Three gateways, three agents and the four services of the demo, all as the registry says.

    A test may publish what it likes and break what it mends again. Afterwards the log folds into the tables.
    """
    async with fleet_in(place.lab, place.directory, keeper_host=KEEPER_HOST) as fleet:
        yield fleet
        await tidy(fleet)
        await fleet_folds_into_its_tables(fleet)
