"""pool.explain(): over which page of a buffer a system call fell."""

from __future__ import annotations

import os

import numpy as np
import pytest

import bufpool


def test_a_buffer_is_explained_without_a_touch() -> None:
    with bufpool.Pool("1 MiB", name="a", provenance="stacks") as pool, bufpool.Pool("1 MiB", name="b") as other:
        numbers = pool.allocate_many(8)
        buffer = pool.page(int(numbers[0])).buffer
        assert pool.explain(buffer) is None
        start = pool.page(int(numbers[0])).address
        pool.evict(int(numbers[3]))
        pool.free(int(numbers[5]))
        found = other.explain(start + 100, 8 * 4096 - 100)
        assert found is not None
        assert (found.address, found.length, found.readable) == (start + 100, 8 * 4096 - 100, 3 * 4096 - 100)
        assert [(page.pool, page.page, page.offset, page.state) for page in found.pages] == [
            ("a", numbers[3], 0, "evicted"),
            ("a", numbers[5], 0, "freed"),
        ]
        freed = found.pages[1].freed
        assert freed is not None
        assert freed.event == "free"
        assert __file__ in freed.python_stack[-1]
        assert not found.more
        assert "12188 of 32668 bytes" in str(found)
        assert 'page 3 of pool "a" is evicted' in str(found)
        assert pool.stats().faults == 0

        page = other.allocate()
        page.free()
        assert bufpool.explain(page.buffer).pages[0].state == "freed"  # type: ignore[union-attr]
        assert bufpool.explain(page.array("u8")[3:5]).pages[0].offset == 24  # type: ignore[union-attr]
        read_end, write_end = os.pipe()
        try:
            with pytest.raises(OSError, match="Bad address"):
                os.write(write_end, page.buffer)
        finally:
            os.close(read_end)
            os.close(write_end)
        assert other.stats().faults == 0
    explained = bufpool.explain(page.address, 1)
    assert explained is not None
    assert explained.pages[0].state == "closed"


def test_a_call_that_writes() -> None:
    with bufpool.Pool("1 MiB", pins="write") as pool:
        page = pool.allocate()
        assert pool.explain(page.address, page.size) is None
        found = pool.explain(page.address, page.size, write=True)
        assert found is not None
        assert found.readable == 0
        assert "read-only" in str(found)
        with page.pin(write=True):
            assert pool.explain(page.address, page.size, write=True) is None


def test_many_pages_and_none() -> None:
    with bufpool.Pool("1 MiB") as pool:
        found = pool.explain(pool.address, pool.capacity)
        assert found is not None
        assert len(found.pages) == 64
        assert found.more
        assert str(found).endswith("...")
        assert found.readable == 0
        assert pool.explain(pool.address, 0) is None
        assert pool.explain(pool.address + 1, 1).pages[0].offset == 1  # type: ignore[union-attr]
    assert bufpool.explain(b"elsewhere") is None
    assert bufpool.explain(np.zeros(4)) is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((4096,), bufpool.ArgumentError, "needs a length"),
        ((-1, 4), bufpool.ArgumentError, "0 or more"),
        ((1, -4), bufpool.ArgumentError, "0 or more"),
        ((2**64 - 1, 4), bufpool.ArgumentError, "below 2"),
        (("text",), TypeError, "buffer must be bytes-like, not str"),
        ((memoryview(bytearray(9))[::2],), ValueError, "buffer must lie in one piece of memory"),
        ((1, "4"), TypeError, "length must be an integer"),
        ((b"x", 1), TypeError, "buffer must be an integer"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        bufpool.explain(*arguments)  # type: ignore[arg-type]
