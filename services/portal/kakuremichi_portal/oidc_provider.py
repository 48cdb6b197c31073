"""The provider over HTTP: its own description, its keys, and a code's exchange for an ID token."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from joserfc.jwk import KeySet

from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.tls import client_context, is_loopback
from kakuremichi_portal.oidc_token import IdTokenError, OidcConfig, key_set

TIMEOUT_S = 10.0
MOST_BYTES = 256 * 1024
METADATA_S = 3600.0
KEYS_S = 60.0  # at least so long between two fetches: an unknown key id makes one, whoever invents it


class ProviderError(Exception):
    """The provider does not answer, or not as OpenID Connect wants it; a sentence for the log."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    id_token: str


class Provider:
    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._metadata_at = self._keys_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def metadata(self) -> Metadata:
        async with self._fetching:
            if self._metadata is None or time.monotonic() - self._metadata_at > METADATA_S:
                url = f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration"
                found = _decoded(await self._exchange("GET", url), Metadata)
                if found.issuer != self._config.issuer:
                    raise ProviderError(f"issuer: the provider calls itself {found.issuer}")
                for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
                    self._refuse_plain(endpoint)
                self._metadata, self._metadata_at = found, time.monotonic()
            return self._metadata

    async def keys(self, *, fresh: bool = False) -> KeySet:
        """`fresh`: a key was not among those that are known; fetched again unless that has just been done."""
        uri = (await self.metadata()).jwks_uri
        async with self._fetching:
            age = time.monotonic() - self._keys_at
            if self._keys is None or (fresh and age > KEYS_S) or age > METADATA_S:
                try:
                    self._keys = key_set(_decoded(await self._exchange("GET", uri), dict[str, Any]))
                except (IdTokenError, ValueError, KeyError) as error:
                    raise ProviderError(f"jwks: {error}") from error
                self._keys_at = time.monotonic()
            return self._keys

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> str:
        """The ID token for an authorization code."""
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri,
            "client_id": self._config.client_id, "code_verifier": verifier,
        }  # fmt: skip
        if self._config.client_secret:
            form["client_secret"] = self._config.client_secret
        endpoint = (await self.metadata()).token_endpoint
        answer: Tokens = _decoded(await self._exchange("POST", endpoint, form), Tokens)
        return answer.id_token

    async def _exchange(self, method: str, url: str, form: Mapping[str, str] | None = None) -> bytes:
        self._refuse_plain(url)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                # Secrets go to the endpoint that was named and nowhere else.
                session.request(method, url, data=form, ssl=self._tls(), allow_redirects=False) as answer,
            ):
                body = await answer.content.read(MOST_BYTES + 1)
                if answer.status != 200 or len(body) > MOST_BYTES:
                    raise ProviderError(f"{urlsplit(url).path}: answered {answer.status} with {len(body)} bytes")
                return body
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ProviderError(f"{urlsplit(url).path}: {reason_of(error)}") from error

    def _refuse_plain(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise ProviderError(f"{parts.hostname}: https is needed")

    def _tls(self) -> ssl.SSLContext:
        return client_context(Path(self._config.ca_file) if self._config.ca_file else None)


def _decoded(body: bytes, kind: type[msgspec.Struct] | Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProviderError(f"answer: {error}") from error
