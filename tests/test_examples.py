"""README's programs are the files in examples/; they run, and print what README says."""

from __future__ import annotations

import doctest
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bufpool

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "native"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.is_file())
FOLDERS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.is_dir())

_MARKED = re.compile(r"^<!-- (output of )?(examples/\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^(.*)\n```(c|cpp|python|pycon)\n", re.MULTILINE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = {name: text for output, name, text in _MARKED.findall(README) if not output}
OUTPUTS = {name: text for output, name, text in _MARKED.findall(README) if output}

# What differs from run to run, and with the trap that works here.
_VARYING = [
    (r"(?:^    (?:#\d+ .*|\.\.\.)\n)+", "    STACK\n"),
    (r"0x[0-9a-f]+", "ADDRESS"),
    (r"==\d+==", "==PID=="),
    (r'thread \d+ ".*" of process \d+, \S+Z, SIG(?:BUS|SEGV)', "thread THREAD of process PID, TIME, SIGNAL"),
    (r'by thread \d+ ".*", \S+Z, [\d.]+ s before', "by thread THREAD, TIME, TIME before"),
    (r"\S+/examples/", "examples/"),
    (r"child of process \d+", "child of process PID"),
    (r"trap (?:uffd|guard|mprotect)\b", "trap TRAP"),
    (r"peak [\d.]+", "peak SIZE"),
    (r"\b\d+ (hits|misses|evictions|recycles|steals|refused|pin cycles)", r"COUNT \1"),
]


def normal(text: str) -> str:
    """The text with fixed words in place of what varies."""
    for varying, word in _VARYING:
        text = re.sub(varying, word, text, flags=re.MULTILINE)
    return text


# ---- README ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_readme_shows_the_example_as_it_is(name: str) -> None:
    assert SHOWN[name] == (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_links_the_larger_example(folder: str) -> None:
    """It is built and run by ctest."""
    assert f"]({folder})" in README
    assert [path.name for path in (ROOT / folder).iterdir() if path.suffix not in (".c", ".h")] == []


def test_readme_shows_no_program_that_is_not_an_example() -> None:
    assert _FENCE.findall(README)
    assert [before for before, _ in _FENCE.findall(README) if not re.fullmatch(r"<!-- examples/\S+ -->", before)] == []
    assert set(SHOWN) == set(FILES)


def test_readme_s_links_lead_somewhere() -> None:
    prose = re.sub(r"^```\w+\n.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!http)([^)#]+)\)", prose)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_words_that_vary_are_the_same_in_two_runs() -> None:
    one = "==1==ERROR\n    #0 0x1 (a+0x2)\n    ...\n  trap uffd, peak 1.8 of 2, 3 hits\n"
    two = "==23==ERROR\n    #0 0xff (b+0x2)\n    #1 0x3 (c)\n  trap guard, peak 2 of 2, 44 hits\n"
    assert normal(one) == normal(two)
    assert normal(one) != normal(two.replace("of 2", "of 3"))


# ---- Running ---------------------------------------------------------------------------------------------------------


def run(command: list[str], folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs without a core dump, with this interpreter's scripts first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PATH": path},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )


def check(name: str, done: subprocess.CompletedProcess[str], *codes: int) -> None:
    """It ended with one of codes, and printed what README says."""
    assert done.returncode in codes, done.stderr
    assert normal(done.stdout + done.stderr).rstrip() == normal(OUTPUTS[name]).rstrip()


def compiled(name: str, native_library: Path, folder: Path, *options: str) -> list[str]:
    """Compiles without a warning and returns the command to run."""
    source = ROOT / name
    compiler, standard = ("c++", "c++11") if source.suffix == ".cpp" else ("cc", "gnu11")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]  # the ..._INIT macros, in C++
    options = (f"-std={standard}", "-O1", "-pthread", *warnings, f"-I{NATIVE}/include", *options)
    program = folder / source.stem
    link = [f"-L{native_library}", f"-Wl,-rpath,{native_library}", "-lbufpool"]
    built = run([compiler, *options, str(source), "-o", str(program), *link], folder)
    assert built.returncode == 0, built.stderr
    return [str(program)]


def test_embed(native_library: Path, tmp_path: Path) -> None:
    name = "examples/embed.c"
    check(name, run(compiled(name, native_library, tmp_path), tmp_path), -signal.SIGBUS, -signal.SIGSEGV)


def test_stale(native_library: Path, tmp_path: Path) -> None:
    name = "examples/stale.c"
    strayed = run(compiled(name, native_library, tmp_path, "-g"), tmp_path)
    assert strayed.returncode in (-signal.SIGBUS, -signal.SIGSEGV), strayed.stderr
    done = run(["bufpool", "report", "stale.jsonl", "--symbolize"], tmp_path)
    check(name, done, 0)
    named = re.compile(r"^    #\d+ in (\w+) at \S+/examples/(stale\.c:\d+)", re.MULTILINE)
    assert named.findall(done.stdout) == named.findall(OUTPUTS[name])


@pytest.mark.parametrize("name", ["examples/callback.c", "examples/guarded.cpp", "examples/optimistic.c"])
def test_compiled(name: str, native_library: Path, tmp_path: Path) -> None:
    check(name, run(compiled(name, native_library, tmp_path), tmp_path), 0)


@pytest.mark.parametrize(
    "name",
    [
        "examples/collect.py",
        "examples/batches.py",
        "examples/files.py",
        "examples/fork.py",
        "examples/provenance.py",
        "examples/sqlite_pool.py",
    ],
)
def test_python(name: str, tmp_path: Path) -> None:
    check(name, run([sys.executable, "-W", "error", str(ROOT / name)], tmp_path), 0)


def test_huge(tmp_path: Path) -> None:
    entry = bufpool.capabilities().of("thp", "uffd")
    if not entry.available:
        pytest.skip(f"thp-uffd: {entry.reason}")
    with bufpool.Pool("2 MiB", memory="thp", page_size=None) as pool:
        note = pool.stats().memory_note
    if note:
        pytest.skip(f"thp-uffd: {note}")
    name = "examples/huge.py"
    check(name, run([sys.executable, "-W", "error", str(ROOT / name)], tmp_path), 0)


def test_workers(tmp_path: Path) -> None:
    entry = bufpool.capabilities().of("shared", "uffd")
    if not entry.available:
        pytest.skip(f"shared-uffd: {entry.reason}")
    name = "examples/workers.py"
    check(name, run([sys.executable, "-W", "error", str(ROOT / name)], tmp_path), 0)


def test_sqlite_pins(tmp_path: Path) -> None:
    name = "examples/sqlite_pins.py"
    done = run([sys.executable, "-W", "error", str(ROOT / name), "20000"], tmp_path)
    check(name, done, 0)
    counts = re.match(r"(\d+) pin cycles, (\d+) evictions, 0 pages left open\n", done.stdout)
    assert counts is not None
    assert int(counts[1]) >= 20000
    assert int(counts[2]) > 1000


def test_preload(tmp_path: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3 shell on this machine")
    name = "examples/preload.sh"
    check(name, run(["sh", "-e", str(ROOT / name)], tmp_path), 0)


def test_test_strays(tmp_path: Path) -> None:
    name = ROOT / "examples/test_strays.py"
    done = run(["pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "--bufpool", "-q", str(name)], tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    done = run(["pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-q", str(name)], tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_unittest_strays(tmp_path: Path) -> None:
    done = run([sys.executable, str(ROOT / "examples/unittest_strays.py")], tmp_path)
    assert "FAIL: test_thread" in done.stderr, done.stderr
    assert "FAILED (failures=1)" in done.stderr, done.stderr
    assert 'stray read of a freed page (page 0 of pool "engine", offset 0)' in done.stderr


_SESSION = """
import json, sys
for source in json.load(sys.stdin):
    exec(compile(source, "<stdin>", "single"))
"""


def test_session(tmp_path: Path) -> None:
    text = (ROOT / "examples/session.pycon").read_text(encoding="utf-8")
    steps = doctest.DocTestParser().get_examples(text)
    assert len(steps) == 7
    done = run([sys.executable, "-c", _SESSION], tmp_path, json.dumps([step.source for step in steps]))
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.sub(r"^    <string>:\d+ in <module>\n", "", done.stdout, flags=re.MULTILINE)  # the program above
    assert normal(printed) == normal("".join(step.want for step in steps))
