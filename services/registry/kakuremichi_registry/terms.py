"""On which terms something is written: a dry run or for good, over which state, in whose name. Pure."""

from msgspec import UNSET

from kakuremichi.model.ids import ServiceId
from kakuremichi.wire.commands import Command, Terms, Write
from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.refusal import Refusal, conflict

USUAL = Terms()
ANY_SEQ = 0


def terms_of(command: Command) -> Terms:
    return command.terms if isinstance(command, Write) and command.terms is not UNSET else USUAL


def is_dry_run(command: Command) -> bool:
    return terms_of(command).dry_run


def check_match(command: Command, what: str, current_seq: int) -> None:
    """`current_seq`: the event of the last change of `what`, 0 if it does not exist."""
    wanted = terms_of(command).if_match
    if wanted is UNSET or (current_seq and (current_seq in wanted or ANY_SEQ in wanted)):
        return
    now = f"was changed last by event {current_seq}" if current_seq else "does not exist"
    said = ", ".join(str(seq) for seq in wanted if seq != ANY_SEQ)
    raise Refusal(
        412, "changed", f"{what}: {now}" + (f", not by {said}" if said else ""), field="If-Match",
        current_seq=current_seq,
    )  # fmt: skip


def source_after(command: Command, service_id: ServiceId, old: ServiceRow | None) -> str:
    """The source of the service once `command` is done; :class:`Refusal` if it is not the asker's to change.

    Who names neither a source nor one to adopt from is a person, and the service keeps its source. Who names only the
    latter takes it over by hand.
    """
    terms = terms_of(command)
    if terms.source is UNSET and terms.adopt is UNSET:
        return old.source if old is not None else ""
    wanted = "" if terms.source is UNSET else terms.source
    if old is not None and old.source not in (wanted, terms.adopt):
        whose = f"comes from source {old.source}" if old.source else "was published by hand"
        who = f"source {wanted} has" if wanted else "you have"
        raise conflict(
            "owned", f"service {service_id}: {whose}; {who} to adopt it first", field="source",
            holders=(old.source,) if old.source else (),
        )  # fmt: skip
    return wanted
