"""What the portal asks: each command is looked at, decided by a pure function, written by one statement.

A decision that no longer holds when it is written (somebody was faster) is made again with fresh eyes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from kakuremichi.model.ids import NodeId
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.commands import (
    AnyCommand,
    AnyResult,
    Command,
    CreateToken,
    Enrolled,
    EnrolmentWaiting,
    EnrolNode,
    FeedPosition,
    ListEvents,
    ListNodes,
    ListPending,
    ListPositions,
    ListServices,
    ListTokens,
    Plan,
    Problem,
    PublishService,
    ReleaseNode,
    RemoveNode,
    RenewAccess,
    RevokeNode,
    RotateNode,
    SubmitGrant,
    UnpublishService,
)
from kakuremichi.wire.commands import Written as WrittenAnswer
from kakuremichi_registry import enrolment, forms, plans, publishing, upkeep
from kakuremichi_registry.access import AccessLog
from kakuremichi_registry.cuts import Cuts
from kakuremichi_registry.database import Database, StaleError, TokenNotOpenError
from kakuremichi_registry.grants import Grants
from kakuremichi_registry.items import Item
from kakuremichi_registry.passes import Passes
from kakuremichi_registry.refusal import FAILURES, Refusal, conflict, failure, invalid
from kakuremichi_registry.store import idempotency, nodes
from kakuremichi_registry.store import publishing as services
from kakuremichi_registry.store import upkeep as acts
from kakuremichi_registry.store.entries import Written, entry_of, request_hash
from kakuremichi_registry.store.plans import live
from kakuremichi_registry.terms import is_dry_run
from kakuremichi_registry.trust import Trust
from kakuremichi_registry.views import Views

log = structlog.get_logger(__name__)

ATTEMPTS = 20
MOST_READERS = 1500  # names in one answer: a message has 64 kB; who reads a larger fleet's feed is listed elsewhere

Readers = Mapping[str, tuple[NodeId, ...]]


class Commands:
    """Answers `cp.registry.command`."""

    def __init__(
        self,
        database: Database,
        trust: Trust,
        access: AccessLog,
        passes: Passes,
        cuts: Cuts,
        *,
        wrote: Callable[[int], None] = lambda _seq: None,
    ) -> None:
        self._database, self._trust, self._access = database, trust, access
        self._passes, self._cuts, self._wrote = passes, cuts, wrote
        self._views, self._grants = Views(database), Grants(database, trust)
        self._attempts: Mapping[type[Command], Callable[[Any], Awaitable[AnyResult]]] = {
            CreateToken: self._create_token,
            EnrolNode: self._enrol,
            RemoveNode: self._remove,
            RevokeNode: self._revoke,
            RotateNode: self._rotate,
            ReleaseNode: self._release,
            SubmitGrant: self._grants.submit,
            PublishService: self._publish,
            UnpublishService: self._unpublish,
        }
        self._enrolling = asyncio.Lock()  # each wants the lowest free address: in turn, or all but one decide again

    async def answer(self, _subject: str, command: AnyCommand) -> AnyResult:
        try:
            return self._with_access(await self._answer(command))
        except Refusal as refusal:
            self._access.refused(command, refusal.problem)
            return refusal.problem
        except FAILURES as error:
            return failure(error, type(command).__name__)

    @staticmethod
    def refuse(error: WireError) -> Problem:
        return Problem(status=400, code="malformed", detail=str(error))

    def _with_access(self, answer: AnyResult) -> AnyResult:
        if isinstance(answer, Enrolled):
            return msgspec.structs.replace(answer, bus_jwt=self._passes.of(answer.certificate))
        return answer

    async def _answer(self, command: AnyCommand) -> AnyResult:  # noqa: PLR0911  # one line for each query
        match command:
            case ListNodes():
                return await self._views.nodes(command)
            case ListServices():
                return await self._views.services(command)
            case ListTokens():
                return await self._views.tokens(command)
            case ListEvents():
                return await self._views.events(command)
            case ListPositions():
                return await self._views.positions(command)
            case ListPending():
                return await self._grants.waiting(command)
            case RenewAccess():
                return await self._passes.renew(command)
        check_texts(command)
        if is_dry_run(command):
            return await self._attempts[type(command)](command)
        return await self._remembered(command) or await self._write(command)

    async def _write(self, command: AnyCommand) -> AnyResult:
        attempt = self._attempts[type(command)]
        if isinstance(command, EnrolNode):
            async with self._enrolling:
                return await self._again(command, lambda: attempt(command))
        written = await self._again(command, lambda: attempt(command))
        if isinstance(command, RemoveNode | RevokeNode):
            self._cuts.wake()
        return written

    async def _again(self, command: Command, attempt: Callable[[], Awaitable[AnyResult]]) -> AnyResult:
        for _ in range(ATTEMPTS - 1):
            try:
                return await attempt()
            except StaleError as error:
                log.debug("decided again", command=type(command).__name__, reason=str(error))
                # It may be the same request, written by another replica meanwhile.
                if (answer := await self._remembered(command)) is not None:
                    return answer
        return await attempt()

    async def _remembered(self, command: Command) -> AnyResult | None:
        """The answer that the same request got before."""
        if not command.idempotency_key:
            return None
        found = await idempotency.find(self._database, command.actor, command.idempotency_key)
        if found is None:
            return None
        if found.request_hash != request_hash(command):
            raise conflict(
                "idempotency-key-reused",
                f"idempotency key {command.idempotency_key!r}: was used for another request",
                field="idempotency_key",
            )
        answer: WrittenAnswer | Enrolled = decode_any(found.answer, WrittenAnswer | Enrolled, name="remembered answer")
        if isinstance(answer, Enrolled):
            return answer
        readers = {position.feed: position.nodes for position in answer.positions}
        return msgspec.structs.replace(
            answer,
            seq=found.written.seq,
            log_id=found.written.log_id,
            positions=_positions(found.written, readers),
            changed=False,
        )

    async def _create_token(self, command: CreateToken) -> AnyResult:
        seen = await nodes.see_token(self._database, command.node_id)
        token_id, until, fact = enrolment.create_token(command, seen, datetime.now(UTC))
        answer = WrittenAnswer(
            seq=0, log_id=seen.log_id, positions=(), token_id=token_id, expires_at=enrolment.instant(until)
        )
        if is_dry_run(command):
            return plans.NO_NODE
        entry = entry_of(fact, command, answer=encode(answer))
        written = await nodes.create_token(self._database, entry, command, token_id, until)
        return msgspec.structs.replace(answer, seq=written.seq)

    async def _enrol(self, command: EnrolNode) -> AnyResult:
        enrollee = enrolment.check_form(command)
        seen = await nodes.see_enrol(self._database, command.secret_hash, command.identity_key)
        offline = self._trust.offline
        if seen.token is None and (known := await self._grants.known(command)) is not None:
            return known  # it waits for signatures, or its answer was lost
        decided = enrolment.decide(command, enrollee, seen, time.time(), grants=() if offline else enrolment.ANYTHING)
        signed = self._trust.certify(decided.certificate)
        answer: Enrolled | EnrolmentWaiting = Enrolled(
            deployment=self._trust.deployment, certificate=signed, trust=self._trust.trust_set,
            feed_key=self._trust.feed_certificate, endpoints=tuple(map(str, decided.endpoints)),
        )  # fmt: skip
        if offline:
            answer = EnrolmentWaiting(node_id=decided.certificate.node_id)
        entry = entry_of(enrolment.logged(decided, signed, pending=offline), command, answer=encode(answer))
        try:
            await nodes.enrol(
                self._database, entry, secret_hash=command.secret_hash, enrolments=seen.enrolments,
                enrolment=decided, signed=signed, pending=offline,
            )  # fmt: skip
        except TokenNotOpenError as error:
            raise StaleError("the token was redeemed meanwhile") from error  # by the same node, perhaps
        return answer

    async def _remove(self, command: RemoveNode) -> AnyResult:
        seen = await nodes.see_remove(self._database, command.node_id)
        if seen.node is not None and seen.node.revoked:
            fact = upkeep.forget(command, seen.node)
            if is_dry_run(command):
                return plans.NO_NODE
            return await self._written(
                command, {}, lambda answer: acts.forget(
                    self._database, entry_of(fact, command, answer=answer), command.node_id
                )
            )  # fmt: skip
        removal = enrolment.remove(command, seen)
        if is_dry_run(command):
            return await self._plan(removal.items, removal.readers, cut=(command.node_id,))
        return await self._written(
            command, removal.readers, lambda answer: nodes.remove(
                self._database, entry_of(removal.fact, command, answer=answer), command, removal
            )
        )  # fmt: skip

    async def _revoke(self, command: RevokeNode) -> AnyResult:
        removal = upkeep.revoke(command, await nodes.see_remove(self._database, command.node_id))
        if is_dry_run(command):
            return await self._plan(removal.items, removal.readers, cut=(command.node_id,))
        return await self._written(
            command, removal.readers, lambda answer: acts.revoke(
                self._database, entry_of(removal.fact, command, answer=answer), command.node_id, removal
            )
        )  # fmt: skip

    async def _rotate(self, command: RotateNode) -> AnyResult:
        rotation = upkeep.rotate(command, await acts.see(self._database, command.node_id))
        if is_dry_run(command):
            return await self._plan(rotation.items, rotation.readers)
        return await self._written(
            command, rotation.readers, lambda answer: acts.rotate(
                self._database, entry_of(rotation.fact, command, answer=answer), command.node_id, rotation
            )
        )  # fmt: skip

    async def _release(self, command: ReleaseNode) -> AnyResult:
        fact = upkeep.release(command, await acts.see(self._database, command.node_id))
        if is_dry_run(command):
            return plans.NO_NODE
        return await self._written(
            command, {}, lambda answer: acts.release(
                self._database, entry_of(fact, command, answer=answer), command.node_id
            )
        )  # fmt: skip

    async def _publish(self, command: PublishService) -> AnyResult:
        wanted = forms.check_form(command)
        seen = await services.see_publish(self._database, wanted)
        decided = publishing.decide(command, wanted, seen)
        if is_dry_run(command):
            return plans.NOTHING if decided.unchanged else await self._plan(decided.items, decided.readers)
        if decided.unchanged:
            feeds = tuple(sorted(feed for feed in decided.readers if feed in seen.heads))
            stands = Written(seen.log_id, decided.seen_seq, feeds, tuple(seen.heads[feed] for feed in feeds))
            return _answer(stands, decided.readers, changed=False)
        return await self._written(
            command, decided.readers, lambda answer: services.publish(
                self._database, entry_of(decided.fact, command, answer=answer), decided
            )
        )  # fmt: skip

    async def _unpublish(self, command: UnpublishService) -> AnyResult:
        seen = await services.see_unpublish(self._database, command.service_id)
        old, items, fact = publishing.withdraw(command, seen)
        readers = publishing.readers(old, None, seen.gateways)
        if is_dry_run(command):
            return await self._plan(items, readers)
        return await self._written(
            command, readers, lambda answer: services.unpublish(
                self._database, entry_of(fact, command, answer=answer), old, items
            )
        )  # fmt: skip

    async def _plan(self, items: tuple[Item, ...], readers: Readers, *, cut: tuple[NodeId, ...] = ()) -> Plan:
        return plans.plan(items, await live(self._database, items), readers, cut=cut)

    async def _written(
        self, command: Command, readers: Readers, write: Callable[[bytes], Awaitable[Written]]
    ) -> WrittenAnswer:
        """Write with the answer's known part kept beside it, for who asks again under the same key."""
        kept = b""
        if command.idempotency_key:
            nobody_knows = Written("", 0, tuple(sorted(readers)), (0,) * len(readers))
            kept = encode(_answer(nobody_knows, readers, changed=True))
        written = await write(kept)
        self._wrote(written.seq)
        return _answer(written, readers, changed=True)


def _answer(written: Written, readers: Readers, *, changed: bool) -> WrittenAnswer:
    return WrittenAnswer(
        seq=written.seq, log_id=written.log_id, positions=_positions(written, readers), changed=changed
    )


def _positions(written: Written, readers: Readers) -> tuple[FeedPosition, ...]:
    room = MOST_READERS
    positions = []
    for feed, feed_seq in zip(written.feeds, written.feed_seqs, strict=True):
        names = readers.get(feed, ())[:room]
        room -= len(names)
        positions.append(FeedPosition(feed=feed, feed_seq=feed_seq, nodes=names))
    return tuple(positions)


def check_texts(command: Command) -> None:
    """PostgreSQL keeps no NUL in text, and no name or path of ours has one."""
    for field in command.__struct_fields__:
        value = getattr(command, field)
        if isinstance(value, str) and "\0" in value:
            raise invalid(field, f"{field}: contains a NUL character")
