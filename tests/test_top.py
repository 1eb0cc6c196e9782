"""bufpool top: frames of every size, lines of JSON, and a real pseudo-terminal with keys, signals and new sizes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CAPABILITIES, PAGE, PoolMaker

import bufpool
from bufpool import cli, outside, tables, top, top_view

# Opens a pool of shared memory, or attaches to that of a process; then does what its stdin says.
PROGRAM = """
import os, sys, bufpool
if len(sys.argv) > 1:
    from bufpool import outside
    (found,) = outside.find(int(sys.argv[1]))
    fds = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (found.memory, found.tables)]
    with bufpool.PoolHandle.from_fds(*fds) as handle:
        pool = bufpool.Pool.attach(handle)
else:
    pool = bufpool.Pool("1 MiB", memory="shared", name="watched")
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
FACTS = tables.Facts(
    name="drawn",
    memory="shared",
    capacity=2**44,
    page_size=PAGE,
    granule=PAGE,
    pages=2**32,
    address=0,
    pid=1000,
    file=(0, 0),
    pid_space=0,
)


Start = Callable[..., Any]


class Host:
    """A process with a pool."""

    def __init__(self, *arguments: str, file: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            executable=file,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self.pid = self.process.pid
        self._answer("ready")

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._answer("done")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=300)

    def _answer(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == word + "\n"


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    running: list[Host] = []

    def start(*arguments: str, **options: str) -> Host:
        running.append(Host(*arguments, **options))
        return running[-1]

    yield start
    for each in running:
        if each.process.returncode is None:
            each.kill()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, ["top", *arguments])
    return result.exit_code, result.output


# ---- Samples ---------------------------------------------------------------------------------------------------------


def test_calls_a_second(make_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("bufpool.top.time.monotonic", lambda: now[0])
    pool = make_pool(256 * PAGE, memory="shared", name="rates", on_fault="resume")
    with top.Watch(os.getpid()) as watch:
        (first,) = watch.frame(10).pools
        assert first.per_second is None
        assert first.processes[0].faults_per_second is None
        numbers = pool.allocate_many(100)
        pool.free_many(numbers[:20])
        for number in numbers[20:30]:
            pool.evict(int(number))
        assert pool.page(200).buffer[0] == bufpool.POISON
        now[0] += 2
        (second,) = watch.frame(10).pools
        assert second.per_second == {
            "allocations": 50.0,
            "frees": 10.0,
            "evictions": 5.0,
            "populates": 0.0,
            "faults": 0.5,
        }
        assert second.census.scratched == 1
        (process,) = second.processes
        assert (process.pid, process.faults, process.faults_per_second) == (os.getpid(), 1, 0.5)
        assert process.alive
        assert process.opener
        assert second.as_dict()["allocated"] == 70
        other = make_pool(64 * PAGE, memory="shared", name="later")
        assert [each.facts.name for each in watch.frame(10).pools] == ["rates", "later"]
        pool.close()
        frame = watch.frame(10)
        assert [each.facts.name for each in frame.pools] == ["later"]
        assert frame.notes[0] == 'pool "later" was opened'
        assert '"rates"' in frame.notes[1]
        other.close()
        assert watch.frame(10).pools == ()


def guest_or_skip() -> None:
    """Those who attach need uffd."""
    entry = next(entry for entry in CAPABILITIES.entries if (entry.memory, entry.trap) == ("shared", "uffd"))
    if not entry.available:
        pytest.skip(f"shared-uffd: {entry.reason}")


def test_processes_come_and_go_under_uffd(host: Callable[..., Host]) -> None:
    guest_or_skip()
    opener = host()
    with top.Watch(opener.pid) as watch:

        def seen() -> dict[int, bool]:
            (pool,) = watch.frame(10).pools
            return {process.pid: process.alive for process in pool.processes}

        assert seen() == {opener.pid: True}
        guest, another = host(str(opener.pid)), host(str(opener.pid))
        assert seen() == {opener.pid: True, guest.pid: True, another.pid: True}
        guest.kill()
        assert seen() == {opener.pid: True, guest.pid: False, another.pid: True}
        code, output = run(str(opener.pid))
        assert code == 0
        assert re.search(rf"^ *{guest.pid} .* died, not yet repaired$", output, re.MULTILINE)
        late = host(str(opener.pid))  # and repairs
        assert seen() == {opener.pid: True, another.pid: True, late.pid: True}
        late.do("pool.close()")
        assert seen() == {opener.pid: True, another.pid: True}
        opener.kill()
        frame = watch.frame(10)
        assert frame.notes == (f"process {opener.pid} has ended",)
        assert {process.pid: process.alive for process in frame.pools[0].processes} == {
            opener.pid: False,
            another.pid: True,
        }
        another.kill()
        frame = watch.frame(10)
        assert frame.pools == ()
        assert frame.notes[-1].startswith('no process has pool "watched" any more: the last one has died')


def test_names_of_processes(host: Callable[..., Host]) -> None:
    """That of the first thread; of a program run as /proc/self/exe its file's, as "exe" says nothing."""
    opener = host(file="/proc/self/exe")
    assert Path(f"/proc/{opener.pid}/comm").read_text() == "exe\n"
    opener.do("import ctypes, threading; name = lambda text: ctypes.CDLL(None).prctl(15, text)")
    opener.do("name(b'exe'); second = lambda: (name(b'second'), bufpool.Pool('1 MiB', memory='shared', name='2'))")
    opener.do("kept = []; thread = threading.Thread(target=lambda: kept.append(second())); thread.start()")
    opener.do("thread.join(); name(b'renamed'); third = bufpool.Pool('1 MiB', memory='shared', name='3')")
    with top.Watch(opener.pid) as watch:
        names = {pool.facts.name: pool.processes[0].name for pool in watch.frame(1).pools}
    file = Path(sys.executable).resolve().name[:15]
    assert names == {"watched": file, "2": file, "3": "renamed"}


def test_a_process_that_has_the_pool_twice_is_one(make_pool: PoolMaker) -> None:
    """As a forked child that attaches to what it has inherited."""
    guest_or_skip()
    pool = make_pool(64 * PAGE, memory="shared", on_fault="resume")
    handle = pool.handle()
    with handle, bufpool.Pool.attach(handle, on_fault="resume") as attached, top.Watch(os.getpid()) as watch:
        watch.frame(1)
        for each in (pool, attached, attached):
            assert each.page(each.stats().faults + 1).buffer[0] == bufpool.POISON
        (process,) = watch.frame(1).pools[0].processes
    assert (process.pid, process.faults, process.alive, process.opener) == (os.getpid(), 3, True, True)
    assert process.faults_per_second


def test_pages_that_the_dead_have_left_busy() -> None:
    states = {"unallocated": 9, "allocated": 1, "freed": 0, "evicted": 0}
    cells = np.array([[9, 1, 0, 0, 3]])
    census = tables.Census(states=states, busy={4: 3, 5: 1}, scratched=0, unknown=2, cells=cells, end=10, exact=True)
    sample = attrs.evolve(drawn(1), census=census, left=3)
    text = "\n".join(line.plain for line in top_view.lines(framed(sample), room(80, None)))
    assert re.search(r"^busy +4 \(3 of dead\)", text, re.MULTILINE)
    assert re.search(r"^damaged +2", text, re.MULTILINE)


# ---- Frames ----------------------------------------------------------------------------------------------------------


def drawn(processes: int) -> top.PoolSample:
    """A pool as large as can be."""
    cells = np.zeros((240, 5), np.int64)
    cells[:, 0] = 2**32 // 240
    cells[10:20, 1] = 2**31
    cells[200, 4] = 2**32
    counts = tables.Counts(
        allocated=10**9,
        evicted=0,
        high_water=2**32,
        allocations=10**15,
        frees=10**15 - 10**9,
        evictions=0,
        populates=0,
        faults=10**6,
        closed=False,
    )
    states = {"unallocated": 2**32 - 10**9, "allocated": 10**9, "freed": 0, "evicted": 0}
    return top.PoolSample(
        facts=FACTS,
        counts=counts,
        census=tables.Census(states=states, busy={}, scratched=0, unknown=0, cells=cells, end=2**32, exact=False),
        processes=tuple(
            top.Process(
                pid=4190000 + n,
                name="a name of 15 ch",
                faults=n * 10**6,
                faults_per_second=1e6 / 3,
                alive=n % 3 > 0,
                opener=n == 1,
            )
            for n in range(processes)
        ),
        per_second=dict.fromkeys((*top.CALLS, "faults"), 12345678.9),
        foreign=True,
        left=0,
    )


def framed(*pools: top.PoolSample) -> top.Frame:
    when = datetime(2026, 1, 31, tzinfo=timezone.utc)
    return top.Frame(time=when, title="process 4190000", pools=pools, notes=("something has happened",) * 2, private=())


def room(width: int, height: int | None, shades: bool = True) -> top_view.Room:
    return top_view.Room(width=width, height=height, shades=shades)


@pytest.mark.parametrize("width", [20, 40, 63, 64, 80, 100, 132, 400])
@pytest.mark.parametrize("height", [1, 5, 12, 24, 60, 300])
@pytest.mark.parametrize("shades", [True, False])
def test_a_frame_fits_the_terminal(width: int, height: int, shades: bool) -> None:
    for processes, pools in ((1, 1), (5, 2), (1023, 1), (2, 40)):
        found = top_view.lines(framed(*[drawn(processes)] * pools), room(width, height, shades))
        assert len(found) <= height
        assert max(line.cell_len for line in found) <= width


def test_what_has_no_room_is_said() -> None:
    text = "\n".join(line.plain for line in top_view.lines(framed(drawn(1023)), room(80, 24)))
    assert re.search(r"and 1,0\d\d more processes", text)
    text = "\n".join(line.plain for line in top_view.lines(framed(*[drawn(1)] * 3), room(80, 24)))
    assert text.count('pool "drawn"') == 3
    assert text.count("stray accesses") == 1


@pytest.mark.parametrize(
    ("cell", "drawn_as"),
    [
        ([0, 0, 0, 0, 0], (" ", "", " ")),
        ([8, 0, 0, 0, 0], ("\u00b7", "dim", ".")),
        ([0, 8, 0, 0, 0], ("\u2588", "green", "A")),
        ([6, 1, 1, 0, 0], ("\u2591", "green", "a")),
        ([0, 1, 5, 2, 0], ("\u2592", "yellow", "e")),
        ([3, 0, 5, 0, 0], ("\u2593", "blue", "F")),
        ([0, 4, 4, 0, 6], ("\u2588", "red", "B")),
    ],
)
def test_a_cell_of_the_strip(cell: list[int], drawn_as: tuple[str, str, str]) -> None:
    character, style, letter = drawn_as
    assert top_view._cell(cell, shades=True) == (character, style)
    assert top_view._cell(cell, shades=False) == (letter, style)


def test_a_frame_in_words(make_pool: PoolMaker) -> None:
    pool = make_pool(256 * PAGE, memory="shared", name="\x1b[2Jname")
    numbers = pool.allocate_many(30)
    pool.free_many(numbers[:10])
    for number in numbers[10:15]:
        pool.evict(int(number))
    code, output = run(str(os.getpid()))
    assert code == 0
    assert "\x1b" not in output
    for pattern in (
        rf"bufpool top: process {os.getpid()} +\d\d:\d\d:\d\d",
        r'pool "\?\[2Jname"  shared, 1 MiB: 256 pages of 4 KiB',
        r"allocated +15 +5\.9 % +allocations +30",
        r"evicted +5 +2\.0 % +frees +10",
        r"freed +10 +3\.9 % +evictions +5",
        r"unallocated +226 +88\.3 % +populates +0",
        r"pages 0 to 29; no later one was ever used \(11\.7 %\)",
        r"F{10}E{5}A{15}",
        rf"{os.getpid()} .* opened it",
        r"A allocated, E evicted",
    ):
        assert re.search(pattern, output), pattern


def test_private_pools_are_named(make_pool: PoolMaker) -> None:
    make_pool(64 * PAGE, memory="shared", name="seen")
    make_pool(64 * PAGE, name="alone\n")
    code, output = run(str(os.getpid()), "--once")
    assert code == 0
    assert 'private, so bufpool_stats() alone tells of them: "alone\\n" (anon, 256 KiB)' in output
    code, output = run(str(os.getpid()), "--once", "--json")
    assert json.loads(output)["private"] == [{"name": "alone\\n", "memory": "anon", "capacity": 64 * PAGE}]


def test_lines_of_json(make_pool: PoolMaker) -> None:
    make_pool(64 * PAGE, memory="shared", name="json").allocate()
    code, output = run(str(os.getpid()), "--once", "--json")
    assert code == 0
    found = json.loads(output)
    assert sorted(found) == ["notes", "pools", "private", "time"]
    assert datetime.fromisoformat(found["time"]).tzinfo is not None
    (pool,) = found["pools"]
    assert (pool["name"], pool["pages"], pool["allocated"], pool["exact"]) == ("json", 64, 1, True)
    assert pool["per_second"] is None
    assert [process["pid"] for process in pool["processes"]] == [os.getpid()]


def test_json_goes_on_until_the_pool_is_closed(host: Callable[..., Host]) -> None:
    opener = host()
    command = [sys.executable, "-m", "bufpool.cli", "top", str(opener.pid), "--json", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as watching:
        assert watching.stdout is not None
        for _ in range(3):
            assert json.loads(watching.stdout.readline())["pools"][0]["name"] == "watched"
        opener.do("pool.close()")
        *_, last = watching.stdout
        assert watching.wait(timeout=300) == 0
    assert json.loads(last)["pools"] == []
    assert '"watched"' in json.loads(last)["notes"][-1]


@pytest.mark.parametrize(("command", "code"), [("top", 1), ("top --json", 1), ("check", 2), ("check --json", 2)])
@pytest.mark.parametrize(("to", "why"), [("> /dev/full", "No space left on device"), (">&-", "it is closed")])
def test_an_output_that_cannot_be_written(host: Start, command: str, code: int, to: str, why: str) -> None:
    guest_or_skip()
    line = f"{sys.executable} -m bufpool.cli {command} {host().pid} {to}"
    done = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True, cwd="/", timeout=300, check=False)
    assert (done.returncode, done.stderr) == (code, f"Error: cannot write the output: {why}\n")


# ---- Nothing to be seen ----------------------------------------------------------------------------------------------


def test_nothing_to_watch(tmp_path: Path, make_pool: PoolMaker) -> None:
    make_pool(64 * PAGE, name="alone")
    for target, sentence in (
        (str(os.getpid()), 'but private ones, of which only bufpool_stats() tells, there: "alone" (anon, 256 KiB)'),
        ("2147483647", "there is no process 2147483647"),
        ("0", "0 is no process"),
        (str(tmp_path / "none"), "cannot be looked at: No such file or directory"),
        (str(tmp_path), "no process has a pool in"),
    ):
        code, output = run(target)
        assert code == 1
        assert sentence in output
        assert "Traceback" not in output


def test_hostile_tables_are_refused_and_others_shown(make_pool: PoolMaker) -> None:
    fd = os.memfd_create("bufpool-tables")
    try:
        os.pwrite(fd, b"\xff" * PAGE, 0)
        code, output = run(str(os.getpid()))
        assert code == 1
        assert f"/proc/{os.getpid()}/fd/{fd} says that it has the tables of a pool, and cannot be used" in output
        make_pool(64 * PAGE, memory="shared", name="good")
        code, output = run(str(os.getpid()))
        assert code == 0
        assert 'pool "good"' in output
        assert f"note: /proc/{os.getpid()}/fd/{fd} says" in output
    finally:
        os.close(fd)


# ---- A terminal ------------------------------------------------------------------------------------------------------


# A terminal becomes that of a session when its leader opens it: then Ctrl-C there is a signal.
ENTER = """
import os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job has it ignored
for number in range(3):
    os.dup2(fd, number)
os.execv(sys.executable, [sys.executable, "-m", "bufpool.cli", "top", *sys.argv[2:]])
"""


class Terminal:
    """A pseudo-terminal in which bufpool top runs."""

    def __init__(self, pid: int, *options: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.mode = termios.tcgetattr(self.slave)
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENTER, os.ttyname(self.slave), str(pid), *options],
            env={**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
            start_new_session=True,
            cwd="/",
        )
        self.seen = b""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, pattern: bytes) -> bytes:
        """Reads on until that comes; what came before is forgotten."""
        deadline = time.monotonic() + 300
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen[-3000:]
            self._read()
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found

    def end(self) -> int:
        """Reads all that comes until the process ends; returns its exit code."""
        deadline = time.monotonic() + 300
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self._read()
        self._read()
        return self.process.returncode

    def _read(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            self.seen += os.read(self.master, 65536)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=300)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(pid: int, *options: str) -> Terminal:
        opened.append(Terminal(pid, *options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


ENTERED, LEFT = rb"\x1b\[\?1049h", rb"\x1b\[\?1049l"


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"xyzQ", 0), (b"\x03", 0)], ids=["q", "others", "ctrl-c"])
def test_keys(host: Start, terminal: Start, key: bytes, code: int) -> None:
    watching = terminal(host().pid)
    watching.read_until(ENTERED)
    watching.read_until(rb"unallocated")
    watching.press(key)
    assert watching.end() == code
    assert re.search(LEFT, watching.seen)
    assert b"Traceback" not in watching.seen
    assert termios.tcgetattr(watching.slave) == watching.mode


def test_a_new_size_is_drawn_at_once(host: Start, terminal: Start) -> None:
    opener = host()
    opener.do("numbers = pool.allocate_many(100)")
    watching = terminal(opener.pid, "--interval", "3600")
    assert b"opened it" in watching.read_until(rb"opened it")
    watching.resize(40, 24)
    watching.read_until(rb"opener")
    watching.resize(80, 24)
    watching.read_until(rb"opened it")
    watching.press(b"q")
    assert watching.end() == 0


def test_what_changes_is_shown_and_the_end_is_said(host: Start, terminal: Start) -> None:
    opener = host()
    watching = terminal(opener.pid, "--interval", "0.05")
    watching.read_until(rb"no page was ever allocated")
    opener.do("numbers = pool.allocate_many(77)")
    watching.read_until(rb"allocated +77 ")
    watching.read_until(rb"(?:\xe2\x96\x88){77}")  # a page a cell
    opener.do("pool.close()")
    assert watching.end() == 0
    assert b'"watched"' in re.split(LEFT, watching.seen)[-1]
    assert termios.tcgetattr(watching.slave) == watching.mode


def test_the_process_is_killed(host: Start, terminal: Start) -> None:
    opener = host()
    watching = terminal(opener.pid, "--interval", "0.05")
    watching.read_until(rb"unallocated")
    opener.kill()
    assert watching.end() == 0
    said = re.split(LEFT, watching.seen)[-1]
    assert f"process {opener.pid} has ended".encode() in said
    assert b"the last one has died" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_the_terminal_back(host: Start, terminal: Start, number: signal.Signals) -> None:
    watching = terminal(host().pid)
    watching.read_until(rb"unallocated")
    watching.process.send_signal(number)
    assert watching.end() == 128 + number
    assert re.search(LEFT, watching.seen)
    assert termios.tcgetattr(watching.slave) == watching.mode


def test_once_in_a_terminal(host: Start, terminal: Start) -> None:
    watching = terminal(host().pid, "--once")
    assert watching.end() == 0
    assert b"unallocated" in watching.seen
    assert not re.search(ENTERED, watching.seen)


def test_it_changes_nothing(make_pool: PoolMaker) -> None:
    pool = make_pool("1 GiB", memory="shared", name="quiet")
    pool.allocate_at(200000)
    (found,) = (each for each in outside.find(os.getpid()) if each.facts.name == "quiet")
    before = Path(found.tables).stat()
    for _ in range(2):
        assert run(str(os.getpid()))[0] == 0
    after = Path(found.tables).stat()
    assert (before.st_blocks, before.st_mtime_ns) == (after.st_blocks, after.st_mtime_ns)
