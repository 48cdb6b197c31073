"""Which service a request means: host and path against the route maps. Pure text of the front end.

Only whole, well-formed names count (never map_dom, map_end or map_reg). A host without paths of its own costs one
look-up. For a host some of whose paths lead elsewhere the path is compared as servers read it: without parameters
(`;`), decoded once; what they may read in more than one way is refused, else it would lead around a path's rules.
The longest wins: exact path, prefix, the host itself, then the same under the wildcard of one label.
"""

from kakuremichi.dataplane.haproxy.desired import LABEL, MAX_HOST, RouteState
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.naming import RouteMap

# An encoded dot, slash, backslash or NUL becomes `//` before decoding, which is refused like one that was written.
# The outer quotes are the line's, the inner ones keep parentheses for the expression.
_COMPARED = """'path,regsub(";[^/]*",,g),regsub("%(2e|2f|5c|00)",//,gi),url_dec'"""
_AMBIGUOUS = r"'(^$|^[^/]|//|/\.\.?(/|$)|\\)'"


def answer(status: int, text: str) -> str:
    return f'  http-request return status {status} content-type text/plain string "{text}\\n"'


def route_is(state: RouteState) -> str:
    return f"{{ var(txn.route) -m end |{state} }}"


def host_rules(layout: Layout) -> tuple[str, ...]:
    """`txn.host` and, if the host itself leads to a service, `txn.route`."""
    label = LABEL.replace("a-z", "A-Za-z")
    host = rf"^({label}\.)+{label}\.?(:[0-9]{{1,5}})?$"
    return (
        "  http-request deny deny_status 400 unless { req.hdr_cnt(host) eq 1 }",
        f"  http-request deny deny_status 400 unless {{ req.fhdr(host) -m reg {host} }}",
        "  http-request set-var(txn.host) req.fhdr(host),host_only,lower,rtrim(.)",
        f"  http-request deny deny_status 400 if {{ var(txn.host),length gt {MAX_HOST} }}",
        # A connection is meant for one name: what that name's handshake asked for would open another.
        "  http-request deny deny_status 421 if { ssl_fc } !{ ssl_fc_sni,lower,strcmp(txn.host) eq 0 }",
        f"  http-request set-var(txn.route) var(txn.host),map_str({layout.map(RouteMap.HOSTS)})",
    )


def path_rules(layout: Layout) -> tuple[str, ...]:
    """Come after `host_rules`, and only for requests that these did not settle. Later look-ups are the stronger ones;
    one that finds nothing leaves what was there.
    """
    hosts, splits, paths, prefixes = (
        layout.map(each) for each in (RouteMap.HOSTS, RouteMap.SPLITS, RouteMap.PATHS, RouteMap.PREFIXES)
    )
    looked_at = "{ var(txn.path) -m found }"
    lines = [
        "set-var(txn.wild) var(txn.host),regsub(^[^.]*,*) unless { var(txn.route) -m found }",
        # What cannot be decoded stays `//`.
        f"set-var(txn.path) str(//) if {{ var(txn.host),map_str({splits}) -m found }}",
        f"set-var(txn.path) str(//) if {{ var(txn.wild),map_str({splits}) -m found }}",
        f"set-var(txn.path) {_COMPARED} if {looked_at}",
        f"deny deny_status 400 if {looked_at} {{ var(txn.path) -m reg {_AMBIGUOUS} }}",
        f"set-var(txn.route) var(txn.wild),map_str({hosts}) if {{ var(txn.wild) -m found }}",
        *(
            f"set-var(txn.route) var(txn.{name}),{lookup} if {{ var(txn.{name}) -m found }} {looked_at}"
            for name in ("wild", "host")
            for lookup in (f"concat(,txn.path,/),map_beg({prefixes})", f"concat(,txn.path),map_str({paths})")
        ),
    ]
    return tuple(f"  http-request {line}" for line in lines)


def settled(layout: Layout) -> str:
    """`allow` ends the rules of the front end: most requests need none of those after it."""
    split = f"{{ var(txn.host),map_str({layout.map(RouteMap.SPLITS)}) -m found }}"
    return f"  http-request allow if {route_is(RouteState.ACTIVE)} !{split}"


def state_rules() -> tuple[str, ...]:
    """What is said to those whom no service takes."""
    return (
        f"{answer(404, 'unknown host')} unless {{ var(txn.route) -m found }}",
        f"{answer(503, 'paused: this service is paused')} if {route_is(RouteState.PAUSED)}",
        f"{answer(503, 'no-target: this service has no target')} if {route_is(RouteState.NO_TARGET)}",
    )
