"""A C program under gdb, and one that gdb attaches to: its traps work and report the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NATIVE = Path(__file__).parent.parent / "native"
REPORT = "bufpool: stray"

PROGRAM = """
#include <bufpool/bufpool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

__attribute__((noinline)) static char stray(volatile char *at)
{
    return *at;
}

/* Arguments: the trap, on_fault, and how many characters to wait for before each stray access. */
int main(int count, char **arguments)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    config.capacity = 1 << 20;
    config.trap = arguments[1];
    config.on_fault = arguments[2];
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    alarm(300);
    if (bufpool_open(&config, &pool) < 0)
        return 3;
    for (int i = 0; i < 3; i++) {
        printf("ready\\n");
        fflush(stdout);
        if (count > 3 && getchar() == EOF)
            return 4;
        printf("read %02x\\n", (unsigned char)stray((char *)bufpool_address(pool, 5 + i) + 7));
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the library's sources."""
    if shutil.which("gdb") is None:
        pytest.skip("there is no gdb")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    place = tmp_path_factory.mktemp("debugger") / "program"
    sources = sorted(NATIVE.glob("src/*.c"))
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", f"-I{NATIVE / 'include'}"]
    built = subprocess.run(
        [*command, "-x", "c", "-", *sources, "-x", "none", "-o", place, "-pthread", "-ldl"],
        input=PROGRAM,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return place


def gdb(*commands: str, arguments: list[str], timeout: int = 60) -> subprocess.CompletedProcess[str]:
    options = [word for command in commands for word in ("-ex", command)]
    return subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set confirm off", *options, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


PASS = "handle SIGBUS SIGSEGV nostop noprint pass"


@pytest.mark.parametrize("on_fault", ["resume", "abort"])
def test_run_under_gdb(program: Path, trap: str, on_fault: str) -> None:
    done = gdb(PASS, "run", arguments=["--args", str(program), trap, on_fault])
    reports = 3 if on_fault == "resume" else 1
    assert done.stderr.count(REPORT) + done.stdout.count(REPORT) == reports, done.stderr
    assert done.stdout.count("read db") == (3 if on_fault == "resume" else 0)
    ended = "exited normally" if on_fault == "resume" else "Program terminated with signal"
    assert ended in done.stdout, done.stdout


def test_gdb_stops_at_the_access_itself(program: Path, trap: str) -> None:
    """As it comes gdb stops at the signal: at the faulting instruction, before any report; and lets it go on."""
    commands = ("run", "backtrace 2", "signal 0", "backtrace 2", PASS, "continue")
    done = gdb(*commands, arguments=["--args", str(program), trap, "resume"])
    assert re.search(r"Program received signal SIG(BUS|SEGV)", done.stdout)
    assert re.search(r"#0 .*stray.*\n#1 .*main", done.stdout), done.stdout
    assert "exited normally" in done.stdout
    assert done.stdout.count("read db") == 3


@pytest.fixture
def waiting(program: Path, trap: str, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [program, trap, request.param, "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate(timeout=300)


def status(process: subprocess.Popen[str], field: str) -> str:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return re.findall(rf"^{field}:\s*(.*)$", text, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("waiting", ["resume", "abort"], indirect=True)
def test_gdb_attaches_and_leaves(waiting: subprocess.Popen[str]) -> None:
    """Before the stray access: what gdb has looked at and left goes on as ever."""
    done = gdb(PASS, "backtrace", "detach", arguments=["-p", str(waiting.pid)])
    if "ptrace: Operation not permitted" in done.stderr:
        pytest.skip("gdb may not attach here: ptrace: Operation not permitted")
    assert "main" in done.stdout, done.stderr
    out, err = waiting.communicate("xxx", timeout=300)
    if waiting.returncode == 0:
        assert out.count("read db") == 3
        assert err.count(REPORT) == 3
    else:
        assert waiting.returncode in (-signal.SIGBUS, -signal.SIGSEGV)
        assert err.count(REPORT) == 1


@pytest.mark.parametrize("waiting", ["resume"], indirect=True)
def test_gdb_stays_attached(waiting: subprocess.Popen[str]) -> None:
    """While the stray accesses are made, and it passes their signals on."""
    debugger = subprocess.Popen(
        ["gdb", "-nx", "-batch", "-ex", PASS, "-ex", "continue", "-p", str(waiting.pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
    )
    try:
        deadline = time.monotonic() + 300
        while not (status(waiting, "TracerPid") != "0" and status(waiting, "State").startswith("S")):
            if debugger.poll() is not None:
                pytest.skip(f"gdb may not attach here: {debugger.communicate()[0].strip().splitlines()[-1]}")
            assert time.monotonic() < deadline
            time.sleep(0.01)
        out, err = waiting.communicate("xxx", timeout=300)
        said = debugger.communicate(timeout=300)[0]
    finally:
        debugger.kill()
    assert (waiting.returncode, out.count("read db"), err.count(REPORT)) == (0, 3, 3), err
    assert "exited normally" in said
