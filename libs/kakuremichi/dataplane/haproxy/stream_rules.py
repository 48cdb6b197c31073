"""TCP services in HAProxy: the front end on the redirected ports, and the options as lines of a backend. Pure."""

from kakuremichi.dataplane.haproxy.access_log import stream_log, stream_log_rules
from kakuremichi.dataplane.haproxy.capabilities import Capabilities
from kakuremichi.dataplane.haproxy.desired import Frontend, TcpService
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.limits import bandwidth_rules, source_rules, stream_limit_rules, table_rule
from kakuremichi.dataplane.haproxy.naming import RouteMap

_INSPECT = "tcp-request content"

STREAM_DEFAULTS = """\
defaults stream
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout queue 5s
  option redispatch 1
  retries 3
  balance roundrobin

"""


def stream_frontend(frontend: Frontend, layout: Layout) -> str:
    """`dst_port` is the port that the visitor asked for: over IPv4 the kernel remembers it through nft's `redirect`,
    over IPv6 it is that of the connection itself, which nft's `tproxy` has given to a transparent socket.
    """
    known = f"dst_port,map_str({layout.map(RouteMap.PORTS)})"
    lines = [
        "frontend streams from stream",
        *(f'  bind "fd@${{KK_FD_{name}}}"' for name in frontend.tcp),
        f"  tcp-request connection reject unless {{ {known} -m found }}",
        *(_logged(known, layout) if frontend.access_log else ()),
        f"  use_backend %[{known},field(1,|)]",
    ]
    return "\n".join(lines) + "\n\n"


def _logged(route: str, layout: Layout) -> tuple[str, ...]:
    rules = (*stream_log(layout), f"tcp-request content set-var(txn.route) {route}")
    return tuple(f"  {rule}" for rule in rules)


def stream_rules(service: TcpService, capabilities: Capabilities) -> tuple[str, ...]:
    """Before a server is chosen: who is refused reaches no target."""
    options = service.options
    return (
        *([f"timeout tunnel {options.timeouts.idle}s"] if options.timeouts.idle else []),
        *table_rule(options.limits, capabilities),
        *source_rules(service.sources, f"{_INSPECT} reject"),
        *stream_log_rules(service.log_one_in),
        *stream_limit_rules(options.limits),
        *bandwidth_rules(options.limits, capabilities, _INSPECT),
    )
