"""A network namespace without a name for the test itself, for what must not be tried on the machine."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12


@contextmanager
def own_namespace() -> Iterator[None]:
    """This thread, and what it starts, in a namespace that goes with the last process and socket in it."""
    with open("/proc/thread-self/ns/net", "rb") as home:  # noqa: PTH123  (a file descriptor is wanted)
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace of its own needs root")
        try:
            yield
        finally:
            if _libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                os._exit(70)  # every later test would run in the wrong network
