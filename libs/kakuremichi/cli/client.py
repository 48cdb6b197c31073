"""The portal's API from the command line. Answers are read tolerantly: a newer portal may say more."""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from kakuremichi.cli.context import Context
from kakuremichi.cli.exits import UNREACHABLE, USAGE, CliError, of_status
from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.tls import client_context

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

Json = dict[str, Any]


class Client:
    def __init__(self, context: Context, *, timeout_s: float = TIMEOUT_S) -> None:
        self._context, self._timeout_s = context, timeout_s

    def list(self, kind: str, **query: str) -> list[Json]:
        items: list[Json] = self.call("GET", kind, query=query)["items"]
        return items

    def call(
        self,
        method: str,
        *where: str,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        """The JSON answer; :class:`CliError` with the API's own sentence if it refuses. `where` is path segments."""
        target = "/".join(("/api/v1", *(quote(segment, safe="") for segment in where)))
        target += f"?{urlencode(query)}" if query else ""
        status, data = self._exchange(method, target, body, timeout_s or self._timeout_s, headers or {})
        answer = _parse(data)
        if status >= 400 or answer is None:
            raise _refused(status, answer, self._context.url)
        return answer

    def _exchange(
        self, method: str, target: str, body: Json | None, timeout_s: float, more: Mapping[str, str]
    ) -> tuple[int, bytes]:
        connection = _connection(self._context, timeout_s)
        headers = {"Authorization": f"Bearer {self._context.token}", "Accept": "application/json", **more}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise CliError(f"{self._context.url}: no answer within {timeout_s:g} s", UNREACHABLE) from error
        except (OSError, http.client.HTTPException) as error:
            raise CliError(f"{self._context.url}: {reason_of(error)}", UNREACHABLE) from error
        finally:
            connection.close()


def _connection(context: Context, timeout_s: float) -> http.client.HTTPConnection:
    url = context.url
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CliError(f"url {url}: {error}", USAGE) from error
    if not host or parts.path not in ("", "/"):
        raise CliError(f"url {url}: of the form http://HOST:PORT, without a path", USAGE)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=_tls(context))
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _tls(context: Context) -> ssl.SSLContext:
    try:
        return client_context(context.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise CliError(f"CA file {context.ca_file}: {error.strerror or error}", USAGE) from error


def _parse(data: bytes) -> Json | None:
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _refused(status: int, problem: Json | None, url: str) -> CliError:
    if status < 400 or problem is None:
        return CliError(f"{url}: answered {status} with something that is not this API's", UNREACHABLE)
    hints, holders = [], tuple(map(str, problem.get("holders") or ()))
    if holders:
        hints.append(f"held by: {', '.join(holders)}")
    if trace_id := problem.get("trace_id"):
        hints.append(f"trace: {trace_id}")
    return CliError(str(problem.get("detail") or f"answered {status}"), of_status(status), tuple(hints), holders)
