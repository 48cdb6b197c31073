"""The portal's HTTP API for whoever builds a fleet: plain requests over a socket made where the portal is reached."""

import http.client
import json
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self


class ApiError(Exception):
    """The portal refused, or did not answer; the text is its sentence. `problem` is its problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status}: {problem.get('detail', problem)}")
        self.status, self.problem = status, problem


class Api:
    """One keep-alive connection. `inside` is the network namespace in which the socket is made."""

    def __init__(
        self, host: str, port: int, token: str, inside: Callable[[], AbstractContextManager[None]],
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._address, self._token, self._inside, self._tls = (host, port), token, inside, tls
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, path: str) -> Any:
        return self.call("GET", path)[1]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.call("POST", path, body)[1]

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)[1]

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """(status, body); :class:`ApiError` from 400 on. A stale connection is made anew for reading only."""
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection = self._connected()
            connection.request(method, f"/api/v1{path}", payload, headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ApiError(0, {"detail": f"portal not reached: {error}"}) from error
        content = json.loads(data) if data else None
        if answer.status >= 400:
            raise ApiError(answer.status, content or {})
        return answer.status, content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = (
                http.client.HTTPSConnection(*self._address, timeout=30, context=self._tls)
                if self._tls
                else http.client.HTTPConnection(*self._address, timeout=30)
            )
            with self._inside():
                connection.connect()
            self._connection = connection
        return self._connection
