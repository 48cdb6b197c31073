"""Identities that were cut off."""

from kakuremichi.model.keys import VerifyKey
from kakuremichi_registry.database import Database


async def cut_identities(database: Database, within_s: float) -> dict[VerifyKey, float]:
    """Identity keys cut off within the last `within_s`, with the Unix second of it."""
    rows = await database.fetch(
        "select identity_key, extract(epoch from cut_at)::float8 as cut_at from cut_identity"
        " where cut_at > clock_timestamp() - make_interval(secs => $1)",
        within_s,
    )
    return {VerifyKey(row["identity_key"]): row["cut_at"] for row in rows}
