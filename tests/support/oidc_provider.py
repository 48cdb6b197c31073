"""A small OpenID Connect provider with real keys: it checks PKCE and codes, and signs what a test wants it to sign."""

import base64
import hashlib
import secrets
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, KeySet, OctKey, OKPKey, RSAKey

from kakuremichi.bus.server import free_port

CLIENT, SECRET = "kakuremichi", "the client's secret"


def keys() -> dict[str, Key]:
    return {
        "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
        "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
        "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "okp"}),
        "HS256": OctKey.generate_key(256, {"kid": "oct"}),
    }


@dataclass
class FakeProvider:
    """`claims` change what is said, `alg` who signs it; `strangers` are keys that nobody has published."""

    issuer: str
    keys: dict[str, Key] = field(default_factory=keys)
    claims: dict[str, Any] = field(default_factory=dict)
    alg: str = "RS256"
    raw: str = ""  # sent instead of a token
    stranger: Key | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._describe)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        return app

    async def _describe(self, _request: web.Request) -> web.Response:
        described = {
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys", "more": "than is needed",
        }  # fmt: skip
        return web.json_response(described | self.metadata)

    async def _keys(self, _request: web.Request) -> web.Response:
        return web.json_response(KeySet(list(self.keys.values())).as_dict(private=False))

    def agree(self, location: str) -> dict[str, str]:
        """The person agrees at the authorization endpoint: the query that the browser brings back."""
        parts = urlsplit(location)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        asked = self.codes.pop(str(form.get("code")), None)
        if asked is None or form.get("client_secret") != SECRET or form.get("redirect_uri") != asked["redirect_uri"]:
            return self._refuse("code, client or address")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest())
        if asked["code_challenge_method"] != "S256" or challenge.rstrip(b"=").decode() != asked["code_challenge"]:
            return self._refuse("verifier")
        return web.json_response({"access_token": "x", "token_type": "Bearer", "id_token": self.id_token(asked)})

    def _refuse(self, why: str) -> web.Response:
        self.refused.append(why)
        return web.json_response({"error": "invalid_grant"}, status=400)

    def id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": asked["client_id"], "sub": "17", "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "preferred_username": "Hana", "groups": ["staff", "operators"],
        } | self.claims  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.stranger or self.keys[self.alg]
        header = {"alg": self.alg, "kid": self.keys[self.alg].kid}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # `EdDSA` is an old name by now
            return self.raw or jwt.encode(header, claims, key, algorithms=[self.alg])


@asynccontextmanager
async def running_provider() -> AsyncIterator[FakeProvider]:
    port = free_port()
    provider = FakeProvider(f"http://127.0.0.1:{port}")
    runner = web.AppRunner(provider.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield provider
    finally:
        await runner.cleanup()


def callback(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}"
