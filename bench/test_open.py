"""Opening a pool: milliseconds at any size."""

from __future__ import annotations

from typing import Any

TIB = (1 << 40) // 4096  # pages


def test_open_16_tib(row: Any, loops: Any) -> None:
    """Open and close a pool of 16 TiB : mmap and munmap of 16 TiB."""
    row(
        lambda: loops.c.pool_close(loops.c.pool_open(16 * TIB, b"auto", 0)),
        lambda: loops.c.plain_close(loops.c.plain_open(16 * TIB, 1), 16 * TIB),
        per=1,
        goal=None,
    )
