"""How long to wait before the next attempt: full jitter, so that a fleet does not come back at one moment."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds: attempt n (from 0) waits a random part of `base_s * 2**n`, never more than `cap_s`."""

    base_s: float = 0.5
    cap_s: float = 30.0

    def delay_s(self, attempt: int) -> float:
        return random.uniform(0, min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30)))


def around(interval_s: float, share: float = 0.2) -> float:
    """`interval_s` ± `share`, for things that repeat on every node."""
    return interval_s * random.uniform(1 - share, 1 + share)
