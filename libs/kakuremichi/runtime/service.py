"""The frame of every service: loops until SIGTERM, and a process that dies with any of them."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from kakuremichi.runtime.config import ConfigError
from kakuremichi.runtime.notify import notify, watchdog_interval_s

log = structlog.get_logger(__name__)

Loop = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set, finishes the step in hand and returns. Returning earlier is a fault."""

GRACE_S = 20.0  # below Kubernetes' 30 s, so that we end by our own hand
EXIT_FAILED = 1
EXIT_CONFIG = 78  # EX_CONFIG: systemd units may list it under RestartPreventExitStatus


class LoopDiedError(RuntimeError):
    """A loop ended before it was told to; `__cause__` is why."""


async def run_until_stopped(**loops: Loop) -> None:
    """Run every loop until SIGTERM or SIGINT; each then finishes the step in hand, within 20 s, and returns.

    Raises an exception group with :class:`LoopDiedError` if one ends sooner; the others are cancelled.
    """
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(signum, stop.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(_hold(name, loop, stop), name=name) for name, loop in loops.items()]
            tasks.create_task(_tell_systemd(stop), name="systemd")
            await stop.wait()
            await _bound(held)
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            running.remove_signal_handler(signum)


def run_service(name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a service's `main` to its end and return the exit code: 0 after SIGTERM, else one log line says why."""
    gc.freeze()  # modules live as long as the process: looking at them again and again costs 40 ms each time
    try:
        asyncio.run(main())
    except ConfigError as error:
        log.critical("configuration refused", service=name, faults=list(error.faults))
        return EXIT_CONFIG
    except Exception as error:
        cause = _first(error)
        log.critical("service failed", service=name, reason=str(cause), exc_info=cause)
        return EXIT_FAILED
    return 0


async def _hold(name: str, loop: Loop, stop: asyncio.Event) -> None:
    try:
        await loop(stop)
    except Exception as error:
        raise LoopDiedError(f"loop {name}: {type(error).__name__}: {error}") from error
    if not stop.is_set():
        raise LoopDiedError(f"loop {name}: returned before it was told to stop")


async def _bound(held: list["asyncio.Task[None]"]) -> None:
    if not held:
        return
    _, late = await asyncio.wait(held, timeout=GRACE_S)
    for task in late:
        log.error("loop did not stop in time", loop=task.get_name(), grace_s=GRACE_S)
        task.cancel()


async def _tell_systemd(stop: asyncio.Event) -> None:
    notify("READY=1")
    # The heartbeat comes from the event loop itself: one that hangs is restarted.
    interval_s = watchdog_interval_s()
    while not stop.is_set():
        try:
            async with asyncio.timeout(interval_s):
                await stop.wait()
        except TimeoutError:
            notify("WATCHDOG=1")
    notify("STOPPING=1")


def _first(error: BaseException) -> BaseException:
    """The innermost first error of nested groups: the one that ended the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
