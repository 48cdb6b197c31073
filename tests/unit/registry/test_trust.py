"""The folder of the trust keys: made once, private, and of one piece."""

from pathlib import Path

import pytest

from kakuremichi.reconcile.verify import Verifier
from kakuremichi.wire.codec import decode
from kakuremichi.wire.identity import TrustSet
from kakuremichi.wire.signing import verify_key
from kakuremichi_registry.trust import TrustError, init_trust, open_trust


def test_keys_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    made = init_trust(tmp_path / "trust")
    again = init_trust(tmp_path / "trust")
    assert made.deployment == again.deployment
    assert (tmp_path / "trust").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()} == {0o600}
    verifier = Verifier(made.deployment, decode(made.trust_set.body, TrustSet))
    assert verifier.learn_feed_key(made.feed_certificate) == verify_key(made.feed_key)


def test_no_key_is_printed(tmp_path: Path) -> None:
    made = init_trust(tmp_path)
    assert bytes(made.feed_key).hex() not in repr(made)
    assert repr(bytes(made.trust_keys[0])) not in repr(made)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    init_trust(tmp_path)
    (tmp_path / "trust.seed").chmod(0o644)
    with pytest.raises(TrustError, match=r"trust\.seed"):
        open_trust(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (name, content)
        for name in ("deployment", "trust.seed", "feed.seed", "feed-key", "trust-set")
        for content in (None, b"", b"junk", b"00")
        if (name, content) != ("trust.seed", None)  # a trust key that is not there is kept elsewhere: offline
    ],
)
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    init_trust(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(TrustError, match=name.replace(".", r"\.")):
        open_trust(tmp_path)


def test_keys_of_another_deployment_do_not_mix(tmp_path: Path) -> None:
    init_trust(tmp_path / "two")
    for name in ("trust.seed", "feed.seed"):
        init_trust(tmp_path / name)
        (tmp_path / name / name).write_bytes((tmp_path / "two" / name).read_bytes())
        with pytest.raises(TrustError, match=name.replace(".", r"\.")):
            open_trust(tmp_path / name)
