"""The options of an HTTP service as lines of its backend. Pure. They change by a reload only.

All of it was checked before, and is treated as hostile all the same: every text goes through `quoting`.
"""

from kakuremichi.dataplane.haproxy.access_log import http_log_rules
from kakuremichi.dataplane.haproxy.capabilities import Capabilities
from kakuremichi.dataplane.haproxy.desired import PAGE, HttpService, RouteState
from kakuremichi.dataplane.haproxy.limits import bandwidth_rules, http_limit_rules, source_rules, table_rule
from kakuremichi.dataplane.haproxy.quoting import literal, quoted, quoted_format, quoted_pattern
from kakuremichi.dataplane.haproxy.transport import authority_digest
from kakuremichi.model.options import Headers, Http, Timeouts

# What the buffer of a request can hold beside its headers: so much of a body of unknown length can be counted.
MOST_COUNTED_BYTES = 12_288
_BODY_WAIT_S = 10


def http_rules(service: HttpService, *, tls: bool, capabilities: Capabilities) -> tuple[str, ...]:
    """In the order in which a request meets them: who may come, how much, then what becomes of it. `tls`: visitors can
    come by TLS.
    """
    options = service.options
    return (
        *_authority(service),
        *http_log_rules(service.log_one_in),
        *(f"http-error status {status} {_page(text)}" for status, text in sorted(options.http.pages.items())),
        *_timeouts(options.timeouts),
        *table_rule(options.limits, capabilities),
        *source_rules(service.sources, "http-request deny deny_status 403"),
        *(["http-request redirect scheme https code 308 unless { ssl_fc }"] if options.http.https_only and tls else []),
        *_spelling_rules(service),
        *http_limit_rules(options.limits),
        *_body_rules(options.limits.body),
        *_state_rules(options.http),
        *bandwidth_rules(options.limits, capabilities, "http-request"),
        *_path_rules(service),
        *_header_rules("http-request", options.http.request),
        *_header_rules("http-response", options.http.response),
    )


def _authority(service: HttpService) -> tuple[str, ...]:
    """A comment, so that another file is another text: a server that names it can be added only after a reload."""
    pem = service.options.upstream.ca
    return (f"# authority {authority_digest(pem)}",) if pem else ()


def _page(html: str) -> str:
    return f'content-type "text/html; charset=utf-8" string {quoted(html)}'


def _timeouts(timeouts: Timeouts) -> tuple[str, ...]:
    return (
        *([f"timeout server {timeouts.response}s"] if timeouts.response else []),
        *([f"timeout tunnel {timeouts.idle}s"] if timeouts.idle else []),
    )


def _spelling_rules(service: HttpService) -> tuple[str, ...]:
    """The path was compared decoded. To cut the prefix off, it has to stand there as it is written."""
    http = service.options.http
    if not http.strip_prefix and not http.replace_prefix:
        return ()
    written = quoted_pattern("^", literal(service.path), "(/|$)")
    return (f"http-request deny deny_status 400 unless {{ path -m reg {written} }}",)


def _body_rules(limit: int) -> tuple[str, ...]:
    """A body says its length, or what has come of it is counted; more than a buffer cannot be: it has to say it."""
    if not limit:
        return ()
    unsaid = "!{ req.hdr(content-length) -m found }"
    too_large = f"http-request deny deny_status 413 if {{ req.body_size gt {limit} }}"
    if limit > MOST_COUNTED_BYTES:
        # HTTP/2 announces no body: that there is one shows with its first byte.
        wait = f"http-request wait-for-body time {_BODY_WAIT_S}s at-least 1 if {unsaid}"
        length = 'http-request return status 411 content-type text/plain string "length-required\\n" if'
        return too_large, wait, f"{length} {unsaid} {{ req.body_size gt 0 }}"
    return too_large, f"http-request wait-for-body time {_BODY_WAIT_S}s at-least {limit + 1} if {unsaid}", too_large


def _state_rules(http: Http) -> tuple[str, ...]:
    own_page = f"{{ var(txn.route) -m end |{RouteState.OWN_PAGE} }}"
    return (f"http-request deny deny_status {PAGE} if {own_page}",) if PAGE in http.pages else ()


def _path_rules(service: HttpService) -> tuple[str, ...]:
    http = service.options.http
    if not http.strip_prefix and not http.replace_prefix:
        return ()
    said = f"http-request set-header x-forwarded-prefix {quoted_format(service.path)}"
    prefix = literal(service.path)
    if http.replace_prefix:
        rest = quoted_pattern("^", prefix, "(.*)$")
        return said, f"http-request replace-path {rest} {quoted_format(http.replace_prefix)}\\1"
    return said, f"http-request replace-path {quoted_pattern('^', prefix, '/*(.*)$')} /\\1"


def _header_rules(when: str, headers: Headers) -> tuple[str, ...]:
    return (
        *(f"{when} del-header {quoted(name)}" for name in headers.remove),
        *(f"{when} set-header {quoted(name)} {_value(value)}" for name, value in sorted(headers.set.items())),
    )


def _value(text: str) -> str:
    # An empty word counts as a missing one, so it is said by a variable that nobody sets.
    return quoted_format(text) if text else "%[var(txn.nothing)]"
