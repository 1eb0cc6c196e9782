"""`bufpool report` on the command line."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from report_samples import event, evil, line, report, suppressed

import bufpool
from bufpool import cli, symbolize


def invoke(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.main, ["report", *map(str, arguments)], input=stdin, env={"COLUMNS": "80"})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_bytes(
        line(report(sequence=1))
        + line(report(sequence=2, page=11, time="2026-11-23T04:00:00.000000Z", pid=50))
        + line(report(sequence=3, page=7, state="evicted", freed=event("evict"), pool="other"))
        + line(suppressed())
        + b"garbage\n"
    )
    return path


def test_reports_are_printed_as_bufpool_writes_them(make_pool: Any, tmp_path: Path) -> None:
    pool = make_pool(log=tmp_path / "log", provenance="stacks", name="x")
    page = pool.allocate()
    pool.allocate()
    page.free()
    with bufpool.catch_faults() as caught:
        page[100] = 1
    (fault,) = caught.reports
    written = str(fault).partition("\n  Python, innermost")[0]
    expected = re.sub(r"#(\d+) 0x[0-9a-f]+(?: in [^ ]+)? \((.*)\)", r"#\1 \2", written)
    assert invoke(tmp_path / "log").stdout == expected + "\n\n"


def test_how_long_before_is_cut_off_not_rounded_as_bufpool_does(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line(report(freed=event("free", time="2026-11-23T02:59:59.160300Z"))))
    assert ", 3.339 s before (event " in invoke(tmp_path / "log").stdout


def test_a_report_is_printed(log: Path) -> None:
    result = invoke(log)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "==40==ERROR: bufpool: stray write of a freed page\nWRITE at address 0x7e0000009064,"
    )
    assert "    #1 /usr/lib/libengine.so+0x5040\n" in result.stdout
    assert '  freed by thread 77 "cleaner", 2026-11-23T03:00:00.000000Z, 2.500 s before (event 3)\n' in result.stdout
    assert "      /srv/load.py:9 in fill\n" in result.stdout
    assert "  neighbours: 3996 bytes before page 10, which is allocated\n" in result.stdout
    assert "==40== bufpool: 5000 more stray accesses to pool" in result.stdout
    assert "line 5 is no report: it is no JSON, or cut short" in result.stdout
    assert "note: 1 line is no report" in result.stderr


def test_pins_and_the_seed_are_printed(tmp_path: Path) -> None:
    pin = event("pin", thread_name="reader", native_stack=["/usr/lib/libengine.so+0x99"])
    members = report(state="read-only", read_pins=2, write_pins=1, pinned=pin, sample=7, seed=str(2**64 - 1))
    (tmp_path / "log").write_bytes(line(members))
    output = invoke(tmp_path / "log").stdout
    assert "  the pool guards one allocation in 7: the same ones again with seed 18446744073709551615\n" in output
    assert '  pins: 2 for reading, 1 for writing\n  pinned by thread 77 "reader", ' in output
    assert "    #0 /usr/lib/libengine.so+0x99\n" in output
    assert json.loads(invoke(tmp_path / "log", "--json").stdout) == {
        **json.loads(invoke(tmp_path / "log", "--json").stdout),
        **members,
    }
    assert "   the page was pinned in libengine.so+0x99\n" in invoke(tmp_path / "log", "--group").output


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "1" * 21, str(2**64), 17])
def test_a_seed_that_is_no_number_is_no_report(tmp_path: Path, seed: object) -> None:
    (tmp_path / "log").write_bytes(line(report(sample=7, seed=seed)))
    assert "line 1 is no report" in invoke(tmp_path / "log").output


def test_groups(log: Path) -> None:
    output = invoke(log, "--group").output
    assert "1. 5002 times (5000 of them only counted): stray write of a freed page\n" in output
    assert "   in libc.so.6+0x16d85a, called from libengine.so+0x5040\n" in output
    assert "   the page was freed in libengine.so+0x88\n" in output
    assert "   the page was allocated at /srv/load.py:9 in fill\n" in output
    assert "   first 2026-11-23T03:00:02.500000Z, last 2026-11-23T04:00:00.000000Z\n" in output
    assert '   2 pages, 9 to 11 of "buffers"; process 40, 50; thread 41 "worker"\n' in output
    assert "2. once: stray write of an evicted page\n" in output
    assert "3 reports of 2 sites, 5000 more only counted; 1 line is no report\n" in output


def test_who_freed_the_page_makes_a_group_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(
        b"".join(line(report(sequence=n, freed=event(native_stack=[f"/e+{n % 3}"]))) for n in range(9))
    )
    output = invoke(tmp_path / "log", "--group").output
    assert output.count("3 times: stray write of a freed page") == 3


def test_json_is_normalised(log: Path) -> None:
    lines = [json.loads(each) for each in invoke(log, "--json").stdout.splitlines()]
    assert [each.get("sequence") for each in lines] == [1, 2, 3, None]
    assert lines[0] == {
        **report(),
        "in_syscall": None,
        "inherited": False,
        "went_through": False,
        "others_pin": False,
        "fork_note": None,
        "python_stack": [],
        "red_zone": 0,
        "sample": 0,
        "seed": None,
        "read_pins": 0,
        "write_pins": 0,
        "pinned": None,
    }
    assert lines[3] == suppressed()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--pool", "other"], [3]),
        (["--pool", "other", "--pool", "buffers"], [1, 2, 3, None]),
        (["--pid", "50"], [2]),
        (["--state", "freed"], [1, 2, None]),
        (["--since", "2026-11-23T03:30:00Z"], [2]),
        (["--since", "2026-11-23T03:05:00+00:00", "--pid", "40"], [None]),
        (["--since", "1m", "--since", "9999d"], [1, 2, 3, None]),
        (["--state", "freed", "--since", "2026-11-23T03:05:00Z"], [2, None]),
        (["--state", "evicted"], [3]),
        (["--state", "closed"], []),
    ],
)
def test_filters(log: Path, options: list[str], expected: list[int | None]) -> None:
    lines = invoke(log, "--json", *options).stdout.splitlines()
    assert [json.loads(each).get("sequence") for each in lines] == expected


def test_standard_input(log: Path) -> None:
    assert invoke("-", stdin=log.read_bytes()).output == invoke(log).output


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    for options in ([], ["--json"], ["--group"], ["--html", str(tmp_path / "x.html")]):
        result = invoke(tmp_path / "log", *options)
        assert result.exit_code == 0, options
    assert "no reports in" in invoke(tmp_path / "log").stderr


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "nothing", "No such file or directory"), (tmp_path, "Is a directory")):
        for options in ([], ["--group"], ["--follow"], ["--html", str(tmp_path / "x.html")]):
            result = invoke(path, *options)
            assert (result.exit_code, result.stderr) == (1, f"Error: cannot read '{path}': {reason}\n"), options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--group", "--json"], "--group and --json do not go together"),
        (["--follow", "--group"], "--group and --follow do not go together"),
        (["--html", "x", "--follow"], "--html and --follow do not go together"),
        (["--since", "soon"], "'soon' is no time"),
        (["--since", "1e400d"], "is no time"),
        (["--state", "evicetd"], "'unallocated', 'allocated', 'freed', 'evicted', 'closed'"),
    ],
)
def test_options_that_make_no_sense(log: Path, options: list[str], sentence: str) -> None:
    result = invoke(log, *options)
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(evil("\x1b[31m\x1b]0;owned\x07\u202e\u2028\x9b1m\ud800"))
    for options in ([], ["--group"], ["--json"]):
        output = invoke(tmp_path / "log", *options).output
        assert output.replace("\n", "").isprintable(), options
        assert len(output) > 500


def test_a_terminal_s_width_changes_no_line(tmp_path: Path) -> None:
    place = "/" + "long/" * 60 + "libx.so+0x1"
    (tmp_path / "log").write_bytes(line(report(native_stack=[place])))
    for options in ([], ["--group"]):
        assert f"#0 {place}\n" in invoke(tmp_path / "log", *options).output


# ---- --follow, on a terminal -----------------------------------------------------------------------------------------


def read_until(fd: int, what: str, text: str = "") -> str:
    deadline = time.monotonic() + 300
    while what not in text:
        assert time.monotonic() < deadline, text
        if select.select([fd], [], [], 1)[0]:
            text += os.read(fd, 65536).decode("utf-8", "replace")
    return text


# Ctrl-C ends it also where the suite itself runs as a shell's background job, which has SIGINT ignored.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_follow_on_a_terminal(log: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", INTERRUPTIBLE, "-m", "bufpool", "report", str(log), "--follow"]
    with subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, cwd=log.parent, start_new_session=True
    ) as process:
        try:
            os.close(end)
            text = read_until(terminal, "line 5 is no report")
            assert "\x1b[" in text  # colours
            with log.open("ab") as stream:
                stream.write(line(report(sequence=44)))
            read_until(terminal, "END of bufpool report 44")
            log.rename(log.with_suffix(".1"))
            log.write_bytes(line(report(sequence=45)))
            read_until(terminal, "END of bufpool report 45")
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 0
        finally:
            process.kill()
            os.close(terminal)


def test_a_reader_that_leaves_ends_it(log: Path) -> None:
    log.write_bytes(b"".join(line(report(sequence=n)) for n in range(2000)))
    command = f"{sys.executable} -m bufpool report {log} | head -n 3"
    done = subprocess.run(command, shell=True, cwd=log.parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.startswith("==40==ERROR")
    assert done.stderr == ""


# ---- What goes wrong with files --------------------------------------------------------------------------------------


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bufpool", "report", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, check=False, **options)


@pytest.mark.parametrize("options", [[], ["--group"], ["--json"], ["--html", "-"]])
def test_a_full_disk_is_no_error_of_the_log(log: Path, options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(log, *options, stdout=full, cwd=log.parent)
    assert done.returncode == 1
    assert done.stderr.endswith("Error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("place", ["/dev/full", "no/x"])
def test_a_page_that_cannot_be_written_is_named(log: Path, place: str) -> None:
    done = run(log, "--html", place, cwd=log.parent)
    reason = "No space left on device" if place == "/dev/full" else "No such file or directory"
    assert (done.returncode, done.stderr) == (1, f"Error: cannot write '{place}': {reason}\n")


def test_a_page_where_one_may_not_look_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "samefile", refused)
    monkeypatch.setattr("bufpool.report_command._private", refused)
    result = invoke(log, "--html", "closed/x")
    assert (result.exit_code, result.stderr) == (1, "Error: cannot write 'closed/x': Permission denied\n")


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_standard_input_that_cannot_be_read_is_said(log: Path, options: list[str]) -> None:
    with Path("/proc/self/mem").open("rb") as unreadable:
        done = run("-", *options, stdin=unreadable, cwd=log.parent)
    assert (done.returncode, done.stderr) == (1, "Error: cannot read standard input: Input/output error\n")
    done = run("-", *options, stdin=None, preexec_fn=lambda: os.close(0), cwd=log.parent)
    assert (done.returncode, done.stderr) == (1, "Error: cannot read standard input: it is closed\n")


@pytest.mark.parametrize("options", [[], ["--json"], ["--follow"]])
def test_a_slow_pipe_is_shown_at_once(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bufpool", "report", "-", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        try:
            for number in (1, 2):
                process.stdin.write(line(report(sequence=number, pool=f"pool {number}")))
                process.stdin.flush()
                read_until(process.stdout.fileno(), f"pool {number}")
        finally:
            process.stdin.close()
            process.kill()


@pytest.mark.parametrize("new", ["closed", "directory"])
def test_follow_ends_where_the_next_file_cannot_be_read(log: Path, monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    def rotate(_: float) -> None:
        log.rename(log.with_suffix(".1"))
        if new == "directory":
            log.mkdir()
        else:
            monkeypatch.setattr("builtins.open", refused)
            log.touch()

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(time, "sleep", rotate)
    result = invoke(log, "--follow")
    reason = "Is a directory" if new == "directory" else "Permission denied"
    assert result.exit_code == 1
    assert result.stderr.endswith(f"Error: cannot read '{log}': {reason}\n")
    assert "END of bufpool report 3" in result.stdout


def test_a_rotated_log_is_let_go(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its disk space is taken for as long as somebody follows."""
    held: list[str] = []

    def waits(_: float) -> None:
        held.extend(str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", waits)
    assert invoke(log, "--follow").exit_code == 0
    assert held.count(str(log)) == 1


def test_names_that_the_terminal_cannot_show_are_escaped(log: Path) -> None:
    log.write_bytes(line(report(pool="Größe")))
    for options in ([], ["--group"]):
        done = run(log, *options, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, cwd=log.parent)
        assert done.returncode == 0, done.stderr
        assert r'"Gr\xf6\xdfe"' in done.stdout


# ---- --symbolize -----------------------------------------------------------------------------------------------------


def test_without_a_symbolizer_it_says_what_to_install(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(log.parent))
    result = invoke(log, "--symbolize")
    assert result.exit_code == 1
    assert "install llvm or binutils" in result.stderr
    with pytest.raises(symbolize.SymbolizerError):
        symbolize.find()


def test_symbolize_says_which_modules_are_gone(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "addr2line").write_text("#!/bin/sh\n")
    (tmp_path / "addr2line").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    result = invoke(log, "--symbolize")
    assert result.exit_code == 0
    assert "note: /usr/lib/libengine.so is gone\n" in result.stderr
    assert "    #1 /usr/lib/libengine.so+0x5040\n" in result.stdout
