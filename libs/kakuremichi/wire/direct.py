"""What two nodes say to each other without the control plane: who they are and which key they have now."""

from msgspec import Struct

from kakuremichi.wire.signing import Signed

PATH = "/.well-known/kakuremichi/announcement"
MAX_EXCHANGE_BYTES = 16384


class Exchange(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag="exchange.v1"):
    """An agent posts its own, a gateway answers with its own. Both are public; their signatures are their worth."""

    certificate: Signed
    announcement: Signed
