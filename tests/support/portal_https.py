"""A portal over HTTPS in front of the real registry, and browsers that keep cookies as browsers do."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from argon2 import PasswordHasher
from yarl import URL

from kakuremichi.bus.server import free_port
from kakuremichi.fleet.ca import Ca
from kakuremichi.runtime.tls import client_context, server_context
from kakuremichi.wire import people, signing, subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi_portal.access import Tokens, add_token
from kakuremichi_portal.oidc_token import OidcConfig
from kakuremichi_portal.portal import Parts, Portal, build
from kakuremichi_portal.principal import EVERYTHING, AccessRole, Scope
from kakuremichi_portal.token_routes import JoinAnchor
from support.real_registry import World

COOKIE = "__Host-kakuremichi_session"
PASSWORD = "moss on a stone"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str
    cookies: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def where(self) -> str:
        return self.headers.get("Location", "")


class Browser:
    """Keeps cookies, follows nothing, and says where its requests come from as browsers do."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Sec-Fetch-Site": "same-origin"} | options.pop("headers", {})
        url = path if "://" in path else self.url + path
        async with self.session.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
            text = await answer.text()
            return Answer(answer.status, dict(answer.headers), text, answer.headers.getall("Set-Cookie", []))

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, data: dict[str, str], **options: Any) -> Answer:
        return await self.ask("POST", path, data=data, **options)

    async def form_key(self) -> str:
        found = re.search(r'name="form_key" value="([^"]+)"', (await self.get("/account")).text)
        assert found
        return found[1]

    @property
    def cookie(self) -> str:
        kept = self.session.cookie_jar.filter_cookies(self.session_url)
        return kept[COOKIE].value if COOKIE in kept else ""

    @property
    def session_url(self) -> URL:
        return URL(self.url)

    async def sign_in(self, name: str, password: str = PASSWORD, **options: Any) -> Answer:
        return await self.post("/sign-in", {"name": name, "password": password, **options})


@dataclass
class PortalWorld:
    registry: World
    portal: Portal
    url: str
    tokens: Path
    ca: Path
    stack: AsyncExitStack
    admin: str = ""

    async def browser(self) -> Browser:
        connector = aiohttp.TCPConnector(ssl=client_context(self.ca))
        jar = aiohttp.CookieJar(unsafe=True)  # the portal has an address here, no name
        session = await self.stack.enter_async_context(aiohttp.ClientSession(connector=connector, cookie_jar=jar))
        return Browser(self.url, session)

    def token(self, name: str, role: AccessRole, scope: Scope = EVERYTHING) -> dict[str, str]:
        """A header for the API."""
        return {"Authorization": f"Bearer {add_token(self.tokens, name, role, scope=scope)}"}

    async def account(self, name: str, role: str = "viewer", **fields: Any) -> None:
        browser = await self.browser()
        body = {"name": name, "role": role, "password": PASSWORD, **fields}
        answer = await browser.ask("POST", "/api/v1/accounts", json=body, headers=self.header)
        assert answer.status == 201, answer.text

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin}"}

    async def signed_in(self, name: str) -> Browser:
        browser = await self.browser()
        answer = await browser.sign_in(name)
        assert answer.status == 303, answer.text
        return browser

    async def person(self, request: people.AnyPeopleRequest) -> Any:
        answer = await self.registry.portal.request(subjects.PEOPLE, encode(request), timeout_s=20)
        return decode_any(answer.data, people.AnyPeopleResult, name="result")

    async def facts(self) -> list[tuple[str, str, str]]:
        """(topic, actor, fact) of the whole log."""
        rows = await self.registry.database.fetch("select topic, actor, fact from event_log order by seq")
        return [(row["topic"], row["actor"], row["fact"]) for row in rows]

    async def refusals(self) -> list[tuple[str, str, str]]:
        """(actor, code, detail) in the access log; what was noted a moment ago is written first."""
        await self.registry.registry.access._flush()
        rows = await self.registry.database.fetch("select actor, code, detail from access_log")
        return [(row["actor"], row["code"], row["detail"]) for row in rows]


def quick_hashes() -> PasswordHasher:
    """Argon2id that costs nearly nothing, for tests that are about something else."""
    return PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@asynccontextmanager
async def portal_over_https(
    registry: World, folder: Path, *, oidc: OidcConfig | None = None, **limits: int
) -> AsyncIterator[PortalWorld]:
    ca, port = Ca(folder / "tls"), free_port()
    ca.prepare({"127.0.0.1"})
    tokens = folder / "api-tokens.json"
    admin = add_token(tokens, "admin", "admin")
    anchor = JoinAnchor(f"https://127.0.0.1:{port}", hashlib.sha256(b"ca").digest(), _trust_hash(registry))
    parts = Parts(
        bus=registry.portal, tokens=Tokens(tokens), anchor=anchor, node_nats_url="tls://bus.test:4222", oidc=oidc,
        **({"sign_in_burst": 10_000} | limits),  # type: ignore[arg-type]
    )  # fmt: skip
    portal = build(parts)
    runner = web.AppRunner(portal.app, access_log=None)
    await runner.setup()
    tls = server_context(ca.server_certificate, ca.server_key)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        yield PortalWorld(registry, portal, anchor.url, tokens, ca.certificate, stack, admin)


def _trust_hash(registry: World) -> bytes:
    return signing.digest_of(registry.trust.trust_set)
