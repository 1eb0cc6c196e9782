"""Fill patterns: what pages hold that nobody has written, and what explain() says of it."""

from __future__ import annotations

import pytest

import bufpool

PAGE = 4096


def test_pages_without_data_hold_the_pattern(kind: bufpool.Capability) -> None:
    with bufpool.Pool(8 * PAGE, memory=kind.memory, trap=kind.trap, fill="pattern", scrub=True) as pool:
        page = pool.allocate()
        assert bytes(page) == bytes([bufpool.FRESH]) * PAGE
        assert bytes(pool.allocate(b"x")) == b"x".ljust(PAGE, b"\0")
        page.evict()
        pool.populate(page, None)
        assert page[PAGE - 1] == bufpool.FRESH


def test_explain_names_a_pattern() -> None:
    with bufpool.Pool(8 * PAGE, fill="pattern") as pool:
        pages = [pool.page(int(number)) for number in pool.allocate_many(3)]
        found = pool.explain(pages[0].buffer)
        assert found is not None
        assert (found.pages, found.readable, found.pattern) == ((), PAGE, "fresh")
        assert str(found).endswith("are accessible, all of them 0xcd: fresh, not written since they were allocated")
        pages[1].free()
        found = pool.explain(pages[0].address, 3 * PAGE)
        assert found is not None
        assert (found.pages[0].page, found.readable, found.pattern) == (pages[1].number, PAGE, "fresh")
        pages[0][7] = 1
        assert pool.explain(pages[0].buffer) is None
        assert pool.explain(bytes([bufpool.FRESH]) * 99) is None  # of no pool
        with bufpool.catch_faults():
            _ = pages[1].buffer[0]
            poisoned = pool.explain(pages[1].buffer)
        assert poisoned is not None  # the page's state counts, not what a stray access sees there for a moment
        assert poisoned.pages[0].state == "freed"
        assert pool.stats().faults == 1


@pytest.mark.parametrize(
    ("fill", "lazy_zero", "message"),
    [("ones", False, 'unknown fill "ones": valid are "zeros", "pattern"'), ("pattern", True, "in Python lazy_zero")],
)
def test_refused(fill: str, lazy_zero: bool, message: str) -> None:
    with pytest.raises(bufpool.ArgumentError, match=message):
        bufpool.Pool(PAGE, fill=fill, lazy_zero=lazy_zero)
