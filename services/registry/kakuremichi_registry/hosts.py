"""Host names as they are stored and compared: exact, lower case, A-labels, no trailing dot. Pure."""

import re
import unicodedata

MAX_NAME = 253
_LABEL = re.compile(r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


class HostRefusedError(ValueError):
    """The text is no host name that may be published; a sentence."""


def check_published_host(name: str) -> str:
    """A host name, or `*.` and a name of at least two labels: any one label in front of it."""
    rest = name.removeprefix("*.")
    check_host(rest)
    return name


def check_host(name: str) -> str:
    """`name` itself if it may be published; never a corrected form, so what is asked for is what is stored."""
    shown = repr(name if len(name) <= 64 else name[:64] + "…")
    if not name:
        raise HostRefusedError("host: is needed for this kind")
    if len(name) > MAX_NAME:
        raise HostRefusedError(f"host {shown}: {len(name)} characters, at most {MAX_NAME} are allowed")
    if not name.isascii():
        raise HostRefusedError(f"host {shown}: not ASCII; write the A-label form (xn--…)")
    if name != name.lower():
        raise HostRefusedError(f"host {shown}: upper case letters; write it in lower case")
    if name.endswith("."):
        raise HostRefusedError(f"host {shown}: ends in a dot; leave it out")
    labels = name.split(".")
    if len(labels) < 2:
        raise HostRefusedError(f"host {shown}: one label; a name of at least two is needed")
    for label in labels:
        _check_label(shown, label)
    if labels[-1].isdigit():
        raise HostRefusedError(f"host {shown}: the last label is a number, as in an address")
    return name


def _check_label(shown: str, label: str) -> None:
    if not _LABEL.match(label):
        raise HostRefusedError(
            f"host {shown}: each label has 1 to 63 of a-z, 0-9 and '-', and neither begins nor ends with '-'"
        )
    if label[2:4] == "--":
        if not label.startswith("xn--"):
            raise HostRefusedError(f"host {shown}: '--' in the third place is reserved for A-labels (xn--…)")
        _check_a_label(shown, label)


def _check_a_label(shown: str, label: str) -> None:
    """An A-label must stand for exactly one name (RFC 5891 section 4.2): decode, compare, encode again."""
    try:
        name = label[4:].encode("ascii").decode("punycode")
        again = "xn--" + name.encode("punycode").decode("ascii")
    except (UnicodeError, ValueError, OverflowError) as error:
        raise HostRefusedError(f"host {shown}: {label} is no valid A-label") from error
    if again != label or name.isascii() or not _is_u_label(name):
        raise HostRefusedError(f"host {shown}: {label} is no valid A-label")


def _is_u_label(name: str) -> bool:
    """Letters, marks and digits in their normal form: no control, format or symbol characters (IDNA 2008)."""
    return (
        unicodedata.normalize("NFC", name) == name == name.lower()
        and all(char == "-" or unicodedata.category(char)[0] in "LMN" for char in name)
        and unicodedata.category(name[0])[0] != "M"
    )
