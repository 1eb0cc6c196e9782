"""What pools add to a fork: each is prepared in the parent and armed in the child before fork() returns."""

from __future__ import annotations

import os
from typing import Any

import pytest

import bufpool

POOLS = 16
PAGES = 64  # allocated in each


def fork() -> None:
    """A child that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("memory", "trap", "title"),
    [
        ("anon", "uffd", "16 pools, anon, uffd"),
        ("anon", "guard", "16 pools, anon, guard"),
        ("shared", "uffd", "16 pools, shared, uffd"),
    ],
)
def test_fork(row: Any, memory: str, trap: str, title: str) -> None:
    """Fork and end of a child"""
    entry = bufpool.capabilities().of(memory, trap)
    if not entry.available:
        pytest.skip(f"{memory}-{trap}: {entry.reason}")
    row.title = f"{row.title} with {title} : with the same pools and fork=exclude"
    opened: list[bufpool.Pool] = []

    def close() -> None:
        while opened:
            opened.pop().close()

    def open_all(choice: str) -> None:
        close()
        for _ in range(POOLS):
            opened.append(bufpool.Pool("1 GiB", memory=memory, trap=trap, fork=choice))
            opened[-1].allocate_many(PAGES)

    try:
        row(
            fork,
            fork,
            per=POOLS,
            goal=None,
            before=lambda: open_all("inherit"),
            plain_before=lambda: open_all("exclude"),
            against="exclude",
        )
    finally:
        close()
