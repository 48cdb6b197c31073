"""Foreign text inside haproxy.cfg: whatever it holds, it stays one word. Reference: configuration guide, 2.2."""

import re

_ESCAPES = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NOT_LITERAL = re.compile(r"[^A-Za-z0-9/_-]")


def quoted(text: str) -> str:
    """One word that HAProxy reads as exactly `text`. Raises ValueError for what no line can hold."""
    if _CONTROL.search(text):
        raise ValueError(f"{text[:40]!r} has a control character")
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


def quoted_format(text: str) -> str:
    """As `quoted`, where HAProxy expects a format string: nothing in it is replaced."""
    return quoted(text.replace("%", "%%"))


def quoted_pattern(*parts: str) -> str:
    """As `quoted`, for a regular expression that was put together from own parts and `literal` ones."""
    return quoted("".join(parts))


def literal(text: str) -> str:
    """A regular expression (PCRE) that matches exactly `text`."""
    return _NOT_LITERAL.sub(lambda found: f"[{found[0]}]" if found[0] not in "^\\[]" else f"\\{found[0]}", text)
