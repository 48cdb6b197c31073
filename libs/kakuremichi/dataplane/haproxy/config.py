"""The whole of haproxy.cfg and the route map as text. Pure: the same state gives the same bytes."""

import hashlib
from collections.abc import Iterable, Mapping

from kakuremichi.dataplane.haproxy.commands import server_words
from kakuremichi.dataplane.haproxy.desired import LABEL, MAX_HOST, Frontend, RouteState, Server, Tuning
from kakuremichi.dataplane.haproxy.diff import Route, parse_route
from kakuremichi.dataplane.haproxy.files import Layout

RESERVED = "/.well-known/kakuremichi/"
OWN_PER_MINUTE = 5  # requests of one source to the gateway itself
OWN_BODY_BYTES = 16384
OWN_AT_ONCE = 16
_IS_RESERVED = f"{{ path_beg {RESERVED} }}"

# Names under which proxies in front of applications are told who the visitor is. Nobody is in front of us.
_SPOOFABLE = (
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-url",
    "x-rewrite-url",
    "proxy",
)


def render_head(frontend: Frontend, tuning: Tuning, layout: Layout, pool_size: int) -> str:
    """Everything but the numbered backends."""
    return (
        _global(frontend, tuning, layout, pool_size) + _DEFAULTS + _frontend(frontend, layout) + _own_service(frontend)
    )


def describe(frontend: Frontend, tuning: Tuning, layout: Layout, pool_size: int) -> str:
    """One word that a running HAProxy shows in `show info`: what can only be changed by a reload."""
    parts = _globals(tuning, layout) + _DEFAULTS + _frontend(frontend, layout) + _own_service(frontend)
    return f"kakuremichi-{hashlib.sha256(parts.encode()).hexdigest()[:16]}-{pool_size}"


def described_pool(description: str) -> int | None:
    """The pool size in a description; None if it is not ours."""
    name, _, rest = description.partition("-")
    size = rest.partition("-")[2]
    return int(size) if name == "kakuremichi" and size.isascii() and size.isdigit() else None


def render_backend(number: int, servers: Iterable[Server] = ()) -> str:
    lines = [f"backend p{number} from base"]
    lines += [f"  server {server.name} {' '.join(server_words(server))}" for server in servers]
    return "\n".join(lines) + "\n"


def render_route(key: str, route: Route) -> str:
    return f"{key} {route}\n"


def parse_routes_file(text: str) -> dict[str, Route]:
    """The routes of a map file; lines that are not ours are left out."""
    routes: dict[str, Route] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if (route := parse_route(value)) is not None:
            routes.setdefault(key, route)  # as in HAProxy, the first of two wins
    return routes


def render_config(frontend: Frontend, tuning: Tuning, layout: Layout, pool_size: int, blocks: Mapping[int, str]) -> str:
    """The whole file. `blocks` are rendered backends by number; the rest of the pool is declared empty."""
    backends = [blocks.get(number) or render_backend(number) for number in range(pool_size)]
    return render_head(frontend, tuning, layout, pool_size) + "\n" + "".join(backends)


def _global(frontend: Frontend, tuning: Tuning, layout: Layout, pool_size: int) -> str:
    return (
        "# Written by kakuremichi, which overwrites every change made here.\n"
        + _globals(tuning, layout)
        + f"  description {describe(frontend, tuning, layout, pool_size)}\n\n"
    )


def _globals(tuning: Tuning, layout: Layout) -> str:
    threads = f"  nbthread {tuning.threads}\n" if tuning.threads else ""
    # The pool ratios are shares of ulimit-n: above the high one idle connections of every service are closed,
    # which costs two thirds of the throughput. Left to itself HAProxy sets ulimit-n to twice maxconn.
    # Descriptors are known to the parent that starts HAProxy, so it passes both numbers.
    return f"""\
global
{threads}  ulimit-n "${{KK_ULIMIT}}"
  maxconn "${{KK_MAXCONN}}"
  hard-stop-after {tuning.hard_stop_s}s
  tune.bufsize 32768
  tune.pool-high-fd-ratio 60
  tune.pool-low-fd-ratio 40
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
  stats socket {layout.admin_socket} mode 600 level admin expose-fd listeners
  stats timeout 60s
"""


def _answer(status: int, text: str) -> str:
    return f'  http-request return status {status} content-type text/plain string "{text}\\n"'


_DEFAULTS = """\
defaults base
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  timeout queue 5s
  timeout http-request 5s
  timeout http-keep-alive 60s
  option http-restrict-req-hdr-names reject
  option idle-close-on-response
  option redispatch 1
  retries 3
  retry-on conn-failure
  http-reuse safe
  balance roundrobin
  http-error status 503 content-type text/plain string "target-unreachable: no target of this service answers\\n"

"""
# redispatch 1: every retry goes to another server, at once. retry-on conn-failure alone is safe for every method,
# nothing was sent yet. idle-close-on-response: keep-alive visitors see no reset during a reload.


def _frontend(frontend: Frontend, layout: Layout) -> str:
    strict = "strict-sni " if frontend.strict_sni else ""
    tls = f"ssl crt-list {frontend.crt_list} {strict}alpn h2,http/1.1"
    lines = [
        "frontend visitors from base",
        *(f'  bind "fd@${{KK_FD_{name}}}"' for name in frontend.http),
        *(f'  bind "fd@${{KK_FD_{name}}}" {tls}' for name in frontend.tls),
        *_VISITOR_RULES,
        *_reserved_rules(frontend),
        *_host_rules(layout),
        *_ADDRESSED_RULES,
        *([f"  use_backend own if {_IS_RESERVED}"] if frontend.own_service else []),
        "  use_backend %[var(txn.route),field(1,|)]",
    ]
    return "\n".join(lines) + "\n"


_VISITOR_RULES = (
    "  http-request deny deny_status 405 if { method CONNECT TRACE }",
    # A header named in Connection is dropped by the next hop: it would drop ours.
    "  http-request deny deny_status 400 if { req.hdr(connection) -m sub -i x-forwarded x-real forwarded }",
    # A target that accepts h2c would open a tunnel past all these rules.
    "  http-request del-header upgrade if { req.hdr(upgrade) -m sub -i h2c }",
    "  http-request del-header http2-settings",
    "  http-request del-header x-forwarded- -m beg",
    *(f"  http-request del-header {name}" for name in _SPOOFABLE),
    "  http-request set-header x-forwarded-for %[src]",
    "  http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]",
)


def _reserved_rules(frontend: Frontend) -> tuple[str, ...]:
    """The place of the gateway itself, under every name and address; no service ever sees it.

    Only few, whole and small requests reach it: what is too much ends here, where it costs next to nothing.
    """
    if frontend.own_service is None:
        return (f"{_answer(404, 'reserved')} if {_IS_RESERVED}",)
    too_many = f"{{ sc_http_req_rate(0,own_sources) gt {OWN_PER_MINUTE} }}"
    too_large = f"{{ req.body_size gt {OWN_BODY_BYTES} }}"
    return (
        # An IPv6 host has a whole /64 to change addresses in.
        f"  http-request track-sc0 src,ipmask(32,64) table own_sources if {_IS_RESERVED}",
        f"{_answer(429, 'too many requests')} if {_IS_RESERVED} {too_many}",
        f"  http-request deny deny_status 405 if {_IS_RESERVED} !METH_POST",
        f"  http-request deny deny_status 413 if {_IS_RESERVED} {too_large}",
        # A body that trickles in would hold a place; one of unknown size is looked at as far as it may go.
        f"  http-request wait-for-body time 2s at-least {OWN_BODY_BYTES + 1} if {_IS_RESERVED}",
        f"  http-request deny deny_status 413 if {_IS_RESERVED} {too_large}",
        # `allow` ends the http-request rules: what follows about host names does not concern it.
        f"  http-request allow if {_IS_RESERVED}",
    )


def _route_is(state: RouteState) -> str:
    return f"{{ var(txn.route) -m end |{state} }}"


def _host_rules(layout: Layout) -> tuple[str, ...]:
    """Which service is meant. Only an exact match of a well-formed name counts: never map_dom, map_end or map_reg."""
    label = LABEL.replace("a-z", "A-Za-z")
    host = rf"^({label}\.)+{label}\.?(:[0-9]{{1,5}})?$"
    return (
        "  http-request deny deny_status 400 unless { req.hdr_cnt(host) eq 1 }",
        f"  http-request deny deny_status 400 unless {{ req.fhdr(host) -m reg {host} }}",
        "  http-request set-var(txn.host) req.fhdr(host),host_only,lower,rtrim(.)",
        f"  http-request deny deny_status 400 if {{ var(txn.host),length gt {MAX_HOST} }}",
        # A connection is meant for one name: what that name's handshake asked for would open another.
        "  http-request deny deny_status 421 if { ssl_fc } !{ ssl_fc_sni,lower,strcmp(txn.host) eq 0 }",
        f"  http-request set-var(txn.route) var(txn.host),map_str({layout.routes})",
        f"{_answer(404, 'unknown host')} unless {{ var(txn.route) -m found }}",
        f"{_answer(503, 'paused: this service is paused')} if {_route_is(RouteState.PAUSED)}",
        f"{_answer(503, 'no-target: this service has no target')} if {_route_is(RouteState.NO_TARGET)}",
    )


_HOP = "host=%[var(txn.host)];proto=%[ssl_fc,iif(https,http)]"
_ADDRESSED_RULES = (
    "  http-request set-header host %[var(txn.host)]",
    "  http-request set-header x-forwarded-host %[var(txn.host)]",
    # RFC 7239 wants IPv6 in brackets and quotes.
    f'  http-request set-header forwarded "for=%[src];{_HOP}" if {{ src 0.0.0.0/0 }}',
    f'  http-request set-header forwarded "for=\\"[%[src]]\\";{_HOP}" unless {{ src 0.0.0.0/0 }}',
)


def _own_service(frontend: Frontend) -> str:
    if frontend.own_service is None:
        return ""
    return f"""
backend own from base
  server gateway unix@{frontend.own_service} maxconn {OWN_AT_ONCE}

backend own_sources
  stick-table type ipv6 size 100k expire 2m store http_req_rate(1m)
"""
