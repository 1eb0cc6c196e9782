"""What the bench changes on the machine is put back, whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def put_back(command: str) -> Iterator[None]:
    """Runs a shell command when the block ends, also if that is because this process is killed."""
    with subprocess.Popen(["sh", "-c", f"cat; {command}"], stdin=subprocess.PIPE, start_new_session=True):
        yield
