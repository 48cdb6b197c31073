"""How the gateway speaks to a service's targets, in the words of HAProxy's `server` line. Pure."""

import hashlib
from dataclasses import replace

from kakuremichi.dataplane.haproxy.desired import HttpService, Server, Service
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.model.options import Upstream

_PROXY_PROTOCOL: dict[int, tuple[str, ...]] = {0: (), 1: ("send-proxy",), 2: ("send-proxy-v2",)}


def linked(service: Service, layout: Layout) -> dict[str, Server]:
    """The servers under their names in HAProxy, with all that their lines say."""
    words = transport_words(service, layout)
    servers = (replace(server, transport=words) for server in service.servers)
    return {server.name: server for server in servers}


def transport_words(service: Service, layout: Layout) -> tuple[str, ...]:
    """A server added at run time takes nothing from the file, so its line says it all."""
    upstream = service.options.upstream
    proxy = _PROXY_PROTOCOL[upstream.proxy_protocol]
    if not isinstance(service, HttpService) or upstream.protocol == "http":
        return proxy
    if upstream.protocol == "h2c":
        return (*proxy, "proto", "h2")
    return (*proxy, "ssl", *_verification(service, layout), "alpn", "h2,http/1.1", "ssl-min-ver", "TLSv1.2")


def _verification(service: HttpService, layout: Layout) -> tuple[str, ...]:
    upstream = service.options.upstream
    # Under a wildcard the visitor says the name; what he says was matched by it before.
    name = upstream.server_name or (service.host if not service.is_wildcard else "")
    sni = ("sni", f"str({name})" if name else "var(txn.host)")
    if not upstream.verify:
        return "verify", "none", *sni
    # Without `verifyhost` HAProxy checks the certificate for the name that it asked for.
    checked = ("verifyhost", name) if name else ()
    return "verify", "required", "ca-file", authority_file(upstream, layout), *sni, *checked


def authority_file(upstream: Upstream, layout: Layout) -> str:
    return str(layout.authority(authority_digest(upstream.ca))) if upstream.ca else "@system-ca"


def authority_digest(pem: str) -> str:
    """Names the file: another text is another file, so a running HAProxy is never surprised by a changed one."""
    return hashlib.sha256(pem.encode()).hexdigest()[:32]
