"""A reconciler on the HAProxy in memory, and services for it."""

from ipaddress import ip_address
from pathlib import Path

from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server, ServiceState
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.memory import MemoryProxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.dataplane.haproxy.report import Report
from kakuremichi.model.ids import ServiceId

LAYOUT = Layout(Path("/run/kk"))
CLOSED = ("10.0.0.0/8",)


def closed(name: str, *servers: Server, path: str = "") -> HttpService:
    """A service with rules."""
    return HttpService(ServiceId(name), f"{name}.test", servers, sources=CLOSED, path=path)


def server(name: str, host: int = 1, *, weight: int = 100) -> Server:
    return Server(name, ip_address(f"10.0.0.{host}"), 80, weight)


def service(name: str, *servers: Server, host: str = "", state: ServiceState = ServiceState.ACTIVE) -> HttpService:
    return HttpService(ServiceId(name), host or f"{name}.test", servers, state)


def reconciler_for(proxy: MemoryProxy, *, pool_size: int = 4) -> Reconciler:
    return Reconciler(proxy, Frontend(), LAYOUT, pool_size=pool_size)


async def running_with(*services: HttpService, pool_size: int = 4) -> tuple[MemoryProxy, Reconciler]:
    """A HAProxy started from the files of the first pass, as at the start of a gateway."""
    proxy = MemoryProxy()
    reconciler = reconciler_for(proxy, pool_size=pool_size)
    first = await reconciler.full(services)
    assert first.errors == ("admin.sock: nobody answers",)
    proxy.start()
    assert await reconciler.compare() == Report()
    return proxy, reconciler


async def served(proxy: MemoryProxy) -> dict[str, tuple[str, frozenset[str]]]:
    """Host to (service, names of the servers that a visitor may meet)."""
    actual = await proxy.read()
    found = {}
    for key, routes in actual.routes.items():
        (route,) = routes
        assert route is not None
        ready = {name for name, held in actual.servers.get(route.number, {}).items() if held.ready}
        found[key] = (str(route.service), frozenset(ready))
    return found
