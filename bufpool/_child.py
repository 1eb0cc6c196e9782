"""Runs a module of this package in a fresh process of the same interpreter: JSON in, JSON out, and a time-out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from bufpool.errors import BufpoolError


class ChildError(BufpoolError):
    """A child process did not end as it should; the sentence says how, with the last of what it wrote to stderr."""


def run(module: str, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Runs `python -m module`, which ends in serve(). Raises ChildError, also after timeout seconds."""
    command = [sys.executable, "-m", module]
    try:
        # From the root directory: python -m puts the working directory on the path, where a source tree may lie.
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, cwd="/", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"{module} took longer than {timeout:.0f} seconds and was ended") from None
    if done.returncode:
        raise ChildError(f"{module} ended with {_ending(done.returncode)}:\n{done.stderr[-4000:].strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """The child's side: answers the request on stdin with answer(**request)."""
    json.dump(answer(**json.load(sys.stdin)), sys.stdout)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
