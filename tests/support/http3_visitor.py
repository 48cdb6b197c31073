"""One request by HTTP/3. Needs aioquic, which is no dependency of ours: who imports this asks for it first."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aioquic.asyncio.client import connect  # type: ignore[import-not-found,unused-ignore]
from aioquic.asyncio.protocol import QuicConnectionProtocol  # type: ignore[import-not-found,unused-ignore]
from aioquic.h3.connection import H3_ALPN, H3Connection  # type: ignore[import-not-found,unused-ignore]
from aioquic.h3.events import DataReceived, HeadersReceived  # type: ignore[import-not-found,unused-ignore]
from aioquic.quic.configuration import QuicConfiguration  # type: ignore[import-not-found,unused-ignore]


async def http3_get(place: tuple[str, int], name: str, host: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """(status, body) of `/x`. `name` is said to TLS, `host` to HTTP; the certificate is another test's."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=name, verify_mode=ssl.CERT_NONE
    )
    async with connect(*place, configuration=configuration, create_protocol=_Visitor) as visitor:
        fields = {":method": "GET", ":scheme": "https", ":authority": host, ":path": "/x", **headers}
        answer: tuple[int, bytes] = await visitor.ask(fields)
        return answer


class _Visitor(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._http = H3Connection(self._quic)
        self._status, self._body, self._ended = 0, b"", asyncio.Event()

    async def ask(self, fields: Mapping[str, str]) -> tuple[int, bytes]:
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._http.send_headers(self._quic.get_next_available_stream_id(), encoded, end_stream=True)
        self.transmit()
        async with asyncio.timeout(20):
            await self._ended.wait()
        return self._status, self._body

    def quic_event_received(self, event: Any) -> None:
        for said in self._http.handle_event(event):
            if isinstance(said, HeadersReceived):
                self._status = int(dict(said.headers)[b":status"])
            elif isinstance(said, DataReceived):
                self._body += said.data
            if said.stream_ended:
                self._ended.set()
