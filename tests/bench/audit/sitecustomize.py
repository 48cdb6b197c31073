"""For one gateway of the benchmark, by PYTHONPATH: writes down every process that this one starts, and how.

An audit hook sees what the interpreter itself does, from its first line on, and cannot be taken away again. Whatever
Python has for starting a program (subprocess, asyncio, multiprocessing, os.exec*, os.fork, os.posix_spawn, os.system)
raises one of these events.
"""

import os
import sys

_EVENTS = ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system")
_FILE = os.environ.get("KAKUREMICHI_BENCH_AUDIT", "")


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in _EVENTS:
        # asyncio and subprocess give the program only as the first word of its arguments.
        words = arguments[1] if event == "subprocess.Popen" and len(arguments) > 1 else arguments
        first = words[0] if isinstance(words, list | tuple) and words else words
        line = f"{event}\t{first!s}\n"
        descriptor = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)


if _FILE:
    sys.addaudithook(_hook)
