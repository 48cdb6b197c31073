"""Two holders of one identity: whoever copied a node's disk announces keys that do not follow the node's own. Pure.

Each announcement names the one before it by its hash. A node that never heard whether its last ones were accepted
sends them along, so its chain leads back to the one that stands however many were lost. The chain of a copy does not,
as soon as either of the two has announced something.
"""

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import VerifyKey, key_text
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.facts import NodeQuarantined
from kakuremichi.wire.identity import Announcement, Certificate
from kakuremichi.wire.requests import KeyRefused
from kakuremichi.wire.signing import DeploymentId, SignatureRefusedError, Signed, digest_of


def follows(
    said: Announcement, before: tuple[Signed, ...], deployment: DeploymentId, identity: VerifyKey
) -> tuple[bytes, ...]:
    """Hashes of the announcements that `said` comes after: the one it names, and on through `before`, newest first.

    What was not signed by the node, or is not the next link, ends the chain.
    """
    links = [said.previous]
    for signed in before:
        if digest_of(signed) != links[-1]:
            break
        try:
            body = signing.verify(signing.ANNOUNCEMENT, deployment, signed, {identity})
            links.append(decode(body, Announcement).previous)
        except (SignatureRefusedError, WireError):
            break
    return tuple(links)


def quarantine(said: Announcement, standing: Announcement, certificate: Certificate) -> NodeQuarantined:
    """The fact that names both holders by their boots."""
    return NodeQuarantined(
        node_id=said.node_id, role=certificate.role, pool=certificate.pool,
        epoch=standing.epoch, said_epoch=said.epoch,
        boot_id=standing.boot_id.hex(), said_boot_id=said.boot_id.hex(),
        public_key=key_text(standing.public_key), said_public_key=key_text(said.public_key),
    )  # fmt: skip


def quarantined(node: NodeId) -> KeyRefused:
    return KeyRefused(
        code="quarantined",
        detail=f"announcement of {node}: two holders of its identity were seen; end one of them,"
        f" then run `kakuremichi agent release {node}` (or `gateway release`)",
    )
