"""Which visitors a service cannot have, whatever is configured. Pure."""

from collections.abc import Collection

_NAMES = {4: "IPv4", 6: "IPv6"}


def left_out(kind: str, versions: Collection[int], *, ranged: bool = False) -> str:
    """A sentence if visitors of one IP version cannot reach the service; "" if all can.

    `versions` are those of the targets' addresses (4, 6); a target by name counts as the one its site will use.
    TCP and HTTP go through HAProxy where the versions differ, but for a range of ports (`ranged`), which keeps its
    numbers on every leg. Nothing carries UDP from one version to the other.
    """
    missing = sorted({4, 6} - set(versions))
    if len(missing) != 1 or not (kind == "udp" or (kind == "tcp" and ranged)):
        return ""
    has, lacks = _NAMES[({4, 6} - set(missing)).pop()], _NAMES[missing[0]]
    if kind == "tcp":
        return f"tcp: the targets have {has} only, so visitors by {lacks} cannot reach a range; single ports serve them"
    return (
        f"udp: the target has {has} only, so visitors by {lacks} cannot reach it; UDP is not carried from one to the "
        f"other, a second service with a target that has {lacks} serves them"
    )
