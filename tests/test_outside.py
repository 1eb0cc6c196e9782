"""Finding the pools of another process: by its pid, by the file; and what is said when there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Host

import bufpool
from bufpool import cli, descriptors, outside


def test_by_pid(host: Host) -> None:
    process = host("first=shared", "alone=anon", "second=shared")
    found = outside.find(process.pid)
    assert [(pool.facts.name, pool.facts.memory, pool.facts.pages) for pool in found] == [
        ("first", "shared", 2048),
        ("second", "shared", 2048),
    ]
    for pool in found:
        assert pool.pid == pool.facts.pid == process.pid
        assert pool.memory is not None
        status = Path(pool.memory).stat()
        assert (status.st_dev, status.st_ino) == pool.facts.file
        assert outside.find(pool.memory) == (pool,)  # by its file
    assert outside.find(str(process.pid)) == found


def test_by_path(host: Host, hugetlbfs: Path) -> None:
    path = hugetlbfs / "outside.pool"
    process = host(f"huge={path}", "other=shared")
    (found,) = outside.find(path)
    assert (found.pid, found.facts.name) == (process.pid, "huge")
    assert outside._lockers(found.facts.file) == [process.pid]
    shown = CliRunner().invoke(cli.main, ["top", str(path)])
    assert shown.exit_code == 0
    assert 'pool "huge"' in shown.output
    assert "other" not in shown.output
    process.kill()
    process.wait(timeout=300)
    with pytest.raises(bufpool.BufpoolError, match=r"no process has a pool in .*outside\.pool"):
        outside.find(path)
    path.unlink()


def test_nothing_there(host: Host, tmp_path: Path) -> None:
    process = host("alone=anon")
    with pytest.raises(bufpool.BufpoolError, match=f"process {process.pid} has no pool that can be seen from outside"):
        outside.find(process.pid)
    process.kill()
    process.wait(timeout=300)
    with pytest.raises(bufpool.BufpoolError, match=f"there is no process {process.pid}"):
        outside.find(process.pid)
    with pytest.raises(bufpool.BufpoolError, match="cannot be looked at: No such file"):
        outside.find(tmp_path / "none")
    with pytest.raises(bufpool.BufpoolError, match="no process has a pool"):
        outside.find(tmp_path)
    for pid in (0, 2**31, "0"):
        with pytest.raises(bufpool.ArgumentError, match="is no process"):
            outside.find(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="root may look at everything, and become somebody who may not")
def test_without_the_right_to_look(host: Host) -> None:
    process = host("first=shared")
    program = f"""
import os
from bufpool import outside
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    outside.find({process.pid})
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd="/").stdout
    assert (
        said
        == f"process {process.pid} may not be looked at: it is another user's, or not dumpable; {descriptors.WHO_CAN}\n"
    )
