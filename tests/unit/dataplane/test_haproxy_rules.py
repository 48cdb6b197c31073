"""What services ask for as lines of the configuration, and that no text in them can become another line."""

import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.haproxy.capabilities import OLDEST, Capabilities, parse_capabilities, probe
from kakuremichi.dataplane.haproxy.config import Settings, render_config
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server, ServiceRefusedError, TcpService
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.naming import RouteMap, backend_name, key_in, parse_backend, place
from kakuremichi.dataplane.haproxy.quoting import literal, quoted, quoted_format
from kakuremichi.dataplane.haproxy.rendering import rules_of
from kakuremichi.dataplane.haproxy.transport import authority_digest, linked
from kakuremichi.dataplane.haproxy.visitors import visitor_frontend
from kakuremichi.model.addresses import parse_address
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Headers, Http, Limits, Options, Timeouts, Upstream

LAYOUT = Layout(Path("/run/kk"))
PLAIN = Settings(LAYOUT)
WITH_TLS = Settings(LAYOUT, Frontend(tls=("TLS",), crt_list=Path("/crt")))
NEWER = Settings(LAYOUT, capabilities=Capabilities((2, 8), bandwidth=True))
A = ServiceId("a")
OVER_TLS = "alpn h2,http/1.1 ssl-min-ver TLSv1.2"
SERVER = Server("t", parse_address("10.1.0.100"), 443)


def rules(settings: Settings = PLAIN, path: str = "", sources: tuple[str, ...] = (), **options: object) -> list[str]:
    asked = HttpService(A, "a.test", path=path, sources=sources, options=Options(**options))  # type: ignore[arg-type]
    return [line.removeprefix("  ") for line in rules_of(asked, settings).splitlines()]


def unquoted(word: str) -> str:
    """What HAProxy reads: one word in weak quotes. Anything else, or anything behind it, fails."""
    assert word[0] == word[-1] == '"'
    read, rest = "", iter(word[1:-1])
    for character in rest:
        assert character not in '"$\n\r', word
        if character == "\\":
            escaped = next(rest)
            read += {"n": "\n", "r": "\r", "t": "\t"}.get(escaped, escaped)
        else:
            read += character
    return read


class TestQuoting:
    @given(st.text(st.characters(blacklist_categories=("Cc", "Cs"))))
    def test_any_text_stays_one_word_with_the_same_meaning(self, text: str) -> None:
        assert unquoted(quoted(text)) == text
        assert unquoted(quoted_format(text)).replace("%%", "") == text.replace("%", "")

    def test_lines_of_a_page_stay_on_one_line(self) -> None:
        assert quoted("a\r\n\tb") == '"a\\r\\n\\tb"'

    @pytest.mark.parametrize("text", ["\0", "\x1b[0m", "\x0b", "\x7f"])
    def test_what_no_line_can_hold_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="control character"):
            quoted(text)

    @given(st.text(st.sampled_from("aZ09/._~!$&()*+,=:@-^[]\\|?{}%"), min_size=1))
    def test_a_pattern_matches_its_text_and_no_other(self, text: str) -> None:
        assert re.fullmatch(literal(text), text)
        assert not re.fullmatch(literal(text), f"{text}a")
        assert not re.fullmatch(literal(text), f"x{text[1:]}") or text[0] == "x"


class TestHttp:
    def test_a_service_that_asks_for_nothing_has_no_rules(self) -> None:
        assert rules() == []
        assert rules(path="/api") == []
        assert rules(paused=True) == []
        assert rules(upstream=Upstream(protocol="https", proxy_protocol=2)) == []

    def test_who_may_come_is_asked_first_and_headers_are_changed_last(self) -> None:
        lines = rules(
            WITH_TLS,
            "/api",
            ("10.0.0.0/8", "2001:db8::/32"),
            limits=Limits(connections=5, connections_per_client=4, rate=3, rate_per_client=2, body=1),
            timeouts=Timeouts(response=7, idle=8),
            http=Http(
                strip_prefix=True,
                https_only=True,
                request=Headers(set={"X-A": "50%"}, remove=("X-B",)),
                response=Headers(set={"X-C": '"'}, remove=("Server",)),
                pages={503: "<p>\n"},
            ),
        )

        assert lines == [
            'http-error status 503 content-type "text/html; charset=utf-8" string "<p>\\n"',
            "timeout server 7s",
            "timeout tunnel 8s",
            "stick-table type ipv6 size 100k expire 10s store gpc0_rate(1s),conn_cur",
            "acl is_source src 10.0.0.0/8 2001:db8::/32",
            "http-request deny deny_status 403 unless is_source",
            "http-request redirect scheme https code 308 unless { ssl_fc }",
            'http-request deny deny_status 400 unless { path -m reg "^/api(/|\\$)" }',
            "http-request track-sc1 str(::)",
            "http-request track-sc2 src,ipmask(32,64)",
            "http-request deny deny_status 429 if { be_conn gt 5 }",
            "http-request deny deny_status 429 if { sc2_conn_cur gt 4 }",
            "http-request deny deny_status 429 if { sc2_gpc0_rate ge 2 }",
            "http-request deny deny_status 429 if { sc1_gpc0_rate ge 3 }",
            "http-request sc-inc-gpc0(1)",
            "http-request sc-inc-gpc0(2)",
            "http-request deny deny_status 413 if { req.body_size gt 1 }",
            "http-request wait-for-body time 10s at-least 2 if !{ req.hdr(content-length) -m found }",
            "http-request deny deny_status 413 if { req.body_size gt 1 }",
            "http-request deny deny_status 503 if { var(txn.route) -m end |own-page }",
            'http-request set-header x-forwarded-prefix "/api"',
            'http-request replace-path "^/api/*(.*)\\$" /\\1',
            'http-request del-header "X-B"',
            'http-request set-header "X-A" "50%%"',
            'http-response del-header "Server"',
            'http-response set-header "X-C" "\\""',
        ]

    def test_nobody_is_sent_to_tls_that_is_not_there(self) -> None:
        assert rules(http=Http(https_only=True)) == []
        assert len(rules(WITH_TLS, http=Http(https_only=True))) == 1

    def test_long_lists_of_sources_are_several_lines(self) -> None:
        sources = tuple(f"10.{high}.{low}.0/24" for high, low in product(range(2), range(50)))
        *lists, deny = rules(sources=sources)

        assert [word for line in lists for word in line.removeprefix("acl is_source src ").split()] == list(sources)
        assert max(len(line.split()) for line in lists) < 64
        assert deny.endswith("unless is_source")

    def test_bandwidth_is_haproxys_from_2_7_on(self) -> None:
        limits = Limits(bandwidth=1000, bandwidth_per_client=100)

        assert rules(limits=limits) == []
        assert rules(NEWER, limits=limits) == [
            "stick-table type ipv6 size 100k expire 10s store bytes_out_rate(1s)",
            "filter bwlim-out bandwidth_all limit 1000 key str(::)",
            "filter bwlim-out bandwidth_each limit 100 key src,ipmask(32,64)",
            "http-request set-bandwidth-limit bandwidth_all",
            "http-request set-bandwidth-limit bandwidth_each",
        ]

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"host": "*.test"}, "host"),
            ({"host": "*.*.a.test"}, "host"),
            ({"host": "a.*.test"}, "host"),
            ({"log_one_in": -1}, "log_one_in"),
            ({"path": "/a b"}, "path"),
            ({"path": "/a/"}, "path"),
            ({"path": "/a;b"}, "path"),
            ({"path": "/.."}, "path"),
            ({"path": '/"'}, "path"),
            ({"path": "/a\n"}, "path"),
            ({"sources": ("10.0.0.1",)}, "sources"),
            ({"sources": ("10.0.0.0/8 0.0.0.0/0",)}, "sources"),
            ({"options": Options(http=Http(strip_prefix=True))}, "options.http"),
            ({"options": Options(http=Http(request=Headers(set={"X-A": "a\r\nX-B: b"})))}, "options.http.request"),
            ({"options": Options(http=Http(request=Headers(set={"X A": "a"})))}, "options.http.request"),
            ({"options": Options(http=Http(request=Headers(remove=("Host",))))}, "options.http.request"),
            ({"options": Options(http=Http(pages={200: "x"}))}, "options.http.pages"),
            ({"options": Options(upstream=Upstream(protocol="https", server_name="a b"))}, "server_name"),
        ],
    )
    def test_what_cannot_be_carried_out_is_refused(self, change: dict[str, object], field: str) -> None:
        with pytest.raises(ServiceRefusedError, match=rf"service a: .*{re.escape(field)}"):
            HttpService(**({"id": A, "host": "a.test"} | change))  # type: ignore[arg-type]


class TestTcp:
    def test_rules_refuse_before_a_target_is_chosen(self) -> None:
        limits = Limits(connections=5, rate=3, rate_per_client=2)
        asked = TcpService(A, 5006, (), Options(limits=limits, timeouts=Timeouts(idle=9)), ("10.0.0.0/8",))

        assert [line.strip() for line in rules_of(asked, PLAIN).splitlines()] == [
            "timeout tunnel 9s",
            "stick-table type ipv6 size 100k expire 10s store gpc0_rate(1s)",
            "acl is_source src 10.0.0.0/8",
            "tcp-request content reject unless is_source",
            "tcp-request content track-sc1 str(::)",
            "tcp-request content track-sc2 src,ipmask(32,64)",
            "tcp-request content reject if { be_conn gt 5 }",
            "tcp-request content reject if { sc2_gpc0_rate ge 2 }",
            "tcp-request content reject if { sc1_gpc0_rate ge 3 }",
            "tcp-request content sc-inc-gpc0(1)",
            "tcp-request content sc-inc-gpc0(2)",
        ]
        assert rules_of(TcpService(A, 5006, (), Options(upstream=Upstream(proxy_protocol=2))), PLAIN) == ""

    def test_options_of_http_and_ports_that_are_none_are_refused(self) -> None:
        with pytest.raises(ServiceRefusedError, match=r"options\.http"):
            TcpService(A, 5006, options=Options(http=Http(https_only=True)))
        with pytest.raises(ServiceRefusedError, match="port 0"):
            TcpService(A, 0)


class TestTransport:
    @pytest.mark.parametrize(
        ("upstream", "words"),
        [
            (Upstream(), ""),
            (Upstream(proxy_protocol=1), "send-proxy"),
            (Upstream(proxy_protocol=2, protocol="h2c"), "send-proxy-v2 proto h2"),
            (
                Upstream(protocol="https"),
                f"ssl verify required ca-file @system-ca sni str(a.test) verifyhost a.test {OVER_TLS}",
            ),
            (
                Upstream(protocol="https", verify=False, server_name="b.lan"),
                f"ssl verify none sni str(b.lan) {OVER_TLS}",
            ),
        ],
    )
    def test_the_line_of_a_server_says_all_of_it(self, upstream: Upstream, words: str) -> None:
        ((name, server),) = linked(
            HttpService(A, "a.test", (SERVER,), options=Options(upstream=upstream)), LAYOUT
        ).items()

        assert " ".join(server.transport) == words
        assert name == server.name
        assert (name == "t") == (not words)

    def test_under_a_wildcard_the_visitor_says_the_name(self) -> None:
        asked = HttpService(A, "*.a.test", (SERVER,), options=Options(upstream=Upstream(protocol="https")))
        (server,) = linked(asked, LAYOUT).values()

        assert "sni var(txn.host) alpn" in " ".join(server.transport)

    def test_another_authority_is_another_file_and_another_text(self) -> None:
        assert authority_digest("one") != authority_digest("two")
        assert LAYOUT.authority(authority_digest("one")).parent == LAYOUT.directory


class TestNaming:
    @given(st.sampled_from(["a.test", "*.a.test", "a.test/", "a.test/x", "a.test/x/", "*.a.test/x/y/", ":80"]))
    def test_a_key_is_found_again_in_its_map(self, key: str) -> None:
        route_map, written = place(key)

        assert key_in(route_map, written) == key

    def test_each_kind_of_key_has_its_map(self) -> None:
        keys = {"a.test": RouteMap.HOSTS, "a.test/": RouteMap.SPLITS, "a.test/x": RouteMap.PATHS, ":1": RouteMap.PORTS}

        assert {key: place(key)[0] for key in keys} == keys
        assert place("a.test/x/") == (RouteMap.PREFIXES, "a.test/x/")

    @given(st.integers(0, 1_999_999))
    def test_a_number_is_one_backend(self, number: int) -> None:
        assert parse_backend(backend_name(number)) == number


class TestCapabilities:
    async def test_the_program_itself_is_asked(self, run_dir: Path) -> None:
        program = run_dir / "haproxy"
        program.write_text("#!/bin/sh\necho 'HAProxy version 3.0.1'\necho '+QUIC'\n")
        program.chmod(0o700)

        assert await probe(program) == Capabilities((3, 0), quic=True, bandwidth=True)
        assert await probe(run_dir / "nothing") == OLDEST

    def test_http3_is_offered_only_by_a_haproxy_that_has_it(self) -> None:
        everywhere = parse_address("0.0.0.0"), parse_address("::")  # noqa: S104
        frontend = Frontend(tls=("TLS",), crt_list=Path("/crt"), http3=everywhere)

        assert "quic" not in visitor_frontend(frontend, LAYOUT, OLDEST)
        offered = visitor_frontend(frontend, LAYOUT, Capabilities((3, 0), quic=True))
        assert "  bind quic4@0.0.0.0:443 ssl crt-list /crt strict-sni alpn h3\n" in offered
        assert "  bind quic6@[::]:443 ssl crt-list /crt strict-sni alpn h3\n" in offered
        assert "alt-svc" in offered

    def test_a_haproxy_on_a_plain_openssl_is_told_that_http3_is_meant(self) -> None:
        frontend = Frontend(tls=("TLS",), crt_list=Path("/crt"), http3=(parse_address("::"),))
        for found, said in (
            (Capabilities((3, 0), quic=True, quic_compat=True), True),
            (Capabilities((3, 0), quic=True), False),
            (OLDEST, False),
        ):
            text = render_config(Settings(LAYOUT, frontend, capabilities=found), "x", (), ())
            assert ("  limited-quic\n" in text) is said

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17\nFeature list : +PROMEX -QUIC +RT", OLDEST),
            ("HAProxy version 2.7.0\nFeature list : -QUIC", Capabilities((2, 7), bandwidth=True)),
            ("HAProxy version 3.2.1\n : +QUIC +RT", Capabilities((3, 2), quic=True, bandwidth=True)),
            (
                "HAProxy version 3.0.11\n+QUIC +QUIC_OPENSSL_COMPAT",
                Capabilities((3, 0), quic=True, bandwidth=True, quic_compat=True),
            ),
            ("no such thing", OLDEST),
            ("", OLDEST),
        ],
    )
    def test_they_are_read_from_what_the_program_says(self, text: str, expected: Capabilities) -> None:
        assert parse_capabilities(text) == expected
