"""Kernel modules of an unpacked package: which file holds one, and what must be loaded before it."""

import re
from collections.abc import Iterable
from pathlib import Path

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def load_order(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files to insert, each after those it needs. What the kernel has built in is passed over.

    The order is read from the modules themselves, so that nobody need have run depmod on the unpacked tree.
    """
    files = {_name(path.stem): path for path in folder.rglob("*.ko")}
    builtin = {_name(Path(line).stem) for line in (folder / "modules.builtin").read_text().splitlines()}
    order: dict[str, Path] = {}
    for name in names:
        _add(_name(name), files, builtin, order)
    return list(order.values())


def _add(name: str, files: dict[str, Path], builtin: set[str], order: dict[str, Path]) -> None:
    if name in order or name in builtin:
        return
    for needed in _needs(files[name]):
        _add(needed, files, builtin, order)
    order[name] = files[name]


def _needs(path: Path) -> list[str]:
    found = _DEPENDS.search(path.read_bytes())
    return [_name(name) for name in found.group(1).decode().split(",") if name] if found else []


def _name(text: str) -> str:
    return text.replace("-", "_")
