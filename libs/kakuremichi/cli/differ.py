"""`kakuremichi diff`: of a file with -f, else of two moments."""

from typing import Any

import click

from kakuremichi.cli.declare import diff as of_file
from kakuremichi.cli.state import diff as of_moments


class _Either(click.Command):
    """Both are parsed as the command of their own that they are."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        by_file = any(word == "--file" or word.startswith(("-f", "--file=")) for word in args)
        return (of_file if by_file else of_moments).make_context(info_name, args, parent, **extra)


# For completion, which looks at the parameters before it knows which of the two it is.
_PARAMETERS = {parameter.name: parameter for parameter in (*of_file.params, *of_moments.params)}

diff = _Either("diff", params=list(_PARAMETERS.values()), help=of_moments.help)
