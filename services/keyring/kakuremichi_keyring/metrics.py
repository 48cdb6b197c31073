"""The keyring's metrics."""

from collections import Counter
from collections.abc import Iterable

from kakuremichi.runtime.metrics import EVERYWHERE, Family, Sample

ANNOUNCEMENTS = Family(
    "kakuremichi_keyring_requests_total", "counter", "Announcements by what became of them.", ("result",)
)
FAMILIES = (*EVERYWHERE, ANNOUNCEMENTS)


def samples(counts: Counter[str]) -> Iterable[Sample]:
    for result, count in counts.items():
        yield ANNOUNCEMENTS, (result,), count
