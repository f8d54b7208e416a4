"""A radix tree over token sequences, which finds what shares the longest beginning with a prompt."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Tokens = Sequence[int] | np.ndarray


class Node:
    """A stretch of tokens below its parent; ``entry`` is what was stored for the sequence that ends here."""

    def __init__(self, tokens: np.ndarray, parent: "Node | None"):
        self.tokens, self.parent = tokens, parent
        self.children: dict[int, Node] = {}
        self.entry: Any = None

    def entries(self) -> Iterator[Any]:
        """All entries here and below."""
        below: list[Node] = [self]
        while below:
            node = below.pop()
            if node.entry is not None:
                yield node.entry
            below.extend(node.children.values())


class RadixTree:
    """Sequences of token ids to entries; every answer takes time by the sequence's length and the entries below it."""

    def __init__(self):
        self._root = Node(np.zeros(0, np.int64), None)

    def insert(self, tokens: Tokens, entry: Any) -> Any:
        """Stores an entry; returns the one that it took the place of, or None."""
        rest, node = np.asarray(tokens, np.int64), self._root
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None:
                child = node.children[int(rest[0])] = Node(rest, node)
            shared = common(child.tokens, rest)
            if shared < len(child.tokens):
                child = self._split(child, shared)
            node, rest = child, rest[shared:]
        old, node.entry = node.entry, entry
        return old

    def _split(self, node: Node, at: int) -> Node:
        """A node for the first ``at`` tokens of ``node``, above it."""
        upper = Node(node.tokens[:at], node.parent)
        node.parent.children[int(upper.tokens[0])] = upper  # type: ignore[union-attr]
        node.tokens, node.parent = node.tokens[at:], upper
        upper.children[int(node.tokens[0])] = node
        return upper

    def remove(self, tokens: Tokens) -> Any:
        """Takes an entry out; returns it, or None where there is none."""
        node = self._root
        rest = np.asarray(tokens, np.int64)
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None or common(child.tokens, rest) < len(child.tokens):
                return None
            node, rest = child, rest[len(child.tokens) :]
        entry, node.entry = node.entry, None
        self._tidy(node)
        return entry

    def _tidy(self, node: Node) -> None:
        """Removes what leads nowhere, and joins a node without an entry to its only child."""
        while node.parent is not None and node.entry is None:
            parent = node.parent
            if not node.children:
                del parent.children[int(node.tokens[0])]
            elif len(node.children) == 1:
                (child,) = node.children.values()
                child.tokens, child.parent = np.concatenate([node.tokens, child.tokens]), parent
                parent.children[int(child.tokens[0])] = child
                return
            else:
                return
            node = parent

    def candidates(self, tokens: Tokens) -> Iterator[tuple[int, Any]]:
        """(length of the beginning that it shares, entry), the longest first; those that share nothing aren't among."""
        rest, node, depth = np.asarray(tokens, np.int64), self._root, 0
        path: list[tuple[int, Node]] = []
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None:
                break
            shared = common(child.tokens, rest)
            depth, rest, node = depth + shared, rest[shared:], child
            path.append((depth, child))
            if shared < len(child.tokens):
                break
        seen: Node | None = None
        for shared, node in reversed(path):
            if node.entry is not None:
                yield shared, node.entry
            for child in node.children.values():
                if child is not seen:
                    yield from ((shared, entry) for entry in child.entries())
            seen = node


def common(a: np.ndarray, b: np.ndarray) -> int:
    """How many of their first numbers are the same."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length
