"""A C program that embeds Python: stray accesses before, while and after the interpreter ends, and in its next one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

REPORT = "bufpool: stray"
FATAL = "Fatal Python error"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Arguments: programs in Python, run one after the other. "-" ends the interpreter, "+" begins one again, "stray"
# touches the address that is in the environment as BUFPOOL_STRAY.
PROGRAM = """
#include <Python.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

static void begin(void)
{
    PyStatus status;
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    status = PyConfig_SetBytesString(&config, &config.executable, getenv("PYTHON"));
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesString(&config, &config.program_name, getenv("PYTHON"));
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void stray(void)
{
    volatile char *at = (volatile char *)strtoull(getenv("BUFPOOL_STRAY"), NULL, 0);
    printf("read %02x\\n", (unsigned char)*at);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    begin();
    atexit(stray);
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "-") == 0)
            printf("ended %d\\n", Py_FinalizeEx());
        else if (strcmp(arguments[i], "+") == 0)
            begin();
        else if (strcmp(arguments[i], "stray") == 0)
            stray();
        else if (PyRun_SimpleString(arguments[i]) != 0)
            return 3;
        fflush(stdout);
    }
    return 0;
}
"""

OPEN = """
import ctypes, os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import bufpool
pool = bufpool.Pool("1 MiB", on_fault={on_fault!r}, name="embedded")
libc = ctypes.CDLL(None)
libc.setenv(b"BUFPOOL_STRAY", str(pool.page(5).address + 7).encode(), 1)
"""


def _flags(compiler: str) -> list[str]:
    """The compiler's options for embedding this very Python, or a skip."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    include = sysconfig.get_path("include")
    places = {sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")}
    names = (f"lib{version}.so", f"lib{version}.a")
    for place in sorted(filter(None, places)):
        for name in names:
            library = Path(place, name)
            if library.exists():
                extra = (sysconfig.get_config_var("LIBS") or "") + " " + (sysconfig.get_config_var("SYSLIBS") or "")
                return [compiler, f"-I{include}", "-x", "c", "-", "-x", "none", str(library), f"-Wl,-rpath,{place}",
                        "-rdynamic", *extra.split(), "-lpthread"]  # fmt: skip
    pytest.skip(f"this Python has no library to embed: none of {', '.join(names)} in {', '.join(sorted(places))}")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("embed") / "embedding"
    built = subprocess.run(
        [*_flags(compiler), "-o", program], input=PROGRAM, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture
def run(embedding: Path, tmp_path: Path) -> Run:
    def run(*steps: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [embedding, *steps],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable, "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


FAULTHANDLER = "import faulthandler; faulthandler.enable()"


@pytest.mark.parametrize("faulthandler", ["no", "before", "after"])
@pytest.mark.parametrize("on_fault", ["raise", "resume", "abort"])
def test_stray_accesses_after_the_interpreter_has_ended(run: Run, on_fault: str, faulthandler: str) -> None:
    steps = [OPEN.format(on_fault=on_fault)]
    if faulthandler != "no":
        steps.insert(0 if faulthandler == "before" else 1, FAULTHANDLER)
    done = run(*steps, "-", "stray")
    if on_fault == "abort":
        assert done.returncode in (-signal.SIGBUS, -signal.SIGSEGV), done.stderr
        assert done.stdout == "ended 0\n"
        assert done.stderr.count(REPORT) == 1
    else:
        # The second one, at exit, meets the page that the first has diverted: nobody called the library in between.
        assert (done.returncode, done.stdout) == (0, "ended 0\nread db\nread db\n"), done.stderr
        assert done.stderr.count(REPORT) == 1
    assert 'page 5 of pool "embedded" is ' in done.stderr
    assert FATAL not in done.stderr


def test_stray_accesses_at_every_stage(run: Run) -> None:
    done = run(OPEN.format(on_fault="resume"), "stray", "bufpool.check()", "stray", "-")
    assert (done.returncode, done.stdout) == (0, "read db\nread db\nended 0\nread db\n"), done.stderr
    assert done.stderr.count(REPORT) == 3


def test_closed_before_the_end(run: Run) -> None:
    done = run(OPEN.format(on_fault="resume"), "pool.close()", "-", "stray")
    assert (done.returncode, done.stdout) == (0, "ended 0\nread db\nread db\n"), done.stderr
    assert 'page 5 of pool "embedded" is closed' in done.stderr


def test_owed_at_the_end(run: Run) -> None:
    """What nobody has asked for by the end of Python is written there, and a view lives on in a thread-less program."""
    done = run(OPEN.format(on_fault="raise"), "view = pool.page(5).buffer; view[9] = 1", "-", "stray")
    assert (done.returncode, done.stdout) == (0, "ended 0\nread db\nread db\n"), done.stderr
    assert done.stderr.count(REPORT) >= 1
    assert "offset 9 of" in done.stderr


def test_initialised_again(run: Run) -> None:
    """numpy refuses to be imported by a second interpreter, so that bufpool cannot be; its pools go on all the same."""
    done = run(OPEN.format(on_fault="raise"), "-", "+", FAULTHANDLER, "stray", "-")
    assert (done.returncode, done.stdout) == (0, "ended 0\nread db\nended 0\nread db\n"), done.stderr
    assert done.stderr.count(REPORT) == 1
