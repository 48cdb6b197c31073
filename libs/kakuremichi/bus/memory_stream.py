"""A stream in memory that refuses, de-duplicates and forgets like JetStream's."""

import itertools
from collections import Counter
from dataclasses import dataclass, field

from kakuremichi.bus.jetstream import EXPECTED_LAST_SEQUENCE, MESSAGE_ID, WRONG_LAST_SEQUENCE, StreamRefusedError
from kakuremichi.bus.port import Ack, BusError, Message, StreamState
from kakuremichi.bus.subject import matches
from kakuremichi.bus.topology import StreamSpec

_incarnations = itertools.count(1)
_STORE_FAILED = 10077  # JetStream's number for a message that the stream's limits refuse


@dataclass(slots=True)
class MemoryStream:
    """One stream. `leaderless` makes it store nothing and answer nothing; `forget_ids` ends the duplicate window."""

    spec: StreamSpec
    leaderless: bool = False
    stored: dict[int, Message] = field(default_factory=dict)
    last_seq: int = 0
    _ids: dict[str, int] = field(default_factory=dict)
    _created: str = field(default_factory=lambda: f"incarnation-{next(_incarnations)}")

    def takes(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.spec.subjects)

    def add(self, message: Message) -> Ack:
        """Store a message; :class:`StreamRefusedError` where JetStream refuses it."""
        message_id = message.headers.get(MESSAGE_ID, "")
        if message_id in self._ids:
            return Ack(self.spec.name, self._ids[message_id], duplicate=True)
        expected = message.headers.get(EXPECTED_LAST_SEQUENCE)
        if expected is not None and expected != str(self.last_seq):
            sentence = f"{message.subject}: wrong last sequence: {self.last_seq}"
            raise StreamRefusedError(f"{sentence} (JetStream error {WRONG_LAST_SEQUENCE})", WRONG_LAST_SEQUENCE)
        self._make_room(message)
        self.last_seq += 1
        self.stored[self.last_seq] = Message(message.subject, message.data, "", message.headers)
        if message_id:
            self._ids[message_id] = self.last_seq
        return Ack(self.spec.name, self.last_seq, duplicate=False)

    def state(self) -> StreamState:
        if self.leaderless:
            raise BusError(f"stream {self.spec.name}: no leader answers")
        first = min(self.stored, default=self.last_seq + 1 if self.last_seq else 0)
        return StreamState(first, self.last_seq, len(self.stored), self._created)

    def last(self, subject: str) -> Message | None:
        if self.leaderless:
            raise BusError(f"stream {self.spec.name}: no leader answers")
        return next((self.stored[seq] for seq in sorted(self.stored, reverse=True) if self._is(seq, subject)), None)

    def get(self, seq: int) -> Message | None:
        if self.leaderless:
            raise BusError(f"stream {self.spec.name}: no leader answers")
        return self.stored.get(seq)

    def forget_ids(self) -> None:
        self._ids.clear()

    def _is(self, seq: int, subject: str) -> bool:
        return matches(subject, self.stored[seq].subject)

    def _make_room(self, message: Message) -> None:
        size = sum(len(each.data) for each in self.stored.values()) + len(message.data)
        while self.spec.max_bytes and size > self.spec.max_bytes and self.stored:
            if self.spec.discard == "new":
                raise StreamRefusedError(
                    f"{message.subject}: maximum bytes exceeded (JetStream error {_STORE_FAILED})", _STORE_FAILED
                )
            size -= len(self.stored.pop(min(self.stored)).data)
        held = Counter(each.subject for each in self.stored.values())[message.subject]
        if self.spec.max_msgs_per_subject and held >= self.spec.max_msgs_per_subject:
            del self.stored[min(seq for seq in self.stored if self._is(seq, message.subject))]
