"""The access log: one JSON object a request or connection, of services that ask for it, to a datagram socket. Pure.

HAProxy sends without waiting and drops what nobody reads. Lines of other services are not even put together. What does
not begin with `{` is HAProxy's own, such as that a worker has ended.
"""

from kakuremichi.dataplane.haproxy.files import Layout

# Below `info`, where HAProxy itself tells of requests that it could not read: those are not the services'.
_LEVEL = "notice"
_MAX_BYTES = 4096

_COMMON = (
    '"time":%Ts.%ms,"service":"%[var(txn.route),field(2,|)]","client":"%ci","client_port":%cp,'
    '"server":"%s","bytes_in":%U,"bytes_out":%B,"end":"%ts","connect_ms":%Tc'
)
_HTTP = (
    '"host":"%[var(txn.host)]","method":"%[var(txn.method),json(utf8s)]","path":"%[var(txn.said),json(utf8s)]",'
    '"agent":"%[var(txn.agent),json(utf8s)]","version":"%HV","tls":"%sslv","status":%ST,'
    '"response_ms":%Tr,"total_ms":%Ta'
)
_STREAM = '"port":%fp,"total_ms":%Tt'


def http_log(layout: Layout) -> tuple[str, ...]:
    """Of the front end. Queries are left out: they carry secrets."""
    return (*_log(layout, _HTTP), "http-request set-log-level silent")


def stream_log(layout: Layout) -> tuple[str, ...]:
    """Of the front end."""
    return (*_log(layout, _STREAM), "tcp-request content set-log-level silent")


def http_log_rules(one_in: int) -> tuple[str, ...]:
    """Of a backend: this service is logged, every n-th request by chance."""
    if not one_in:
        return ()
    return (
        "http-request set-var(txn.method) method",
        "http-request set-var(txn.said) path",
        "http-request set-var(txn.agent) req.fhdr(user-agent)",
        f"http-request set-log-level {_LEVEL} if {{ rand({one_in}) eq 0 }}",
    )


def stream_log_rules(one_in: int) -> tuple[str, ...]:
    return (f"tcp-request content set-log-level {_LEVEL} if {{ rand({one_in}) eq 0 }}",) if one_in else ()


def _log(layout: Layout, fields: str) -> tuple[str, ...]:
    return (
        f"log {layout.access_log} len {_MAX_BYTES} format raw local0 {_LEVEL}",
        f"log-format '{{{_COMMON},{fields}}}'",
    )
