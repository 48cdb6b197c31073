"""The highest epochs on disk: appended to when a key was taken, so that no restart ever accepts an older one."""

import os
from pathlib import Path

import structlog

from kakuremichi.reconcile.epochs import Accepted, Epochs, Step
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.records import Revocation

log = structlog.get_logger()

COMPACT_AFTER = 1000  # steps beyond the fewest that say the same
_FRAME = 2


class EpochFile:
    """One file of frames: length as u16, then one step. `epochs` is its content, for the models to ask and to fill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.epochs = Epochs()
        steps, whole = _read(path)
        self.epochs.replay(steps)
        fewest = self.epochs.everything()
        if not whole or len(steps) > len(fewest) + COMPACT_AFTER:
            # What follows a torn frame would never be read again, so it must not stay in front of new ones.
            write_atomically(path, b"".join(map(_frame, fewest)))

    def flush(self) -> None:
        """Write what is new, and wait until it would survive a power cut. New keys are rare: this may block."""
        steps = list(self.epochs.unsaved)
        if not steps:
            return
        try:
            self._append(b"".join(map(_frame, steps)))
        except OSError as error:
            # A full disk must not end the node: they stay in memory and are written with the next ones.
            log.warning("epochs not saved", file=str(self._path), reason=str(error))
            return
        del self.epochs.unsaved[: len(steps)]

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _frame(step: Step) -> bytes:
    body = encode(step)
    return len(body).to_bytes(_FRAME, "big") + body


def _read(path: Path) -> tuple[list[Step], bool]:
    """The steps up to the first damage, and whether there was none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], True
    steps: list[Step] = []
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + _FRAME], "big")
        body = data[place + _FRAME : place + _FRAME + size]
        try:
            steps.append(decode_any(body, Accepted | Revocation, name="epochs"))
        except WireError as error:
            log.warning("epochs damaged", file=str(path), at=place, reason=str(error))
            return steps, False
        place += _FRAME + size
    return steps, True
