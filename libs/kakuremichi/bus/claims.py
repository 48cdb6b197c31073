"""Cutting a user off: the re-signed EDGE account goes to the server, which disconnects at once whom it revokes."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kakuremichi.bus.issuer import NodeIssuer
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.keys import VerifyKey

CLAIMS_UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
TIMEOUT_S = 3.0


class _Outcome(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""
    description: str = ""


class _Reply(msgspec.Struct, frozen=True):
    """The server's answer: `data` if it took the JWT, `error` if not."""

    data: _Outcome | None = None
    error: _Outcome | None = None
    server: dict[str, Any] = msgspec.field(default_factory=dict)


async def push_revocation(bus: Bus, issuer: NodeIssuer, revoked: Mapping[VerifyKey, float]) -> None:
    """Tell the server whose JWTs count for nothing: all of them, by key with the Unix second of the revocation.

    `bus` is of the role claims. :class:`BusError` if the server did not take it; to say it again is harmless.
    """
    text = issuer.revoke(revoked)
    reply = await bus.request(CLAIMS_UPDATE, text.encode(), timeout_s=TIMEOUT_S)
    try:
        answer = msgspec.json.decode(reply.data, type=_Reply)
    except msgspec.MsgspecError as error:
        raise BusError(f"claims: the server's answer was not understood ({error})") from error
    if answer.error is not None or answer.data is None or answer.data.code != 200:
        outcome = answer.error or answer.data or _Outcome()
        raise BusError(f"claims: the server did not take the account ({outcome.description or outcome.message})")
