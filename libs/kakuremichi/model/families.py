"""Which visitors a service cannot have, whatever is configured. Pure."""

from collections.abc import Collection

_NAMES = {4: "IPv4", 6: "IPv6"}


def left_out(kind: str, versions: Collection[int]) -> str:
    """A sentence if visitors of one IP version cannot reach the service; "" if all can.

    `versions` are those of the targets' addresses (4, 6); a target by name counts as the one its site will use.
    TCP and HTTP go through HAProxy where the versions differ. Nothing carries UDP from one to the other.
    """
    missing = sorted({4, 6} - set(versions))
    if kind != "udp" or len(missing) != 1:
        return ""
    has, lacks = _NAMES[({4, 6} - set(missing)).pop()], _NAMES[missing[0]]
    return (
        f"udp: the target has {has} only, so visitors by {lacks} cannot reach it; UDP is not carried from one to the "
        f"other, a second service with a target that has {lacks} serves them"
    )
