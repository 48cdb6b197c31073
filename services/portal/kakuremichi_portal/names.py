"""Names that come in paths."""

from kakuremichi.model.ids import is_token
from kakuremichi_portal.problems import ProblemError

RULE = "1 to 31 of a-z, 0-9 and `-`, not led by `-`"


def missing(kind: str, name: str) -> ProblemError:
    """404. A name that nothing can have is not repeated: it may hold anything."""
    shown = f" {name}" if is_token(name) else ""
    return ProblemError(404, "not-found", f"{kind}{shown}: there is none of this name", field="name")


def existing_name(kind: str, name: str) -> str:
    """`name`, unless nothing can be called so."""
    if not is_token(name):
        raise missing(kind, name)
    return name


def new_name(name: str | None) -> str:
    if name is None or not is_token(name):
        raise ProblemError(422, "invalid", f"name: {RULE}", field="name")
    return name
