"""Optimistic sections: what it takes to enter and leave one, and what a B+tree's readers notice of them."""

from __future__ import annotations

from typing import Any

READS = 1_000_000
KEYS = 500_000
LOOKUPS = 200_000
PAGES = 16384


def test_section(row: Any, loops: Any) -> None:
    """Enter and leave an optimistic section around a read : the read."""
    word = loops.numbers(1)

    def pairs() -> list[tuple[float, float]]:
        return [(loops.c.read_in_sections(word, READS) / READS, loops.c.read_plainly(word, READS) / READS)]

    row.difference(pairs, before=lambda: None, goal=10, rounds=50, against="the read alone")


def test_lookup(row: Any, loops: Any) -> None:
    """B+tree, look up a resident key optimistically, in sections : trap none, without sections."""
    trees = []
    for trap in (b"auto", b"none"):
        pool = loops.c.pool_open(PAGES, trap, 0)
        trees.append((loops.c.tree_open(pool, KEYS), pool))
    (trapped, _), (untrapped, _) = trees
    row(
        lambda: loops.c.tree_lookups(trapped, KEYS, LOOKUPS, 1, 1),
        lambda: loops.c.tree_lookups(untrapped, KEYS, LOOKUPS, 1, 0),
        per=LOOKUPS,
        goal=None,
        against="trap none",
    )
    for tree, pool in trees:
        loops.c.tree_close(tree)
        loops.c.pool_close(pool)
