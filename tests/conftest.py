"""What the tests share: pools of every memory and trap that works here, huge pages, child processes, threads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bufpool
from bufpool import _mount_calls

PAGE = 4096
HUGE = 2 << 20
HUGE_WANTED = 24  # huge pages that have to be free
CAPABILITIES = bufpool.capabilities()
# Of small pages; memories of huge ones have tests of their own, in test_huge.py.
TRAPPING = [entry for entry in CAPABILITIES.entries if entry.memory in ("anon", "shared") and entry.users]


@pytest.fixture(params=TRAPPING, ids=lambda entry: f"{entry.memory}-{entry.trap}")
def kind(request: pytest.FixtureRequest) -> bufpool.Capability:
    """Each memory with each trap; a skip says why one does not work here."""
    return _available(request.param)


def _available(entry: bufpool.Capability) -> bufpool.Capability:
    if not entry.available:
        pytest.skip(f"{entry.memory}-{entry.trap}: {entry.reason}")
    return entry


@pytest.fixture(params=[entry for entry in TRAPPING if entry.memory == "anon"], ids=lambda entry: str(entry.trap))
def trap(request: pytest.FixtureRequest) -> str:
    """Each trap of memory anon, by name."""
    return _available(request.param).trap


PoolMaker = Callable[..., bufpool.Pool]


@pytest.fixture
def make_pool() -> Iterator[PoolMaker]:
    """Opens pools that are closed at the end; a stray access that nobody has asked for is then an error."""
    pools = []

    def make(capacity: Any = 64 * PAGE, **options: Any) -> bufpool.Pool:
        pool = bufpool.Pool(capacity, **options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(make_pool: PoolMaker, kind: bufpool.Capability) -> bufpool.Pool:
    """64 pages of 4 KiB, of every kind."""
    return make_pool(memory=kind.memory, trap=kind.trap)


@pytest.fixture
def any_pool(make_pool: PoolMaker) -> bufpool.Pool:
    """64 pages of 4 KiB, for what does not depend on memory and trap."""
    return make_pool(name="any")


# ---- Huge pages ------------------------------------------------------------------------------------------------------

COUNTS = Path(f"/sys/kernel/mm/hugepages/hugepages-{HUGE >> 10}kB")


@contextlib.contextmanager
def _queued(setting: Path, how: int, seconds: int) -> Iterator[None]:
    """Holds a lock on a setting of the whole system, as the C tests do; what hangs holds up nobody for ever."""
    if not setting.exists():
        yield
        return
    with setting.open() as file:
        late = time.monotonic() + seconds
        while time.monotonic() < late:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, how | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        yield


@pytest.fixture(autouse=True)
def _memory_as_ever() -> Iterator[None]:
    """Not while a test makes the whole system strict about memory (native/tests/test_overcommit.c)."""
    with _queued(Path("/proc/sys/vm/overcommit_memory"), fcntl.LOCK_SH, 60):
        yield


@pytest.fixture(scope="module")
def _setting_kept() -> Iterator[None]:
    """Only one test at a time counts the machine's huge pages; and the number of them is put back."""
    with _queued(COUNTS / "nr_hugepages", fcntl.LOCK_EX, 300):
        before = _count("nr_hugepages") if COUNTS.exists() else None
        yield
        if before is not None and _count("nr_hugepages") != before:
            (COUNTS / "nr_hugepages").write_text(str(before))


@pytest.fixture
def huge_pages(_setting_kept: None) -> None:
    """At least HUGE_WANTED huge pages of 2 MiB are free; as root they are set aside."""
    if not COUNTS.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    missing = HUGE_WANTED - _count("free_hugepages")
    if missing > 0:
        try:
            (COUNTS / "nr_hugepages").write_text(str(_count("nr_hugepages") + missing))
        except OSError:
            pytest.skip(f"too few huge pages of 2 MiB are free ({HUGE_WANTED - missing}), and setting aside takes root")
    if _count("free_hugepages") < HUGE_WANTED:
        pytest.skip(f"the system cannot find {HUGE_WANTED} huge pages: its memory is fragmented")


def _count(name: str) -> int:
    return int((COUNTS / name).read_text())


# The arguments: a directory, the mount's options. It lives until its stdin ends, and its mounts with it.
MOUNTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
place, options = map(os.fsencode, sys.argv[1:])
assert libc.mount(b"none", place, b"hugetlbfs", 0, options) == 0, os.strerror(ctypes.get_errno())
print("mounted", flush=True)
sys.stdin.read()
"""
HUGETLBFS_SIZE = 16 * HUGE


@pytest.fixture(scope="module")
def _hugetlbfs() -> Iterator[Path]:
    """A directory on hugetlbfs with room for HUGETLBFS_SIZE bytes: a mount of a child's own, seen through /proc.

    Or in the one that BUFPOOL_TEST_HUGETLBFS names.
    """
    given = os.environ.get("BUFPOOL_TEST_HUGETLBFS")
    if given is None and (os.geteuid() or not _mount_calls.privileged()):
        pytest.skip(
            "mounting needs root with CAP_SYS_ADMIN; or BUFPOOL_TEST_HUGETLBFS, which names a mounted directory"
        )
    place = tempfile.mkdtemp(prefix="bp", dir=given)
    try:
        if given is not None:
            yield Path(place)
            return
        command = [sys.executable, "-c", MOUNTER, place, f"pagesize={HUGE >> 10}K,size={HUGETLBFS_SIZE}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "mounted\n"
            yield Path(f"/proc/{child.pid}/root{place}")
    finally:
        shutil.rmtree(place)


@pytest.fixture
def hugetlbfs(huge_pages: None, _hugetlbfs: Path) -> Path:  # noqa: ARG001 (pages first: a skip says what is missing)
    """That directory, and huge pages for it."""
    return _hugetlbfs


# ---- Processes and threads -------------------------------------------------------------------------------------------

Child = Callable[..., "subprocess.CompletedProcess[str]"]

CHILD_PRELUDE = """
import ctypes, faulthandler, gc, os, resource, signal, sys, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import bufpool
PAGE = 4096
"""


@pytest.fixture
def child(tmp_path: Any) -> Child:
    """Runs a Python program in a process of its own, outside the checkout."""

    def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *options, "-c", CHILD_PRELUDE + textwrap.dedent(program)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


# Opens pools as NAME=MEMORY, allocates two pages in each, and lives until its stdin ends; in a pool "busy" it
# allocates and frees meanwhile.
HOST_PROGRAM = """
import sys, threading, bufpool
pools = {}
for argument in sys.argv[1:]:
    name, memory = argument.split("=")
    pools[name] = bufpool.Pool("8 MiB", memory=memory, page_size=None, name=name, on_fault="resume")
    pools[name].allocate_many(2)
def work(pool):
    while True:
        pages = [pool.allocate(b"a row") for _ in range(100)]
        pool.evict(pages[0])
        pool.free_many([page.number for page in pages])
if "busy" in pools:
    threading.Thread(target=work, args=(pools["busy"],), daemon=True).start()
print("open", flush=True)
sys.stdin.read()
"""
Host = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def host() -> Iterator[Host]:
    """Starts a process with pools of its own, to be looked at from outside: host("NAME=MEMORY", ...)."""
    running: list[subprocess.Popen[str]] = []

    def start(*pools: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOST_PROGRAM, *pools]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=300)


@pytest.fixture
def in_thread() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function in a thread of its own and returns its result or raises its error."""

    def run(function: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(function).result(timeout=300)

    return run


# ---- C ---------------------------------------------------------------------------------------------------------------

NATIVE = Path(__file__).parent.parent / "native"


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libbufpool.a and libbufpool.so, built from the sources."""
    folder = tmp_path_factory.mktemp("library")
    options = f"-std=c11 -O1 -g -D_GNU_SOURCE -fPIC -fvisibility=hidden -I{NATIVE}/include"
    for command in (
        f"cc {options} -c {NATIVE}/src/*.c",
        "ar rcs libbufpool.a *.o",
        "cc -shared *.o -o libbufpool.so -lpthread -ldl",
    ):
        subprocess.run(command, cwd=folder, shell=True, check=True, timeout=300)
    return folder
