"""How a pure decision says no: one exception that carries the answer to be sent."""

from msgspec import UNSET

from kakuremichi.wire.commands import Problem


class Refusal(Exception):  # noqa: N818  # an answer, not an error of the program
    """What was asked for is refused; `problem` is the answer."""

    def __init__(
        self, status: int, code: str, detail: str, *, field: str = "", holders: tuple[str, ...] = (),
        current_seq: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.problem = Problem(
            status=status, code=code, detail=detail, field=field, holders=holders,
            current_seq=UNSET if current_seq is None else current_seq,
        )  # fmt: skip


def invalid(field: str, detail: str) -> Refusal:
    """422: the value of `field` can never be right."""
    return Refusal(422, "invalid-field", detail, field=field)


def not_found(code: str, detail: str, *, field: str = "") -> Refusal:
    return Refusal(404, code, detail, field=field)


def conflict(code: str, detail: str, *, field: str = "", holders: tuple[str, ...] = ()) -> Refusal:
    """409: somebody else has it, or something stands in the way; `holders` names who."""
    return Refusal(409, code, detail, field=field, holders=holders)


def exhausted(detail: str) -> Refusal:
    return Refusal(507, "exhausted", detail)
