"""What a process that attaches decides for itself: it freezes at stray accesses, or has its system calls watched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import HUGE, PAGE, PoolMaker

import bufpool
from bufpool import frozen

# Its arguments: a Unix socket, on_fault, monitor, what it does to page 1, which is freed.
GUEST = """
import os, socket, sys
import bufpool
with socket.socket(fileno=int(sys.argv[1])) as sock, bufpool.PoolHandle.receive(sock) as handle:
    pool = bufpool.Pool.attach(handle, on_fault=sys.argv[2], monitor=sys.argv[3] == "monitor")
row = pool.page(1).buffer[100:200]
print(pool.on_fault, flush=True)
try:
    with pool:
        if sys.argv[4] == "write":
            ends = os.pipe()
            try:
                os.write(ends[1], row)
            except OSError as error:
                print(error.errno)
        else:
            print(row[0])
        print(pool.page(0)[0:5].decode(), pool.stats().faults)
except bufpool.StrayAccessError as error:
    print(error.report.in_syscall)
"""
Guest = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["shared", "hugetlb"])
def pool(request: pytest.FixtureRequest, make_pool: PoolMaker) -> bufpool.Pool:
    """Page 0 is allocated, page 1 freed."""
    if request.param == "hugetlb":
        request.getfixturevalue("huge_pages")
    try:
        pool = make_pool(
            8 * (HUGE if request.param == "hugetlb" else PAGE), page_size=None, memory=request.param, trap="uffd"
        )
    except bufpool.UnsupportedError as error:
        pytest.skip(f"{request.param}-uffd: {error.strerror}")
    pool.allocate(b"a row")
    pool.allocate(b"freed").free()
    return pool


@pytest.fixture
def guest(pool: bufpool.Pool) -> Iterator[Guest]:
    running: list[subprocess.Popen[str]] = []

    def start(on_fault: str, monitor: str, does: str) -> subprocess.Popen[str]:
        if monitor:
            can_monitor()
        ours, theirs = socket.socketpair()
        with ours, theirs, pool.handle() as handle:
            number = theirs.fileno()
            command = [sys.executable, "-c", GUEST, str(number), on_fault, monitor, does]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", pass_fds=[number]
            )
            running.append(process)
            handle.send(ours)
        assert process.stdout is not None
        assert first_line(process.stdout.fileno()) == on_fault
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=300)


def first_line(file: int) -> str:
    """No more than that: what readline() reads ahead is lost to communicate()."""
    line = b""
    while (byte := os.read(file, 1)) not in (b"\n", b""):
        line += byte
    return line.decode()


def can_monitor() -> None:
    try:
        bufpool.Pool("1 MiB", trap="uffd", monitor=True).close()
    except bufpool.UnsupportedError as error:
        pytest.skip(f"no monitor here: {error.strerror}")


def frozen_thread(process: subprocess.Popen[str]) -> frozen.FrozenThread:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        found = frozen.frozen_threads(process.pid)
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing is frozen; the process has ended with {process.poll()}")


def stray(pool: bufpool.Pool, number: int) -> str:
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.page(number)[3]
    return caught.value.report.state


FREEZES = pytest.mark.parametrize(
    ("monitor", "does", "answer"),
    [("", "read", bufpool.POISON), ("monitor", "read", bufpool.POISON), ("monitor", "write", 14)],
    ids=["plain-read", "monitored-read", "monitored-write"],
)


@FREEZES
def test_it_freezes_and_the_others_go_on(
    pool: bufpool.Pool, guest: Guest, monitor: str, does: str, answer: int
) -> None:
    process = guest("freeze", monitor, does)
    thread = frozen_thread(process)
    assert thread.place == ("in the handler" if does == "write" else "in the kernel, on the access itself")
    assert thread.report["in_syscall"] == ("write" if does == "write" else None)
    assert (thread.report["state"], thread.report["page"], thread.report["pid"]) == ("freed", 1, process.pid)
    assert (pool.stats().members, pool.stats().faults_all) == (2, 1)
    assert [stray(pool, number) for number in (1, 5)] == ["freed", "unallocated"]
    assert pool.allocate_at(1, b"again")[0:5] == b"again"  # does not wake it
    pool.free(1)
    assert frozen.frozen_threads(process.pid) == (thread,)
    assert frozen.thaw(process.pid) == (process.pid,)
    out, err = process.communicate(timeout=300)
    assert (out.split(), process.returncode) == ([str(answer), "a", "row", "1"], 0)
    assert err.count("==ERROR: bufpool") == 1
    assert stray(pool, 1) == "freed"
    assert pool.inspect().clean


@pytest.mark.parametrize(("monitor", "does"), [("", "read"), ("monitor", "write")])
def test_it_is_killed_while_it_is_frozen(pool: bufpool.Pool, guest: Guest, monitor: str, does: str) -> None:
    process = guest("freeze", monitor, does)
    frozen_thread(process)
    process.kill()
    assert process.wait(timeout=300) == -signal.SIGKILL
    assert pool.stats().members == 1
    assert pool.allocate_at(1, b"again")[0:5] == b"again"
    assert pool.inspect().clean


def test_the_pool_is_closed_while_it_is_frozen(pool: bufpool.Pool, guest: Guest) -> None:
    process = guest("freeze", "", "read")
    thread = frozen_thread(process)
    pool.close()
    assert frozen.frozen_threads(process.pid) == (thread,)
    assert frozen.thaw(process.pid) == (process.pid,)
    out, err = process.communicate(timeout=300)
    assert (out.split(), process.returncode) == ([str(bufpool.POISON), "None"], 0)
    assert "stray read of a freed page" in err


def test_its_system_calls_are_watched(pool: bufpool.Pool, guest: Guest) -> None:
    process = guest("raise", "monitor", "write")
    out, err = process.communicate(timeout=300)
    assert (out.split(), err, process.returncode) == (["14", "write"], "", 0)
    assert (pool.stats().faults, pool.stats().faults_all) == (0, 1)
    assert stray(pool, 1) == "freed"
