"""Bad input, and limits of the system: clear errors, nothing leaked, the pool still usable."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

import bufpool

PAGE = 4096
ArgumentError = bufpool.ArgumentError


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"capacity": 0}, ArgumentError, ["capacity 0", "one page to 16 TiB"]),
        ({"capacity": -4096}, ArgumentError, ["capacity -4096", "one page to 16 TiB"]),
        ({"capacity": 2**64}, ArgumentError, ["capacity 18446744073709551616", "16 TiB"]),
        ({"capacity": "lots"}, ArgumentError, ["capacity 'lots'", "GiB"]),
        ({"capacity": 1.5}, TypeError, ["capacity", "1.5", "float"]),
        ({"capacity": None}, TypeError, ["capacity", "None"]),
        ({"capacity": 4097}, ArgumentError, ["4097", "4096"]),
        ({"capacity": "17 TiB"}, ArgumentError, [str(17 << 40), "16 TiB"]),
        ({"page_size": 0}, ArgumentError, ["page_size 0", "4 KiB to 1 GiB"]),
        ({"page_size": 512}, ArgumentError, ["512"]),
        ({"page_size": 5000}, ArgumentError, ["5000"]),
        ({"page_size": "2 GiB", "capacity": "4 GiB"}, ArgumentError, [str(2 << 30)]),
        ({"memory": "ram"}, ArgumentError, ["ram", "anon", "shared"]),
        ({"memory": None}, TypeError, ["memory", "NoneType"]),
        ({"memory": "anon\0"}, ArgumentError, ["memory 'anon\\x00'", "NUL"]),
        ({"memory": b"anon"}, TypeError, ["memory", "bytes"]),
        ({"trap": "mouse"}, ArgumentError, ["mouse", "auto", "uffd", "guard", "mprotect", "none"]),
        ({"on_fault": "shrug"}, ArgumentError, ["shrug", "abort", "raise", "resume"]),
        ({"name": "n" * 64}, ArgumentError, ["63"]),
        ({"name": 7}, TypeError, ["name", "int"]),
        ({"name": "\ud800"}, ArgumentError, ["name '\\ud800'", "surrogates"]),
        ({"log": 5}, TypeError, ["log", "path", "int"]),
        ({"log": "a\0b"}, ArgumentError, ["log", "NUL"]),
        ({"log": b"/nowhere/at/all"}, OSError, ["/nowhere/at/all"]),
        ({"log": "/nowhere/at/all"}, OSError, ["/nowhere/at/all"]),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        bufpool.Pool(**{"capacity": "1 MiB", **options})
    for word in words:
        assert word in str(caught.value)


PAGES_CALLS = ["free", "evict", "populate", "allocate_at"]


@pytest.mark.parametrize("call", PAGES_CALLS)
@pytest.mark.parametrize(
    ("page", "error"),
    [
        (64, bufpool.PageStateError),
        (-1, bufpool.PageStateError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_wrong_pages(any_pool: bufpool.Pool, call: str, page: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        getattr(any_pool, call)(page)


@pytest.mark.parametrize("call", PAGES_CALLS)
def test_foreign_pages(any_pool: bufpool.Pool, call: str) -> None:
    with bufpool.Pool("1 MiB", name="other") as other:
        page = other.allocate_at(5, b"mine")
        with pytest.raises(bufpool.PageStateError, match="<Page 5 of 'other', allocated> is not a page of 'any'"):
            getattr(any_pool, call)(page)
        assert page[:4] == b"mine"


@pytest.mark.parametrize("call", ["free_many", "evict_many", "populate_many"])
@pytest.mark.parametrize(
    ("pages", "error"),
    [
        (np.array([64]), bufpool.PageStateError),
        (np.array([-1]), bufpool.PageStateError),
        (np.array([2**64 - 1], np.uint64), bufpool.PageStateError),
        (np.array([[0]]), bufpool.ArgumentError),
        (np.array([0.0]), TypeError),
        (np.array([True]), TypeError),
        (np.array(["0"]), TypeError),
        ([0, 1.5], TypeError),
        ([True], TypeError),
        ([0, True], TypeError),
        ([2**64], bufpool.PageStateError),
        ([0, -1], bufpool.PageStateError),
        (array("d", [0.0]), TypeError),
        (memoryview(b"a\0"), bufpool.PageStateError),
        (np.uint64(0), TypeError),
        (7, TypeError),
        (None, TypeError),
    ],
)
def test_wrong_batches(any_pool: bufpool.Pool, call: str, pages: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        getattr(any_pool, call)(pages)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (bytes(PAGE + 1), bufpool.ArgumentError),
        ("text", TypeError),
        (5, TypeError),
        (memoryview(bytes(100))[::2], bufpool.ArgumentError),
    ],
)
def test_wrong_data(any_pool: bufpool.Pool, data: Any, error: type[Exception]) -> None:
    any_pool.allocate_at(60)
    any_pool.evict(60)
    for call in (
        lambda: any_pool.allocate(data),
        lambda: any_pool.allocate_at(3, data),
        lambda: any_pool.allocate_many(1, data),
        lambda: any_pool.populate(60, data),
        lambda: any_pool.populate_many([60], data),
    ):
        with pytest.raises(error):
            call()
    assert (any_pool.stats().allocated, any_pool.stats().evicted) == (0, 1)


@pytest.mark.parametrize(
    ("count", "error"), [(-1, bufpool.ArgumentError), (1.0, TypeError), (None, TypeError), (True, TypeError)]
)
def test_wrong_counts(any_pool: bufpool.Pool, count: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        any_pool.allocate_many(count)


def test_states_that_forbid_it(pool: bufpool.Pool) -> None:
    page = pool.page(5)
    for call in (page.free, page.evict, lambda: pool.populate(page)):
        with pytest.raises(bufpool.PageStateError, match="5"):
            call()
    pool.allocate_at(page)
    with pytest.raises(bufpool.PageStateError):
        pool.populate(page)
    page.evict()
    with pytest.raises(bufpool.PageStateError):
        page.evict()
    page.free()
    with pytest.raises(bufpool.PageStateError):
        page.free()
    assert pool.allocate_at(page, b"fine")[:4] == b"fine"


@pytest.mark.parametrize("memory", ["anon", "shared"])
def test_address_space_limit(child: Any, memory: str) -> None:
    done = child(
        f"""
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
        fds = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            try:
                bufpool.Pool("1 TiB", memory={memory!r})
            except (bufpool.PoolExhaustedError, bufpool.UnsupportedError) as error:
                sentence = str(error)
        print(sentence)
        assert len(os.listdir("/proc/self/fd")) == fds
        with bufpool.Pool("1 MiB", memory={memory!r}) as pool:
            print(pool.allocate(b"works")[:5])
        """
    )
    assert done.returncode == 0, done.stderr
    assert "b'works'" in done.stdout


@pytest.mark.parametrize("memory", ["anon", "shared"])
def test_limit_of_open_files(child: Any, memory: str) -> None:
    done = child(
        f"""
        kept = bufpool.Pool("1 MiB", memory={memory!r})
        kept.allocate_at(1, b"kept")
        fds = len(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
        opened = refused = 0
        for _ in range(20):
            try:
                with bufpool.Pool("1 MiB", memory={memory!r}) as pool:
                    opened += pool.allocate(b"x")[0] == ord("x")
            except (bufpool.SystemCallError, bufpool.UnsupportedError) as error:
                refused += 1
                assert "open files" in str(error), error
        assert kept.page(1)[:4] == b"kept"
        kept.free(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) == fds
        with bufpool.Pool("1 MiB", memory={memory!r}) as pool:
            print(opened + refused, pool.allocate(b"works")[:5])
        kept.close()
        """
    )
    assert (done.returncode, done.stdout) == (0, "20 b'works'\n"), done.stderr
