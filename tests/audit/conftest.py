"""Fixtures of the audit tests: PostgreSQL and the registry are those of the tests with real servers."""

from real.conftest import dsn, nats, postgres, registry_world, trust

__all__ = ["dsn", "nats", "postgres", "registry_world", "trust"]
