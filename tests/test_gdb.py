"""The gdb commands, on a live process and on a core dump, with symbols and without, whole and damaged."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bufpool

NATIVE = Path(__file__).parent.parent / "native"
PAGE = 4096
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8").strip()


def gdb_lacks() -> str | None:
    if shutil.which("gdb") is None:
        return "no gdb on this machine"
    command = ["gdb", "-nx", "-batch", "-ex", "python print('has Python')"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return None if "has Python" in done.stdout else "the gdb of this machine has no Python"


LACKING = gdb_lacks()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


def script() -> str:
    command = [str(Path(sys.executable).with_name("bufpool")), "gdb-script"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.strip()


def test_the_package_brings_the_script() -> None:
    for source in (NATIVE / "gdb").glob("*.py"):
        assert Path(script()).with_name(source.name).read_text(encoding="utf-8") == source.read_text(encoding="utf-8")


# ---- Programs that gdb looks at --------------------------------------------------------------------------------------

# Page 2 of "second" is freed and then written to; pages 1 and 3 beside it are allocated.
PROGRAM = r"""
#include <bufpool/bufpool.h>
#include <stdlib.h>

bufpool_pool *open_one(const char *name, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    config.capacity = 64 * 8192;
    config.page_size = 8192;
    config.name = name;
    config.trap = trap;
    config.provenance = "stacks";
    if (bufpool_open(&config, &pool) < 0) {
        exit(3);
    }
    return pool;
}

__attribute__((noinline)) void stray(volatile char *at)
{
    *at = 1;
}

__attribute__((noinline)) void let_go(bufpool_pool *pool, uint64_t page)
{
    bufpool_set_caller("engine.py:12 in main\nengine.py:34 in let_go");
    bufpool_free(pool, page);
    bufpool_set_caller(NULL);
}

int main(int argc, char **argv)
{
    (void)argc;
    uint64_t page;
    bufpool_pool *closed = open_one("first", argv[1]);
    bufpool_pool *pool = open_one("second", argv[1]);
    bufpool_close(closed);
    bufpool_allocate_at(pool, 1, "neighbour", 10);
    bufpool_allocate(pool, "zero", 5, &page);
    bufpool_allocate_at(pool, 2, NULL, 0);
    bufpool_allocate_at(pool, 20, "far away", 9);
    bufpool_allocate_at(pool, 21, NULL, 0);
    bufpool_evict(pool, 21);
    let_go(pool, 2);
    stray((char *)bufpool_address(pool, 2) + 5000);
    return 0;
}
"""


# The pool is that of two processes. The second one, "worker", frees page 2, and the third last. Then one of them
# dies, or both wait. Arguments: who, capacity.
SHARED = r"""
#include <bufpool/bufpool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) void stray(volatile char *at)
{
    *at = 1;
}

__attribute__((noinline)) void let_go(bufpool_pool *pool, uint64_t page)
{
    bufpool_set_caller("worker.py:34 in let_go");
    bufpool_free(pool, page);
    bufpool_set_caller(NULL);
}

int main(int argc, char **argv)
{
    (void)argc;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    bufpool_pool *pool;
    int pipes[2];
    char byte = 0;
    config.capacity = strtoull(argv[2], NULL, 0);
    config.page_size = 8192;
    config.memory = "shared";
    config.trap = "uffd";
    config.name = "common";
    config.fork = "exclude";
    config.provenance = "stacks";
    uint64_t last = config.capacity / 8192 - 3;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    prctl(PR_SET_NAME, "engine");
    if (pipe(pipes) != 0 || bufpool_open(&config, &pool) < 0 || bufpool_share(pool, &handle) < 0) {
        return 3;
    }
    bufpool_allocate_at(pool, 1, "neighbour", 10);
    bufpool_allocate_at(pool, 2, NULL, 0);
    bufpool_allocate_at(pool, last, NULL, 0);
    pid_t owner = getpid();
    pid_t worker = fork();
    if (worker == 0) {
        bufpool_config mine = BUFPOOL_CONFIG_INIT;
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, "worker");
        if (bufpool_attach(&mine, &handle, &pool) < 0) {
            return 4;
        }
        let_go(pool, 2);
        let_go(pool, last);
    }
    if (worker == 0 ? write(pipes[1], &byte, 1) != 1 : read(pipes[0], &byte, 1) != 1) {
        return 5;
    }
    if (strcmp(argv[1], worker == 0 ? "worker" : "engine") == 0) {
        stray((char *)bufpool_address(pool, last) + 5000);
    }
    if (strcmp(argv[1], "abort") == 0 && worker == 0) {
        abort();
    }
    if (strcmp(argv[1], "crash") == 0 && worker == 0) {
        stray((char *)8);
    }
    if (strcmp(argv[1], "both") == 0 && worker != 0) {
        printf("%d %d\n", (int)owner, (int)worker);
        fflush(stdout);
    }
    if (worker == 0) {
        pause();
    }
    waitpid(worker, NULL, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def programs(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with the shared library, with the static one, that one stripped; and as a library. And the other."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "program.c").write_text(PROGRAM, encoding="utf-8")
    (folder / "common.c").write_text(SHARED, encoding="utf-8")
    flags = f"-std=c11 -O1 -g -fPIC -I{NATIVE}/include"
    shared = f"-L{native_library} -Wl,-rpath,{native_library} -lbufpool"
    for command in (
        f"cc {flags} program.c -o shared {shared}",
        f"cc {flags} program.c -o static -Wl,--gc-sections {native_library}/libbufpool.a -lpthread -ldl",
        "strip -s -o stripped static",
        f"cc {flags} common.c -o common {native_library}/libbufpool.a -lpthread -ldl",
        f"cc {flags} -shared program.c -o libprogram.so {shared}",
    ):
        subprocess.run(command, cwd=folder, shell=True, check=True, timeout=300)
    return folder


def gdb(*arguments: str, commands: list[str], folder: Path) -> str:
    """What gdb prints; no Python traceback may be in it."""
    words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set style enabled off"]
    for command in (f"source {script()}", "python from bufpool_layout import HEAD, read, text_of", *commands):
        words += ["-ex", command]
    done = subprocess.run(
        [*words, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    return printed


def gdb_run(program: Path, *commands: str, trap: str = "auto") -> str:
    """Runs the program in gdb to its stray access, before the library's handler has seen it."""
    before = ["set startup-with-shell off", "set confirm off", "run"]
    return gdb("--args", str(program), trap, commands=[*before, *commands], folder=program.parent)


def has(text: str, *patterns: str) -> None:
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern!r} is missing in:\n{text}"


POOLS = (
    r'pool "first" is \[0x\w+, 0x\w+\): 64 pages of 8 KiB, memory anon, trap \w+, on_fault abort, process \d+, closed',
    r'pool "second" is \[0x\w+, 0x\w+\): 64 pages of 8 KiB, memory anon, trap \w+, on_fault abort, process \d+\n'
    r"  pages allocated: 3, evicted: 1, ever used: 22; faults:",
)


MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
HISTORY = (
    rf'  freed by thread (\d+) "\w+" of process \1, {MOMENT} \(event 7\)\n    #0 0x\w+ \S.*\n    #1 0x\w+ ',
    r"\n    on behalf of, innermost last:\n      engine\.py:12 in main\n      engine\.py:34 in let_go\n"
    rf"  allocated by thread (\d+) \"\w+\" of process \1, {MOMENT} \(event 3\)\n    #0 0x\w+ ",
    r"\(event 7\)\n    #0 0x\w+ let_go \+ \d+ at \S*program\.c:\d+\n    #1 0x\w+ main \+ \d+ at \S*program\.c:\d+\n",
    r"\(event 3\)\n    #0 0x\w+ main \+ \d+ at \S*program\.c:\d+\n",
)


# ---- A live process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shared", "static", "stripped"])
def test_live(programs: Path, name: str) -> None:
    shown = gdb_run(programs / name, "bufpool pools", "bufpool page", "bufpool page second 1", "bufpool page second 21")
    module = "libbufpool.so" if name == "shared" else name
    has(
        shown,
        rf"bufpool {re.escape(bufpool.__version__)} in \S*{module}\n",
        *POOLS,
        r'page 2 of pool "second" is freed\n  offset 5000 of 8192 bytes; the page is \[0x\w+, 0x\w+\)',
        r'page 1 of pool "second" is allocated',
        r'page 21 of pool "second" is evicted',
        r"remembered faults of this page: none\n",
        *HISTORY[: 2 if name == "stripped" else 4],
    )


def test_attached(tmp_path: Path) -> None:
    """To a Python process, with the release build of the extension module; and a second copy of the library."""
    program = (
        "import ctypes, sys, bufpool\n"
        "ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n"  # PR_SET_PTRACER_ANY
        "pool = bufpool.Pool('1 MiB', name='of Python', provenance='stacks')\n"
        "page = pool.allocate(b'x'); other = pool.allocate(); page.free()\n"
        "lagging = bufpool.Pool('1 MiB', name='that lags', free_lag=4); lagging.allocate().free()\n"
        "for i in range(12):\n"
        "    try: page[i]\n"
        "    except bufpool.StrayAccessError: pass\n"
        "print(page.address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as child:
        assert child.stdout is not None
        address = int(child.stdout.readline())
        commands = ["bufpool pools", f"bufpool page {address + 77}", 'bufpool faults "of Python"']
        commands.append('bufpool page "that lags" 0')
        shown = gdb("-p", str(child.pid), commands=commands, folder=tmp_path)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=300) == 0
    if "ptrace: Operation not permitted" in shown:
        pytest.skip("this process may not attach to its own child")
    has(
        shown,
        r"bufpool \S+ in \S*_native\.abi3\.so\n",
        rf'pool "of Python" is \[0x\w+, 0x\w+\): 256 pages of 4 KiB, .* on_fault raise, process {child.pid}\n',
        r'page 0 of pool "of Python" is freed\n  offset 77 of 4096',
        r'page 0 of pool "that lags" is freed; its frame lags \(free_lag\), so that it does not trap yet\n',
        r"remembered faults of this page: 12, the latest 8\n",
        rf"report 12: stray read at {address + 11:#x}, page 0 \(freed\), offset 11\n"
        rf'\s+by thread {child.pid} "python\S*" of process {child.pid}, \d+-\d+-\d+T\S+Z\n\s+#0 0x\w+ \S+',
    )
    assert shown.count("report 1: ") == 1  # by bufpool faults, which shows them all
    assert shown.count("report 12: ") == 2


def test_red_zones_and_pins(tmp_path: Path) -> None:
    program = (
        "import ctypes, sys, bufpool\n"
        "ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n"  # PR_SET_PTRACER_ANY
        "options = {'provenance': 'last', 'pins': 'all', 'red_zones': True, 'on_fault': 'resume'}\n"
        "pool = bufpool.Pool('1 MiB', name='guarded', **options)\n"
        "page, other = pool.allocate(b'x'), pool.allocate()\n"
        "def touch(at, write=False):\n"
        "    c = ctypes.c_char.from_address(at); c.value = b'w' if write else c.value\n"
        "page.pin(); touch(page.address + 5, True); page.unpin(); touch(page.address + 6)\n"
        "touch(page.address - 3)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        shown = gdb("-p", str(child.pid), commands=["bufpool faults guarded"], folder=tmp_path)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=300) == 0
    if "ptrace: Operation not permitted" in shown:
        pytest.skip("this process may not attach to its own child")
    has(
        shown,
        r"report 1: stray write at 0x\w+, page 0 \(read-only, went_through\), offset 5\n",
        r"\n    pins: 1 for reading\n    pinned by thread ",
        r"report 2: stray read at 0x\w+, page 0 \(unpinned\), offset 6\n",
        r"\n    unpinned by thread ",
        r"report 3: stray read at 0x\w+, page 0 \(red-zone\), offset -3\n",
    )


TWO = """
import ctypes, os, signal
import bufpool
pool = bufpool.Pool("1 MiB", name="of Python")
ctypes.CDLL("LIBRARY").open_one(b"of C", b"auto")
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_two_copies_in_one_process(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO.replace("LIBRARY", str(programs / "libprogram.so")), encoding="utf-8")
    commands = ["set startup-with-shell off", "run", "bufpool pools", "bufpool page 'of C' 3"]
    shown = gdb("--args", sys.executable, "two.py", commands=commands, folder=tmp_path)
    has(
        shown,
        r'bufpool \S+ in \S*_native\.abi3\.so\npool "of Python"',
        r'bufpool \S+ in \S*libbufpool\.so\npool "of C"',
        r'page 3 of pool "of C" is unallocated',
    )


REPORTED = """
import os, signal
import bufpool
first, second, third = (bufpool.Pool("1 MiB", name=name) for name in ("first", "second", "third"))
for pool in (first, third, second):
    try:
        pool.page(9)[77]
    except bufpool.StrayAccessError:
        pass
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_where_no_fault_stopped_it_the_newest_report_is_shown(tmp_path: Path) -> None:
    (tmp_path / "reported.py").write_text(REPORTED, encoding="utf-8")
    commands = ["set startup-with-shell off", "handle SIGBUS SIGSEGV nostop noprint pass", "run", "bufpool page"]
    shown = gdb("--args", sys.executable, "reported.py", commands=commands, folder=tmp_path)
    has(
        shown,
        r"the process was not stopped by a SIGBUS or SIGSEGV; this is the page of the newest report, 3:\n"
        r'page 9 of pool "second" is unallocated\n  offset 77 of 4096 bytes',
        r"report 3: stray read at 0x\w+, page 9 \(unallocated\), offset 77\n",
    )


MONITORED = """
import os, signal
import bufpool
pool = bufpool.Pool("1 MiB", monitor=True, on_fault="resume")
page = pool.allocate()
view = page.buffer
page.free()
try:
    os.write(1, view[5:50])
except OSError:
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_in_a_system_call(tmp_path: Path) -> None:
    try:
        bufpool.Pool("1 MiB", monitor=True).close()
    except bufpool.UnsupportedError as error:
        pytest.skip(f"no monitor here: {error.strerror}")
    (tmp_path / "monitored.py").write_text(MONITORED, encoding="utf-8")
    commands = ["set startup-with-shell off", "handle SIGBUS nostop noprint pass", "run", "bufpool faults"]
    shown = gdb("--args", sys.executable, "monitored.py", commands=commands, folder=tmp_path)
    has(shown, r"report 1: stray read at 0x\w+, page 0 \(freed\), offset 5, in the system call write\n")


# ---- A core dump -----------------------------------------------------------------------------------------------------


def let_kernel_dump(program: Path, *arguments: str, folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Runs a program, which or a child of which dies; finds the core dump."""
    if CORE_PATTERN.startswith("|") or "/" in CORE_PATTERN:
        pytest.skip(f"core dumps of this machine go elsewhere: kernel.core_pattern is {CORE_PATTERN}")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the hard limit RLIMIT_CORE of this process does not allow a core dump")
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
    )
    (core,) = folder.iterdir()
    return core, done


def kernel_core(programs: Path, program: str, folder: Path, trap: str) -> Path:
    """Of the program, which dies of its stray access, by the kernel."""
    core, done = let_kernel_dump(programs / program, trap, folder=folder)
    assert done.returncode < 0, done
    assert "stray write of a freed page" in done.stderr
    return core


def gdb_core(programs: Path, program: str, folder: Path, trap: str) -> Path:
    """By gdb, when the signal comes back after the report."""
    core = folder / "core"
    gdb_run(programs / program, "continue", f"generate-core-file {core}", "kill", trap=trap)
    return core


MakeCore = Callable[[Path, str, Path, str], Path]
TRAPS = [entry for entry in bufpool.capabilities().entries if entry.memory == "anon" and entry.users]


@pytest.mark.parametrize("make", [kernel_core, gdb_core], ids=["kernel", "gdb"])
@pytest.mark.parametrize("entry", TRAPS, ids=lambda entry: entry.trap)
def test_core(programs: Path, tmp_path: Path, make: MakeCore, entry: bufpool.Capability) -> None:
    if not entry.available:
        pytest.skip(f"{entry.memory}-{entry.trap}: {entry.reason}")
    core = make(programs, "static", tmp_path, entry.trap)
    commands = ["bufpool pools", "bufpool page", "bufpool page second 20", "bufpool faults", "bufpool page first 7"]
    shown = gdb(str(programs / "static"), str(core), commands=commands, folder=tmp_path)
    report = r"report 1: stray write at 0x\w+, page 2 \(freed\), offset 5000\n"
    has(
        shown,
        *POOLS,
        rf"trap {entry.trap},",
        rf'page 2 of pool "second" is freed\n  offset 5000 .*(?:\n.*)*remembered faults of this page: 1\n\s+{report}',
        r'by thread (\d+) "static" of process \1, ',
        r"#0 0x\w+ stray.* at \S*program\.c:\d+\n\s+#1 0x\w+ main \+ \d+ at \S*program\.c:\d+\n",
        r'page 20 of pool "second" is allocated(?:\n.*)*its content is not in this dump: ',
        rf'pool "second": faults: 1, remembered: 1\n  {report}',
        r'page 7 of pool "first" is closed\n(?:  .*\n)*?  closed by thread .* \(event 1\)\n    #0 0x\w+ main',
        *HISTORY,
    )
    days = {moment[:10] for moment in re.findall(MOMENT, shown)}
    assert len(days) == 1 or (len(days) == 2 and "1970-01-01" not in days)  # the events' and the fault's; or midnight
    assert shown.count("(event 7)") == shown.count("(event 3)") == 2  # of the page, and of the fault when shown alone


@pytest.mark.parametrize("make", [kernel_core, gdb_core], ids=["kernel", "gdb"])
@pytest.mark.parametrize("entry", TRAPS, ids=lambda entry: entry.trap)
def test_core_holds_the_pages_beside_the_fault(
    programs: Path, tmp_path: Path, make: MakeCore, entry: bufpool.Capability
) -> None:
    if not entry.available:
        pytest.skip(f"{entry.memory}-{entry.trap}: {entry.reason}")
    core = make(programs, "static", tmp_path, entry.trap)
    look = "python print('page %d:', is_missing(pool_of('second').first + %d * 8192))"
    text = "python print(text_of(read(pool_of('second').first + %d * 8192, 20, '')))"
    commands = [look % (page, page) for page in (0, 1, 2, 3, 20, 21)] + [text % 0, text % 1, "bufpool page second 1"]
    shown = gdb(str(programs / "static"), str(core), commands=commands, folder=tmp_path)
    has(shown, "page 0: False\npage 1: False\npage 2: True\npage 3: True\npage 20: True\npage 21: True\n")
    has(shown, r"\nzero\nneighbour\npage 1 of pool \"second\" is allocated")
    assert "its content is not in this dump" not in shown


def test_core_without_its_program(programs: Path, tmp_path: Path) -> None:
    core = gdb_core(programs, "stripped", tmp_path, "auto")
    commands = ["bufpool pools", "bufpool page second 2"]
    shown = gdb("-c", str(core), commands=commands, folder=tmp_path)
    has(shown, *POOLS, *HISTORY[:2], r'page 2 of pool "second" is freed', r"#0 0x\w+ \(\S+/stripped\+0x\w+\)")


# ---- A pool of two processes -----------------------------------------------------------------------------------------

SMALL, HUGE = 16 << 20, 1 << 40


@pytest.fixture
def _sharing() -> None:
    (entry,) = (entry for entry in bufpool.capabilities().entries if (entry.memory, entry.trap) == ("shared", "uffd"))
    if not entry.available:
        pytest.skip(f"shared-uffd: {entry.reason}")


def common(capacity: int, page: int) -> tuple[str, ...]:
    """What gdb shows of the pool, and of a page that the worker freed, in whichever process."""
    return (
        rf'pool "common" is \[0x\w+, 0x\w+\): {capacity // 8192} pages of 8 KiB, memory shared, trap uffd, .*\n'
        r"  pages allocated: 1, evicted: 0, ever used: \d+; faults: \d+\n"
        r'  processes that have it: \d+ "engine", \d+ "worker"\n',
        rf'page {page} of pool "common" is freed\n(?:  .*\n)*?'
        rf'  freed by thread (\d+) "worker" of process \1, {MOMENT} \(event \d\)\n'
        r"    #0 0x\w+ .*\n(?:    .*\n)*?    on behalf of, innermost last:\n      worker\.py:34 in let_go\n"
        rf'  allocated by thread (\d+) "engine" of process \2, {MOMENT} \(event \d\)\n    #0 0x\w+ ',
        r'page 1 of pool "common" is allocated(?:\n  .*)*?\n  allocated by thread \d+ "engine" of process',
    )


def look(*pages: int) -> list[str]:
    return ["bufpool pools", *(f"bufpool page common {page}" for page in (*pages, 1))]


@pytest.mark.usefixtures("_sharing")
@pytest.mark.parametrize("who", ["engine", "worker"])
def test_shared_live(programs: Path, tmp_path: Path, who: str) -> None:
    """And the dump that gdb makes of it."""
    core = tmp_path / "core"
    with subprocess.Popen(
        [str(programs / "common"), "both", str(SMALL)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as child:
        assert child.stdout is not None
        pid = child.stdout.readline().split()[who == "worker"]
        shown = gdb("-p", pid, commands=[*look(2), f"generate-core-file {core}"], folder=tmp_path)
        child.kill()
    if "ptrace: Operation not permitted" in shown:
        pytest.skip("this process may not attach to its own child")
    has(shown, *common(SMALL, 2))
    shown = gdb(str(programs / "common"), str(core), commands=look(2), folder=tmp_path)
    has(shown, *common(SMALL, 2))
    assert core.stat().st_size < 150 << 20


@pytest.mark.usefixtures("_sharing")
@pytest.mark.parametrize("capacity", [SMALL, HUGE], ids=["16 MiB", "1 TiB"])
@pytest.mark.parametrize("who", ["engine", "worker", "crash", "abort"])
def test_shared_core_kernel(programs: Path, tmp_path: Path, who: str, capacity: int) -> None:
    """Of one that strays, of a guest that dies of another fault, or of what no handler sees."""
    core, done = let_kernel_dump(programs / "common", who, str(capacity), folder=tmp_path)
    last = capacity // 8192 - 3
    assert ("stray write of a freed page" in done.stderr) == (who in {"engine", "worker"}), done
    shown = gdb(str(programs / "common"), str(core), commands=look(2, last), folder=tmp_path)
    has(shown, *common(capacity, 2))
    if who == "abort" and capacity == HUGE:  # only what is always there
        has(shown, rf"bufpool: the state of page {last} is not in this core dump")
    else:
        has(shown, *common(capacity, last))
    assert core.stat().st_size < 150 << 20  # tables of 1 TiB are 4 GiB


# ---- What is missing or damaged --------------------------------------------------------------------------------------


def test_no_process(programs: Path) -> None:
    shown = gdb(str(programs / "static"), commands=["bufpool pools"], folder=programs)
    has(shown, r"bufpool: there is no process: attach to one")


def test_no_library() -> None:
    shown = gdb(
        "--args", "/bin/true", commands=["set startup-with-shell off", "starti", "bufpool pools"], folder=Path("/")
    )
    has(shown, r"bufpool: no copy of bufpool was found")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("bufpool page nothere 1", r'there is no pool "nothere": see bufpool pools'),
        ("bufpool page second 64", r'pool "second" has no page 64: its pages are 0 to 63'),
        ("bufpool page second -1", r'pool "second" has no page \d+: its pages are 0 to 63'),
        ("bufpool page second nosuch", r'"nosuch" is not a number: '),
        ("bufpool page 0x1234", r"0x1234 is in no pool: see bufpool pools"),
        ("bufpool page 1 2 3", r"usage: bufpool page"),
        ("bufpool pools 1", r"usage: bufpool pools"),
        ("bufpool faults 1 2", r"usage: bufpool faults"),
        ("bufpool faults 'no such'", r'there is no pool "no such"'),
    ],
)
def test_bad_input(programs: Path, command: str, sentence: str) -> None:
    has(gdb_run(programs / "static", command), sentence)


def test_not_stopped_by_a_stray_access(programs: Path) -> None:
    commands = ["set startup-with-shell off", "break bufpool_evict", "run", "bufpool page", "bufpool pools"]
    shown = gdb("--args", str(programs / "static"), "auto", commands=commands, folder=programs)
    has(shown, r"bufpool: the process was not stopped by a SIGBUS or SIGSEGV", r'pool "second" is')


POKE = (
    "python import struct",
    "python pools = {pool.name: pool.at for pool in survey()[0]}",
    "python first, second, library = pools['first'], pools['second'], survey()[0][0].library",
    "python place = lambda name: library.constant('pool.' + name)",
    "python link = place('next')",
    "python stacks_of_page_2 = survey()[0][0].number('stacks') + 16",
    "python poke = lambda at, *words: gdb.selected_inferior().write_memory(at, struct.pack(f'={len(words)}Q', *words))",
)


@pytest.mark.parametrize(
    ("damage", "command", "sentences"),
    [
        # The list begins with "second".
        ("poke(first + link, second)", "pools", (*POOLS, r"damaged: it does not end: after 2 pools")),
        ("poke(second + link, second)", "pools", (POOLS[1], r"does not end: after 1 pools")),
        ("poke(second + link, 0x10)", "pools", (POOLS[1], r"is damaged: cannot read pool.\w+ \(\d bytes at 0x")),
        ("poke(second + link, 2**64 - 8)", "pools", (POOLS[1], r"is damaged: cannot read pool\.")),
        ("poke(second + place('page_size'), 0)", "pools", (POOLS[0], r"the pool at 0x\w+ is damaged: its addresses")),
        (
            "poke(second + place('end'), 5)",
            "page",
            (r"is in no pool: see bufpool pools\nthe pool at 0x\w+ is damaged",),
        ),
        ("poke(second + place('states'), 8)", "page", (r"cannot read the state of page 2 \(2 bytes at 0xc\)",)),
        ("poke(second + place('faults'), 2**63)", "faults second", (r"faults: 9223372036854775808, remembered: 0",)),
        (
            "poke(second + place('faults'), 1), poke(second + place('ring'), 8)",
            "page",
            (r"remembered faults .* 0x8\)",),
        ),
        ("poke(second + place('trap'), 8)", "pools", (POOLS[0], r"trap \(name not in this dump\)")),
        ("poke(second + place('records'), 8)", "page", (r"cannot read what is recorded of page 2 ", r"page: none")),
        ("poke(second + place('stacks'), 8)", "page", (r"cannot read the stacks of page 2 ", r"page: none")),
        ("poke(stacks_of_page_2, 2**64 - 1)", "page", (r"freed by thread .*\n  allocated by thread", r"page: none")),
        ("poke(second + place('depot'), 8)", "page", (r"cannot read kept\.frames ", r"page: none")),
        ("poke(second + place('threads'), 8)", "page", (r"cannot read thread\.serial ", r"page: none")),
        (
            "poke(second + place('threads'), 0)",
            "page",
            (r"freed by a thread that is not known any more", r"page: none"),
        ),
        ("poke(library.address + 16, 99)", "pools", (r"has layout 99, and this script knows \d+",)),
        ("poke(library.address + 20, 7)", "pools", (r"says that its layout has 7 bytes: it is damaged",)),
        ("poke(library.address, 0)", "pools", (r"no copy of bufpool was found",)),
        ("poke(library.address + 40, 0)", "pools", (r"no pool is open, and none was closed",)),
    ],
)
def test_damaged(programs: Path, damage: str, command: str, sentences: tuple[str, ...]) -> None:
    shown = gdb_run(programs / "static", *POKE, f"python {damage}", f"bufpool {command}")
    has(shown, *sentences)


def test_a_newer_library_may_have_more_fields(programs: Path) -> None:
    """And one without a field that the script asks for is told from a damaged one."""
    rename = "python gdb.selected_inferior().write_memory(library.address + HEAD.size, b'pool.later')"
    shown = gdb_run(programs / "static", *POKE, rename, "bufpool pools")
    has(shown, r"bufpool \S+ in \S+ does not say where pool\.next is: take that library's script")


def test_a_name_does_not_steer_the_terminal(programs: Path) -> None:
    poke = r"python gdb.selected_inferior().write_memory(second + place('name'), b'a\x1b[31mb\nc\0')"
    shown = gdb_run(programs / "static", *POKE, poke, "bufpool pools", r"bufpool page 'a\\x1b[31mb\\nc' 2")
    has(shown, r'\npool "a\\x1b\[31mb\\nc" is \[', r'page 2 of pool "a\\x1b\[31mb\\nc" is freed')
    assert "\x1b" not in shown


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    assert os.environ["HOME"] == str(tmp_path)
