"""For one gateway of the benchmark, by PYTHONPATH: counts the signatures that it is asked to check, and may skip them.

The file that KAKUREMICHI_BENCH_SIGNATURES_FILE names grows by one byte for each. KAKUREMICHI_BENCH_SIGNATURES is
`check`, or `skip`: whatever was signed counts as valid. Both count, so that they differ in the check alone. The product
has no such switch; this replaces a method of its cryptographic library from outside.
"""

import os

from nacl.encoding import Encoder, RawEncoder
from nacl.signing import VerifyKey

_CHECK = VerifyKey.verify
_CHECKS = os.environ.get("KAKUREMICHI_BENCH_SIGNATURES") != "skip"
_FILE = os.environ.get("KAKUREMICHI_BENCH_SIGNATURES_FILE", os.devnull)
_DESCRIPTOR = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _verify(self: VerifyKey, smessage: bytes, signature: bytes | None = None, encoder: Encoder = RawEncoder) -> bytes:
    os.write(_DESCRIPTOR, b".")
    return _CHECK(self, smessage, signature, encoder) if _CHECKS else smessage


VerifyKey.verify = _verify  # type: ignore[method-assign]  # that is what it is for
