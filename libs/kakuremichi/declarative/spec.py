"""What can be said about a service, the same in requests to the API and in the declarative file. Decoded strictly."""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.ids import NodeIdField, PoolNameField
from kakuremichi.model.options import NO_OPTIONS, Options
from kakuremichi.wire.records import Kind

DEFAULT_POOL = "default"
BY_HAND = "by-hand"  # stands for the source of services that have none, so no file is called so

Text = Annotated[str, Meta(max_length=512)]
PortNumber = Annotated[int, Meta(ge=0, le=65535)]


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what people write: unknown fields are refused."""


class TargetIn(Input, frozen=True, kw_only=True):
    agent: Annotated[NodeIdField, Meta(description="The agent at whose site the private service is.")]
    address: Annotated[
        Text, Meta(description="An address, or a name that the site resolves; default the agent itself.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="The first port where `last_port` makes it a range.")]


class ServiceSpec(Input, frozen=True, kw_only=True):
    kind: Kind
    pool: PoolNameField = DEFAULT_POOL  # type: ignore[assignment]
    host: Annotated[Text, Meta(description="`http`: the host name; `*.` in front stands for any one label.")] = ""
    path: Annotated[Text, Meta(description="`http`: a path prefix; empty is every path.")] = ""
    port: Annotated[PortNumber, Meta(description="`tcp` and `udp`: the public port; else 0.")] = 0
    last_port: Annotated[PortNumber, Meta(description="The last port of a range; 0 is one port only.")] = 0
    sources: Annotated[
        tuple[Text, ...], Meta(max_length=256, description="Who may visit, CIDR; empty is everybody.")
    ] = ()
    targets: Annotated[tuple[TargetIn, ...], Meta(max_length=64)] = ()
    options: Options = NO_OPTIONS
