"""Certificates that wait for trust keys which do not lie here: the list of them, and the signatures that come back."""

from msgspec import UNSET

from kakuremichi.wire.commands import (
    Enrolled,
    EnrolmentWaiting,
    EnrolNode,
    GrantTaken,
    ListPending,
    PendingCertificates,
    Plan,
    SubmitGrant,
)
from kakuremichi.wire.facts import NodeCertified, NodeRenewed
from kakuremichi_registry import granting, plans
from kakuremichi_registry.database import Database
from kakuremichi_registry.refusal import not_found
from kakuremichi_registry.renewals import renewed
from kakuremichi_registry.store import pending
from kakuremichi_registry.store.entries import entry_of
from kakuremichi_registry.terms import is_dry_run
from kakuremichi_registry.trust import Trust
from kakuremichi_registry.views import fitting


class Grants:
    def __init__(self, database: Database, trust: Trust) -> None:
        self._database, self._trust = database, trust

    async def waiting(self, command: ListPending) -> PendingCertificates:
        most = pending.MOST if command.limit is UNSET else min(command.limit, pending.MOST)
        rows = await pending.waiting(self._database, "" if command.after is UNSET else command.after, most)
        waiting, more = fitting(rows)
        return PendingCertificates(
            deployment=self._trust.deployment, trust=self._trust.trust_set,
            certificates=tuple(each.certificate for each in waiting),
            former=tuple(each.former for each in waiting if each.former is not None),
            next_after=waiting[-1].node_id if more or len(rows) == most else "",
        )  # fmt: skip

    async def known(self, command: EnrolNode) -> Enrolled | EnrolmentWaiting | None:
        """What a node is told that comes back: it has used its token, and proves who it is by its identity key."""
        found = await pending.of_identity(self._database, command.identity_key, command.sealing_key)
        if found is None:
            return None
        if found.pending:
            return EnrolmentWaiting(node_id=found.node_id)
        return Enrolled(
            deployment=self._trust.deployment, certificate=found.certificate, trust=self._trust.trust_set,
            feed_key=self._trust.feed_certificate, endpoints=found.endpoints,
        )  # fmt: skip

    async def submit(self, command: SubmitGrant) -> GrantTaken | Plan:
        node_id = granting.read_certificate(command.certificate).node_id
        held = await pending.waiting_of(self._database, node_id)
        if held is None:
            raise not_found("not-pending", f"node {node_id}: does not wait for a signature", field="certificates")
        grant = granting.decide(self._trust, command.certificate, held.certificate)
        needed = self._trust.members.threshold
        if is_dry_run(command):
            return plans.NOTHING if grant is None else plans.NO_NODE
        if grant is None:
            return GrantTaken(node_id=node_id, signatures=len(held.certificate.signatures), needed=needed)
        fact: NodeCertified | NodeRenewed = grant.fact
        if held.renewal:
            fact = renewed(granting.read_certificate(grant.signed), grant.signed, needed=needed)
        entry = entry_of(fact, command)
        await pending.grant(self._database, entry, node_id, seen=held, signed=grant.signed, complete=grant.complete)
        return GrantTaken(node_id=node_id, signatures=len(grant.signed.signatures), needed=needed)
