"""The Merkle tree over the rows of the log (RFC 6962 section 2.1). Pure.

An entry is the chain's hash of a row, 32 bytes: the chain says that nothing is missing between two rows, the tree that
two sizes of the log are one log, in a few hashes however long it is.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

EMPTY = hashlib.sha256(b"").digest()

Subtree = Callable[[int, int], bytes]  # the root over the entries from (inclusive) and until (exclusive), 0-based


class ProofError(ValueError):
    """The proof does not show that the larger tree continues the smaller one; a sentence."""


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """The tree so far as the roots of its perfect subtrees, the largest first: enough to append and to say the root."""

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        if size.bit_count() != len(roots):
            raise ValueError(f"frontier of size {size}: {len(roots)} roots, {size.bit_count()} are needed")
        self.size, self._roots = size, list(roots)

    @property
    def roots(self) -> tuple[bytes, ...]:
        return tuple(self._roots)

    def append(self, entry: bytes) -> None:
        self.append_subtree(1, leaf(entry))

    def append_subtree(self, width: int, root: bytes) -> None:
        """Append a perfect subtree of `width` entries, a power of two that divides the size."""
        if width.bit_count() != 1 or self.size % width:
            raise ValueError(f"subtree of {width}: does not fit behind {self.size} entries")
        node, size = root, self.size // width
        while size & 1:  # as many perfect subtrees of equal width end here as ones end the number
            node = inner(self._roots.pop(), node)
            size >>= 1
        self._roots.append(node)
        self.size += width

    def root(self) -> bytes:
        if not self._roots:
            return EMPTY
        node = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            node = inner(left, node)
        return node


def root_of(entries: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    for entry in entries:
        frontier.append(entry)
    return frontier.root()


def consistency_proof(small: int, large: int, subtree: Subtree) -> tuple[bytes, ...]:
    """PROOF(small, D[large]): what shows that the first `small` entries of the larger tree are the smaller tree."""
    if not 0 < small <= large:
        raise ValueError(f"consistency of {small} with {large}: the first has to be from 1 to the second")
    return tuple(_proof(small, 0, large, subtree, whole=True))


def _proof(small: int, begin: int, end: int, subtree: Subtree, *, whole: bool) -> list[bytes]:
    if small == end - begin:
        return [] if whole else [subtree(begin, end)]
    split = _split(end - begin)
    if small <= split:
        return [*_proof(small, begin, begin + split, subtree, whole=whole), subtree(begin + split, end)]
    inside = _proof(small - split, begin + split, end, subtree, whole=False)
    return [*inside, subtree(begin, begin + split)]


def verify_consistency(small: int, small_root: bytes, large: int, large_root: bytes, proof: Sequence[bytes]) -> None:
    """:class:`ProofError` unless the tree of `large` entries begins with that of `small` (RFC 9162 section 2.1.4.2)."""
    if small > large:
        raise ProofError(f"log of {large} rows: is shorter than the {small} that were there before")
    if small == large:
        if proof or small_root != large_root:
            raise ProofError(f"log of {large} rows: is another one than before")
        return
    if small == 0:
        if proof:
            raise ProofError("consistency proof: nothing is to be proven of an empty log")
        return
    if _recomputed(small, large, small_root, proof) != (small_root, large_root):
        raise ProofError(f"log of {large} rows: does not continue the one of {small} rows")


def _recomputed(small: int, large: int, small_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Both roots as the proof gives them; None if it has too many hashes or too few."""
    path = list(proof)
    if small.bit_count() == 1:
        path.insert(0, small_root)
    node, last = small - 1, large - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if not path:
        return None
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = inner(sibling, old), inner(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = inner(new, sibling)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None


def subtree_of(entries: Sequence[bytes]) -> Subtree:
    """The roots of parts of what is all here."""
    return lambda begin, end: root_of(entries[begin:end])


def subtree_by_runs(width: int, runs: Callable[[int], bytes], entries: Callable[[int], bytes]) -> Subtree:
    """The same where the roots of whole runs of `width` entries (a power of two) are known, and some single entries."""

    def subtree(begin: int, end: int) -> bytes:
        if end - begin == width and begin % width == 0:
            return runs(begin // width)
        if end - begin == 1:
            return leaf(entries(begin))
        split = _split(end - begin)
        return inner(subtree(begin, begin + split), subtree(begin + split, end))

    return subtree


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)
