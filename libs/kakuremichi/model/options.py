"""What a service may ask for beyond its address and its targets. The default of everything is "nothing asked".

The same structs stand in the API's JSON, in the log, in the database and in what gateways are told. A gateway does
not believe the registry that they were checked: it calls `check_options` itself before one of them reaches a file.
"""

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta, Struct, field, structs

PAGE_STATUSES = (403, 413, 429, 502, 503, 504)
MAX_PAGE_BYTES = 8192
MAX_OPTIONS_BYTES = 32768  # as sent; a record has to fit into one message of the bus
MAX_HEADERS = 32
MAX_PATH = 256

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Meta(ge=0, le=2**43)]
Rate = Annotated[int, Meta(ge=0, le=2**33)]  # bytes per second; nftables counts no faster
Seconds = Annotated[int, Meta(ge=0, le=86400)]

_HEADER_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_HEADER_VALUE = re.compile(r"\A[\x20-\x7e]{0,1024}\Z")
# Without `;`: some servers cut parameters off before they read a path, so there would be two ways to say one.
_PATH = re.compile(r"\A(/[A-Za-z0-9._~!$&()*+,=:@-]+)+\Z")
_SERVER_NAME = re.compile(r"\A([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_PEM = re.compile(r"\A(-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----\n?)+\Z")

# What decides how a message is framed or who the visitor is: the gateway's alone to say.
_OWN_HEADERS = frozenset({
    "connection", "content-length", "forwarded", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
})  # fmt: skip


class OptionRefusedError(ValueError):
    """An option that no gateway may carry out: `field` is its name, the message a sentence."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.field = name


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base: a field that is not understood may be a restriction, so it is refused and not skipped."""


class Limits(Part, frozen=True, kw_only=True):
    """0 is no limit. "Per client" is per IPv4 address or IPv6 /64."""

    connections: Annotated[Count, Meta(description="Open at once.")] = 0
    connections_per_client: Count = 0
    rate: Annotated[Count, Meta(description="Per second: requests of http, new connections of tcp and udp.")] = 0
    rate_per_client: Count = 0
    bandwidth: Annotated[Rate, Meta(description="Bytes per second towards visitors.")] = 0
    bandwidth_per_client: Annotated[Rate, Meta(description="http, on gateways with HAProxy 2.7 or newer.")] = 0
    body: Annotated[Bytes, Meta(description="http: bytes of a request's body.")] = 0


class Timeouts(Part, frozen=True, kw_only=True):
    """Seconds; 0 is the default."""

    response: Annotated[Seconds, Meta(description="http: until the target answers; default 60.")] = 0
    idle: Annotated[Seconds, Meta(description="A WebSocket or TCP connection without a byte; default 3600.")] = 0


class Headers(Part, frozen=True, kw_only=True):
    set: Annotated[dict[str, str], Meta(description="Replaces what is there under the name.")] = field(
        default_factory=dict
    )
    remove: tuple[str, ...] = ()


class Http(Part, frozen=True, kw_only=True):
    """Only of http services."""

    exact: Annotated[bool, Meta(description="`path` is the whole path, not a prefix.")] = False
    strip_prefix: Annotated[bool, Meta(description="The target does not see the path prefix.")] = False
    replace_prefix: Annotated[str, Meta(description="The target sees this prefix in its place.")] = ""
    https_only: Annotated[bool, Meta(description="Visitors on port 80 are redirected.")] = False
    request: Headers = Headers()
    response: Headers = Headers()
    pages: Annotated[dict[int, str], Meta(description="HTML in place of the gateway's own error texts.")] = field(
        default_factory=dict
    )


class Upstream(Part, frozen=True, kw_only=True):
    """How the gateway speaks to the targets."""

    protocol: Literal["http", "https", "h2c"] = "http"
    verify: Annotated[bool, Meta(description="https: check the target's certificate.")] = True
    server_name: Annotated[str, Meta(description="https: the name asked for and checked; default the host.")] = ""
    ca: Annotated[str, Meta(description="https: PEM of the authority; default the system's.")] = ""
    proxy_protocol: Annotated[
        Literal[0, 1, 2], Meta(description="tcp, http: tell the target the visitor's address by PROXY protocol.")
    ] = 0
    ipv6: Annotated[
        bool, Meta(description="The target's name is resolved to IPv6. An IPv6 address needs no such word.")
    ] = False


class Options(Part, frozen=True, kw_only=True):
    paused: Annotated[bool, Meta(description="http: visitors read 503 and the page for it; targets stay.")] = False
    access_log: Annotated[
        int, Meta(ge=0, le=1_000_000, description="http: one request in so many goes to the gateways' access log.")
    ] = 0
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    http: Http = Http()
    upstream: Upstream = Upstream()


NO_OPTIONS = Options()


def ordered(options: Options) -> Options:
    """The same with every mapping in the order of its keys: equal options are equal bytes."""
    http = options.http
    return structs.replace(
        options,
        http=structs.replace(
            http,
            request=structs.replace(http.request, set=dict(sorted(http.request.set.items()))),
            response=structs.replace(http.response, set=dict(sorted(http.response.set.items()))),
            pages=dict(sorted(http.pages.items())),
        ),
    )


def check_options(kind: str, path: str, options: Options) -> None:
    """:class:`OptionRefusedError` unless a gateway can carry all of it out for a service of this kind."""
    if kind == "http":
        _check_http(path, options)
        _check_upstream(options.upstream)
        return
    if options.http != Http():
        raise OptionRefusedError("options.http", f"only http services have it, this one is {kind}")
    if options.access_log and not options.upstream.proxy_protocol:
        raise OptionRefusedError("options.access_log", "is of what HAProxy carries; for others there is the flow log")
    if options.paused:
        raise OptionRefusedError("options.paused", f"only http services can say that they are paused, not {kind}")
    if options.limits.bandwidth_per_client:
        raise OptionRefusedError("options.limits.bandwidth_per_client", "only http has it")
    if options.limits.body or options.timeouts.response:
        raise OptionRefusedError(
            "options.limits.body", f"bodies and responses are of http services, this one is {kind}"
        )
    upstream = options.upstream
    if upstream != Upstream(proxy_protocol=upstream.proxy_protocol, ipv6=upstream.ipv6):
        raise OptionRefusedError(
            "options.upstream", f"{kind} is carried as it is; only proxy_protocol and ipv6 can be asked for"
        )
    if kind != "tcp" and options.upstream.proxy_protocol:
        raise OptionRefusedError("options.upstream.proxy_protocol", "needs a stream, tcp or http")


def check_path(path: str) -> None:
    """A path prefix as it is stored: absolute, without a slash at its end; "" is every path."""
    if path and (len(path) > MAX_PATH or not _PATH.match(path) or {".", ".."} & set(path.split("/"))):
        raise OptionRefusedError(
            "path",
            f"{path[:64]!r} is not like /api/v1: unreserved characters, no escapes, no dots alone, no / at its end",
        )


def _check_http(path: str, options: Options) -> None:
    http = options.http
    if (http.exact or http.strip_prefix or http.replace_prefix) and not path:
        raise OptionRefusedError("options.http", "exact, strip_prefix and replace_prefix need a path")
    if http.strip_prefix and http.replace_prefix:
        raise OptionRefusedError("options.http.strip_prefix", "not together with replace_prefix")
    check_path(http.replace_prefix)
    for name, headers in (("request", http.request), ("response", http.response)):
        _check_headers(f"options.http.{name}", headers)
    for status, page in http.pages.items():
        if status not in PAGE_STATUSES:
            raise OptionRefusedError("options.http.pages", f"{status} is none of {', '.join(map(str, PAGE_STATUSES))}")
        if len(page.encode()) > MAX_PAGE_BYTES or "\0" in page:
            raise OptionRefusedError(
                "options.http.pages", f"the page for {status} has more than {MAX_PAGE_BYTES} bytes"
            )


def _check_headers(where: str, headers: Headers) -> None:
    if len(headers.set) + len(headers.remove) > MAX_HEADERS:
        raise OptionRefusedError(where, f"at most {MAX_HEADERS} headers are set and removed")
    for name in (*headers.set, *headers.remove):
        if not _HEADER_NAME.match(name):
            raise OptionRefusedError(where, f"{name[:64]!r} is no header name: letters, digits, '-' and '_'")
        if name.lower() in _OWN_HEADERS:
            raise OptionRefusedError(where, f"{name} is the gateway's own to say")
    for name, value in headers.set.items():
        if not _HEADER_VALUE.match(value):
            raise OptionRefusedError(where, f"the value of {name} is not up to 1,024 printable ASCII characters")


def _check_upstream(upstream: Upstream) -> None:
    if upstream.protocol != "https" and (upstream.ca or upstream.server_name or not upstream.verify):
        raise OptionRefusedError("options.upstream", "ca, server_name and verify are of protocol https")
    if upstream.server_name and not (len(upstream.server_name) <= 253 and _SERVER_NAME.match(upstream.server_name)):
        raise OptionRefusedError("options.upstream.server_name", "is not a lower case host name")
    if upstream.server_name and _is_address(upstream.server_name):
        raise OptionRefusedError("options.upstream.server_name", "is an address; TLS asks for names")
    if upstream.ca and not _PEM.match(upstream.ca):
        raise OptionRefusedError("options.upstream.ca", "is not a list of PEM certificates")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
