"""The front end that visitors of HTTP services meet, and the gateway's own place under every name. Pure."""

from kakuremichi.dataplane.haproxy.access_log import http_log
from kakuremichi.dataplane.haproxy.capabilities import Capabilities
from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.routing import answer, host_rules, path_rules, settled, state_rules

RESERVED = "/.well-known/kakuremichi/"
OWN_PER_MINUTE = 5  # requests of one source to the gateway itself
OWN_BODY_BYTES = 16384
OWN_AT_ONCE = 16
MOST_HEADER_BYTES = 16384
HTTP3_PORT = 443
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


def visitor_frontend(frontend: Frontend, layout: Layout, capabilities: Capabilities) -> str:
    strict = "strict-sni " if frontend.strict_sni else ""
    certificates = f"ssl crt-list {frontend.crt_list} {strict}"
    lines = [
        "frontend visitors from base",
        *(f'  bind "fd@${{KK_FD_{name}}}"' for name in frontend.http),
        *(f'  bind "fd@${{KK_FD_{name}}}" {certificates}alpn h2,http/1.1' for name in frontend.tls),
        *(_http3(frontend, certificates) if frontend.http3 and capabilities.quic else ()),
        *(f"  {rule}" for rule in (http_log(layout) if frontend.access_log else ())),
        *_VISITOR_RULES,
        *_reserved_rules(frontend),
        *host_rules(layout),
        *_ADDRESSED_RULES,
        settled(layout),
        *path_rules(layout),
        *state_rules(),
        *([f"  use_backend own if {_IS_RESERVED}"] if frontend.own_service else []),
        "  use_backend %[var(txn.route),field(1,|)]",
    ]
    return "\n".join(lines) + "\n"


def own_service(frontend: Frontend) -> str:
    if frontend.own_service is None:
        return "\n"
    return f"""
backend own from base
  server gateway unix@{frontend.own_service} maxconn {OWN_AT_ONCE}

backend own_sources from base
  stick-table type ipv6 size 100k expire 2m store http_req_rate(1m)

"""


def _http3(frontend: Frontend, certificates: str) -> tuple[str, ...]:
    """UDP cannot wait in a held socket, so these are HAProxy's own; visitors fall back to HTTP/2 meanwhile."""
    doors = (f"quic6@[{each}]" if each.version == 6 else f"quic4@{each}" for each in frontend.http3)
    return (
        *(f"  bind {door}:{HTTP3_PORT} {certificates}alpn h3" for door in doors),
        "  http-response set-header alt-svc 'h3=\":443\"; ma=3600' if { ssl_fc }",
    )


_TOO_LARGE = answer(431, "too-large: more than 16 KiB of headers")
_VISITOR_RULES = (
    # HAProxy itself takes 31 KiB, and answers 400 to more.
    f"{_TOO_LARGE} if {{ req.hdrs,length gt {MOST_HEADER_BYTES} }}",
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
        return (f"{answer(404, 'reserved')} if {_IS_RESERVED}",)
    too_many = f"{{ sc_http_req_rate(0,own_sources) gt {OWN_PER_MINUTE} }}"
    too_large = f"{{ req.body_size gt {OWN_BODY_BYTES} }}"
    return (
        # An IPv6 host has a whole /64 to change addresses in.
        f"  http-request track-sc0 src,ipmask(32,64) table own_sources if {_IS_RESERVED}",
        f"{answer(429, 'too many requests')} if {_IS_RESERVED} {too_many}",
        f"  http-request deny deny_status 405 if {_IS_RESERVED} !METH_POST",
        f"  http-request deny deny_status 413 if {_IS_RESERVED} {too_large}",
        # A body that trickles in would hold a place; one of unknown size is looked at as far as it may go.
        f"  http-request wait-for-body time 2s at-least {OWN_BODY_BYTES + 1} if {_IS_RESERVED}",
        f"  http-request deny deny_status 413 if {_IS_RESERVED} {too_large}",
        # `allow` ends the http-request rules: what follows about host names does not concern it.
        f"  http-request allow if {_IS_RESERVED}",
    )


_HOP = "host=%[var(txn.host)];proto=%[ssl_fc,iif(https,http)]"
_ADDRESSED_RULES = (
    "  http-request set-header host %[var(txn.host)]",
    "  http-request set-header x-forwarded-host %[var(txn.host)]",
    # RFC 7239 wants IPv6 in brackets and quotes.
    f'  http-request set-header forwarded "for=%[src];{_HOP}" if {{ src 0.0.0.0/0 }}',
    f'  http-request set-header forwarded "for=\\"[%[src]]\\";{_HOP}" unless {{ src 0.0.0.0/0 }}',
)
