"""Signing in with a real OpenID Connect provider on loopback: the right way in, and every wrong one."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from joserfc.jwk import RSAKey

from kakuremichi_portal import oidc_routes
from kakuremichi_portal.oidc_token import IdTokenError, OidcConfig, Rule, key_set
from support.oidc_provider import CLIENT, SECRET, FakeProvider, callback, running_provider
from support.portal_https import COOKIE, Answer, Browser, PortalWorld, portal_over_https
from support.real_registry import World

BACK = "/sign-in/oidc/callback"
RULES = (
    Rule(value="admins", role="admin"),
    Rule(value="operators", role="publisher", pools=("main",), agents=("site-a",)),  # type: ignore[arg-type]
)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with running_provider() as made:
        yield made


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, provider: FakeProvider) -> AsyncIterator[PortalWorld]:
    config = OidcConfig(issuer=provider.issuer, client_id=CLIENT, client_secret=SECRET, label="Lab", roles=RULES)
    async with portal_over_https(registry_world, tmp_path, oidc=config) as made:
        yield made


async def come_back(browser: Browser, provider: FakeProvider, path: str = "/sign-in/oidc", **changes: str) -> Answer:
    query = provider.agree((await browser.get(path)).where) | changes
    return await browser.get(callback(BACK, query), headers={"Sec-Fetch-Site": "cross-site"})


async def not_let_in(at: PortalWorld, browser: Browser, answer: Answer, why: str) -> None:
    """No session, no account, the reason in the access log and nowhere else."""
    assert answer.status == 401, answer.text
    assert COOKIE not in "".join(answer.cookies)
    assert (await browser.get("/")).where == "/sign-in"
    assert "did not let you in" in answer.text
    assert why not in answer.text
    details = [detail for _, _, detail in await at.refusals()]
    assert any(why in detail for detail in details), details
    assert await at.registry.database.fetch("select 1 from portal_session") == []


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_a_group_of_the_provider_becomes_a_role_with_its_limits(
    at: PortalWorld, provider: FakeProvider, alg: str
) -> None:
    provider.alg = alg
    browser = await at.browser()
    assert "Sign in with Lab" in (await browser.get("/sign-in")).text

    answer = await come_back(browser, provider, "/sign-in/oidc?next=%2Faccount")

    assert answer.status == 200, answer.text
    assert 'content="0; url=/account"' in answer.text
    page = await browser.get("/account")
    assert "Hana" in page.text
    assert "site-a" in page.text
    (row,) = await at.registry.database.fetch("select role, pools, agents, subject, password from account")
    assert tuple(row) == ("publisher", ["main"], ["site-a"], f"{provider.issuer} 17", "")
    assert [topic for topic, _, _ in await at.facts()] == ["account-created", "person-signed-in"]


async def test_the_provider_is_asked_with_pkce_state_and_nonce_and_the_cookie_is_for_this_host(
    at: PortalWorld, provider: FakeProvider
) -> None:
    browser = await at.browser()
    answer = await browser.get("/sign-in/oidc")
    asked = provider.codes[provider.agree(answer.where)["code"]]
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == at.url + BACK
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 32
    assert "client_secret" not in asked
    (cookie,) = answer.cookies
    assert cookie.startswith("__Host-kakuremichi_oidc=")
    assert all(attribute in cookie for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nonce": ({"nonce": "another"}, "nonce"),
    "no nonce": ({"nonce": None}, "nonce"),
    "issuer": ({"iss": "https://evil.test"}, "iss"),
    "issuer with a slash": ({"iss": "{issuer}/"}, "iss"),
    "audience": ({"aud": "another-client"}, "aud"),
    "no audience": ({"aud": None}, "aud"),
    "several audiences without a party": ({"aud": [CLIENT, "another"]}, "azp"),
    "another party": ({"azp": "another-client"}, "azp"),
    "expired": ({"exp": int(time.time()) - 3600}, "exp"),
    "no end": ({"exp": None}, "exp"),
    "an end that is no number": ({"exp": "tomorrow"}, "exp"),
    "of the future": ({"iat": int(time.time()) + 3600}, "iat"),
    "not yet": ({"nbf": int(time.time()) + 3600}, "nbf"),
    "no subject": ({"sub": None}, "sub"),
    "a number for a subject": ({"sub": 17}, "sub"),
    "no group": ({"groups": ["staff"]}, "groups"),
    "a group that only begins so": ({"groups": ["admins2", "xadmins"]}, "groups"),
    "groups of another kind": ({"groups": {"admins": True}}, "groups"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_token_that_says_something_else_opens_nothing(
    at: PortalWorld, provider: FakeProvider, wrong: str
) -> None:
    claims, why = WRONG[wrong]
    provider.claims = {
        name: value.format(issuer=provider.issuer) if isinstance(value, str) else value
        for name, value in claims.items()
    }
    browser = await at.browser()
    await not_let_in(at, browser, await come_back(browser, provider), why)
    assert await at.registry.database.fetch("select 1 from account") == []


async def test_a_token_by_a_stranger_or_with_a_shared_key_opens_nothing(
    at: PortalWorld, provider: FakeProvider
) -> None:
    browser = await at.browser()
    provider.stranger = RSAKey.generate_key(2048, {"kid": "rsa"})
    await not_let_in(at, browser, await come_back(browser, provider), "signature")
    provider.stranger, provider.alg = None, "HS256"
    await not_let_in(at, browser, await come_back(browser, provider), "signature")


def unsigned(provider: FakeProvider, nonce: str) -> str:
    claims = {"iss": provider.issuer, "aud": CLIENT, "sub": "17", "iat": time.time(), "exp": time.time() + 99,
              "nonce": nonce, "groups": ["admins"]}  # fmt: skip
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


async def test_a_token_without_a_signature_opens_nothing(at: PortalWorld, provider: FakeProvider) -> None:
    browser = await at.browser()
    query = provider.agree((await browser.get("/sign-in/oidc")).where)
    provider.raw = unsigned(provider, provider.codes[query["code"]]["nonce"])
    await not_let_in(at, browser, await browser.get(callback(BACK, query)), "signature")
    for raw in ("", "x", "a.b.c.d.e", "\u00e9.b.c"):
        provider.raw = raw or " "
        assert (await come_back(browser, provider)).status == 401


async def test_a_public_key_is_never_a_shared_secret(at: PortalWorld, provider: FakeProvider) -> None:
    """The classic: an HMAC whose key is the provider's public RSA key, which everybody has."""
    browser = await at.browser()
    query = provider.agree((await browser.get("/sign-in/oidc")).where)
    body = unsigned(provider, provider.codes[query["code"]]["nonce"]).split(".")[1]
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).rstrip(b"=").decode()
    public = provider.keys["RS256"]
    assert isinstance(public, RSAKey)
    key = public.as_pem(private=False)
    mac = hmac.digest(key, f"{header}.{body}".encode(), hashlib.sha256)
    provider.raw = f"{header}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    await not_let_in(at, browser, await browser.get(callback(BACK, query)), "signature")


class TestState:
    async def test_another_browsers_answer_signs_nobody_in(self, at: PortalWorld, provider: FakeProvider) -> None:
        mine, victim = await at.browser(), await at.browser()
        query = provider.agree((await mine.get("/sign-in/oidc")).where)
        await not_let_in(at, victim, await victim.get(callback(BACK, query)), "state")
        await victim.get("/sign-in/oidc")
        await not_let_in(at, victim, await victim.get(callback(BACK, query)), "state")

    async def test_an_answer_counts_once_even_with_the_cookie_of_that_time(
        self, at: PortalWorld, provider: FakeProvider
    ) -> None:
        browser = await at.browser()
        begun = await browser.get("/sign-in/oidc")
        kept = begun.cookies[0].partition(";")[0]
        query = provider.agree(begun.where)
        assert (await browser.get(callback(BACK, query))).status == 200
        again = await at.browser()
        query["code"] = provider.agree(begun.where)["code"]
        assert (await again.get(callback(BACK, query), headers={"Cookie": kept})).status == 401
        assert any("used already" in detail for _, _, detail in await at.refusals())

    async def test_a_changed_state_an_error_and_a_foreign_issuer_are_refused(
        self, at: PortalWorld, provider: FakeProvider
    ) -> None:
        browser = await at.browser()
        await not_let_in(at, browser, await come_back(browser, provider, state="x"), "state")
        await not_let_in(at, browser, await come_back(browser, provider, iss="https://evil.test"), "iss")
        await not_let_in(at, browser, await come_back(browser, provider, error="access_denied"), "access_denied")
        await not_let_in(at, browser, await browser.get(BACK), "state")

    async def test_a_stale_sign_in_is_refused(self, at: PortalWorld, provider: FakeProvider) -> None:
        browser = await at.browser()
        query = provider.agree((await browser.get("/sign-in/oidc")).where)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(oidc_routes, "WITHIN_S", -1)
            answer = await browser.get(callback(BACK, query))
        await not_let_in(at, browser, answer, "too old")

    @pytest.mark.parametrize("goal", ["https://evil.test", "//evil.test", "/\\evil.test"])
    async def test_nobody_is_sent_to_another_site_afterwards(
        self, at: PortalWorld, provider: FakeProvider, goal: str
    ) -> None:
        answer = await come_back(await at.browser(), provider, f"/sign-in/oidc?next={quote(goal)}")
        assert answer.status == 200
        assert 'content="0; url=/"' in answer.text
        assert "evil.test" not in answer.text

    async def test_a_code_is_worth_nothing_with_another_verifier(self, at: PortalWorld, provider: FakeProvider) -> None:
        """Somebody who saw the code plays it into a sign-in of their own."""
        victim, thief = await at.browser(), await at.browser()
        stolen = provider.agree((await victim.get("/sign-in/oidc")).where)["code"]
        answer = await come_back(thief, provider, code=stolen)
        assert answer.status == 503
        assert provider.refused == ["verifier"]
        assert (await thief.get("/")).where == "/sign-in"


class TestPeopleOfTheProvider:
    async def test_a_role_that_changed_there_changes_here_and_ends_older_sessions(
        self, at: PortalWorld, provider: FakeProvider
    ) -> None:
        old, new = await at.browser(), await at.browser()
        await come_back(old, provider)
        provider.claims = {"groups": ["admins"]}
        await come_back(new, provider)
        assert (await old.get("/")).where == "/sign-in"
        assert (await new.get("/api/v1/accounts")).json["items"][0]["role"] == "admin"
        assert "account-changed" in [topic for topic, _, _ in await at.facts()]

    async def test_the_same_person_again_is_no_event_but_the_sign_in(
        self, at: PortalWorld, provider: FakeProvider
    ) -> None:
        for _ in range(2):
            await come_back(await at.browser(), provider)
        assert [topic for topic, _, _ in await at.facts()] == [
            "account-created",
            "person-signed-in",
            "person-signed-in",
        ]

    async def test_who_is_disabled_here_stays_out(self, at: PortalWorld, provider: FakeProvider) -> None:
        browser = await at.browser()
        await come_back(browser, provider)
        admin = await at.browser()
        (account,) = (await admin.get("/api/v1/accounts", headers=at.header)).json["items"]
        body = {"role": account["role"], "disabled": True}
        answer = await admin.ask("PUT", f"/api/v1/accounts/{account['name']}", json=body, headers=at.header)
        assert answer.status == 200, answer.text
        assert (await browser.get("/")).where == "/sign-in"
        await not_let_in(at, browser, await come_back(browser, provider), "disabled")

    async def test_two_people_who_call_themselves_alike_are_two(self, at: PortalWorld, provider: FakeProvider) -> None:
        await come_back(await at.browser(), provider)
        provider.claims = {"sub": "18"}
        await come_back(await at.browser(), provider)
        rows = await at.registry.database.fetch("select label, subject from account")
        assert {row["label"] for row in rows} == {"Hana"}
        assert len({row["subject"] for row in rows}) == 2

    async def test_they_have_no_password_here(self, at: PortalWorld, provider: FakeProvider) -> None:
        await come_back(await at.browser(), provider)
        admin = await at.browser()
        (account,) = (await admin.get("/api/v1/accounts", headers=at.header)).json["items"]
        body = {"role": "admin", "password": "moss on a stone"}
        answer = await admin.ask("PUT", f"/api/v1/accounts/{account['name']}", json=body, headers=at.header)
        assert (answer.status, answer.json["field"]) == (422, "password")
        assert (await admin.sign_in(account["name"], "")).status == 401


class TestProvider:
    async def test_a_key_that_came_later_is_fetched(
        self, at: PortalWorld, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await come_back(await at.browser(), provider)
        monkeypatch.setattr("kakuremichi_portal.oidc_provider.KEYS_S", 0)
        provider.keys["RS256"] = RSAKey.generate_key(2048, {"kid": "rsa-2"})
        assert (await come_back(await at.browser(), provider)).status == 200

    @pytest.mark.parametrize(
        "described", [{"issuer": "https://evil.test"}, {"token_endpoint": "http://192.0.2.1/token"}, {"jwks_uri": ""}]
    )
    async def test_one_that_describes_itself_wrongly_is_not_used(
        self, at: PortalWorld, provider: FakeProvider, described: dict[str, str]
    ) -> None:
        provider.metadata = described
        answer = await (await at.browser()).get("/sign-in/oidc")
        assert (answer.status, answer.where) == (503, "")

    def test_shared_and_private_keys_are_taken_from_nobody(self, provider: FakeProvider) -> None:
        for name in ("HS256", "RS256"):
            document = {"keys": [provider.keys[name].as_dict(private=True)]}
            with pytest.raises(IdTokenError, match="no public key"):
                key_set(document)
