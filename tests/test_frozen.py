"""on_fault="freeze": a thread that stopped with the interpreter's lock, seen and let go from outside, and by gdb."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

import bufpool
from bufpool import cli, frozen

PROGRAM = textwrap.dedent("""
    import signal, sys
    import bufpool

    signal.signal(signal.SIGUSR1, lambda *_: None)
    pool = bufpool.Pool("1 MiB", name="ice", trap=sys.argv[1], on_fault="freeze", monitor=sys.argv[2] == "monitor")
    page = pool.allocate(b"a row")
    view = page.buffer
    page.free()
    print("going", flush=True)
    if sys.argv[3] == "write":
        import os
        ends = os.pipe()
        try:
            os.write(ends[1], view[100:200])
        except OSError as error:
            print(error.errno, flush=True)
    else:
        print(view[100], flush=True)
""")

Start = Callable[..., "subprocess.Popen[str]"]


def available(trap: str, monitor: bool = False) -> None:
    try:
        bufpool.Pool("1 MiB", trap=trap, monitor=monitor).close()
    except bufpool.UnsupportedError as error:
        pytest.skip(f"{'no monitor here: ' if monitor else ''}{error.strerror}")


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def run(trap: str, monitor: str = "", what: str = "read") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, trap, monitor, what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate(timeout=300)


def wait_frozen(process: subprocess.Popen[str]) -> frozen.FrozenThread:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            found = frozen.frozen_threads(process.pid)
        except bufpool.BufpoolError:
            found = ()
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing is frozen; the process has ended with {process.poll()}")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("trap", ["uffd", "guard", "mprotect"])
def test_a_frozen_interpreter_is_seen_and_let_go(trap: str, start: Start) -> None:
    available(trap)
    process = start(trap)
    thread = wait_frozen(process)
    assert thread.thread_id == process.pid
    assert ("in the kernel" in thread.place) == (trap == "uffd")
    assert thread.text.startswith(f"=={process.pid}==ERROR: bufpool: stray read of a freed page\nREAD at address")
    assert (thread.report["offset"], thread.report["pool"], thread.report["trap"]) == (100, "ice", trap)
    assert thread.address == int(thread.report["address"], 16)
    assert process.poll() is None

    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.02)
    assert frozen.frozen_threads(process.pid) == (thread,)

    code, output = run("frozen", str(process.pid))
    assert code == 0
    assert thread.text in output
    assert f"1 thread of process {process.pid} frozen" in output
    code, output = run("frozen", "--json", str(process.pid))
    assert code == 0
    listed = json.loads(output)
    assert [(entry["thread_id"], entry["report"]["state"]) for entry in listed] == [(process.pid, "freed")]

    code, output = run("thaw", str(process.pid), "--thread", "1")
    assert code == 1
    assert "thread 1 of process" in output
    assert "is not frozen" in output
    code, output = run("thaw", str(process.pid), "--thread", str(process.pid))
    assert (code, output) == (0, f"thread {process.pid}: resume\n")
    out, err = process.communicate(timeout=300)
    assert out.split() == ["going", str(bufpool.POISON)]
    assert process.returncode == 0
    assert err.count("==ERROR: bufpool") == 1


@pytest.mark.parametrize("trap", ["uffd", "guard"])
def test_abort_ends_it_there(trap: str, start: Start) -> None:
    available(trap)
    process = start(trap)
    wait_frozen(process)
    assert run("thaw", "--policy", "abort", str(process.pid))[0] == 0
    _, err = process.communicate(timeout=300)
    assert process.returncode == -(signal.SIGBUS if trap == "uffd" else signal.SIGSEGV)
    assert err.count("==ERROR: bufpool") == 1


@pytest.mark.parametrize("trap", ["uffd", "guard"])
@pytest.mark.parametrize("signo", [signal.SIGKILL, signal.SIGTERM])
def test_it_can_be_killed(trap: str, signo: signal.Signals, start: Start) -> None:
    available(trap)
    process = start(trap)
    wait_frozen(process)
    process.send_signal(signo)
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signo
    assert "==END of bufpool report 1" in err


def test_a_system_call_freezes_as_it_ends(start: Start) -> None:
    available("uffd", monitor=True)
    process = start("uffd", "monitor", "write")
    thread = wait_frozen(process)
    assert thread.report["in_syscall"] == "write"
    assert thread.place == "in the handler"
    assert run("thaw", str(process.pid))[0] == 0
    out, _ = process.communicate(timeout=300)
    assert out.split() == ["going", "14"]


def test_a_monitored_pool_freezes_in_the_kernel(start: Start) -> None:
    available("uffd", monitor=True)
    process = start("uffd", "monitor")
    thread = wait_frozen(process)
    assert "in the kernel" in thread.place
    assert run("thaw", str(process.pid))[0] == 0
    out, _ = process.communicate(timeout=300)
    assert out.split() == ["going", str(bufpool.POISON)]


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb on this machine")
@pytest.mark.parametrize("trap", ["uffd", "guard"])
def test_gdb_attaches_and_detaches(trap: str, start: Start) -> None:
    available(trap)
    process = start(trap)
    thread = wait_frozen(process)
    process.send_signal(signal.SIGUSR1)  # may be pending when gdb comes
    command = ["gdb", "-nx", "-batch", "-p", str(process.pid), "-ex", "thread apply all backtrace 3"]
    command += [
        "-ex",
        "info registers pc" if os.uname().machine == "aarch64" else "info registers rip",
        "-ex",
        "detach",
    ]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if "ptrace: Operation not permitted" in done.stderr:
            pytest.skip("gdb may not attach here: ptrace: Operation not permitted")
        assert "detached" in done.stdout, done.stderr
        if trap == "uffd":
            assert f"0x{thread.pc:x}" in done.stdout  # the very instruction, under no handler
        assert process.poll() is None
        assert frozen.frozen_threads(process.pid) == (thread,)
    assert run("thaw", str(process.pid))[0] == 0
    out, err = process.communicate(timeout=300)
    assert out.split() == ["going", str(bufpool.POISON)]
    assert err.count("==ERROR: bufpool") == 1


def test_a_pool_thaws_its_own() -> None:
    code = textwrap.dedent("""
        import ctypes, threading, time
        import bufpool

        pool = bufpool.Pool("1 MiB", on_fault="freeze")
        page = pool.allocate(b"a row")
        page.free()
        # ctypes lets go of the interpreter's lock, so that the other threads run while this one is stopped.
        thread = threading.Thread(target=lambda: ctypes.CDLL(None).memset(ctypes.c_void_p(page.address), 1, 8))
        thread.start()
        while not pool.faults:
            time.sleep(0.01)
        assert thread.is_alive() and pool.on_fault == pool.stats().on_fault == "freeze"
        try:
            pool.thaw("raise")
        except bufpool.ArgumentError as error:
            assert '"abort"' in str(error)
        time.sleep(0.1)
        while pool.thaw() == 0:
            time.sleep(0.01)
        thread.join(300)
        assert not thread.is_alive() and pool.thaw() == 0
        time.sleep(0.02)
        pool.pages()  # any call re-arms by now what was resumed
        try:
            page[3]  # guarded access raises, whatever on_fault is
        except bufpool.StrayAccessError:
            print("raised")
    """)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")
    assert (done.returncode, done.stdout) == (0, "raised\n"), done.stderr


def test_what_cannot_be_looked_at() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    code, output = run("frozen", str(ended.pid))
    assert code == 1
    assert f"there is no process {ended.pid}" in output
    code, output = run("thaw", str(os.getpid()))
    assert code == 1
    assert 'no pool of it was opened with on_fault "freeze"' in output
    with pytest.raises(bufpool.ArgumentError, match="policy 'raise' is none of resume, abort"):
        frozen.thaw(os.getpid(), policy="raise")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has no record"),
        (b"x" * 8192, "has no record"),
        (frozen._FACTS.pack(b"BPFROZEN", 1, 1, 64, 4096, 65664, 64, 32832, 32768), "has no record"),
        (frozen._FACTS.pack(b"BPFROZEN", 9, os.getpid(), 64, 4096, 65664, 64, 32832, 32768), "another version"),
        (frozen._FACTS.pack(b"BPFROZEN", 1, os.getpid(), 64, 4096, 65664, 64, 32832, 32768), "damaged"),
        (frozen._FACTS.pack(b"BPFROZEN", 1, os.getpid(), 0, 4096, 64, 64, 32832, 32768), "damaged"),
    ],
)
def test_a_record_is_checked_before_it_is_believed(data: bytes, words: str) -> None:
    fd = os.memfd_create("bufpool-frozen")
    try:
        os.write(fd, data)
        with pytest.raises(bufpool.BufpoolError, match=words):
            frozen.frozen_threads(os.getpid())
    finally:
        os.close(fd)
