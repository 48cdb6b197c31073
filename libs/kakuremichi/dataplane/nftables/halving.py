"""Apply groups of changes as one batch; if the kernel refuses it, find those at fault and apply all others."""

from collections.abc import Callable, Sequence

from kakuremichi.dataplane.nftables.device import Table
from kakuremichi.dataplane.nftables.diff import Group
from kakuremichi.dataplane.nftables.elements import Refusal
from kakuremichi.dataplane.nftables.errors import RefusedError
from kakuremichi.dataplane.nftables.render import AddElements, Batch, PutSkeleton, RemoveElements

MAX_REFUSALS = 100  # per pass: if the fault is not an item's, trying each of 10,000 would take minutes

OnApplied = Callable[[Sequence[Group]], None]


def batch_of(groups: Sequence[Group], first: PutSkeleton | None = None) -> Batch:
    """Removals come first: the kernel looks at a batch in order, and a place must be free before it is taken."""
    removed = tuple(element for group in groups for element in group.remove)
    added = tuple(element for group in groups for element in group.add)
    return (
        *((first,) if first else ()),
        *((RemoveElements(removed),) if removed else ()),
        *((AddElements(added),) if added else ()),
    )


async def apply_groups(
    table: Table, groups: Sequence[Group], on_applied: OnApplied, *, first: PutSkeleton | None = None
) -> tuple[Refusal, ...]:
    """Apply all groups but those that the kernel refuses; `first` goes with the first batch that succeeds.

    `on_applied` is told after each successful batch, before anything else can fail. A refused group is tried once
    more if another one succeeded after it: that one may have freed its place.
    """
    pending: list[Sequence[Group]] = [groups] if groups or first else []
    failed: list[tuple[Group, str]] = []
    refusals = 0
    progress = False
    while pending:
        part = pending.pop()
        try:
            await table.apply(batch_of(part, first))
        except RefusedError as error:
            refusals += 1
            if not part:
                raise  # no item is at fault: this kernel does not take the skeleton
            if len(part) > 1 and refusals < MAX_REFUSALS:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                failed += [(group, str(error)) for group in part]
        else:
            on_applied(part)
            first, progress = None, True
        if not pending and failed and progress and refusals < MAX_REFUSALS:
            pending, failed, progress = [[group] for group, _ in failed], [], False
        if not pending and first:
            pending = [()]  # all items were refused: the guards must stand nevertheless
    return tuple(Refusal(owner, f"item {owner}: {reason}") for group, reason in failed for owner in group.owners)
