"""A person brings the node in: `kakuremichi token create` prints a line, and this is what the line runs.

The token comes on standard input: a command line and an environment are seen by every user of the machine.
"""

import os
from pathlib import Path

from kakuremichi.model.ids import NodeId
from kakuremichi.node.enrol import enrol
from kakuremichi.node.run import host_networks
from kakuremichi.node.state import Enrolment, NodeState, StateError
from kakuremichi.wire.enrolment import parse_join_token


def become_owner(directory: Path) -> None:
    """As root, go on as the user whose directory it is: the node's own process is that user's and has to read it."""
    if os.geteuid() != 0 or not directory.exists():
        return
    owner = directory.stat()
    if owner.st_uid:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


async def join(state: NodeState, text: str, interface: str) -> Enrolment:
    """Enrol with the token `text`. It stands in the state directory until it was used, so that the node's own process
    goes on where this one was interrupted: the trust keys may take days to sign.
    """
    if (held := state.enrolment()) is not None:
        raise StateError(f"{state.directory}: {_name(held)} is enrolled here already; stop it and empty it first")
    token = parse_join_token(text)
    state.save_join_token(text)
    enrolment = await enrol(state, token, networks=tuple(await host_networks(interface)))
    state.forget_join_token()
    return enrolment


def _name(enrolment: Enrolment) -> NodeId:
    return enrolment.node.node_id
