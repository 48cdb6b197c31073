"""What a hostile visitor may write: the right status, and nothing of it reaches a stranger's target."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from support.haproxy import Gateway, Target, ask, gateway, get, service, status, targets

NAME = "app.example.com"


@pytest.fixture
async def site(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[tuple[Gateway, Target, Target]]:
    """app.example.com and evil.com, each with its own target."""
    async with gateway(run_dir, f"80=127.0.0.1:{free_port()}") as rig, targets(free_port, "app", "evil") as (app, evil):
        await rig.reconciler.put(service("app", app.server(), host=NAME))
        await rig.reconciler.put(service("evil", evil.server(), host="evil.com"))
        yield rig, app, evil


def lines(*request: str, body: str = "") -> str:
    return "\r\n".join([*request, "", body])


GET, CLOSE, HOST = "GET / HTTP/1.1", "Connection: close", f"Host: {NAME}"
LONG = ".".join(["a" * 60] * 5)

ROUTED = [
    get("APP.Example.COM"),
    get(f"{NAME}:443"),
    get(f"{NAME}."),
    lines(GET, HOST, HOST, CLOSE),
    lines(f"GET http://{NAME}/ HTTP/1.1", HOST, CLOSE),
    lines("GET / HTTP/1.0", HOST),
    lines("POST / HTTP/1.1", HOST, CLOSE, "Content-Length: 3", "Transfer-Encoding: chunked", body="0\r\n\r\n"),
    f"GET / HTTP/1.1\n{HOST}\n{CLOSE}\n\n",
    lines(GET, HOST, "X-Folded: a", " b", CLOSE),
]
# What 2.6 answers; newer ones say 431 of headers that fill the buffer or are too many.
MORE_THAN_A_BUFFER = 431
REFUSED = [
    (400, lines(GET, HOST, "Host: evil.com", CLOSE)),
    (400, lines("GET http://evil.com/ HTTP/1.1", HOST, CLOSE)),
    (400, lines("POST / HTTP/1.1", HOST, "Content-Length: 3", "Content-Length: 4", CLOSE, body="abcd")),
    (400, lines("POST / HTTP/1.1", HOST, "Content-Length: ", CLOSE)),
    (400, lines("POST / HTTP/1.1", HOST, "Transfer-Encoding: identity, xchunked", CLOSE)),
    (400, lines(GET, HOST, ": empty-name", CLOSE)),
    (400, lines(GET, f"Host : {NAME}", CLOSE)),
    (400, lines("GET /a#b HTTP/1.1", HOST, CLOSE)),
    (400, get(f"{NAME},evil.com")),
    (400, lines(GET, CLOSE)),
    (400, lines("GET / HTTP/1.0", CLOSE)),
    (400, get("")),
    (404, get(f"x.{NAME}")),
    (404, get(f"{NAME}.evil.com")),
    (404, get("appXexample.com")),
    (400, get(f"{NAME}/../")),
    (400, get(f"{NAME}..")),
    (400, get(f".{NAME}")),
    (400, get(f"{NAME} x")),
    (400, get(f"user@{NAME}")),
    (400, get(f"{NAME}\0")),
    (400, get("app.ex\xc3\xa4mple.com")),
    (400, get(LONG)),
    (400, get("[::1]")),
    (400, get("[::1]:80")),
    (400, get(f"{NAME}:")),
    (400, get(f"{NAME}:99999x")),
    (400, get("*")),
    (400, get("localhost")),
    (404, get("127.0.0.1")),
    (403, get(NAME, "/", "X_Forwarded_For: 1.1.1.1")),
    (400, lines(GET, HOST, "Connection: close, X-Forwarded-For")),
    (400, lines(GET, HOST, "Connection: close, x-real-ip")),
    (405, lines(f"CONNECT {NAME}:443 HTTP/1.1", f"Host: {NAME}:443", CLOSE)),
    (405, lines("TRACE / HTTP/1.1", HOST, CLOSE)),
    (400, lines(GET, HOST, CLOSE, *(f"X-{number}: 1" for number in range(101)))),
    (400, lines(GET, HOST, CLOSE, f"X-Big: {'a' * 40_000}")),
    (400, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + get(NAME)),
    (400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\0" * 40),
]


@pytest.mark.parametrize("request_text", ROUTED)
async def test_what_means_one_name_is_led_to_its_target(
    site: tuple[Gateway, Target, Target], request_text: str
) -> None:
    rig, app, evil = site

    assert await status(rig.port, request_text) == 200
    (seen,) = app.requests
    headers = seen["headers"]
    assert isinstance(headers, dict)
    assert headers["host"] == NAME
    assert "content-length" not in headers or "transfer-encoding" not in headers
    assert evil.requests == []


async def test_what_means_no_name_or_two_is_refused_and_reaches_nobody(site: tuple[Gateway, Target, Target]) -> None:
    rig, app, evil = site

    answered = [(await status(rig.port, text), text[:120]) for _, text in REFUSED]

    expected = [(code, text[:120]) for code, text in REFUSED]
    assert [(400, text) if code == MORE_THAN_A_BUFFER else (code, text) for code, text in answered] == expected
    assert (app.requests, evil.requests) == ([], [])


SPOOFED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.com",
    "X-Forwarded-Prefix: /admin",
    "X-Forwarded-Whatever: x",
    "Forwarded: for=6.6.6.6",
    "X-Real-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
    "CF-Connecting-IP: 6.6.6.6",
    "X-Client-IP: 6.6.6.6",
    "X-Original-URL: /admin",
    "Proxy: http://6.6.6.6",
)


async def test_a_visitor_cannot_say_who_he_is(site: tuple[Gateway, Target, Target]) -> None:
    rig, app, _ = site

    assert await status(rig.port, get(NAME, "/", *SPOOFED)) == 200

    headers = app.requests[0]["headers"]
    assert headers == {
        "host": NAME,
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": NAME,
        "forwarded": f"for=127.0.0.1;host={NAME};proto=http",
    }


async def test_h2c_is_not_offered_to_the_target(site: tuple[Gateway, Target, Target]) -> None:
    rig, app, _ = site
    upgrade = ("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")

    assert await status(rig.port, get(NAME, "/", *upgrade)) == 200

    headers = app.requests[0]["headers"]
    assert isinstance(headers, dict)
    assert not {"upgrade", "http2-settings"} & set(headers)


async def test_the_reserved_place_is_no_services(site: tuple[Gateway, Target, Target]) -> None:
    rig, app, _ = site

    for host in (NAME, "127.0.0.1", "[::1]", "nobody.test"):
        answer = await ask(rig.port, get(host, "/.well-known/kakuremichi/announcement"))
        assert answer.startswith(b"HTTP/1.1 404"), answer
        assert answer.endswith(b"reserved\n")
    assert await status(rig.port, get(NAME, "/.well-known/kakuremichix")) == 200
    assert len(app.requests) == 1
