"""Pools in forked children: os.fork, from threads too, and multiprocessing; subprocess, which runs no fork handlers."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bufpool


def in_child(function: Callable[[], object]) -> str:
    """What a forked child's function returns or raises, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def is_given(kind: bufpool.Capability) -> bool:
    """Whether a child has the pool: not where pages are closed in one process only, and shared."""
    return kind.memory in ("anon", "thp") or kind.trap not in ("guard", "mprotect")


def test_a_child_has_the_pool(kind: bufpool.Capability) -> None:
    with bufpool.Pool("1 MiB", memory=kind.memory, trap=kind.trap, name="parents") as pool:
        page, freed = pool.allocate(b"parent"), pool.allocate()
        freed.free()

        def use() -> str:
            own = pool.allocate(b"child")
            assert (own[:5], page[:6], page.state) == (b"child", b"parent", "allocated")
            page[:6] = b"CHILD!"
            own.free()
            with pytest.raises(bufpool.StrayAccessError) as caught:
                own[0]
            report = caught.value.report
            assert (report.inherited, report.forked, report.pid) == (True, False, os.getpid())
            assert report.fork_note == f"this is a forked child of process {os.getppid()}; the pool was inherited"
            assert len(pool.faults) == 1
            return "fine"

        if not is_given(kind):
            assert "UnsupportedError" in in_child(pool.allocate)
            assert "closes pages in one process only" in in_child(pool.allocate)
            assert "closes pages in one process only" in in_child(lambda: page[0])
            return
        assert in_child(use) == "fine"
        assert page[:6] == (b"CHILD!" if kind.memory == "shared" else b"parent")
        assert not pool.faults
        with pytest.raises(bufpool.StrayAccessError) as caught:
            freed[0]
        assert (caught.value.report.inherited, caught.value.report.fork_note) == (False, None)


def test_close_in_a_child_is_the_child_s(kind: bufpool.Capability) -> None:
    with bufpool.Pool("1 MiB", memory=kind.memory, trap=kind.trap) as pool:
        page = pool.allocate(b"kept")

        def leave() -> str:
            with pool:
                pass
            pool.close()
            with pytest.raises(bufpool.BufpoolError):
                pool.allocate()
            with pytest.raises(bufpool.StrayAccessError):
                page[0]
            return str(pool.closed)

        assert in_child(leave) == str(is_given(kind))
        assert page[:4] == b"kept"
        assert pool.allocate(b"more")[:4] == b"more"


def test_exclude(kind: bufpool.Capability) -> None:
    with bufpool.Pool("1 MiB", memory=kind.memory, trap=kind.trap, fork="exclude") as pool:
        page = pool.allocate(b"kept")
        assert in_child(pool.allocate).startswith("UnsupportedError")
        assert 'it was opened with fork "exclude"; open a pool here' in in_child(pool.allocate)
        assert "StrayAccessError" in in_child(lambda: page[0])
        assert page[:4] == b"kept"


def test_an_unknown_choice_names_the_valid_ones() -> None:
    with pytest.raises(bufpool.ArgumentError, match='unknown fork "share": valid are "inherit", "exclude"'):
        bufpool.Pool("1 MiB", fork="share")


def test_faults_owed_to_the_parent_are_not_the_child_s() -> None:
    with bufpool.Pool("1 MiB") as pool:
        view = pool.page(3).buffer
        view[0] = 1  # owed, and diverted

        def look() -> str:
            bufpool.check()
            return str(pool.stats().scratched)

        assert in_child(look) == "0"
        with pytest.raises(bufpool.StrayAccessError):
            bufpool.check()


def test_views_of_a_child_are_owed_to_the_child() -> None:
    with bufpool.Pool("1 MiB") as pool:
        view = pool.page(3).buffer

        def stray() -> str:
            view[9] = 1
            with pytest.raises(bufpool.StrayAccessError) as caught:
                bufpool.check()
            return f"{caught.value.report.offset} {caught.value.report.inherited}"

        assert in_child(stray) == "9 True"
        bufpool.check()
        assert not pool.faults


def test_fork_in_a_thread() -> None:
    with bufpool.Pool("1 MiB") as pool:
        page = pool.allocate(b"parent")
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(in_child(lambda: page[:6] + pool.allocate(b"x")[:1])))
        thread.start()
        thread.join()
        assert answers == ["b'parentx'"]


def test_a_child_of_a_child() -> None:
    with bufpool.Pool("1 MiB") as pool:
        page = pool.allocate(b"first")

        def child() -> str:
            page[:5] = b"later"
            return in_child(lambda: page[:5])

        assert in_child(child) == "b'later'"
        assert page[:5] == b"first"


_pool: bufpool.Pool | None = None


def _read(number: int) -> bytes:
    assert _pool is not None
    return bytes(_pool.page(number)[:8])


def _stray(number: int) -> str:
    assert _pool is not None
    try:
        _pool.page(number)[0]
    except bufpool.StrayAccessError as error:
        return f"{error.report.state} {error.report.inherited}"
    return "went through"


def test_multiprocessing_by_fork() -> None:
    global _pool  # noqa: PLW0603 (what a worker inherits)
    with bufpool.Pool("1 MiB") as _pool:
        numbers = [_pool.allocate(f"page {i:3}".encode()).number for i in range(20)]
        _pool.free(numbers[7])
        with multiprocessing.get_context("fork").Pool(3) as workers:
            assert workers.map(_stray, [numbers[7]] * 6) == ["freed True"] * 6
            del numbers[7]
            assert workers.map(_read, numbers) == [bytes(_pool.page(n)[:8]) for n in numbers]
    _pool = None


FORKSERVER = """
import multiprocessing, os
import bufpool

def stray():
    with bufpool.Pool("1 MiB") as own:
        page = own.allocate(b"own")
        page.free()
        try:
            page[0]
        except bufpool.StrayAccessError as error:
            return error.report.state, error.report.fork_note, error.report.pid == os.getpid()

if __name__ == "__main__":
    with bufpool.Pool("1 MiB") as pool:
        page = pool.allocate(b"parent")
        with multiprocessing.get_context("forkserver").Pool(1) as workers:
            print(workers.apply(stray))
        print(page[:6])
"""


def test_multiprocessing_by_forkserver(tmp_path: Path) -> None:
    """Its workers are children of a process without pools."""
    script = tmp_path / "forkserver.py"
    script.write_text(FORKSERVER)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "('freed', None, True)\nb'parent'\n"), done.stderr


WORKERS = """
import sys
import multiprocessing, concurrent.futures

if "lazily" not in sys.argv:
    import bufpool

def stray(name):
    import bufpool
    pool = bufpool.Pool("1 MiB", name=name)
    pool.page(3).buffer[5]
    bufpool.kept = pool

def nested(name):
    process = multiprocessing.get_context(sys.argv[1]).Process(target=stray, args=[name])
    process.start()
    process.join()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for target, name in (stray, "process"), (nested, "nested"):
        process = context.Process(target=target, args=[name])
        process.start()
        process.join()
    with context.Pool(1) as workers:
        workers.map(stray, ["pool"])
        workers.close()
        workers.join()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(stray, "executor").result()
"""


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("when", ["first", "lazily"])
def test_what_a_worker_is_owed_is_said_at_its_end(how: str, when: str, tmp_path: Path) -> None:
    """Forked workers end by os._exit(), past the exit handlers."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), how, when]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("==ERROR: bufpool: stray read of an unallocated page\n") == 4, done.stderr
    for name in ("process", "nested", "pool", "executor"):
        assert done.stderr.count(f'page 3 of pool "{name}"') == 1


def test_subprocess_goes_on_as_ever(kind: bufpool.Capability) -> None:
    with bufpool.Pool("1 MiB", memory=kind.memory, trap=kind.trap) as pool:
        page, hole = pool.allocate(b"parent"), pool.page(9)
        for arguments in ({}, {"close_fds": False}, {"preexec_fn": os.getpid}):  # the last one is a fork
            options: dict[str, Any] = dict(arguments)
            done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True, **options)
            assert done.stdout == b"1\n"
            with pytest.raises(bufpool.StrayAccessError):
                hole[0]
        assert page[:6] == b"parent"


def test_descriptors_and_mappings_do_not_leak(child: Any) -> None:
    done = child(
        """
        pool = bufpool.Pool("1 MiB")
        page = pool.allocate(b"parent")
        def counts():
            return len(os.listdir("/proc/self/fd")), sum(1 for _ in open("/proc/self/maps"))
        before = counts()
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                os._exit(page[:6] != b"parent")
            assert os.waitpid(pid, 0)[1] == 0
        after = counts()
        assert after[0] == before[0] and after[1] <= before[1] + 2, (before, after)
        pool.close()
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_child_that_ends_does_not_complain_of_an_open_pool(child: Any) -> None:
    done = child(
        """
        import warnings
        warnings.simplefilter("always")
        def work():
            pool = bufpool.Pool("1 MiB")
            if os.fork() == 0:
                del pool
                gc.collect()
                sys.stderr.flush()
                os._exit(0)
            os.wait()
            pool.close()
        work()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
