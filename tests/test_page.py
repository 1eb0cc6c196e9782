"""Page: a value, guarded access, views."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest

import bufpool

PAGE = 4096


def test_a_page_is_a_value(any_pool: bufpool.Pool) -> None:
    page = any_pool.page(3)
    assert page == any_pool.page(np.uint64(3)) == bufpool.Page(any_pool, 3)
    assert len({page, any_pool.page(3), any_pool.page(4)}) == 2
    assert (page.size, len(page)) == (PAGE, PAGE)
    assert page.address == any_pool.address + 3 * PAGE
    with bufpool.Pool("1 MiB") as other:
        assert other.page(3) != page
    with pytest.raises(AttributeError):
        page.number = 4  # type: ignore[misc]


@pytest.mark.parametrize("number", [-1, 64, 2**64])
def test_there_is_no_page_outside_the_pool(any_pool: bufpool.Pool, number: int) -> None:
    for call in (any_pool.page, any_pool.free, any_pool.state, lambda n: bufpool.Page(any_pool, n)):
        with pytest.raises(bufpool.PageStateError, match=f"no page {number} in 'any': its 64 pages"):
            call(number)


def test_reading_like_bytes(pool: bufpool.Pool) -> None:
    data = os.urandom(PAGE)
    page = pool.allocate(data)
    for index in (0, 1, PAGE - 1, -1, -PAGE):
        assert page[index] == data[index]
    cuts = (None, 0, 1, 100, PAGE - 1, PAGE, PAGE + 5, -1, -100, -PAGE, -PAGE - 1)
    for start in cuts:
        for stop in cuts:
            assert page[start:stop] == data[start:stop]
            for step in (1, 2, 7, -1, -3):
                assert page[start:stop:step] == data[start:stop:step]


def test_writing(pool: bufpool.Pool) -> None:
    page = pool.allocate()
    page[0] = 1
    page[-1] = np.uint8(255)
    page[10:14] = b"abcd"
    page[20:28] = np.array([1], np.uint64)
    page[50:50] = b""
    expected = bytearray(PAGE)
    expected[0], expected[-1], expected[20] = 1, 255, 1
    expected[10:14] = b"abcd"
    assert bytes(page) == expected
    page[:] = expected[::-1]
    assert bytes(page) == expected[::-1]


@pytest.mark.parametrize("index", [PAGE, -PAGE - 1])
def test_index_outside_the_page(any_pool: bufpool.Pool, index: int) -> None:
    page = any_pool.allocate()
    with pytest.raises(IndexError, match=str(index)):
        page[index]
    with pytest.raises(IndexError, match=str(index)):
        page[index] = 0


@pytest.mark.parametrize(
    ("index", "value", "error"),
    [
        (0, 256, bufpool.ArgumentError),
        (0, -1, bufpool.ArgumentError),
        (0, b"a", TypeError),
        (slice(0, 4), b"abc", bufpool.ArgumentError),
        (slice(0, 4), 1, TypeError),
        (slice(0, 4), "abcd", TypeError),
        (slice(0, 8, 2), b"abcd", bufpool.ArgumentError),
        (slice(0, 2), memoryview(b"abcd")[::2], bufpool.ArgumentError),
        ("0", 0, TypeError),
        (None, 0, TypeError),
    ],
)
def test_wrong_writes_change_nothing(any_pool: bufpool.Pool, index: Any, value: Any, error: type[Exception]) -> None:
    page = any_pool.allocate(b"still here")
    with pytest.raises(error):
        page[index] = value
    assert page[:10] == b"still here"


@pytest.mark.parametrize("state", ["unallocated", "freed", "evicted", "closed"])
def test_a_guarded_stray_access_raises_right_there(pool: bufpool.Pool, state: str) -> None:
    page = pool.page(5)
    if state != "unallocated":
        pool.allocate_at(5)
    if state == "freed":
        page.free()
    elif state == "evicted":
        page.evict()
    elif state == "closed":
        pool.close()
    with pytest.raises(bufpool.StrayAccessError) as read:
        page[100]
    with pytest.raises(bufpool.StrayAccessError) as write:
        page[200] = 1
    for error, access, offset in ((read, "read", 100), (write, "write", 200)):
        report = error.value.report
        assert (report.access, report.page, report.offset, report.state) == (access, 5, offset, state)
        assert (report.address, report.pool) == (page.address + offset, pool.name)
        assert report.thread_id == threading.get_native_id()
        assert any("test_a_guarded_stray_access" in line for line in report.python_stack)
    with pytest.raises(bufpool.StrayAccessError) as span:
        page[300:400]
    assert 300 <= span.value.report.offset < 400
    assert len(pool.faults) == 3


def test_what_is_written_may_lie_in_a_hole(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"keep")
    hole = pool.page(9)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[:] = hole.buffer
    assert (caught.value.report.page, caught.value.report.access) == (hole.number, "read")


def test_what_a_failed_write_leaves_may_be_garbage_collected(pool: bufpool.Pool) -> None:
    """A memoryview that is exported through cffi crashes CPython 3.11's collector when it is part of the garbage."""
    page, hole = pool.allocate(), pool.page(9)

    def fail() -> None:
        for call in (lambda: page.__setitem__(slice(None), hole.buffer), lambda: pool.allocate(hole.buffer)):
            try:
                call()
            except bufpool.StrayAccessError as error:
                cycle = error  # noqa: F841 (the frame holds the error, whose traceback holds the frame)

    for _ in range(20):
        fail()
    assert gc.collect() > 0


def test_buffer_is_the_page_itself(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"abc")
    view = page.buffer
    assert (view.nbytes, view.readonly, view.format, view.contiguous) == (PAGE, False, "B", True)
    view[0] = ord("z")
    assert page[:3] == b"zbc"
    page[1] = ord("y")
    assert bytes(view[:3]) == b"zyc"


def test_array_is_the_page_itself(pool: bufpool.Pool) -> None:
    page = pool.allocate()
    array = page.array(np.uint32)
    assert array.shape == (PAGE // 4,)
    array[:] = np.arange(PAGE // 4)
    assert bytes(page) == array.tobytes()
    assert page.array().dtype == np.uint8
    assert array.__array_interface__["data"][0] == page.address


@pytest.mark.parametrize("dtype", [np.dtype("S3"), np.dtype("S0"), np.dtype("S8192")])
def test_array_of_a_type_that_does_not_fit(any_pool: bufpool.Pool, dtype: np.dtype[Any]) -> None:
    with pytest.raises(bufpool.ArgumentError, match="does not divide a page of 4096 bytes"):
        any_pool.allocate().array(dtype)


@pytest.mark.parametrize("dtype", [np.dtype(object), np.dtype([("a", object)])])
def test_array_of_python_objects(any_pool: bufpool.Pool, dtype: np.dtype[Any]) -> None:
    with pytest.raises(bufpool.ArgumentError, match="holds Python objects"):
        any_pool.allocate().array(dtype)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [(slice(0, 4), "the slice has 4 bytes, the data 7"), (slice(0, 14, 2), "only slices of step 1 can be set")],
)
def test_a_slice_that_cannot_be_set_says_why(any_pool: bufpool.Pool, index: slice, sentence: str) -> None:
    page = any_pool.allocate(b"still here")
    with pytest.raises(bufpool.ArgumentError, match=sentence):
        page[index] = b"toolong"
    assert page[:10] == b"still here"


def test_populate(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"first")
    page.evict()
    page.populate(b"second")
    assert (page.state, page[:6]) == ("allocated", b"second")
    with pytest.raises(bufpool.PageStateError):
        page.populate()
    page.evict()
    page.populate()
    assert bytes(page) == bytes(PAGE)


@pytest.mark.parametrize("number", ["x", 1.0, None, True])
def test_a_page_s_number_is_an_integer(any_pool: bufpool.Pool, number: Any) -> None:
    with pytest.raises(TypeError, match=f"number must be an integer, not {type(number).__name__}"):
        bufpool.Page(any_pool, number)


def test_a_number_of_numpy_becomes_an_int(any_pool: bufpool.Pool) -> None:
    assert type(bufpool.Page(any_pool, np.uint8(63)).number) is int  # type: ignore[arg-type]
