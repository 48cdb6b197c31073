"""Migrations: forward only, and only on a database that is ours."""

import pytest

from kakuremichi_registry.migrate import Migration, MigrationError, pending, shipped

ONE, TWO = Migration("0001_a.sql", "select 1"), Migration("0002_b.sql", "select 2")


def test_what_is_not_applied_is_pending_in_order() -> None:
    assert pending({}, (ONE, TWO)) == (ONE, TWO)
    assert pending({ONE.name: ONE.checksum}, (ONE, TWO)) == (TWO,)


def test_a_changed_or_unknown_migration_is_refused() -> None:
    with pytest.raises(MigrationError, match="0001_a"):
        pending({ONE.name: "another"}, (ONE, TWO))
    with pytest.raises(MigrationError, match="newer release"):
        pending({TWO.name: TWO.checksum}, (ONE,))


def test_the_shipped_ones_are_numbered_without_a_gap() -> None:
    names = [migration.name for migration in shipped()]
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
