"""The command line: options, tables, JSON, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

import bufpool
from bufpool import _child, cli, doctor, hugepages, table
from bufpool.demo import tour


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env={"COLUMNS": "300"})


def doctor_s_json() -> Any:
    """What it writes to stdout: a warning of the interpreter's is no part of it. If it failed, the reason is shown."""
    result = invoke("doctor", "--json")
    assert result.exit_code == 0, (result.output, result.exc_info)
    return json.loads(result.stdout)


def test_version_is_the_library_s() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.split()[-1] == bufpool.__version__


def test_help_names_the_commands() -> None:
    output = invoke("--help").output
    assert "demo" in output
    assert "doctor" in output


def test_an_unknown_command_is_an_error_that_names_it() -> None:
    result = invoke("dmeo")
    assert result.exit_code == 2
    assert "dmeo" in result.output


def test_help_has_one_line_for_each_command_at_80_columns() -> None:
    output = CliRunner().invoke(cli.main, ["--help"], env={"COLUMNS": "80"}).output
    lines = output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == [
        "check",
        "demo",
        "doctor",
        "frozen",
        "gdb-script",
        "mount",
        "report",
        "thaw",
        "top",
        "unmount",
    ]
    assert "..." not in "".join(lines)


def test_python_m_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bufpool", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["bufpool", bufpool.__version__]


def test_the_installed_script_runs() -> None:
    script = Path(sysconfig.get_path("scripts"), "bufpool")
    done = subprocess.run([script, "doctor", "--json"], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["version"] == bufpool.__version__


# ---- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_shows_every_memory_with_every_trap() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines()]
    found = bufpool.capabilities()
    for entry in found.entries:
        row = next((row[2:] for row in rows if row[:2] == [entry.memory, entry.trap]), None)
        if not entry.users:
            assert row is None
            continue
        assert row is not None
        assert row[0].startswith("yes" if entry.available else "no")
        assert " ".join(row).endswith(entry.users[-1])
        assert ("auto's" in row) == (found.auto[entry.memory] == entry.trap)


def test_doctor_says_each_reason_once() -> None:
    lines = [" ".join(line.split()) for line in invoke("doctor").output.splitlines()]
    reasons = list(dict.fromkeys(e.reason for e in bufpool.capabilities().entries if e.users and e.reason))
    assert [lines.count(f"({n}) {reason}") for n, reason in enumerate(reasons, 1)] == [1] * len(reasons)
    for sentence in table.never(bufpool.capabilities().entries):
        assert lines.count(sentence) == 1


def test_doctor_says_whether_system_calls_can_be_monitored() -> None:
    found = {setting.name: setting for setting in doctor.examine().settings}["monitor"]
    try:
        bufpool.Pool("64 KiB", trap="uffd", monitor=True).close()
    except bufpool.UnsupportedError as error:
        reason = re.sub(r'pool "\w*"', "", error.strerror)
        assert (found.value, re.sub(r'pool "\w*"', "", found.note)) == ("no", reason)
    else:
        assert found.value == "yes"


def test_doctor_says_what_shows_a_report_s_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "addr2line").write_text("#!/bin/sh\n")
    (tmp_path / "gdb").write_text("#!/bin/sh\n")
    expected = []
    for present in (True, False):
        for name in ("addr2line", "gdb"):
            (tmp_path / name).chmod(0o755 if present else 0o644)
            expected.append(str(tmp_path / name) if present else None)
        monkeypatch.setenv("PATH", str(tmp_path))
        found = {setting.name: setting for setting in doctor.examine().settings}
        values = [found["symbolizer"].value, found["gdb"].value]
        assert values == (expected[:2] if present else ["none", "not installed"])
    assert "install llvm or binutils" in found["symbolizer"].note
    assert found["kernel.core_pattern"].value == Path("/proc/sys/kernel/core_pattern").read_text().strip()


def test_doctor_s_json_is_what_capabilities_finds() -> None:
    found = doctor_s_json()
    assert found["traps"] is True
    assert found["capabilities"] == json.loads(json.dumps(attrs.asdict(bufpool.capabilities())))
    names = {setting["name"]: setting["value"] for setting in found["settings"]}
    assert names["page size"].split()[0] == str(bufpool.capabilities().os_page_size)
    assert {"kernel", "user", "seccomp", "vm.max_map_count", "vm.overcommit_memory", "RLIMIT_AS"} <= names.keys()
    assert {"thp enabled", "thp defrag", "thp shmem_enabled", "NUMA nodes", "RLIMIT_MEMLOCK"} <= names.keys()
    sizes = [counts.size for counts in hugepages.read_counts()]
    assert [counts["size"] for counts in found["hugepages"]["counts"]] == sizes


HUGEPAGES = hugepages.Hugepages(
    (
        hugepages.HugepageCounts(size=2**21, default=True, total=9, free=8, reserved=8, surplus=0, overcommit=0),
        hugepages.HugepageCounts(size=2**30, default=False, total=3, free=2, reserved=1, surplus=0, overcommit=4),
    ),
    hugepages.parse_mounts(
        "60 20 0:1 / /srv/[a]\\040pool rw,relatime - hugetlbfs none rw,uid=65534,gid=65534,mode=700,pagesize=2M,"
        "size=33554432,min_size=16777216,noautofill\n61 20 0:2 / /one ro - hugetlbfs none rw,pagesize=1024M\n"
    ),
)


def test_doctor_shows_huge_pages_and_their_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "read", lambda: HUGEPAGES)
    lines = [" ".join(line.split()) for line in invoke("doctor").output.splitlines()]
    assert "2 MiB (default) 9 8 8 0 of 0" in lines
    assert "none left of 2 MiB; one more, as root: sysctl -w vm.nr_hugepages=10" in lines
    assert not any("none left of 1 GiB" in line for line in lines)
    assert "1 GiB 3 2 1 0 of 4" in lines
    small = next(line for line in lines if line.startswith("/srv/[a] pool"))
    assert small.startswith("/srv/[a] pool 2 MiB 32 MiB - 16 MiB ")
    assert small.endswith(", 0700 noautofill")
    assert "/one 1 GiB no limit - 0 root, 0755 read-only" in lines
    narrow = CliRunner().invoke(cli.main, ["doctor"], env={"COLUMNS": "80"})
    assert "…" not in narrow.output


def test_doctor_s_json_has_the_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "read", lambda: HUGEPAGES)
    found = doctor_s_json()["hugepages"]
    assert found == json.loads(json.dumps(attrs.asdict(HUGEPAGES)))
    assert [mount["path"] for mount in found["mounts"]] == ["/srv/[a] pool", "/one"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (hugepages.Hugepages((), ()), "this kernel has none"),
        (hugepages.Hugepages(HUGEPAGES.counts, ()), "bufpool mount"),
    ],
    ids=["no huge pages", "no mounts"],
)
def test_doctor_says_what_is_not_there(monkeypatch: pytest.MonkeyPatch, found: hugepages.Hugepages, words: str) -> None:
    monkeypatch.setattr(hugepages, "read", lambda: found)
    assert words in invoke("doctor").output


def test_doctor_s_sqlite_is_the_one_that_python_uses() -> None:
    import sqlite3

    found = doctor.sqlite_library()
    assert found.version == sqlite3.sqlite_version
    assert found.usable == bool(found.library)
    assert found.usable != bool(found.reason)


@pytest.fixture
def nothing_traps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel that refuses everything."""
    found = bufpool.capabilities()
    entries = tuple(
        attrs.evolve(entry, available=entry.trap == "none", reason="" if entry.trap == "none" else "refused [1]: ask")
        for entry in found.entries
    )
    without = attrs.evolve(found, entries=entries, auto=dict.fromkeys(found.auto))
    monkeypatch.setattr(bufpool, "capabilities", lambda: without)


def test_doctor_s_names_are_whole_in_a_narrow_terminal() -> None:
    result = CliRunner().invoke(cli.main, ["doctor"], env={"COLUMNS": "80"})
    words = result.output.split()
    assert "…" not in result.output
    assert {"vm.unprivileged_userfaultfd", "/dev/userfaultfd", "vm.overcommit_memory", "RLIMIT_NOFILE"} <= set(words)


def test_doctor_without_files_to_spare_says_so(child: Any) -> None:
    done = child(
        """
        from bufpool import cli
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))
        cli.main(["doctor"])
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Too many open files" in done.stdout


@pytest.mark.usefixtures("nothing_traps")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["tables", "json"])
def test_doctor_exits_1_with_the_reasons_when_nothing_traps(options: list[str]) -> None:
    result = invoke("doctor", *options)
    assert result.exit_code == 1
    if options:
        assert result.output.count("refused [1]: ask") == sum(e.trap != "none" for e in bufpool.capabilities().entries)
    else:
        assert result.output.count("no (1)") == sum(bool(e.users) for e in bufpool.capabilities().entries)
        assert result.output.count("(1) refused [1]: ask") == 1


def test_doctor_says_why_sqlite_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise _child.ChildError("no SQLite [here]")

    monkeypatch.setattr(_child, "run", fail)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "no SQLite [here]" in result.output


# ---- demo's ends (the demo itself is in test_demo.py) ---------------------------------------------------------------


@pytest.mark.usefixtures("nothing_traps")
def test_demo_explains_that_nothing_traps() -> None:
    result = invoke("demo")
    assert result.exit_code == 1
    assert "doctor" in result.output


def test_demo_exits_1_and_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "run", lambda *_arguments, **_options: ["query 'x' had different answers"])
    result = invoke("demo")
    assert result.exit_code == 1
    assert "query 'x' had different answers" in result.output


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--files", "0"], ["--files", "199"], ["--files", "many"]])
def test_demo_refuses_senseless_numbers(options: list[str]) -> None:
    result = invoke("demo", *options)
    assert result.exit_code == 2
    assert options[1] in result.output


# ---- child processes -------------------------------------------------------------------------------------------------


def test_a_child_that_fails_is_reported_with_its_words() -> None:
    with pytest.raises(_child.ChildError, match=r"exit code 1(.|\n)*no_such_module"):
        _child.run("bufpool.no_such_module", {}, 60)


def test_an_error_of_the_library_in_a_child_is_its_sentence_alone(tmp_path: Path) -> None:
    with pytest.raises(_child.ChildError) as caught:
        _child.run("bufpool.demo.planted", {"path": str(tmp_path), "trap": "mouse", "sqlite": False}, 60)
    assert "mouse" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(_child.ChildError, match="longer than 0 seconds"):
        _child.run("bufpool.doctor", {}, 0.001)
