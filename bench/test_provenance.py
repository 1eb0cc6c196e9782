"""What it costs to record who allocated and freed each page, and to report a stray access."""

from __future__ import annotations

from typing import Any

import pytest

PAGES = 4096
COUNT = 4000
STRAYS = 300


def _recording(row: Any, loops: Any, provenance: bytes, goal: float | None) -> None:
    recording, plain = (loops.c.pool_recording(PAGES, name) for name in (provenance, b"off"))
    row(
        lambda: loops.c.pool_allocate_free(recording, COUNT),
        lambda: loops.c.pool_allocate_free(plain, COUNT),
        per=COUNT,
        goal=goal,
        rounds=100,
        against="provenance off",
    )
    loops.c.pool_close(recording)
    loops.c.pool_close(plain)


def test_last(row: Any, loops: Any) -> None:
    """Allocate + free one page, provenance last : off."""
    _recording(row, loops, b"last", 1.10)


def test_stacks(row: Any, loops: Any) -> None:
    """Allocate + free one page, provenance stacks : off."""
    _recording(row, loops, b"stacks", None)


@pytest.mark.parametrize("provenance", [b"off", b"last", b"stacks"])
def test_report(row: Any, loops: Any, provenance: bytes) -> None:
    """A stray access under resume, to the recorded report and back : sigaction + siglongjmp."""
    row.title += f"; provenance {provenance.decode()}"
    pool = loops.c.pool_straying(provenance)
    row(
        lambda: loops.c.pool_strays(pool, STRAYS),
        lambda: loops.c.plain_strays(STRAYS),
        per=STRAYS,
        goal=10,
        against="a handler that jumps",
    )
    loops.c.pool_close(pool)
