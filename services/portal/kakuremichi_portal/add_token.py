"""`python -m kakuremichi_portal.add_token FILE NAME read|publish|admin`: make an API token and print it, once."""

import sys
from pathlib import Path
from typing import get_args

import msgspec

from kakuremichi_portal.access import TokenFileError, add_token
from kakuremichi_portal.principal import AccessRole


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: python -m kakuremichi_portal.add_token FILE NAME read|publish|admin")
    path, name, role = sys.argv[1:]
    if role not in get_args(AccessRole):
        sys.exit(f"role {role}: one of {', '.join(get_args(AccessRole))} is needed")
    try:
        sys.stdout.write(f"{add_token(Path(path), name, msgspec.convert(role, AccessRole))}\n")
    except TokenFileError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
