"""From the registry's views to the API's shapes. Pure."""

import msgspec
from msgspec import UNSET, UnsetType

from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import NO_OPTIONS
from kakuremichi.wire import commands
from kakuremichi_portal import shapes


def service(view: commands.ServiceView) -> shapes.Service:
    return shapes.Service(
        name=view.service_id,
        kind=view.kind,
        pool=view.pool,
        host=view.host,
        path=view.path,
        port=view.first_port,
        last_port=view.last_port,
        sources=view.sources,
        targets=tuple(
            shapes.Target(
                id=target.target_id,
                agent=target.agent,
                address=target.address,
                port=target.port,
                agent_port=target.agent_port,
            )
            for target in view.targets
        ),
        state=view.state,
        carried_by=view.carried_by,
        errors=tuple(shapes.NodeError(node=node, message=message) for node, message in view.errors),
        updated_seq=view.updated_seq,
        options=NO_OPTIONS if view.options is UNSET else view.options,
        source="" if view.source is UNSET else view.source,
    )


def node(view: commands.NodeView, updated_seq: int) -> shapes.Node:
    return shapes.Node(
        name=view.node_id,
        role=view.role,
        pool=view.pool,
        slot=view.slot,
        subnet=view.subnet,
        endpoints=view.endpoints,
        public_key=view.public_key,
        epoch=view.epoch,
        state=view.state,
        last_report_at=view.last_report_at,
        behind=view.behind,
        errors=tuple(shapes.KeyedError(key=key, message=message) for key, message in view.errors),
        warnings=view.warnings,
        version=view.version,
        updated_seq=updated_seq,
    )


def token(view: commands.TokenView) -> shapes.Token:
    return shapes.Token(
        id=view.token_id,
        role=view.role,
        node=view.node_id,
        pool=view.pool,
        expires_at=view.expires_at,
        state=view.state,
    )


def event(view: commands.EventView) -> shapes.Event:
    return shapes.Event(
        seq=view.seq,
        at=view.at,
        actor=view.actor,
        topic=view.topic,
        fact=msgspec.Raw(view.fact.encode()),
        trace_id=view.trace_id,
        head=view.head,
    )


def publish(
    name: str,
    given: shapes.ServiceIn,
    *,
    actor: str,
    idempotency_key: str,
    create_only: bool,
    terms: commands.Terms | UnsetType,
) -> commands.PublishService:
    return commands.PublishService(
        actor=actor,
        idempotency_key=idempotency_key,
        service_id=ServiceId(name),
        pool=given.pool,
        kind=given.kind,
        host=given.host,
        path=given.path,
        first_port=given.port,
        last_port=given.last_port or given.port,
        sources=given.sources,
        targets=tuple(
            commands.TargetInput(agent=target.agent, address=target.address, port=target.port)
            for target in given.targets
        ),
        create_only=create_only,
        terms=terms,
        options=UNSET if given.options == NO_OPTIONS else given.options,
    )
