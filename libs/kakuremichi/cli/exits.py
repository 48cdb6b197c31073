"""Exit codes, and the error that carries one. A contract with scripts: see docs/cli.md."""

from typing import IO, Any

import click

OK = 0
FAILURE = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
CONFLICT = 5
UNREACHABLE = 6
PARTIAL = 7
INTERRUPTED = 130

HELP = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or refused input, 3 not found, 4 denied, 5 conflict, "
    "6 unreachable or too late, 7 done in part, 130 interrupted."
)

_OF_STATUS = {
    400: USAGE,
    401: DENIED,
    403: DENIED,
    404: NOT_FOUND,
    408: UNREACHABLE,
    409: CONFLICT,
    412: CONFLICT,
    422: USAGE,
    429: DENIED,
    502: UNREACHABLE,
    503: UNREACHABLE,
    504: UNREACHABLE,
}


def of_status(status: int) -> int:
    """The exit code for an HTTP status of 400 or more."""
    return _OF_STATUS.get(status, FAILURE)


class CliError(click.ClickException):
    """A sentence on standard error, and an exit code. `hints` are lines that help on, `holders` who has it."""

    def __init__(
        self, sentence: str, exit_code: int = FAILURE, hints: tuple[str, ...] = (), holders: tuple[str, ...] = ()
    ) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class and reads it here
        self.hints, self.holders = hints, holders

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)
        for hint in self.hints:
            click.echo(f"  {hint}", file=file, err=True)
