"""Answering requests: decode, decide, answer where the asker may be answered, and nowhere else."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from kakuremichi.bus.port import Bus, BusError, Message, Subscription
from kakuremichi.bus.subject import template
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode_any, encode

log = structlog.get_logger(__name__)

Request = TypeVar("Request")

Decide = Callable[[str, Request], Awaitable[object]]
"""`decide(subject, request)` returns the answer, any struct. What it raises is logged; the asker hears nothing."""

_CONTROL_PLANE = "cp."
_CONTROL_PLANE_INBOX = "_INBOX."


async def serve(
    bus: Bus,
    subject: str,
    kind: type[Request] | Any,  # a union of tagged structs has no type of its own
    decide: Decide[Request],
    *,
    queue: str,
    at_once: int = 1,
    refuse: Callable[[WireError], object] | None = None,
    counts: "Counter[str] | None" = None,
) -> Subscription:
    """Answer the requests to `subject` as one of the queue group `queue`, `at_once` of them at a time.

    `kind` is what `decide` takes, a struct or a union of tagged ones. `refuse` makes the answer to bytes that are
    none; without it they stay unanswered. `counts` receives answered, bad_reply, malformed, failed and unsent.
    """
    tally: Counter[str] = Counter() if counts is None else counts

    async def handle(message: Message) -> None:
        if not may_answer(message.subject, message.reply):
            tally["bad_reply"] += 1
            log.warning("request refused: the answer would go to others", subject=message.subject, reply=message.reply)
            return
        answer = await _answer(message, kind, decide, refuse, tally)
        if answer is None:
            return
        try:
            await bus.publish(message.reply, encode(answer))
        except BusError as error:
            tally["unsent"] += 1
            log.warning("answer not sent", subject=message.subject, reason=str(error))
        else:
            tally["answered"] += 1

    return await bus.subscribe(subject, handle, queue=queue, at_once=at_once)


def may_answer(subject: str, reply: str) -> bool:
    """Whether `reply` is an inbox of whoever may send to `subject`.

    We may publish to feeds, so an answer sent blindly would let the asker write there in our name.
    """
    if subject.startswith(_CONTROL_PLANE):
        return reply.startswith(_CONTROL_PLANE_INBOX)
    return subjects.answers_to(subject, reply)


async def _answer(
    message: Message,
    kind: Any,
    decide: Decide[Request],
    refuse: Callable[[WireError], object] | None,
    tally: "Counter[str]",
) -> object | None:
    try:
        request = decode_any(message.data, kind, name=getattr(kind, "__name__", template(message.subject)))
    except WireError as error:
        tally["malformed"] += 1
        log.info("request malformed", subject=message.subject, reason=str(error))
        return refuse(error) if refuse else None
    try:
        return await decide(message.subject, request)
    except Exception:
        tally["failed"] += 1
        log.exception("request failed", subject=message.subject)
        return None
