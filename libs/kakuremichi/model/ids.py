"""Names of things: one alphabet for all, as each becomes a token of a NATS subject and part of a file name."""

import re
from typing import Annotated, NewType

from msgspec import Meta

TOKEN_PATTERN = r"\A[a-z0-9][a-z0-9-]{0,30}\Z"
_TOKEN = re.compile(TOKEN_PATTERN)

NodeId = NewType("NodeId", str)
ServiceId = NewType("ServiceId", str)
PoolName = NewType("PoolName", str)
LogId = NewType("LogId", str)

# The same ids where they cross a boundary: msgspec checks the pattern while decoding.
NodeIdField = Annotated[NodeId, Meta(pattern=TOKEN_PATTERN)]
ServiceIdField = Annotated[ServiceId, Meta(pattern=TOKEN_PATTERN)]
PoolNameField = Annotated[PoolName, Meta(pattern=TOKEN_PATTERN)]
SourceField = Annotated[str, Meta(pattern=TOKEN_PATTERN)]  # of a declarative file


def is_token(text: str) -> bool:
    """Whether `text` may be the id of a node, service or pool: 1 to 31 of a-z, 0-9 and `-`, not led by `-`."""
    return _TOKEN.match(text) is not None
