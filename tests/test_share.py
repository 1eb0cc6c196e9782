"""One pool in many processes: handles on their way, attaching, who ends what, what is refused."""

from __future__ import annotations

import ast
import concurrent.futures
import copy
import errno
import json
import mmap
import multiprocessing
import os
import pickle
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from share_workers import (
    address_of,
    allocate_and_mark,
    attach_as_nobody,
    fds,
    stray,
    stray_and_log,
    work,
    work_and_put,
)

import bufpool

PAGE = 4096
HUGE = 2 << 20
PoolMaker = Callable[..., bufpool.Pool]
METHODS = ["spawn", "fork", "forkserver"]
SHARED = bufpool.capabilities().of("shared", "uffd")


@pytest.fixture(params=["shared-uffd", "hugetlb-uffd", "path-uffd"])
def shared_pool(request: pytest.FixtureRequest, make_pool: PoolMaker) -> bufpool.Pool:
    """8 granules, of every memory and trap that can be shared. A forked child has it only by attaching."""
    memory, trap = request.param.split("-")
    if memory == "shared":
        entry = bufpool.capabilities().of(memory, trap)
        if not entry.available:
            pytest.skip(f"{request.param}: {entry.reason}")
        return make_pool(8 * PAGE, memory=memory, trap=trap, name="buffers", fork="exclude")
    request.getfixturevalue("huge_pages")
    if memory == "path":
        place = request.getfixturevalue("hugetlbfs") / "shared"
        place.unlink(missing_ok=True)
        memory = str(place)
    try:
        return make_pool(8 * HUGE, page_size=None, memory=memory, trap=trap, name="buffers", fork="exclude")
    except bufpool.UnsupportedError as error:
        pytest.skip(f"{request.param}: {error.strerror}")


@pytest.fixture
def small_pool(make_pool: PoolMaker) -> bufpool.Pool:
    """For what does not depend on the memory."""
    if not SHARED.available:
        pytest.skip(f"shared-uffd: {SHARED.reason}")
    return make_pool(64 * PAGE, memory="shared", trap="uffd", name="buffers", fork="exclude")


# ---- What a process that attaches sees and does ----------------------------------------------------------------------


def check_work(pool: bufpool.Pool, run: Callable[[int, int], dict[str, Any]]) -> None:
    """What work() did in another process, seen from there and from here."""
    page, freed = pool.allocate(b"a row"), pool.allocate()
    freed.free()
    seen = run(page.number, freed.number)
    assert seen["pid"] != os.getpid()
    assert seen["facts"] == (pool.capacity, pool.page_size, pool.page_count, "buffers", pool.trap)
    assert seen["read"] == b"a row"
    assert page[:10] == b"a row seen"
    assert seen["strays"] == [
        ("freed", freed.number, 3, seen["pid"], False),
        ("unallocated", 7, 3, seen["pid"], False),
    ]
    assert seen["view"] == [(7, "write")]
    assert seen["inheritable"] == []
    assert seen["stats"] == (2, 3, 3)
    assert pool.page(seen["mine"])[:13] == b"from a worker"
    assert not pool.faults
    for number in (freed.number, 7):  # none of it has filled a hole for us
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(number)[3]
        assert caught.value.report.pid == os.getpid()
    stats = pool.stats()
    assert (stats.members, stats.faults, stats.faults_all) == (1, 2, 5)
    assert (stats.allocations, stats.allocated) == (3, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_attaches(shared_pool: bufpool.Pool, method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as workers, shared_pool.handle() as handle:
        check_work(shared_pool, lambda *pages: dict(workers.apply(work, (handle, *pages))))


@pytest.mark.parametrize("method", METHODS)
def test_a_handle_is_an_argument_of_a_process(shared_pool: bufpool.Pool, method: str) -> None:
    context: Any = multiprocessing.get_context(method)

    def run(page: int, freed: int) -> dict[str, Any]:
        queue: Any = context.SimpleQueue()
        with shared_pool.handle() as handle:
            process = context.Process(target=work_and_put, args=(queue, handle, page, freed))
            process.start()
        seen = dict(queue.get())
        process.join()
        assert process.exitcode == 0
        return seen

    check_work(shared_pool, run)


@pytest.mark.parametrize("method", METHODS)
def test_a_handle_goes_through_a_queue(small_pool: bufpool.Pool, method: str) -> None:
    """To workers that have started before there was a handle."""
    context: Any = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
        with small_pool.handle() as handle:
            check_work(small_pool, lambda *pages: executor.submit(work, handle, *pages).result())


# The arguments: a socket, two page numbers. Prints what work() has seen.
PROGRAM = """
import socket, sys
import bufpool
from share_workers import work
with socket.socket(fileno=int(sys.argv[1])) as sock, bufpool.PoolHandle.receive(sock) as handle:
    print(work(handle, int(sys.argv[2]), int(sys.argv[3])))
"""


@contextmanager
def program(source: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Another program, and the end of a Unix socket of which it has the other as its first argument."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        command = [sys.executable, "-c", source, str(number), *map(str, arguments)]
        place = Path(__file__).parent  # for share_workers, and not for the package's sources
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[number], cwd=place) as process:
            theirs.close()
            try:
                yield process, ours
            finally:
                process.kill()


def test_another_program_attaches_by_a_socket(shared_pool: bufpool.Pool) -> None:
    def run(page: int, freed: int) -> dict[str, Any]:
        with program(PROGRAM, page, freed) as (process, sock), shared_pool.handle() as handle:
            handle.send(sock)
            return dict(ast.literal_eval(process.communicate(timeout=300)[0]))

    check_work(shared_pool, run)


def test_a_pool_has_the_name_of_its_file(make_pool: PoolMaker, hugetlbfs: Path) -> None:
    path = hugetlbfs / "named"
    options: dict[str, Any] = {"page_size": None, "fork": "exclude", "name": "buffers"}
    pool = make_pool(8 * HUGE, memory=path, **options)
    if pool.trap not in ("uffd", "noautofill"):
        with pytest.raises(bufpool.UnsupportedError, match="works in the process that opened it only"):
            bufpool.Pool.attach(path)
        return
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        check_work(pool, lambda *pages: dict(workers.apply(work, (str(path), *pages))))
    with bufpool.Pool.attach(path) as same:
        assert (same.memory, same.page_count, pool.stats().members) == (str(path), 8, 2)
    with pool.handle() as handle:
        moved = path.rename(path.with_name("moved"))
        bufpool.Pool.attach(moved).close()
        moved.unlink()  # whoever has the pool goes on, and so does a handle
        with pytest.raises(bufpool.SystemCallError, match="no pool has been opened there"):
            bufpool.Pool.attach(moved)
        path.write_bytes(b"")
        with bufpool.Pool.attach(handle) as same:
            row = same.allocate(b"unlinked")
            assert row[:8] == pool.page(row.number)[:8] == b"unlinked"
    pool.close()
    with pytest.raises(bufpool.SystemCallError, match="no process that this one can see") as caught:
        bufpool.Pool.attach(path)
    assert caught.value.errno == errno.ESRCH
    make_pool(2 * HUGE, memory=path.parent, **options)
    with pytest.raises(bufpool.ArgumentError, match="a file without a name"):
        bufpool.Pool.attach(path.parent)


def test_an_attached_pool_is_inherited(small_pool: bufpool.Pool) -> None:
    page = small_pool.allocate(b"a row")
    with small_pool.handle() as handle, bufpool.Pool.attach(handle) as attached:
        pid = os.fork()
        if pid == 0:
            right = attached.page(page.number)[:5] == b"a row" and stray(attached, 9).inherited
            os._exit(0 if right and attached.stats().members == 3 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert small_pool.stats().members == 2


def test_addresses_may_be_the_same(small_pool: bufpool.Pool) -> None:
    with small_pool.handle() as handle:
        with multiprocessing.get_context("spawn").Pool(1) as workers:
            assert workers.apply(address_of, (handle,)) == small_pool.address
        with pytest.raises(bufpool.SystemCallError, match="is taken in this process") as caught:
            bufpool.Pool.attach(handle, fixed_address=True)
    assert caught.value.errno == errno.EEXIST


def test_one_log_names_every_process(small_pool: bufpool.Pool, tmp_path: Path) -> None:
    log = tmp_path / "faults.jsonl"
    pids = []
    with small_pool.handle() as handle:
        for _ in range(2):
            with multiprocessing.get_context("spawn").Pool(1) as workers:
                pids.append(workers.apply(stray_and_log, (handle, str(log))))
    assert [json.loads(line)["pid"] for line in log.read_text().splitlines()] == pids
    assert (small_pool.stats().faults, small_pool.stats().faults_all) == (0, 2)


def test_many_processes(small_pool: bufpool.Pool) -> None:
    """Each allocates, frees, and keeps six pages: none is handed out twice, and none is lost."""
    with multiprocessing.get_context("fork").Pool(8) as workers, small_pool.handle() as handle:
        kept = workers.map(allocate_and_mark, [handle] * 8, chunksize=1)
    numbers = sorted(number for each in kept for number in each)
    assert len(set(numbers)) == 8 * 6
    assert numbers == small_pool.pages().tolist()
    stats = small_pool.stats()
    assert (stats.members, stats.allocated, stats.frees) == (1, 8 * 6, 8 * 200)


def test_what_a_mapping_does_that_never_attached(small_pool: bufpool.Pool) -> None:
    """README says so: it fills holes for all, until they are allocated, which shows nothing of it, and freed."""
    with small_pool.handle() as handle, mmap.mmap(handle.memory, 64 * PAGE) as stranger:
        stranger[7 * PAGE : 7 * PAGE + 5] = b"stray"
        assert stranger[8 * PAGE] == 0
    assert small_pool.page(7)[:5] == b"stray"
    assert small_pool.page(8)[0] == 0
    assert bytes(small_pool.allocate_at(7)) == bytes(PAGE)
    assert bytes(small_pool.allocate_at(8, b"data")) == b"data" + bytes(PAGE - 4)
    small_pool.free_many([7, 8])
    assert [stray(small_pool, number).state for number in (7, 8)] == ["freed"] * 2


# ---- Who ends what ---------------------------------------------------------------------------------------------------


def tables_open() -> int:
    """How many descriptors of tables this process has."""
    links = Path("/proc/self/fd")
    return sum("bufpool-tables" in str(link.readlink()) for link in links.iterdir() if link.is_symlink())


def test_the_opener_closes_it_for_all(small_pool: bufpool.Pool) -> None:
    page = small_pool.allocate(b"a row")
    before = tables_open()
    with small_pool.handle() as handle:
        with bufpool.Pool.attach(handle) as attached:
            same = attached.page(page.number)
            assert same[:5] == b"a row"
            small_pool.close()
            assert attached.closed
            with pytest.raises(bufpool.PoolClosedError, match="by the process that opened it"):
                attached.allocate()
            with pytest.raises(bufpool.StrayAccessError) as caught:
                same[0]
            assert caught.value.report.state == "closed"
        with pytest.raises(bufpool.PoolClosedError, match="by the process that opened it"):
            bufpool.Pool.attach(handle)
    assert small_pool.stats().members == 0
    assert tables_open() == before - 1


# Opens a pool, allocates two pages, sends the handle over the socket, reads what the other side has written, and waits.
OPENER = """
import socket, sys, time
import bufpool
pool = bufpool.Pool("1 MiB", memory="shared", name="orphan")
kept, freed = pool.allocate(b"a row"), pool.allocate()
with socket.socket(fileno=int(sys.argv[1])) as sock, pool.handle() as handle:
    handle.send(sock)
    sock.recv(1)
    print(pool.page(2)[:4], flush=True)
    time.sleep(1000)
"""


@pytest.mark.usefixtures("small_pool")
def test_the_others_go_on_when_the_opener_is_killed() -> None:
    with program(OPENER) as (process, sock), bufpool.PoolHandle.receive(sock) as handle:
        with bufpool.Pool.attach(handle) as attached, bufpool.Pool.attach(handle) as second:
            assert (attached.name, attached.stats().members) == ("orphan", 3)
            attached.allocate_at(2, b"mine")
            sock.send(b".")
            assert process.stdout is not None
            assert process.stdout.readline() == "b'mine'\n"
            process.kill()
            process.wait()
            assert attached.stats().members == 2
            attached.free(1)
            assert stray(second, 1).state == "freed"
            assert second.page(0)[:5] == b"a row"
            assert attached.allocate_at(3, b"more")[:4] == b"more"
            assert (attached.stats().allocated, second.stats().allocated) == (3, 3)
        with bufpool.Pool.attach(handle) as late:  # nobody had it meanwhile
            assert late.page(0)[:5] == b"a row"
            assert stray(late, 1).state == "freed"


WORKER = """
import socket, sys, time
import bufpool
with socket.socket(fileno=int(sys.argv[1])) as sock, bufpool.PoolHandle.receive(sock) as handle:
    pool = bufpool.Pool.attach(handle)
    print(pool.allocate(b"left").number, flush=True)
    time.sleep(1000)
"""


def test_a_killed_worker_is_counted_no_more(small_pool: bufpool.Pool) -> None:
    with program(WORKER) as (process, sock), small_pool.handle() as handle:
        handle.send(sock)
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert small_pool.stats().members == 2
        process.kill()
        process.wait()
    assert small_pool.stats().members == 1
    assert small_pool.page(number)[:4] == b"left"  # what it had allocated stays
    small_pool.free(number)
    assert small_pool.stats().allocated == 0


# ---- Handles ---------------------------------------------------------------------------------------------------------


def test_a_handle_holds_two_descriptors_until_it_ends(small_pool: bufpool.Pool) -> None:
    before = fds()
    handle = small_pool.handle()
    assert {to for fd, to in fds().items() if fd not in before} == {
        "/memfd:buffers (deleted)",
        "/memfd:bufpool-tables (deleted)",
    }
    assert not any(os.get_inheritable(fd) for fd in (handle.memory, handle.tables))
    assert repr(handle) == f"PoolHandle(memory={handle.memory}, tables={handle.tables})"
    with pytest.raises(AttributeError):
        handle.memory = 7  # type: ignore[misc]
    handle.close()
    handle.close()
    assert (handle.closed, handle.memory) == (True, -1)
    assert fds().items() <= before.items()
    with small_pool.handle() as handle:
        assert not handle.closed
    assert handle.closed
    small_pool.handle()  # nobody keeps it
    assert fds().items() <= before.items()


def test_only_multiprocessing_pickles_a_handle(small_pool: bufpool.Pool) -> None:
    with small_pool.handle() as handle:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"only multiprocessing can pickle.*handle\.send\(\)"):
                duplicate(handle)
    with pytest.raises(TypeError, match=r"pool\.handle\(\) for Pool\.attach\(\)"):
        pickle.dumps(small_pool)


def test_a_pickle_is_for_one_process(small_pool: bufpool.Pool) -> None:
    program = "import share_workers as w; w.print_pickle()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, check=True, timeout=300
    )
    before = fds()
    with pytest.raises(bufpool.ArgumentError, match="hands it over no more: it has ended, or"):
        pickle.loads(done.stdout)
    with small_pool.handle() as handle:
        pickled = bytes(ForkingPickler.dumps(handle))
    with pickle.loads(pickled) as same, bufpool.Pool.attach(same) as attached:
        assert attached.name == "buffers"
    with pytest.raises(bufpool.ArgumentError, match="was unpickled before"):
        pickle.loads(pickled)
    left = {to for fd, to in fds().items() if fd not in before}
    assert not any("memfd" in to for to in left), left  # multiprocessing keeps its socket


def test_a_forked_child_closes_its_own_descriptors(small_pool: bufpool.Pool) -> None:
    with small_pool.handle() as handle:
        pid = os.fork()
        if pid == 0:
            with bufpool.Pool.attach(handle) as attached:
                right = attached.name == "buffers"
            handle.close()
            os._exit(0 if right else 1)
        assert os.waitpid(pid, 0)[1] == 0
        with bufpool.Pool.attach(handle) as attached:
            assert attached.stats().members == 2


def test_a_socket_may_bring_more(small_pool: bufpool.Pool) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with small_pool.handle() as handle, ours, theirs:
        handle.send(theirs)
        with bufpool.PoolHandle.receive(ours) as received, bufpool.Pool.attach(received) as attached:
            assert attached.name == "buffers"


def test_a_closed_handle_is_refused(small_pool: bufpool.Pool) -> None:
    handle = small_pool.handle()
    handle.close()
    ours, theirs = socket.socketpair()
    process = multiprocessing.get_context("spawn").Process(target=address_of, args=(handle,))
    with ours, theirs:
        for refused in (lambda: bufpool.Pool.attach(handle), lambda: handle.send(ours), process.start):
            with pytest.raises(bufpool.ArgumentError, match="the handle is closed"):
                refused()


def test_descriptors_that_came_by_other_ways(small_pool: bufpool.Pool) -> None:
    with small_pool.handle() as given:
        memory, tables = given.memory, given.tables
        own = bufpool.PoolHandle.from_fds(os.dup(memory), os.dup(tables))
        with own, bufpool.Pool.attach(own) as attached:
            assert attached.name == "buffers"
        for wrong in ((memory, memory), (memory, 9999), (-1, tables), (2**40, tables)):
            with pytest.raises(bufpool.ArgumentError, match="descriptor"):
                bufpool.PoolHandle.from_fds(*wrong)
        with pytest.raises(TypeError, match="a descriptor must be an integer, not str"):
            bufpool.PoolHandle.from_fds("4", tables)  # type: ignore[arg-type]
        swapped = bufpool.PoolHandle.from_fds(os.dup(tables), os.dup(memory))
        with swapped, pytest.raises(bufpool.ArgumentError, match="is not the tables of a pool"):
            bufpool.Pool.attach(swapped)


def test_sockets_that_bring_no_handle(small_pool: bufpool.Pool) -> None:
    before = fds()
    ours, theirs = socket.socketpair()
    with small_pool.handle() as handle, ours, theirs, socket.socket(socket.AF_INET) as inet:
        for use in (handle.send, bufpool.PoolHandle.receive):
            with pytest.raises(bufpool.ArgumentError, match="family AF_INET: only a Unix socket"):
                use(inet)
            with pytest.raises(TypeError, match=r"must be a socket\.socket, not int"):
                use(inet.fileno())  # type: ignore[arg-type]
        theirs.send(b"hello")
        with pytest.raises(bufpool.ArgumentError, match="b'hello' came"):
            bufpool.PoolHandle.receive(ours)
        theirs.send(b"bufpool\1")
        with pytest.raises(bufpool.ArgumentError, match="0 of a handle's two descriptors"):
            bufpool.PoolHandle.receive(ours)
        for message, descriptors, words in ((b"bufpool\1", [1], "1 of a handle's two"), (b"other", [1, 1], "b'other'")):
            socket.send_fds(theirs, [message], descriptors)
            with pytest.raises(bufpool.ArgumentError, match=words):
                bufpool.PoolHandle.receive(ours)
        handle.send(theirs)
        handle.send(theirs)
        theirs.close()
        for _ in range(2):  # they do not run together
            with bufpool.PoolHandle.receive(ours) as received, bufpool.Pool.attach(received) as attached:
                assert attached.name == "buffers"
        with pytest.raises(bufpool.ArgumentError, match="the other end has closed it"):
            bufpool.PoolHandle.receive(ours)
    assert fds().items() <= before.items()


# ---- What is refused -------------------------------------------------------------------------------------------------


def test_memory_and_traps_of_one_process(kind: bufpool.Capability, make_pool: PoolMaker) -> None:
    pool = make_pool(memory=kind.memory, trap=kind.trap)
    assert (pool.stats().members, pool.stats().faults_all) == (1, 0)
    if kind.memory == "shared" and kind.trap == "uffd":
        pool.handle().close()
        return
    with pytest.raises(bufpool.UnsupportedError, match="cannot be shared: "):
        pool.handle()


@pytest.mark.parametrize(
    ("pool", "error", "words"),
    [
        ("shared", bufpool.ArgumentError, "'shared' is not a path"),
        ("/dev/a\0b", bufpool.ArgumentError, "NUL character"),
        (None, TypeError, "must be a PoolHandle, or a path .*, not NoneType"),
        (3, TypeError, "must be a PoolHandle, or a path .*, not int"),
        (Path("nowhere"), bufpool.SystemCallError, "no pool has been opened there"),
        ("/proc", bufpool.ArgumentError, "is a directory"),
    ],
)
def test_what_is_not_a_pool(pool: Any, error: type[Exception], words: str) -> None:
    before = fds()
    with pytest.raises(error, match=words):
        bufpool.Pool.attach(pool)
    assert fds().items() <= before.items()


def test_a_file_elsewhere_is_no_pool(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(bufpool.ArgumentError, match="is not a file on a hugetlbfs mount"):
        bufpool.Pool.attach(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"trap": "guard"}, bufpool.UnsupportedError, "does not trap in more than one process"),
        ({"trap": "none"}, bufpool.UnsupportedError, "does not trap in more than one process"),
        ({"trap": "noautofill"}, bufpool.UnsupportedError, "noautofill"),
        ({"on_fault": "ignore"}, bufpool.ArgumentError, 'unknown on_fault "ignore"'),
        ({"log": "/proc/nowhere/log"}, bufpool.SystemCallError, "/proc/nowhere/log"),
        ({"report_limit": 0}, bufpool.ArgumentError, "report_limit 0"),
    ],
)
def test_options_that_do_not_go(
    small_pool: bufpool.Pool, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with small_pool.handle() as handle:
        before = fds()
        with pytest.raises(error, match=words):
            bufpool.Pool.attach(handle, **options)
        assert fds().items() <= before.items()
    assert small_pool.stats().members == 1


def test_another_user_cannot_attach(small_pool: bufpool.Pool) -> None:
    if os.geteuid() != 0:
        pytest.skip("to become another user takes root")
    with multiprocessing.get_context("fork").Pool(1) as workers, small_pool.handle() as handle:
        code, sentence = workers.apply(attach_as_nobody, (handle,))
    assert code == errno.EACCES
    assert "only the user who opened the pool, and root, may attach" in sentence


def test_limits_of_descriptors(small_pool: bufpool.Pool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, theirs = socket.socketpair()
    with small_pool.handle() as handle, ours, theirs:
        handle.send(theirs)
        before = fds()
        free = next(fd for fd in range(3, 9999) if fd not in before)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            with pytest.raises(bufpool.SystemCallError) as caught:
                small_pool.handle()
            assert caught.value.errno == errno.EMFILE
            with pytest.raises(bufpool.ArgumentError, match="RLIMIT_NOFILE"):
                bufpool.PoolHandle.receive(ours)
            for room in range(3):
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
                with pytest.raises(bufpool.BufpoolError, match="Too many open files"):
                    bufpool.Pool.attach(handle)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert fds().items() <= before.items()
        with bufpool.Pool.attach(handle) as attached:
            assert attached.stats().members == 2
