"""What passed through each service, from `show stat`: counted on over restarts and reloads and changes of backend."""

import asyncio
import operator
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path

from kakuremichi.dataplane.haproxy.client import Command, ProxyError, RuntimeClient
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.naming import parse_backend
from kakuremichi.model.ids import ServiceId

_BACKENDS: Command = ("show", "stat", "-1", "2", "-1")
_WITH_SERVERS: Command = ("show", "stat", "-1", "6", "-1")  # types are bits: 2 a backend, 4 a server
_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)
_COLUMNS = (
    "stot",
    "bin",
    "bout",
    "hrsp_1xx",
    "hrsp_2xx",
    "hrsp_3xx",
    "hrsp_4xx",
    "hrsp_5xx",
    "econ",
    "eresp",
    "wretr",
    "wredis",
    "dreq",
)


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of one service, in the order of _COLUMNS. `bytes_in` came from visitors, `bytes_out` went to them."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status_1xx: int = 0
    status_2xx: int = 0
    status_3xx: int = 0
    status_4xx: int = 0
    status_5xx: int = 0
    connect_errors: int = 0
    response_errors: int = 0
    retries: int = 0
    redispatches: int = 0
    denied: int = 0  # requests or connections that a rule of the service refused

    @property
    def statuses(self) -> tuple[int, int, int, int, int]:
        """Answers of the classes 1xx to 5xx."""
        return self.status_1xx, self.status_2xx, self.status_3xx, self.status_4xx, self.status_5xx

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(*map(operator.add, astuple(self), astuple(other)))

    def since(self, earlier: "Counters") -> "Counters":
        """What was added. Counters that went back began anew at zero: HAProxy was restarted or reloaded."""
        if self.requests < earlier.requests or self.bytes_in < earlier.bytes_in:
            return self
        return Counters(*map(operator.sub, astuple(self), astuple(earlier)))


_NOTHING = Counters()


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """`status` in HAProxy's words: `no check` (taken as up), UP, DOWN, MAINT, DRAIN; `sessions` at this moment."""

    status: str
    sessions: int
    weight: int


@dataclass(frozen=True, slots=True)
class BackendStat:
    """One numbered backend, as HAProxy has counted since its worker started."""

    counters: Counters = field(default_factory=Counters)
    sessions: int = 0
    rate: int = 0  # requests, of TCP connections, in the last second
    servers: Mapping[str, ServerHealth] = field(default_factory=dict)


Workers = Mapping[int, Mapping[int, BackendStat]]


async def read_stats(admin_socket: Path, *, servers: bool = False) -> dict[int, BackendStat]:
    """Of every numbered backend; `servers` adds their health. 10,000 services take some tenths of a second of
    HAProxy's and of our time (in a thread), with servers twice that: not every second.
    """
    reply = (await RuntimeClient(admin_socket).execute([_WITH_SERVERS if servers else _BACKENDS]))[0]
    return await asyncio.to_thread(parse_stats, reply)


async def read_workers(layout: Layout) -> Workers:
    """As `read_stats`, of each worker by its process id: the present one and those that a reload has replaced."""
    master = RuntimeClient(layout.master_socket)
    pids = [int(pid) for pid in _WORKER.findall(await master.ask_master(("show", "proc")))]
    replies = {pid: await master.ask_master((f"@!{pid}", *_BACKENDS)) for pid in pids}
    return await asyncio.to_thread(lambda: {pid: parse_stats(reply) for pid, reply in replies.items() if reply})


def parse_stats(reply: str) -> dict[int, BackendStat]:
    """From `show stat` in CSV. Raises ProxyError."""
    if not reply.startswith("# "):
        raise ProxyError(f"show stat: {' '.join(reply.split())[:120]}")
    head, *rows = reply.removeprefix("# ").splitlines()
    column = {name: index for index, name in enumerate(head.split(","))}
    needed = max(column[name] for name in (*_COLUMNS, "rate")) + 1
    stats: dict[int, BackendStat] = {}
    servers: dict[int, dict[str, ServerHealth]] = {}
    for line in rows:
        # All that is needed stands before the first column that may be quoted: several times as fast as csv.
        row = line.split(",", needed)
        number = parse_backend(row[column["pxname"]])
        if number is None:
            continue
        sessions, name = _number(row[column["scur"]]), row[column["svname"]]
        mine = servers.setdefault(number, {})
        if name == "BACKEND":
            counters = Counters(*(_number(row[column[wanted]]) for wanted in _COLUMNS))
            stats[number] = BackendStat(counters, sessions, _number(row[column["rate"]]), mine)
        else:
            mine[name] = ServerHealth(row[column["status"]], sessions, _number(row[column["weight"]]))
    return stats


def _number(text: str) -> int:
    return int(text or 0)


class Ledger:
    """Totals per service since it was first seen. No I/O: feed it what `read_workers` gave.

    After a reload the old worker goes on with the connections that it has, and counts them; so it is read too, until
    it has ended. What passed between the last reading and a worker's end is lost.
    """

    def __init__(self) -> None:
        self._totals: dict[ServiceId, Counters] = {}
        self._last: dict[int, dict[int, tuple[ServiceId | None, Counters]]] | None = None  # by worker and backend

    def update(self, workers: Workers, owners: Mapping[int, ServiceId]) -> Mapping[ServiceId, Counters]:
        """The totals of the services in `owners`. What a backend shows at the first reading of all, and under an owner
        before, is not the service's own; what was added since a reading when nobody had it, is. A worker that was not
        there before began at zero.
        """
        last = {pid: _owned(stats, owners) for pid, stats in workers.items()}
        for pid, backends in last.items():
            for number, (service, now) in backends.items():
                if service is None or self._last is None:
                    continue
                owner, before = self._last.get(pid, {}).get(number, (None, Counters()))
                if owner in (None, service):
                    self._totals[service] = self._totals.get(service, Counters()) + now.since(before)
        self._last = last
        self._totals = {service: self._totals.get(service, Counters()) for service in owners.values()}
        return self._totals


def _owned(
    stats: Mapping[int, BackendStat], owners: Mapping[int, ServiceId]
) -> dict[int, tuple[ServiceId | None, Counters]]:
    """Those that have an owner or had one: of the others nothing has to be remembered."""
    return {
        number: (owners.get(number), stat.counters)
        for number, stat in stats.items()
        if number in owners or stat.counters != _NOTHING
    }


def activity(workers: Workers, owners: Mapping[int, ServiceId]) -> Mapping[ServiceId, tuple[int, int]]:
    """(sessions, rate) of each service at this moment, those of workers that a reload has replaced included."""
    found = dict.fromkeys(owners.values(), (0, 0))
    for stats in workers.values():
        for number, service in owners.items():
            if (stat := stats.get(number)) is not None:
                sessions, rate = found[service]
                found[service] = sessions + stat.sessions, rate + stat.rate
    return found
