"""The log of a registry held against its tables: what the one folds into, the others have to hold."""

from kakuremichi.audit.chain import LogRow, verify_chain
from kakuremichi.audit.fold import fold
from kakuremichi.audit.rows import lines
from kakuremichi.audit.state import State
from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi_registry.database import Database, open_database
from kakuremichi_registry.store import retirement, truth
from kakuremichi_registry.store.history import head


async def log_of(database: Database, until: int, after: int = 0) -> list[LogRow]:
    found: list[LogRow] = []
    while page := await truth.log_rows(database, after + len(found), until, 1000):
        found += page
    return found


async def beginning_of(database: Database) -> State:
    """The state before the log's first row, which is not empty where rows have left."""
    cut = await retirement.newest_cut(database)
    state = await retirement.state_at_cut(database, cut) if cut else None
    return state or State(log_id=(await head(database))[0])


async def fleet_folds_into_its_tables(fleet: Fleet) -> State:
    """The same for the registry of a fleet in the lab, as its own database tells it."""
    (unit,) = (unit for unit in fleet.control.units() if unit.name == "registry")
    async with open_database(unit.env["KAKUREMICHI_DATABASE_URL"]) as database:
        return await folds_into_its_tables(database)


async def folds_into_its_tables(database: Database) -> State:
    """Fold the whole log, compare canonical lines with the tables; the state."""
    tables, base = await truth.read(database), await beginning_of(database)
    rows = await log_of(database, tables.seq, base.seq)
    assert verify_chain(rows, after=base.seq, hash_after=base.hash) == (tables.seq, tables.hash)
    state = fold(base, rows)
    folded, held = state.lines(tables.moment), lines(tables.rows)
    only_folded = [f"folded: {line.decode()}" for line in folded if line not in set(held)]
    only_held = [f"table:  {line.decode()}" for line in held if line not in set(folded)]
    assert folded == held, "the log does not fold into the tables:\n" + "\n".join(only_folded + only_held)
    return state
