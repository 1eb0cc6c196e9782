"""Addresses to names: by each tool that is here, in programs of each kind, and where nothing is to be had."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import textwrap
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from report_samples import line, report

import bufpool
from bufpool import report_log, symbolize
from bufpool.report_log import LoggedReport
from bufpool.symbolize import Symbolizer

TOOLS = [tool for tool in map(shutil.which, ("llvm-symbolizer", "addr2line")) if tool]
COMPILER = shutil.which("cc") or shutil.which("gcc")

# Prints where its code is, as module+offset from the first mapping.
PROGRAM = """
#include <stdio.h>
#include <string.h>
static inline __attribute__((always_inline)) void *inlined(void) { return __builtin_return_address(0); }
__attribute__((noinline)) void *callee(void)
{
    return inlined(); /* line 7 */
}
__attribute__((noinline)) void *caller(void)
{
    void *back = callee(); /* line 11: the return address is behind it */
    __asm__ volatile("" ::: "memory");
    return back;
}
int main(int argc, char **argv)
{
    char text[512];
    unsigned long start = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (start == 0 && fgets(text, sizeof text, maps))
        if (strstr(text, strrchr(argv[0], '/')))
            sscanf(text, "%lx", &start);
    (void)argc;
    printf("%#lx %#lx\\n", (unsigned long)callee - start, (unsigned long)caller() - start);
    return 0;
}
"""


def parsed(**changes: Any) -> LoggedReport:
    (entry,) = report_log.parse(line(report(**changes)), 1)
    assert isinstance(entry, LoggedReport)
    return entry


@pytest.fixture(params=TOOLS, ids=lambda tool: Path(tool).name)
def symbolizer(request: pytest.FixtureRequest) -> Symbolizer:
    return Symbolizer(request.param)


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize("kind", ["-pie", "-no-pie"])
def test_functions_and_lines(symbolizer: Symbolizer, kind: str, tmp_path: Path) -> None:
    assert COMPILER
    source, program = tmp_path / "strange name.c", tmp_path / "pro gram"
    source.write_text(PROGRAM)
    options = ["-g", "-O1", kind, *(["-fPIE"] if kind == "-pie" else ["-fno-pie"])]
    subprocess.run([COMPILER, *options, source, "-o", program], check=True, timeout=300)
    function, back = subprocess.run([program], capture_output=True, text=True, check=True, timeout=300).stdout.split()
    now = datetime.now(timezone.utc) + timedelta(seconds=5)
    seen = parsed(native_stack=[f"{program}+{function}", f"{program}+{back}"], freed=None, allocated=None)
    symbolizer.look_up([attrs.evolve(seen, time=now)])
    assert symbolizer.notes == []
    # The first byte of a function is the function's own only if one is not taken off.
    (first, *_) = symbolizer.names(f"{program}+{function}", True)[-1:]
    assert first.startswith("callee at ")
    assert first.partition(" at ")[2].startswith(str(source))
    assert symbolizer.names(f"{program}+{back}", False) == (f"caller at {source}:11",)


def test_a_module_that_is_gone_changed_or_no_program_is_said(symbolizer: Symbolizer, tmp_path: Path) -> None:
    text, fifo, young = tmp_path / "text", tmp_path / "fifo", tmp_path / "young"
    text.write_text("no program")
    os.mkfifo(fifo)
    shutil.copy("/bin/true", young)
    stack = [f"{place}+0x10" for place in (tmp_path / "gone", text, fifo, tmp_path, young, "/dev/zero", "[vdso]", "x")]
    symbolizer.look_up(
        [parsed(native_stack=[*stack, "0x7f00", "/bin/true", "/bin/true+zz"], freed=None, allocated=None)]
    )
    notes = "\n".join(symbolizer.notes)
    assert f"{tmp_path / 'gone'} is gone" in notes
    assert f"{text} cannot be read: it is no ELF file" in notes
    assert f"{fifo} is no regular file" in notes
    assert f"{tmp_path} is no regular file" in notes
    assert "/dev/zero is no regular file" in notes
    assert f"{young} was changed after the report" in notes
    assert len(symbolizer.notes) == 6 + ("/bin/true was changed" in notes)


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF",
        b"\x7fELF\x02\x01" + bytes(26) + b"\xff" * 32,
        b"\x7fELF\x01\x02" + b"\xff" * 58,
        b"\x7fELF\x02\x01" + bytes(58),
    ],
    ids=["short", "far", "large", "empty"],
)
def test_a_damaged_module_is_said(symbolizer: Symbolizer, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(content)
    symbolizer.look_up([parsed(native_stack=[f"{tmp_path}/module+0x10"], freed=None, allocated=None)])
    assert symbolizer.notes
    assert symbolizer.names(f"{tmp_path}/module+0x10", True) == ()


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\nexit 1\n", "#!/bin/sh\ncat\n", "#!/bin/sh\nyes garbage | head -n 1000\n", "#!/nonexistent\n"],
)
def test_a_broken_tool_does_no_harm(script: str, tmp_path: Path) -> None:
    tool = tmp_path / "llvm-symbolizer"
    tool.write_text(script)
    tool.chmod(0o755)
    broken = Symbolizer(str(tool))
    broken.look_up([parsed(native_stack=["/bin/true+0x10", "/bin/true+0x20", "/bin/true+0x30"])])
    assert broken.names("/bin/true+0x10", True) in ((), ("garbage",))
    assert len(broken.notes) >= 1


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolize, "_TIMEOUT", 0.2)
    tool = tmp_path / "addr2line"
    tool.write_text("#!/bin/sh\nexec sleep 100\n")
    tool.chmod(0o755)
    hanging = Symbolizer(str(tool))
    hanging.look_up([parsed(native_stack=["/bin/true+0x10"])])
    assert any("took longer" in note for note in hanging.notes)


def test_the_exception_names_exported_functions(any_pool: bufpool.Pool) -> None:
    with pytest.raises(bufpool.StrayAccessError) as caught:
        any_pool.page(3)[0]
    text = str(caught.value)
    assert any(f" in {name}+0x" in text for name in ("PyEval_EvalCode", "_PyEval_EvalFrameDefault", "Py_BytesMain"))
    if TOOLS:
        named = caught.value.report.symbolized()
        assert named.startswith(text.splitlines()[0])
        assert "#0 in " in named
        assert named.count("    #0 ") >= 1


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_an_aborted_program_s_log_is_symbolized(symbolizer: Symbolizer, child: Any, tmp_path: Path) -> None:
    """The Python extension has line numbers of its own: the function that strayed is there."""
    done = child(f"""
        pool = bufpool.Pool(64 * PAGE, on_fault="abort", log={str(tmp_path / "log")!r})
        ctypes.memset(pool.address, 1, 8)
    """)
    assert -done.returncode in (signal.SIGBUS, signal.SIGSEGV)
    (entry,) = report_log.parse((tmp_path / "log").read_bytes(), 1)
    assert isinstance(entry, LoggedReport)
    symbolizer.look_up([entry])
    found = [name for place in entry.native_stack for name in symbolizer.names(place, False)]
    assert found, textwrap.shorten(str(entry), 500)
