"""What a probe of the process may ask: is it alive (its loops turn), is it ready (it can serve).

Neither says anything about the data plane: a gateway without a control plane is not unhealthy.
"""

from dataclasses import dataclass

from kakuremichi.runtime.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Verdict:
    """`faults` are sentences; none is good."""

    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults


class Health:
    """Collects heartbeats of loops and conditions of readiness."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._beats: dict[str, tuple[float, float]] = {}
        self._lacking: dict[str, str] = {}

    def expect(self, loop: str, within_s: float) -> None:
        """From now on `loop` has to beat at least every `within_s` seconds."""
        self._beats[loop] = (self._clock.monotonic(), within_s)

    def beat(self, loop: str) -> None:
        _, within_s = self._beats[loop]
        self._beats[loop] = (self._clock.monotonic(), within_s)

    def lack(self, condition: str, detail: str) -> None:
        """Not ready because of `condition`: "bus", "not connected"."""
        self._lacking[condition] = detail

    def have(self, condition: str) -> None:
        self._lacking.pop(condition, None)

    def live(self) -> Verdict:
        now = self._clock.monotonic()
        late = [(loop, now - at) for loop, (at, within_s) in sorted(self._beats.items()) if now - at > within_s]
        return Verdict(tuple(f"loop {loop}: no sign of life for {age:.0f} s" for loop, age in late))

    def ready(self) -> Verdict:
        return Verdict(tuple(f"{condition}: {detail}" for condition, detail in sorted(self._lacking.items())))
