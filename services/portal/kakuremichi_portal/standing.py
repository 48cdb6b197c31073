"""What a caller stands on, and which facts take it away: the account, the token, the session of a browser. Pure."""

import math
from datetime import datetime

import msgspec

from kakuremichi.wire.facts import (
    AccountChanged,
    AccountRemoved,
    AnyFact,
    ApiTokenRemoved,
    LoggedFact,
    PersonSignedOut,
    SessionsEnded,
)
from kakuremichi_portal.principal import Principal, SignedIn

TOPICS = frozenset({"account-changed", "account-removed", "api-token-removed", "person-signed-out", "session-ended"})


def standing_of(principal: Principal, signed_in: SignedIn | None) -> frozenset[str]:
    """A browser that was let in by a token stands on both, the token and its session."""
    who = _account(principal.account) if principal.account else token(principal.name)
    return frozenset({who} | ({_session(signed_in.view.session_id)} if signed_in is not None else set()))


def left_s(principal: Principal, signed_in: SignedIn | None, now: float) -> float:
    """For how many seconds after `now` (Unix time) the caller has what let it in, if nobody takes it away."""
    token_end = principal.expires_at or math.inf
    session_end = datetime.fromisoformat(signed_in.view.ends_at).timestamp() if signed_in is not None else math.inf
    return max(0.0, min(token_end, session_end) - now)


def taken_by(fact: LoggedFact) -> frozenset[str]:
    """What nobody stands on any more as it was. An account that has only another label is in it too."""
    if fact.topic not in TOPICS:
        return frozenset()
    known: AnyFact = msgspec.json.decode(fact.fact, type=AnyFact)
    match known:
        case AccountChanged() | AccountRemoved():
            return frozenset({_account(known.account)})
        case ApiTokenRemoved():
            return frozenset({token(known.name)})
        case PersonSignedOut():
            return frozenset({_session(known.session_id)})
        case SessionsEnded():
            return frozenset(_session(session_id) for _, session_id in known.sessions)
    return frozenset()


def _account(name: str) -> str:
    return f"account/{name}"


def token(name: str) -> str:
    """A token of the API."""
    return f"token/{name}"


def _session(session_id: str) -> str:
    return f"session/{session_id}"
