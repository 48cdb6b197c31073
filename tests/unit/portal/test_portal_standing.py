"""How long a caller has what let it in, and that a live view ends no later."""

import asyncio
import math
import time

import pytest

from kakuremichi.wire import people
from kakuremichi_portal.access import ApiToken, add_token
from kakuremichi_portal.principal import Principal, SignedIn
from kakuremichi_portal.standing import left_s
from unit.portal.world import World

NOON = 1_767_268_800  # 2026-01-01T12:00:00Z


def signed_in(principal: Principal, ends_at: str) -> SignedIn:
    view = people.SessionView(
        session_id="1" * 16, who=principal.actor, account=principal.account, token_sha256="", method="password",
        source="", client="", opened_at="2026-01-01T00:00:00Z", seen_at="2026-01-01T00:00:00Z", ends_at=ends_at,
    )  # fmt: skip
    return SignedIn(view, principal, "")


@pytest.mark.parametrize(
    ("token_end", "session_end", "left"),
    [
        (0, "", math.inf),
        (NOON, "", 60),
        (NOON - 120, "", 0),
        (0, "2026-01-01T12:00:00Z", 60),
        (0, "2026-01-01T12:00:00.500000Z", 60.5),
        (NOON + 30, "2026-01-01T12:00:00Z", 60),
        (NOON - 30, "2026-01-01T12:00:00Z", 30),
    ],
)
def test_what_ends_first_counts(token_end: int, session_end: str, left: float) -> None:
    token = ApiToken(name="deploy", role="publish", sha256="0" * 64, expires_at=token_end)
    session = signed_in(token.principal, session_end) if session_end else None
    assert left_s(token.principal, session, NOON - 60) == left


async def test_a_live_view_ends_when_its_token_expires(world: World) -> None:
    token = add_token(world.token_file, "brief", "read", expires_at=int(time.time()) + 2)
    async with asyncio.timeout(30), world.client.get("/api/v1/live", headers=bearer(token)) as response:
        assert response.status == 200
        await response.content.read()  # to its end
        assert len(world.portal.live) == 0
    async with world.client.get("/api/v1/live", headers=bearer(token)) as response:
        assert response.status == 401


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
