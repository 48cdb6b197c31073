"""The page of accounts: what its forms do, and who may not use them."""

import re

import pytest

from kakuremichi_portal.principal import Scope
from support.portal_https import PASSWORD, Browser, PortalWorld

NEW = {"name": "bob", "label": "Bob", "role": "publisher", "pools": "main", "agents": "", "password": PASSWORD,
       "again": PASSWORD}  # fmt: skip


@pytest.fixture
async def ann(at: PortalWorld) -> Browser:
    await at.account("ann", "admin")
    return await at.signed_in("ann")


async def keyed(browser: Browser, form: dict[str, str]) -> dict[str, str]:
    return form | {"form_key": await browser.form_key()}


async def version_of(browser: Browser, name: str) -> str:
    page = (await browser.get("/accounts")).text
    found = re.search(rf'name="name" value="{name}"><input type="hidden" name="version" value="(\d+)"', page)
    assert found, page
    return found[1]


async def test_an_administrator_makes_changes_and_removes_an_account(at: PortalWorld, ann: Browser) -> None:
    made = await ann.post("/accounts", await keyed(ann, NEW))
    assert (made.status, made.where) == (303, "/accounts")
    page = (await ann.get("/accounts")).text
    assert "Bob" in page
    assert "pool main" in page
    bob = await at.signed_in("bob")
    form = {"name": "bob", "role": "viewer", "version": await version_of(ann, "bob")}
    assert (await ann.post("/accounts/change", await keyed(ann, form))).status == 303
    assert (await bob.get("/")).where == "/sign-in", "its sessions end"
    seen = (await ann.get("/api/v1/accounts/bob")).json
    assert (seen["role"], seen["label"], seen["pools"], seen["disabled"]) == ("viewer", "Bob", ["main"], False)
    form = {"name": "bob", "role": "viewer", "disabled": "yes", "version": await version_of(ann, "bob")}
    assert (await ann.post("/accounts/change", await keyed(ann, form))).status == 303
    assert (await (await at.browser()).sign_in("bob")).status == 401
    form = {"name": "bob", "version": await version_of(ann, "bob")}
    assert (await ann.post("/accounts/remove", await keyed(ann, form))).status == 303
    assert (await ann.get("/api/v1/accounts/bob")).status == 404
    topics = [topic for topic, actor, _ in await at.facts() if actor == "person/ann" and topic.startswith("account")]
    assert topics == ["account-created", "account-changed", "account-changed", "account-removed"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"password": "short", "again": "short"}, "12 to 256 characters"),
        ({"again": "moss on a stile"}, "not the same both times"),
        ({"password": "", "again": ""}, "a first one is needed"),
        ({"name": "Bob Smith"}, "a-z, 0-9"),
        ({"name": "ann"}, "account ann: exists"),
        ({"role": "king"}, "role: "),
        ({"pools": "main Zoo"}, "a name has"),
    ],
)
async def test_a_bad_form_is_told_on_the_page_and_makes_nobody(
    at: PortalWorld, ann: Browser, changes: dict[str, str], sentence: str
) -> None:
    before = await at.facts()
    answer = await ann.post("/accounts", await keyed(ann, NEW | changes))
    assert answer.status == 422
    assert sentence in answer.text
    assert PASSWORD not in answer.text
    assert await at.facts() == before


async def test_what_was_changed_meanwhile_is_not_written_over(at: PortalWorld, ann: Browser) -> None:
    await at.account("vic")
    form = {"name": "vic", "role": "admin", "version": await version_of(ann, "vic")}
    await ann.ask("PUT", "/api/v1/accounts/vic", json={"role": "publisher"})
    for path in ("/accounts/change", "/accounts/remove"):
        answer = await ann.post(path, await keyed(ann, form))
        assert answer.status == 422
        assert "changed by somebody else" in answer.text
    assert (await ann.get("/api/v1/accounts/vic")).json["role"] == "publisher"


async def test_the_last_administrator_stays(ann: Browser) -> None:
    version = await version_of(ann, "ann")
    for path, form in (("change", {"role": "viewer"}), ("remove", {})):
        answer = await ann.post(f"/accounts/{path}", await keyed(ann, {"name": "ann", "version": version} | form))
        assert answer.status == 422
        assert "make another one first" in answer.text


async def test_nobody_else_sees_or_uses_it(at: PortalWorld, ann: Browser) -> None:
    await at.account("vic")
    await at.account("pat", "publisher")
    await at.account("lea", "admin", pools=["main"])
    before = await at.facts()
    for name, status in (("vic", 403), ("pat", 403), ("lea", 404)):
        browser = await at.signed_in(name)
        assert (await browser.get("/accounts")).status == status
        assert "/accounts" not in (await browser.get("/account")).text.replace("/api/v1/accounts", "")
        for path in ("/accounts", "/accounts/change", "/accounts/remove"):
            form = await keyed(browser, NEW | {"name": "vic", "version": "1"})
            assert (await browser.post(path, form)).status == status, (name, path)
    stranger = await at.browser()
    assert (await stranger.get("/accounts")).where == "/sign-in?next=%2Faccounts"
    signed_in = await at.signed_in("ann")
    for form in (NEW, NEW | {"form_key": "0" * 64}):
        assert (await signed_in.post("/accounts", form)).status == 403, "a form of another session"
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}
    assert (await signed_in.post("/accounts", await keyed(signed_in, NEW), headers=elsewhere)).status == 403
    written = [topic for topic, _, _ in (await at.facts())[len(before) :]]
    assert set(written) == {"person-signed-in"}


async def test_a_limited_token_in_a_browser_finds_no_such_page(at: PortalWorld) -> None:
    browser = await at.browser()
    token = at.token("lim", "admin", Scope(pools=("main",)))["Authorization"].removeprefix("Bearer ")
    assert (await browser.post("/sign-in", {"token": token})).status == 303
    assert (await browser.get("/accounts")).status == 404
