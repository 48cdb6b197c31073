"""haproxy.cfg around the backends of the services. Pure: the same state gives the same bytes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kakuremichi.dataplane.haproxy.capabilities import OLDEST, Capabilities
from kakuremichi.dataplane.haproxy.desired import Frontend, Tuning
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.stream_rules import STREAM_DEFAULTS, stream_frontend
from kakuremichi.dataplane.haproxy.visitors import own_service, visitor_frontend


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not come from services. Another value is another configuration, so it takes a reload."""

    layout: Layout
    frontend: Frontend = field(default_factory=Frontend)
    tuning: Tuning = field(default_factory=Tuning)
    capabilities: Capabilities = OLDEST


class Described(NamedTuple):
    """What a running HAProxy says of itself: the sizes of its pools."""

    http: int
    tcp: int


def describe(settings: Settings, sizes: tuple[int, int], rules: Mapping[int, str]) -> str:
    """One word that a running HAProxy shows in `show info`: what can only be changed by a reload."""
    head = _digest([_globals(settings), _fixed(settings)])
    options = _digest(f"{number} {text}" for number, text in sorted(rules.items()))
    return f"kakuremichi-{head}-{sizes[0]}-{sizes[1]}-{options}"


def described(description: str) -> Described | None:
    """The pool sizes in a description; None if it is not ours."""
    name, _, *sizes = (*description.split("-"), "")[:4]
    if name != "kakuremichi" or len(sizes) != 2:
        return None
    http, tcp = (int(size) if size.isascii() and size.isdigit() else 0 for size in sizes)
    return Described(http, tcp) if http else None


def render_config(settings: Settings, description: str, authorities: Iterable[str], backends: Iterable[str]) -> str:
    """The whole file. `authorities` are digests of certificate files that servers name."""
    return (
        "# Written by kakuremichi, which overwrites every change made here.\n"
        + _globals(settings)
        + f"  description {description}\n\n"
        + _fixed(settings)
        + _authorities(authorities, settings.layout)
        + "\n"
        + "".join(backends)
    )


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _fixed(settings: Settings) -> str:
    frontend, layout = settings.frontend, settings.layout
    streams = STREAM_DEFAULTS + stream_frontend(frontend, layout) if frontend.tcp else ""
    return _DEFAULTS + visitor_frontend(frontend, layout, settings.capabilities) + own_service(frontend) + streams


def _authorities(digests: Iterable[str], layout: Layout) -> str:
    """HAProxy loads certificates only at its start and only if a server names them: one that nothing leads to."""
    servers = [
        f"  server {digest} 127.0.0.1:9 disabled ssl verify required ca-file {layout.authority(digest)}"
        for digest in sorted(digests)
    ]
    return "\n".join(["", "backend authorities from base", *servers, ""]) if servers else ""


def _globals(settings: Settings) -> str:
    tuning, layout = settings.tuning, settings.layout
    # Without this word a HAProxy on a plain OpenSSL leaves out the doors for HTTP/3, with a warning.
    http3 = "  limited-quic\n" if settings.frontend.http3 and settings.capabilities.quic_compat else ""
    threads = f"  nbthread {tuning.threads}\n" if tuning.threads else ""
    # The pool ratios are shares of ulimit-n: above the high one idle connections of every service are closed,
    # which costs two thirds of the throughput. Left to itself HAProxy sets ulimit-n to twice maxconn.
    # Descriptors are known to the parent that starts HAProxy, so it passes both numbers.
    return f"""\
global
{threads}{http3}  ulimit-n "${{KK_ULIMIT}}"
  maxconn "${{KK_MAXCONN}}"
  hard-stop-after {tuning.hard_stop_s}s
  tune.bufsize 32768
  tune.pool-high-fd-ratio 60
  tune.pool-low-fd-ratio 40
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
  stats socket {layout.admin_socket} mode 600 level admin expose-fd listeners
  stats timeout 60s
"""


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
  http-error status 429 content-type text/plain string "too-many: a limit of this service is reached\\n"
  http-error status 413 content-type text/plain string "too-large: this service takes no body of this size\\n"
  http-error status 503 content-type text/plain string "target-unreachable: no target of this service answers\\n"

"""
# redispatch 1: every retry goes to another server, at once. retry-on conn-failure alone is safe for every method,
# nothing was sent yet. idle-close-on-response: keep-alive visitors see no reset during a reload.
