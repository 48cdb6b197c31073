"""Signing in: the first account, sessions, forms and guesses, on the real registry and over HTTPS."""

import asyncio
import re
from pathlib import Path

import pytest

from kakuremichi_portal.route import Access
from support.portal_https import COOKIE, PASSWORD, PortalWorld, portal_over_https
from support.real_registry import World

FIRST = {"name": "ann", "password": PASSWORD, "again": PASSWORD}
ELSEWHERE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}


async def setup_code(at: PortalWorld) -> str:
    answer = await (await at.browser()).ask("POST", "/api/v1/setup-codes", headers=at.header)
    assert answer.status == 201, answer.text
    assert answer.json["url"] == f"{at.url}/setup?code={answer.json['code']}"
    return str(answer.json["code"])


class TestFirstAccount:
    async def test_a_code_makes_one_administrator_and_is_used_up(self, at: PortalWorld) -> None:
        code, browser = await setup_code(at), await at.browser()
        assert code in (await browser.get(f"/setup?code={code}")).text

        answer = await browser.post("/setup", FIRST | {"code": code})

        assert (answer.status, answer.where) == (303, "/")
        assert (await browser.get("/api/v1/accounts")).json["items"][0]["role"] == "admin"
        again = await (await at.browser()).post("/setup", FIRST | {"code": code, "name": "eve"})
        assert again.status == 403
        topics = [topic for topic, _, _ in await at.facts()]
        assert topics == ["setup-opened", "account-created", "person-signed-in"]

    async def test_there_is_no_second_code_once_an_administrator_can_sign_in(self, at: PortalWorld) -> None:
        await at.account("ann", "admin")
        answer = await (await at.browser()).ask("POST", "/api/v1/setup-codes", headers=at.header)
        assert answer.status == 409

    async def test_unknown_used_and_expired_codes_get_one_answer(self, at: PortalWorld) -> None:
        browser, code = await at.browser(), await setup_code(at)
        await at.registry.database.execute("update setup_code set expires_at = now() - interval '1 second'")
        expired = await browser.post("/setup", FIRST | {"code": code})
        unknown = await browser.post("/setup", FIRST | {"code": "x" * len(code)})
        assert (expired.status, unknown.status) == (403, 403)
        assert expired.text.replace(code, "") == unknown.text.replace("x" * len(code), "")
        assert COOKIE not in "".join(expired.cookies + unknown.cookies)

    async def test_only_the_newest_code_opens_and_none_is_kept_in_clear(self, at: PortalWorld) -> None:
        former, code = await setup_code(at), await setup_code(at)
        assert (await (await at.browser()).post("/setup", FIRST | {"code": former})).status == 403
        for table in ("setup_code", "event_log", "access_log"):
            for row in await at.registry.database.fetch(f"select t::text from {table} t"):  # noqa: S608
                assert code not in row[0]
        assert (await (await at.browser()).post("/setup", FIRST | {"code": code})).status == 303

    async def test_of_many_who_use_it_at_once_one_gets_in(self, at: PortalWorld) -> None:
        code = await setup_code(at)
        browsers = [await at.browser() for _ in range(6)]
        answers = await asyncio.gather(
            *(each.post("/setup", FIRST | {"code": code, "name": f"n{n}"}) for n, each in enumerate(browsers))
        )
        assert sorted(answer.status for answer in answers) == [303, 403, 403, 403, 403, 403]
        assert len(await at.registry.database.fetch("select 1 from account")) == 1

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"password": "too short", "again": "too short"}, "12 to 256 characters"),
            ({"password": "aaaaaaaaaaaaaaaa", "again": "aaaaaaaaaaaaaaaa"}, "too easy"),
            ({"again": "moss on a stile"}, "not the same both times"),
            ({"name": "Ann Smith"}, "a-z, 0-9"),
        ],
    )
    async def test_a_bad_form_is_told_and_leaves_the_code_open(
        self, at: PortalWorld, changes: dict[str, str], sentence: str
    ) -> None:
        code, browser = await setup_code(at), await at.browser()
        answer = await browser.post("/setup", FIRST | {"code": code} | changes)
        assert answer.status == 422
        assert sentence in answer.text
        assert (await browser.post("/setup", FIRST | {"code": code})).status == 303


class TestPasswords:
    async def test_the_right_one_opens_a_session_that_only_this_host_gets(self, at: PortalWorld) -> None:
        await at.account("vic")
        browser = await at.browser()
        answer = await browser.sign_in("vic")
        (cookie,) = answer.cookies
        name, _, attributes = cookie.partition("=")
        assert (answer.status, answer.where, name) == (303, "/", COOKIE)
        assert {"HttpOnly", "Secure", "Path=/", "SameSite=Strict"} <= set(re.split(r";\s*", attributes))
        assert "Domain" not in attributes
        assert "vic" in (await browser.get("/")).text

    async def test_unknown_names_wrong_passwords_and_disabled_accounts_look_alike(self, at: PortalWorld) -> None:
        await at.account("vic")
        await at.account("dora", disabled=True)
        browser = await at.browser()
        answers = [
            await browser.sign_in("vic", "moss on a stile"),
            await browser.sign_in("nobody", PASSWORD),
            await browser.sign_in("dora", PASSWORD),
            await browser.sign_in("", ""),
            await browser.sign_in("x" * 500, "y" * 5000),
            await browser.sign_in("person/vic", PASSWORD),
            await browser.sign_in("vic\0", PASSWORD),
            await browser.sign_in("vic", "\0" + PASSWORD),
        ]
        assert {answer.status for answer in answers} == {401}
        assert len({answer.text for answer in answers}) == 1
        assert not any(answer.cookies for answer in answers)

    async def test_failures_are_in_the_access_log_and_never_in_the_log_of_events(self, at: PortalWorld) -> None:
        await at.account("vic")
        before = await at.facts()
        browser = await at.browser()
        await browser.sign_in("vic", "moss on a stile")
        await browser.sign_in("my password, typed too early", "x")
        await browser.post("/sign-in", {"token": "kkapi.guess"})
        assert await at.facts() == before
        found = [refusal for refusal in await at.refusals() if refusal[1] == "sign-in"]
        assert sorted(detail for _, _, detail in found) == [
            "account (no name): not let in", "account vic: not let in", "api token: not known",
        ]  # fmt: skip
        assert {actor for actor, _, _ in found} == {"127.0.0.1"}

    async def test_only_argon2id_hashes_are_kept(self, at: PortalWorld) -> None:
        await at.account("vic")
        (row,) = await at.registry.database.fetch("select password from account")
        assert row["password"].startswith("$argon2id$")
        for table in ("account", "event_log", "portal_session", "idempotency"):
            for row in await at.registry.database.fetch(f"select t::text from {table} t"):  # noqa: S608
                assert PASSWORD not in row[0]
                assert table == "account" or "argon2" not in row[0]

    async def test_the_same_characters_typed_elsewhere_are_the_same_password(self, at: PortalWorld) -> None:
        await at.account("vic", password="caf\u00e9 on the hill")
        assert (await (await at.browser()).sign_in("vic", "cafe\u0301 on the hill")).status == 303

    async def test_changing_it_needs_the_present_one_and_ends_every_session(self, at: PortalWorld) -> None:
        await at.account("vic")
        browser, other = await at.signed_in("vic"), await at.signed_in("vic")
        form = {"form_key": await browser.form_key(), "password": "heather and gorse", "again": "heather and gorse"}
        wrong = await browser.post("/account/password", form | {"current": "moss on a stile"})
        assert (wrong.status, "the present one is wrong" in wrong.text) == (422, True)
        right = await browser.post("/account/password", form | {"current": PASSWORD})
        assert right.status == 303
        for each in (browser, other):
            assert (await each.get("/")).where == "/sign-in"
        assert (await browser.sign_in("vic")).status == 401
        assert (await browser.sign_in("vic", "heather and gorse")).status == 303


async def test_guesses_are_limited_per_address(registry_world: World, tmp_path: Path) -> None:
    async with portal_over_https(registry_world, tmp_path, sign_in_burst=3) as at:
        browser = await at.browser()
        statuses = [(await browser.sign_in(f"name-{number}", "guess")).status for number in range(5)]
        assert statuses[:3] == [401, 401, 401]
        assert statuses[-1] == 429


async def test_guesses_are_limited_per_account_and_others_still_come_in(registry_world: World, tmp_path: Path) -> None:
    async with portal_over_https(registry_world, tmp_path, account_burst=2) as at:
        await at.account("vic")
        await at.account("ann")
        browser = await at.browser()
        statuses = [(await browser.sign_in("vic", "guess")).status for _ in range(4)]
        assert (statuses[:2], statuses[-1]) == ([401, 401], 429)
        assert (await browser.sign_in("ann")).status == 303
        unknown = [(await browser.sign_in("nobody", "guess")).status for _ in range(4)]
        assert unknown == statuses, "whether a name exists is told by nothing"


class TestForeignPages:
    async def test_every_page_that_writes_refuses_forms_of_other_sites_and_of_other_sessions(
        self, at: PortalWorld
    ) -> None:
        await at.account("vic")
        browser = await at.signed_in("vic")
        writing = [route for route in at.portal.routes if route.method != "GET" and not route.path.startswith("/api/")]
        assert {route.path for route in writing} >= {"/sign-in", "/sign-out", "/setup", "/account/password"}
        form = {"form_key": await browser.form_key(), "name": "vic", "password": PASSWORD}
        for route in writing:
            assert (await browser.post(route.path, form, headers=ELSEWHERE)).status == 403, route.path
            assert (await browser.post(route.path, form, headers={"Origin": "null"})).status == 403, route.path
            if route.access is Access.SESSION:
                for key in ("", "x", "0" * 64):
                    answer = await browser.post(route.path, form | {"form_key": key})
                    assert answer.status == 403, route.path
        assert (await browser.get("/")).status == 200

    async def test_every_api_write_with_a_cookie_refuses_what_another_site_asked_for(self, at: PortalWorld) -> None:
        await at.account("ann", "admin")
        browser = await at.signed_in("ann")
        log = await at.facts()
        writing = [
            route for route in at.portal.routes
            if route.method != "GET" and route.access in (Access.READ, Access.WRITE, Access.ADMIN)
        ]  # fmt: skip
        assert len(writing) >= 10
        for route in writing:
            path = re.sub(r"\{\w+\}", "x", route.path)
            for headers in (ELSEWHERE, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}):
                assert (await browser.ask(route.method, path, headers=headers)).status == 403, route.path
            async with browser.session.request(route.method, at.url + path) as answer:
                assert answer.status == 403, "a browser that says nothing is refused too"
        assert await at.facts() == log

    @pytest.mark.parametrize(
        "goal",
        ["https://evil.test/", "//evil.test", "/\\evil.test", "\\\\evil.test", "/\t/evil.test", "javascript:alert(1)",
         "http:evil.test", "/\r\nX: y", "///evil.test", "account", ""],
    )  # fmt: skip
    async def test_nobody_is_sent_to_another_site_after_signing_in(self, at: PortalWorld, goal: str) -> None:
        await at.account("vic")
        browser = await at.browser()
        assert (await browser.sign_in("vic", next=goal)).where == "/"
        assert (await browser.ask("GET", "/sign-in", params={"next": goal})).where == "/"

    async def test_whoever_asked_for_a_page_comes_to_it(self, at: PortalWorld) -> None:
        await at.account("vic")
        browser = await at.browser()
        sent = await browser.get("/account")
        assert sent.where == "/sign-in?next=%2Faccount"
        assert 'name="next" value="/account"' in (await browser.get(sent.where)).text
        assert (await browser.sign_in("vic", next="/account")).where == "/account"

    async def test_no_page_allows_a_script_or_a_foreign_frame(self, at: PortalWorld) -> None:
        await at.account("vic")
        browser = await at.signed_in("vic")
        for path in ("/", "/account", "/sign-in", "/setup", "/setup?code=%3Cscript%3E"):
            answer = await browser.get(path)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert "script" not in policy
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"<script|\son\w+=|\sstyle=", answer.text), path


class TestAccounts:
    async def test_the_last_administrator_with_a_password_stays(self, at: PortalWorld) -> None:
        await at.account("ann", "admin")
        admin = await at.browser()
        for method, body in (("PUT", {"role": "viewer"}), ("PUT", {"role": "admin", "pools": ["x"]}),
                             ("PUT", {"role": "admin", "disabled": True}), ("DELETE", None)):  # fmt: skip
            answer = await admin.ask(method, "/api/v1/accounts/ann", json=body, headers=at.header)
            assert (answer.status, answer.json["type"].rpartition(":")[2]) == (409, "last-admin")
        await at.account("zoe", "admin")
        assert (await admin.ask("DELETE", "/api/v1/accounts/ann", headers=at.header)).status == 200

    async def test_of_two_administrators_who_are_demoted_at_once_one_stays(self, at: PortalWorld) -> None:
        names, admin = ("ann", "zoe"), await at.browser()
        for name in names:
            await at.account(name, "admin")
        answers = await asyncio.gather(
            *(
                admin.ask("PUT", f"/api/v1/accounts/{name}", json={"role": "viewer"}, headers=at.header)
                for name in names
            )
        )
        assert sorted(answer.status for answer in answers) == [200, 409]
        found = await at.registry.database.fetch("select name from account where role = 'admin'")
        assert len(found) == 1

    async def test_only_administrators_may_say_who_signs_in(self, at: PortalWorld) -> None:
        await at.account("bob", "publisher")
        browser = await at.signed_in("bob")
        for method, path in (("GET", "accounts"), ("POST", "accounts"), ("POST", "setup-codes"),
                             ("PUT", "accounts/bob"), ("DELETE", "accounts/bob"), ("POST", "api-tokens")):  # fmt: skip
            assert (await browser.ask(method, f"/api/v1/{path}", json={})).status == 403, path

    async def test_names_are_taken_once_and_passwords_are_needed(self, at: PortalWorld) -> None:
        await at.account("vic")
        admin = await at.browser()
        for body, status in (
            ({"name": "vic", "role": "viewer", "password": PASSWORD}, 409), ({"name": "new", "role": "viewer"}, 422),
            ({"name": "new", "role": "root", "password": PASSWORD}, 422),
            ({"name": "new", "role": "viewer", "password": "short"}, 422),
            ({"name": "a/b", "role": "viewer", "password": PASSWORD}, 422),
            ({"name": "new", "role": "viewer", "password": PASSWORD, "label": "a\0b"}, 422),
            ({"name": "new", "role": "viewer", "password": PASSWORD, "pools": ["a\0b"]}, 422),
        ):  # fmt: skip
            answer = await admin.ask("POST", "/api/v1/accounts", json=body, headers=at.header)
            assert answer.status == status, body
