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
    """A child process did not answer: its own BufpoolError's sentence, or how it ended with the last of its stderr."""


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
    except OSError as error:
        raise ChildError(f"{module} could not be started in a process of its own: {error.strerror}") from None
    if done.returncode:
        raise ChildError(f"{module} ended with {_ending(done.returncode)}:\n{done.stderr[-4000:].strip()}")
    reply: dict[str, Any] = json.loads(done.stdout)
    if reply["error"] is not None:
        raise ChildError(f"{module}: {reply['error']}")
    result: dict[str, Any] = reply["result"]
    return result


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """The child's side: answers the request on stdin with answer(**request), or with the sentence of its error."""
    reply: dict[str, Any] = {"result": None, "error": None}
    try:
        reply["result"] = answer(**json.load(sys.stdin))
    except BufpoolError as error:
        reply["error"] = str(error)
    json.dump(reply, sys.stdout)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
