"""The kernel's nf_tables over netlink: read what is not ours, hear of changes, add one rule."""

import asyncio
import errno
import struct
from collections.abc import AsyncIterator

from kakuremichi.dataplane.foreign import messages
from kakuremichi.dataplane.foreign.mending import Mending
from kakuremichi.dataplane.foreign.program import BaseChain, Place, Rule, Ruleset, SetContent
from kakuremichi.dataplane.links.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    Answer,
    NetlinkError,
    NetlinkSocket,
    Request,
)
from kakuremichi.dataplane.nftables.device import TABLE_NAME

SETTLE_S = 0.25
_SLICE = 500
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BATCH_HEAD = struct.pack(">BBH", 0, 0, 10)  # any family; the subsystem is nf_tables
OURS = ("inet", TABLE_NAME)


async def read_ruleset(ours: tuple[str, str] = OURS) -> Ruleset:
    """What other programs filter on input and forward. Raises NetlinkError."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        bases = await _bases(netlink, ours)
        tables = sorted({(base.place.family, base.place.table) for base in bases})
        rules: dict[Place, list[Rule]] = {}
        sets: dict[tuple[str, str, str], SetContent] = {}
        for family, table in tables:
            found = await netlink.dump(messages.GET_RULES, messages.dump_body(family, table))
            for count, answer in enumerate(found, 1):
                if (parsed := messages.parse_rule(answer.body)) is not None and parsed[0][:2] == (family, table):
                    rules.setdefault(parsed[0], []).append(parsed[1])
                if count % _SLICE == 0:
                    await asyncio.sleep(0)
            sets |= await _sets(netlink, family, table)
    return Ruleset(bases, {place: tuple(found) for place, found in rules.items()}, sets)


async def changes(ours: tuple[str, str] = OURS, settle_s: float = SETTLE_S) -> AsyncIterator[None]:
    """Yields once after each burst of changes to tables that are not ours. Never ends by itself."""
    with NetlinkSocket(NETLINK_NETFILTER, messages.GROUP) as netlink:
        while True:
            if await _changed(netlink, ours):
                await asyncio.sleep(settle_s)
                netlink.discard()
                yield


async def insert(mending: Mending) -> None:
    """Put the rule at the head of its chain. Raises NetlinkError."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        await netlink.transaction(
            Request(_BATCH_BEGIN, 0, _BATCH_HEAD),
            # Without APPEND the kernel inserts.
            (Request(messages.NEW_RULE, NLM_F_CREATE, mending.message()),),
            Request(_BATCH_END, 0, _BATCH_HEAD),
        )


async def _bases(netlink: NetlinkSocket, ours: tuple[str, str]) -> tuple[BaseChain, ...]:
    answers = await netlink.dump(messages.GET_CHAINS, messages.dump_body())
    parsed = (messages.parse_chain(answer.body) for answer in answers)
    return tuple(base for base in parsed if base is not None and base.place[:2] != ours)


async def _sets(netlink: NetlinkSocket, family: str, table: str) -> dict[tuple[str, str, str], SetContent]:
    """The sets that belong to a rule, and the maps of verdicts; named sets may be huge and are not asked for."""
    found: dict[tuple[str, str, str], SetContent] = {}
    for answer in await netlink.dump(messages.GET_SETS, messages.dump_body(family, table)):
        head = messages.parse_set(answer.body)
        if head is None or not head.known or (head.interval and head.concatenated):
            continue
        try:
            pages = await netlink.dump(messages.GET_ELEMENTS, messages.dump_body(family, table, head.name))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                continue  # it went with its rule a moment ago
            raise
        elements = [element for page in pages for element in messages.parse_elements(page.body)]
        known = tuple(element for element in elements if element is not None)
        if len(known) == len(elements):
            found[family, table, head.name] = SetContent(known, head.interval)
    return found


async def _changed(netlink: NetlinkSocket, ours: tuple[str, str]) -> bool:
    try:
        return any(_concerns_others(answer, ours) for answer in await netlink.receive())
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return True  # messages were lost: something has changed
        raise


def _concerns_others(answer: Answer, ours: tuple[str, str]) -> bool:
    if answer.kind == messages.NEW_GENERATION:
        return False  # the end of a transaction, and no word of whose
    return messages.table_of(answer.body) != ours
