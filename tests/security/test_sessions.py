"""Sessions of browsers: when they begin and end, who sees them, and that nothing of them is kept in clear."""

import pytest

from kakuremichi.wire import people
from support.portal_https import COOKIE, PortalWorld


async def test_a_sign_in_takes_over_no_value_from_before_and_ends_the_former(at: PortalWorld) -> None:
    await at.account("vic")
    browser, planted = await at.browser(), "planted-by-somebody"
    browser.session.cookie_jar.update_cookies({COOKIE: planted}, browser.session_url)
    await browser.sign_in("vic")
    first = browser.cookie
    assert first not in ("", planted)
    await browser.sign_in("vic")
    assert browser.cookie not in ("", first)
    with_the_first = await at.browser()
    answer = await with_the_first.get("/", headers={"Cookie": f"{COOKIE}={first}"})
    assert answer.where == "/sign-in"


@pytest.mark.parametrize(
    "passed", ["seen_at = seen_at - interval '61 minutes'", "ends_at = ends_at - interval '12 hours'"]
)
async def test_it_ends_when_it_was_idle_and_when_it_is_old(at: PortalWorld, passed: str) -> None:
    await at.account("vic")
    browser = await at.signed_in("vic")
    assert (await browser.get("/")).status == 200
    await at.registry.database.execute(f"update portal_session set {passed}")  # noqa: S608
    assert (await browser.get("/")).where == "/sign-in"
    assert (await browser.get("/api/v1/services")).status == 401


async def test_use_puts_the_idle_end_off_and_never_the_absolute_one(at: PortalWorld) -> None:
    await at.account("vic")
    browser, database = await at.signed_in("vic"), at.registry.database
    (before,) = await database.fetch("select ends_at from portal_session")
    await database.execute("update portal_session set seen_at = seen_at - interval '59 minutes'")
    assert (await browser.get("/")).status == 200
    await database.execute("update portal_session set seen_at = seen_at - interval '59 minutes'")
    assert (await browser.get("/")).status == 200
    assert await database.fetch("select ends_at from portal_session") == [before]


@pytest.mark.parametrize(
    "change", [{"role": "publisher"}, {"disabled": True}, {"pools": ["blue"]}, {"agents": ["site-a"]}, None]
)
async def test_it_ends_when_the_account_changes_or_goes(at: PortalWorld, change: dict[str, object] | None) -> None:
    await at.account("vic")
    browser, admin = await at.signed_in("vic"), await at.browser()
    method, body = ("PUT", {"role": "viewer"} | change) if change else ("DELETE", None)
    answer = await admin.ask(method, "/api/v1/accounts/vic", json=body, headers=at.header)
    assert answer.status == 200, answer.text
    assert (await browser.get("/")).where == "/sign-in"
    assert (await browser.get("/api/v1/services")).status == 401


async def test_another_label_ends_nothing(at: PortalWorld) -> None:
    await at.account("vic")
    browser, admin = await at.signed_in("vic"), await at.browser()
    body = {"role": "viewer", "label": "Victor"}
    assert (await admin.ask("PUT", "/api/v1/accounts/vic", json=body, headers=at.header)).status == 200
    assert "Victor" in (await browser.get("/")).text


async def test_an_account_changed_between_password_and_session_opens_none(at: PortalWorld) -> None:
    await at.account("vic")
    looked_at_before = people.OpenSession(
        actor="person/vic", session_hash=b"h" * 32, account="vic", version=7, method="password",
        source="192.0.2.1", idle_s=600, ttl_s=600,
    )  # fmt: skip
    stale = await at.person(looked_at_before)
    assert (stale.status, stale.code) == (401, "signed-out")


async def test_people_see_and_end_their_own_and_administrators_everybodys(at: PortalWorld) -> None:
    for name, role in (("ann", "admin"), ("vic", "viewer"), ("bob", "publisher")):
        await at.account(name, role)
    ann, vic, bob = [await at.signed_in(name) for name in ("ann", "vic", "bob")]
    of_vic = (await vic.get("/api/v1/sessions")).json["items"]
    assert [session["who"] for session in of_vic] == ["person/vic"]
    everybody = {one["who"]: one["id"] for one in (await ann.get("/api/v1/sessions")).json["items"]}
    assert set(everybody) == {"person/ann", "person/vic", "person/bob"}

    assert (await vic.ask("DELETE", f"/api/v1/sessions/{everybody['person/bob']}")).status == 404
    form = {"form_key": await vic.form_key(), "session": everybody["person/bob"]}
    assert (await vic.post("/account/sessions/end", form)).status == 404
    assert (await bob.get("/")).status == 200
    assert (await ann.ask("DELETE", f"/api/v1/sessions/{everybody['person/bob']}")).status == 200
    assert (await bob.get("/")).where == "/sign-in"
    assert (await vic.ask("DELETE", f"/api/v1/sessions/{everybody['person/vic']}")).status == 200
    assert (await vic.get("/")).where == "/sign-in"


async def test_a_token_of_the_same_name_is_not_the_person(at: PortalWorld) -> None:
    await at.account("vic")
    await at.signed_in("vic")
    namesake = await at.browser()
    headers = at.token("vic", "read")
    assert (await namesake.get("/api/v1/sessions", headers=headers)).json["items"] == []


async def test_signing_out_is_final(at: PortalWorld) -> None:
    await at.account("vic")
    browser = await at.signed_in("vic")
    value = browser.cookie
    answer = await browser.post("/sign-out", {"form_key": await browser.form_key()})
    assert (answer.status, browser.cookie) == (303, "")
    assert (await browser.get("/", headers={"Cookie": f"{COOKIE}={value}"})).where == "/sign-in"


async def test_cookies_are_kept_as_hashes_only(at: PortalWorld) -> None:
    await at.account("vic")
    browser = await at.signed_in("vic")
    for table in ("portal_session", "event_log", "access_log"):
        for row in await at.registry.database.fetch(f"select t::text from {table} t"):  # noqa: S608
            assert browser.cookie not in row[0]


async def test_what_people_do_is_in_the_log(at: PortalWorld) -> None:
    await at.account("ann", "admin")
    await at.account("vic")
    ann, vic = await at.signed_in("ann"), await at.signed_in("vic")
    listed = (await ann.get("/api/v1/sessions")).json["items"]
    (session,) = [one["id"] for one in listed if one["who"] == "person/vic"]
    await ann.ask("DELETE", f"/api/v1/sessions/{session}")
    await ann.ask("PUT", "/api/v1/accounts/vic", json={"role": "publisher"})
    await ann.ask("POST", "/api/v1/api-tokens", json={"name": "deploy", "scope": "publish", "pools": ["main"]})
    await ann.ask("DELETE", "/api/v1/api-tokens/deploy")
    await ann.ask("DELETE", "/api/v1/accounts/vic")
    await ann.post("/sign-out", {"form_key": await ann.form_key()})
    found = [(topic, actor) for topic, actor, _ in await at.facts()]
    assert found == [
        ("account-created", "admin"), ("account-created", "admin"), ("person-signed-in", "person/ann"),
        ("person-signed-in", "person/vic"), ("session-ended", "person/ann"), ("account-changed", "person/ann"),
        ("api-token-created", "person/ann"), ("api-token-removed", "person/ann"),
        ("account-removed", "person/ann"), ("person-signed-out", "person/ann"),
    ]  # fmt: skip
    assert vic is not ann
