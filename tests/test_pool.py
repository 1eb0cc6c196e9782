"""Pool: allocation, batches, states, the end."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bufpool
from bufpool.borrowed import BorrowedPool

PAGE = 4096
PoolMaker = Callable[..., bufpool.Pool]


def test_allocate_gives_zeros_or_data_and_then_zeros(pool: bufpool.Pool) -> None:
    assert bytes(pool.allocate()) == bytes(PAGE)
    assert bytes(pool.allocate(b"")) == bytes(PAGE)
    assert bytes(pool.allocate(b"abc")) == b"abc" + bytes(PAGE - 3)
    whole = os.urandom(PAGE)
    assert bytes(pool.allocate(whole)) == whole


@pytest.mark.parametrize("wrap", [bytearray, memoryview, lambda data: np.frombuffer(data, np.uint16)])
def test_data_may_be_anything_bytes_like(any_pool: bufpool.Pool, wrap: Any) -> None:
    data = bytes(range(256))
    assert any_pool.allocate(wrap(data))[:256] == data


def test_allocate_at(pool: bufpool.Pool) -> None:
    page = pool.allocate_at(17, b"x")
    assert (page.number, page[0]) == (17, ord("x"))
    with pytest.raises(bufpool.PageStateError, match="17"):
        pool.allocate_at(17)
    page.evict()
    with pytest.raises(bufpool.PageStateError, match="17"):
        pool.allocate_at(page)
    page.free()
    assert pool.allocate_at(page) == page


def test_states(pool: bufpool.Pool) -> None:
    page = pool.page(0)
    assert page.state == "unallocated"
    pool.allocate_at(0)
    assert page.state == "allocated"
    page.evict()
    assert page.state == pool.state(0) == "evicted"
    pool.populate(page, b"again")
    assert (page.state, page[:5]) == ("allocated", b"again")
    page.free()
    assert page.state == "freed"
    pool.close()
    assert page.state == "closed"


def test_a_page_of_zeros_again_after_free(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"secret")
    page.free()
    assert pool.allocate_at(page)[:6] == bytes(6)


def test_a_freed_number_is_used_again_as_late_as_possible(pool: bufpool.Pool) -> None:
    first = pool.allocate()
    first.free()
    others = [pool.allocate() for _ in range(pool.page_count - 1)]
    assert first not in others
    assert pool.allocate() == first


def test_batches(pool: bufpool.Pool) -> None:
    data = np.arange(5 * PAGE // 8, dtype=np.uint64)
    numbers = pool.allocate_many(5, data)
    assert numbers.dtype == np.uint64
    assert b"".join(bytes(pool.page(number)) for number in numbers) == data.tobytes()
    pool.evict_many(numbers)
    pool.populate_many(numbers[::-1].copy(), data)
    assert bytes(pool.page(int(numbers[4]))) == data.tobytes()[:PAGE]
    pool.free_many([pool.page(int(numbers[0])), int(numbers[1])])
    pool.free_many(numbers[2:])
    assert pool.stats().allocated == 0
    assert len(pool.allocate_many(0)) == 0
    pool.free_many([])
    pool.evict_many(np.empty(0, np.int64))


@pytest.mark.parametrize(
    "given",
    [
        np.array([9, 3, 5], np.uint64),
        np.array([9, 3, 5], np.int8),
        np.array([9, 3, 5], ">u4"),
        np.array([9, 0, 3, 0, 5], np.int64)[::2],
        array("i", [9, 3, 5]),
        memoryview(array("Q", [9, 3, 5])),
        [9, 3, 5],
        (np.uint64(9), 3, np.int16(5)),
        {9: "", 3: "", 5: ""},
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_numbers_are_taken_in_any_form(any_pool: bufpool.Pool, given: Any) -> None:
    for number in range(10):
        any_pool.allocate_at(number)
    any_pool.free_many(given)
    assert any_pool.pages("freed").tolist() == [3, 5, 9]


def test_numbers_of_what_can_become_an_array(any_pool: bufpool.Pool) -> None:
    class Column:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return np.array([1, 0], dtype)

    any_pool.allocate_many(2)
    any_pool.evict_many(Column())  # type: ignore[arg-type]
    assert any_pool.pages("evicted").tolist() == [0, 1]


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_the_first_wrong_number_of_a_batch_is_named(any_pool: bufpool.Pool, kind: Any) -> None:
    any_pool.allocate_many(3)
    for wrong in (-1, -100, 64, 100):
        with pytest.raises(bufpool.PageStateError, match=f"no page {wrong} in 'any': its 64 pages"):
            any_pool.free_many(np.array([0, wrong, -7, 1], kind))
    assert any_pool.stats().allocated == 3


@pytest.mark.parametrize("operation", ["free_many", "evict_many"])
def test_a_batch_is_refused_whole(pool: bufpool.Pool, operation: str) -> None:
    numbers = pool.allocate_many(4)
    for wrong in ([*numbers, 60], [*numbers, numbers[0]], [*numbers, 64], [*numbers, -1]):
        with pytest.raises(bufpool.PageStateError):
            getattr(pool, operation)(wrong)
    assert pool.stats().allocated == 4


def test_populate_many_is_refused_whole(pool: bufpool.Pool) -> None:
    numbers = pool.allocate_many(4)
    pool.evict_many(numbers[:3])
    with pytest.raises(bufpool.PageStateError):
        pool.populate_many(numbers)
    assert pool.stats().evicted == 3


def test_exhausted(pool: bufpool.Pool) -> None:
    pool.allocate_many(pool.page_count - 1)
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate_many(2)
    last = pool.allocate()
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate()
    with pytest.raises(bufpool.PoolExhaustedError, match="65"):
        pool.allocate_many(65)
    last.free()
    assert pool.allocate() == last


def test_pages_lists_the_numbers_of_a_state(pool: bufpool.Pool) -> None:
    numbers = pool.allocate_many(6)
    pool.free(int(numbers[1]))
    pool.evict(int(numbers[3]))
    assert pool.pages().tolist() == sorted(set(numbers.tolist()) - {int(numbers[1]), int(numbers[3])})
    assert pool.pages("freed").tolist() == [numbers[1]]
    assert pool.pages("evicted").tolist() == [numbers[3]]
    with pytest.raises(bufpool.ArgumentError, match="'lost' is none of unallocated, allocated"):
        pool.pages("lost")


def test_pages_lists_more_than_one_chunk(make_pool: PoolMaker) -> None:
    pool = make_pool("1 GiB", lazy_zero=True)
    numbers = pool.allocate_many(70_000)
    assert np.array_equal(pool.pages(), np.sort(numbers))


def test_locate(pool: bufpool.Pool) -> None:
    page = pool.page(7)
    location = pool.locate(page.address + 123)
    assert location == bufpool.locate(page.address + 123) == bufpool.Location(page, 123)
    assert pool.locate(pool.address - 1) is None
    assert pool.locate(pool.address + pool.capacity) is None
    assert pool.locate(pool.address + pool.capacity - 1) == bufpool.Location(pool.page(63), PAGE - 1)


@pytest.mark.parametrize("address", [-1, 0, 1, 2**64 - 1, 2**64, id(object())])
def test_locate_outside(address: int) -> None:
    assert bufpool.locate(address) is None


@pytest.mark.parametrize("address", ["x", 1.5, None])
def test_locate_names_what_is_no_address(any_pool: bufpool.Pool, address: Any) -> None:
    for locate in (bufpool.locate, any_pool.locate):
        with pytest.raises(TypeError, match=f"address must be an integer, not {type(address).__name__}"):
            locate(address)


@pytest.mark.parametrize("page_size", ["8 KiB", "64 KiB", "1 MiB"])
def test_page_sizes(make_pool: PoolMaker, kind: bufpool.Capability, page_size: str) -> None:
    pool = make_pool("7 MiB", page_size=page_size, memory=kind.memory, trap=kind.trap)
    page = pool.allocate(b"start")
    page[-1] = 7
    assert len(page) == pool.page_size
    assert (page[:5], page[-1]) == (b"start", 7)
    other = pool.allocate()
    other.evict()
    for offset in (0, pool.granule, pool.page_size - 1):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            other[offset]
        assert (caught.value.report.page, caught.value.report.offset) == (other.number, offset)


def test_sixteen_tebibytes(make_pool: PoolMaker, kind: bufpool.Capability) -> None:
    pool = make_pool("16 TiB", memory=kind.memory, trap=kind.trap)
    last = pool.page(pool.page_count - 1)
    pool.allocate_at(last, b"end")
    assert last[:3] == b"end"
    last.free()
    with pytest.raises(bufpool.StrayAccessError):
        last[0]


def test_name_and_repr(make_pool: PoolMaker) -> None:
    pool = make_pool(name="orders")
    assert repr(pool).startswith("<Pool 'orders', 256 KiB of 4 KiB pages, anon, ")
    assert repr(pool.page(3)) == "<Page 3 of 'orders', unallocated>"
    assert make_pool().name != make_pool().name
    pool.close()
    assert "closed" in repr(pool)


@pytest.mark.parametrize(
    "fails",
    [lambda: bufpool.Pool(7), lambda: bufpool.Pool("1 MiB", trap="no"), lambda: bufpool.Pool.attach("/no/pool")],
)
def test_a_pool_that_was_not_opened_can_be_shown(fails: Callable[[], bufpool.Pool]) -> None:
    """Debuggers and tracebacks show the values of variables."""
    with pytest.raises(bufpool.BufpoolError) as caught:
        fails()
    values = [value for entry in caught.traceback for value in entry.frame.f_locals.values()]
    assert [repr(value) for value in values if isinstance(value, bufpool.Pool)].count("<Pool, not opened>") >= 1


FACTS = ["address", "capacity", "page_size", "page_count", "granule", "memory", "trap", "on_fault", "name", "native"]


@pytest.mark.parametrize("name", FACTS)
def test_what_was_decided_at_opening_cannot_be_set(any_pool: bufpool.Pool, name: str) -> None:
    before = getattr(any_pool, name)
    with pytest.raises(AttributeError, match=f"{name} of pool 'any' cannot be set"):
        setattr(any_pool, name, 1)
    with pytest.raises(AttributeError, match=f"{name} of pool 'any' cannot be deleted"):
        delattr(any_pool, name)
    assert getattr(any_pool, name) == before


COPIES: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "pickle 0": lambda thing: pickle.dumps(thing, 0),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_pool_cannot_be_copied(any_pool: bufpool.Pool, duplicate: Callable[[Any], object]) -> None:
    page = any_pool.allocate(b"mine")
    for pool in (any_pool, BorrowedPool(any_pool.native)):
        with pytest.raises(TypeError, match="a Pool owns addresses of this process and cannot be copied or pickled"):
            duplicate(pool)
    if duplicate is not copy.copy:
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(page)
    gc.collect()
    assert not any_pool.closed
    assert page[:4] == b"mine"


def test_a_pool_is_opened_once(any_pool: bufpool.Pool) -> None:
    page, before = any_pool.allocate(b"mine"), any_pool.native
    with pytest.raises(bufpool.BufpoolError, match="'any' has been opened already"):
        any_pool.__init__("1 MiB")  # type: ignore[misc]
    borrowed = BorrowedPool(any_pool.native)
    with pytest.raises(bufpool.BufpoolError, match="'any' has been opened already"):
        borrowed.__init__(any_pool.native)  # type: ignore[misc]
    assert (any_pool.native, page[:4]) == (before, b"mine")


@pytest.mark.parametrize(
    ("leave", "expected"),
    [("sys.exit(7)", "SystemExit(7)"), ("raise KeyError('mine')", "KeyError('mine')"), ("pool.close()", "None")],
)
def test_a_forked_child_leaves_its_parent_s_pool_alone(
    child: Any, kind: bufpool.Capability, leave: str, expected: str
) -> None:
    done = child(
        f"""
        error, pid = None, os.getpid()
        try:
            with bufpool.Pool("1 MiB", memory={kind.memory!r}, trap={kind.trap!r}) as pool:
                page = pool.allocate(b"kept")
                if os.fork() == 0:
                    {leave}
                else:
                    os.wait()
                    assert page[:4] == b"kept"
        except BaseException as caught:
            error = caught
        if os.getpid() != pid:
            print(repr(error), error and error.__context__, flush=True)
            os._exit(0)
        assert error is None and pool.closed
        """
    )
    assert (done.returncode, done.stdout) == (0, f"{expected} None\n"), done.stderr


def test_trap_none_does_not_trap(make_pool: PoolMaker) -> None:
    pool = make_pool(trap="none")
    page = pool.allocate(b"x")
    page.free()
    assert page[0] == 0
    assert pool.stats().faults == 0


def test_lazy_zero(make_pool: PoolMaker, kind: bufpool.Capability) -> None:
    pool = make_pool(memory=kind.memory, trap=kind.trap, lazy_zero=True)
    page = pool.allocate()
    assert bytes(page) == bytes(PAGE)
    page[0] = 1
    assert page[0] == 1
    page.free()
    with pytest.raises(bufpool.StrayAccessError):
        page[0]


def test_log_receives_each_report_as_a_line_of_json(make_pool: PoolMaker, tmp_path: Path) -> None:
    log = tmp_path / "faults.json"
    pool = make_pool(log=log)
    with bufpool.catch_faults() as caught:
        for number in (3, 5):
            assert pool.page(number).buffer[number] == bufpool.POISON
    pool.close()
    assert log.stat().st_mode & 0o777 == 0o600
    lines = log.read_text().splitlines()
    assert lines == [report.to_json() for report in caught.reports]
    assert [json.loads(line)["page"] for line in lines] == [3, 5]


def test_log_may_be_a_path_of_bytes(make_pool: PoolMaker, tmp_path: Path) -> None:
    log = tmp_path / "faults.json"
    pool = make_pool(log=os.fsencode(log))
    with bufpool.catch_faults():
        pool.page(3)[0]
    pool.close()
    assert json.loads(log.read_text())["page"] == 3


def test_close(pool: bufpool.Pool) -> None:
    page = pool.allocate()
    assert not pool.closed
    pool.close()
    pool.close()
    assert pool.closed
    for call in (pool.allocate, page.free, page.evict, lambda: pool.allocate_many(2), lambda: pool.populate(page)):
        with pytest.raises(bufpool.PoolClosedError):
            call()
    with pytest.raises(bufpool.PoolClosedError):
        page.buffer  # noqa: B018
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[1]
    assert caught.value.report.state == "closed"


def test_context_manager_closes(make_pool: PoolMaker) -> None:
    with make_pool() as pool:
        pool.allocate()
    assert pool.closed


def test_a_pool_that_nobody_closed_warns() -> None:
    pool = bufpool.Pool("1 MiB", name="lost")
    with pytest.warns(ResourceWarning, match="unclosed <Pool 'lost'"):
        del pool


def test_closed_pools_leak_nothing(child: Any) -> None:
    done = child(
        """
        # Huge pages of hugetlbfs come and go with what else this machine does.
        kinds = [kind for kind in bufpool.capabilities().available() if kind[0] in ("anon", "thp", "shared")]

        def open_and_close():
            for memory, trap in kinds:
                with bufpool.Pool("64 MiB", page_size=None, memory=memory, trap=trap) as pool:
                    pool.allocate_many(3)

        def held():
            return len(os.listdir("/proc/self/fd"))

        open_and_close()
        before = held()
        for _ in range(100):
            open_and_close()
        print(held() - before, len(open("/proc/self/maps").readlines()) < 2000)
        """
    )
    assert (done.stdout, done.returncode) == ("0 True\n", 0), done.stderr
