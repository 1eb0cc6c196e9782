"""Threads: a stray access is raised in the thread that made it. Forked children and subinterpreters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bufpool

PAGE = 4096
PoolMaker = Callable[..., bufpool.Pool]


def test_a_worker_gets_its_own_errors(pool: bufpool.Pool, in_thread: Any) -> None:
    page = pool.page(5)
    with pytest.raises(bufpool.StrayAccessError) as guarded:
        in_thread(lambda: page[9])

    def through_a_view() -> None:
        page.buffer[10] = 1
        bufpool.check()

    with pytest.raises(bufpool.StrayAccessError) as viewed:
        in_thread(through_a_view)
    bufpool.check()  # the main thread is owed nothing
    assert guarded.value.report.offset == 9
    assert viewed.value.report.offset == 10
    assert viewed.value.report.thread_id != threading.get_native_id()


def test_what_an_ended_thread_is_owed_is_raised_on_leaving_the_block(
    make_pool: PoolMaker, kind: bufpool.Capability
) -> None:
    for _ in range(20):  # the end of a thread and of its kernel thread are two moments
        pool = make_pool(memory=kind.memory, trap=kind.trap)
        with pytest.raises(bufpool.StrayAccessError) as caught, pool:  # noqa: PT012
            view = pool.page(5).buffer
            thread = threading.Thread(target=view.__getitem__, args=(9,))
            thread.start()
            thread.join()
        [report] = caught.value.reports
        assert (report.page, report.offset) == (5, 9)


def test_close_leaves_a_living_thread_what_it_is_owed(make_pool: PoolMaker) -> None:
    pool = make_pool()
    view = pool.page(5).buffer
    strayed, closed = threading.Event(), threading.Event()

    def worker() -> None:
        view[9] = 1
        strayed.set()
        assert closed.wait(300)
        bufpool.check()

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(worker)
        assert strayed.wait(300)
        pool.close()
        closed.set()
        error = future.exception(300)
    assert isinstance(error, bufpool.StrayAccessError)
    assert error.report.offset == 9


def test_threads_that_stray_together(pool: bufpool.Pool) -> None:
    """Each thread has pages of its own: an access to a page that another thread has diverted is not seen."""
    threads, strays = 4, 100
    barrier = threading.Barrier(threads)

    def worker(index: int) -> list[tuple[int, int, int]]:
        barrier.wait(300)
        with bufpool.catch_faults() as caught:
            for offset in range(strays):
                page = pool.page(index * 16 + offset % 16)
                if offset % 2:
                    page.buffer[offset] = 1
                else:
                    page[offset]
        assert {report.thread_id for report in caught.reports} == {threading.get_native_id()}
        return [(report.page, report.offset, report.sequence) for report in caught.reports]

    with ThreadPoolExecutor(threads) as executor:
        found = list(executor.map(worker, range(threads), timeout=300))
    for index, reports in enumerate(found):
        assert [report[:2] for report in reports] == [(index * 16 + n % 16, n) for n in range(strays)]
    assert len({report[2] for reports in found for report in reports}) == threads * strays
    assert pool.stats().faults == threads * strays


def test_threads_that_allocate_and_free_together(pool: bufpool.Pool) -> None:
    barrier = threading.Barrier(4)

    def worker(index: int) -> None:
        barrier.wait(300)
        for turn in range(200):
            page = pool.allocate(bytes([index]) * PAGE)
            numbers = pool.allocate_many(3)
            assert bytes(page) == bytes([index]) * PAGE
            page.evict()
            pool.populate(page, bytes([turn]) * PAGE)
            assert page[PAGE - 1] == turn
            pool.free_many(numbers)
            page.free()

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(worker, range(4), timeout=300))
    stats = pool.stats()
    assert (stats.allocated, stats.evicted, stats.faults) == (0, 0, 0)
    assert stats.allocations == stats.frees == 4 * 200 * 4


def test_a_page_appears_whole(pool: bufpool.Pool) -> None:
    rounds = 300
    seen = [threading.Event() for _ in range(rounds)]

    def reader() -> int:
        whole = 0
        for turn in range(rounds):
            page = pool.page(turn % pool.page_count)
            content = b""
            while not content and not seen[turn].is_set():
                try:
                    content = bytes(page)
                except bufpool.StrayAccessError:
                    continue
            assert content == bytes([turn % 256]) * PAGE
            whole += 1
            seen[turn].set()
        return whole

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(reader)
        for turn in range(rounds):
            page = pool.allocate_at(turn % pool.page_count, bytes([turn % 256]) * PAGE)
            while not seen[turn].wait(0.1):
                assert not future.done(), future.exception()
            page.free()
        assert future.result(300) == rounds


def test_a_forked_child_is_refused(child: Any) -> None:
    done = child(
        """
        pool = bufpool.Pool("1 MiB", name="parents", fork="exclude")
        page = pool.allocate(b"parent")
        pid = os.fork()
        if pid == 0:
            for call in (pool.allocate, page.free, page.evict):
                try:
                    call()
                except bufpool.UnsupportedError as error:
                    print("refused:", error)
            try:
                page[0]
            except bufpool.StrayAccessError as error:
                print("stray:", error.report.forked, error.report.pool)
            with bufpool.Pool("1 MiB") as own:
                print("own:", own.allocate(b"child")[:5])
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert page[:6] == b"parent"
        pool.close()
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused:") == 3
    assert "stray: True parents" in done.stdout
    assert "own: b'child'" in done.stdout


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
program = '''
try:
    import bufpool
except ImportError as error:
    open("answer", "w").write(str(error))
else:
    open("answer", "w").write("imported")
'''
number = interpreters.create()
interpreters.run_string(number, program)
print(open("answer").read())
with bufpool.Pool("1 MiB") as pool:
    print(pool.allocate(b"main")[:4])
"""


def test_subinterpreters_are_refused_in_words(child: Any) -> None:
    done = child(SUBINTERPRETER)
    assert "bufpool does not work in subinterpreters; import it in the main interpreter" in done.stdout, done.stderr
    assert "b'main'" in done.stdout
    assert done.returncode == 0
