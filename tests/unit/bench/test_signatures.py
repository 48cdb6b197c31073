"""The patch under the benchmark's unverified start: it reaches the product's own verification, and counts in both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cold_start import SIGNATURES

PROGRAM = """
from nacl.signing import SigningKey
from kakuremichi.wire import signing

key, deployment = SigningKey.generate(), signing.DeploymentId(bytes(16))
keys = {signing.verify_key(key)}
good = signing.sign(signing.HEAD, deployment, b"good", key)
signing.verify(signing.HEAD, deployment, good, keys)
try:
    signing.verify(signing.HEAD, deployment, signing.Signed(b"forged", good.signatures), keys)
except signing.SignatureRefusedError:
    print("refused")
else:
    print("taken")
"""


@pytest.mark.parametrize(("mode", "forged"), [("check", "refused"), ("skip", "taken")])
def test_a_forged_signature_counts_only_where_checks_are_skipped(tmp_path: Path, mode: str, forged: str) -> None:
    asked = tmp_path / "asked"
    env = os.environ | {
        "PYTHONPATH": str(SIGNATURES),
        "KAKUREMICHI_BENCH_SIGNATURES": mode,
        "KAKUREMICHI_BENCH_SIGNATURES_FILE": str(asked),
    }

    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == forged
    assert asked.read_bytes() == b".."
