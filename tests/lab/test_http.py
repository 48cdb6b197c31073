"""HTTP services with all that one can ask for, through the whole fleet, with private services of the test's own."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from support import visits
from support.fleet import put
from support.private import http_target

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "app.lab.test"  # a name that is given back rests for a day, so each test has its own
TARGETS = [{"agent": "site-a", "port": 9800}]


def trusted(fleet: Fleet) -> Path:
    return fleet.directory / "certificates" / "lab.pem"


async def test_the_longest_path_wins_then_the_wildcard(fleet: Fleet) -> None:
    places: dict[str, dict[str, Any]] = {
        "root": {"host": HOST},
        "docs": {"host": HOST, "path": "/docs", "options": {"http": {"strip_prefix": True}}},
        "deep": {"host": HOST, "path": "/docs/v1", "options": {"http": {"replace_prefix": "/new"}}},
        "exact": {"host": HOST, "path": "/docs/only", "options": {"http": {"exact": True}}},
        "any": {"host": "*.lab.test"},
    }
    for name, place in places.items():
        port = 9800 + len(name)  # each another target, so that the answer tells who it was
        put(fleet, name, kind="http", targets=[{"agent": "site-a", "port": port}], **place)
    with (
        http_target(fleet.lab, "site-a", 9804) as root_docs_deep,
        http_target(fleet.lab, "site-a", 9805) as exact,
        http_target(fleet.lab, "site-a", 9803) as anything,
    ):
        for asked, got in {
            "/": "/", "/docsx": "/docsx", "/docs": "/", "/docs/": "/", "/docs/a/b?q=1": "/a/b?q=1",
            "/docs/v1/x": "/new/x", "/docs/v1": "/new",
        }.items():  # fmt: skip
            answer = visits.http_get(fleet.lab, "gw2", HOST, asked)
            assert (answer.status, root_docs_deep.requests[-1][1]) == (200, got), asked
        assert visits.http_get(fleet.lab, "gw2", HOST, "/docs/only").status == 200
        assert exact.requests[-1][1] == "/docs/only"
        assert visits.http_get(fleet.lab, "gw1", "other.lab.test", "/x").status == 200
        assert visits.http_get(fleet.lab, "gw1", "a.b.lab.test", "/x").status == 404
        assert [path for _, path, _ in anything.requests] == ["/x"]
        for trick in ("/docs/../secret", "/docs/%2e%2e/secret", "//docs", "/docs/..%2fsecret", "/docs\\..\\x"):
            assert visits.http_get(fleet.lab, "gw1", HOST, trick).status == 400, trick


async def test_headers_are_set_and_removed_and_none_is_believed(fleet: Fleet) -> None:
    host = "app1.lab.test"
    options = {
        "http": {
            "request": {"set": {"X-Site": 'a "b" %[src] \\ c'}, "remove": ["Cookie"]},
            "response": {"set": {"Strict-Transport-Security": "max-age=60"}, "remove": ["X-Target"]},
        }
    }
    put(fleet, "app", kind="http", host=host, targets=TARGETS, options=options)
    with http_target(fleet.lab, "site-a", 9800) as seen:
        answer = visits.http_get(
            fleet.lab, "gw1", host, headers={"Cookie": "secret=1", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=x"}
        )
    ((_, _, headers),) = seen.requests
    visitor = fleet.lab.address("visitor")
    assert headers["x-site"] == 'a "b" %[src] \\ c'
    assert "cookie" not in headers
    assert headers["x-forwarded-for"] == visitor
    assert headers["forwarded"].startswith(f"for={visitor};")
    assert answer.headers["strict-transport-security"] == "max-age=60"
    assert "x-target" not in answer.headers


async def test_allow_lists_limits_pages_and_redirects(fleet: Fleet) -> None:
    host = "app2.lab.test"
    office = fleet.lab.address("office")
    options = {
        "limits": {"body": 1000},
        "http": {"https_only": True, "pages": {"403": "<p>staff only</p>", "413": "<p>too much</p>"}},
    }
    put(fleet, "app", kind="http", host=host, targets=TARGETS, sources=[f"{office}/32"], options=options)
    with http_target(fleet.lab, "site-a", 9800) as seen:
        plain = visits.http_get(fleet.lab, "gw1", host, "/x?y=1", source="office")
        assert (plain.status, plain.headers["location"]) == (308, f"https://{host}/x?y=1")
        refused = visits.http_get(fleet.lab, "gw1", host, source="stranger", trusted=trusted(fleet))
        assert (refused.status, refused.body) == (403, b"<p>staff only</p>")
        large = visits.http_get(
            fleet.lab, "gw1", host, source="office", trusted=trusted(fleet), method="POST", body=bytes(1001)
        )
        assert (large.status, large.body) == (413, b"<p>too much</p>")
        assert seen.requests == []
        for gateway in GATEWAYS:
            fits = visits.http_get(
                fleet.lab, gateway, host, "/", source="office", trusted=trusted(fleet), method="POST", body=bytes(1000)
            )
            assert (fits.status, fits.body) == (200, b"/ 1000")


async def test_a_paused_service_and_one_without_answer_say_so(fleet: Fleet) -> None:
    host = "app3.lab.test"
    pages = {"http": {"pages": {"503": "<p>back soon</p>"}}}
    put(fleet, "app", kind="http", host=host, targets=TARGETS, options={"paused": True, **pages})
    with http_target(fleet.lab, "site-a", 9800):
        paused = visits.http_get(fleet.lab, "gw3", host)
        assert (paused.status, paused.body) == (503, b"<p>back soon</p>")
        put(fleet, "app", kind="http", host=host, targets=TARGETS, options=pages)
        assert visits.http_get(fleet.lab, "gw3", host).status == 200
    down = visits.http_get(fleet.lab, "gw3", host)
    assert (down.status, down.body) == (503, b"<p>back soon</p>")


async def test_https_to_the_target_is_verified(fleet: Fleet) -> None:
    host = "app4.lab.test"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(trusted(fleet))
    authority = ssl.PEM_cert_to_DER_cert(certificate := first_certificate(trusted(fleet)))
    assert authority
    with http_target(fleet.lab, "site-a", 9800, tls=context) as seen:
        for upstream, status in (
            ({"protocol": "https"}, 503),  # not signed by anybody whom the system knows
            ({"protocol": "https", "ca": certificate}, 200),
            ({"protocol": "https", "ca": certificate, "server_name": "other.example"}, 503),
            ({"protocol": "https", "verify": False}, 200),
        ):
            put(fleet, "app", kind="http", host=host, targets=TARGETS, options={"upstream": upstream})
            assert visits.http_get(fleet.lab, "gw1", host).status == status, upstream
    assert len(seen.requests) == 2


def first_certificate(pem: Path) -> str:
    text = pem.read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"
