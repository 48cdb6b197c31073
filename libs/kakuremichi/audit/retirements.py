"""Rows of the log that say which rows have left, and with which export. Pure."""

import msgspec

from kakuremichi.audit.chain import LogRow
from kakuremichi.wire.facts import LogRetired

RETIRED = "log-retired"  # the topic


def retirement_of(row: LogRow) -> LogRetired | None:
    try:
        return msgspec.json.decode(row.fact, type=LogRetired)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # its hash says whether somebody has changed it
