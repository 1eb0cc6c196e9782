"""What `bufpool top` does: frames on a terminal until somebody ends it, or one frame, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bufpool import top_view
from bufpool.errors import BufpoolError
from bufpool.top import Frame, Watch

_LOOK = 0.2  # seconds: how soon a new size of the terminal is seen


def run(target: str, console: Console, *, interval: float, once: bool, as_json: bool) -> None:
    """Until the pools are closed, or q or Ctrl-C. Raises BufpoolError when there is nothing to be watched."""
    live = sys.stdout.isatty() and not console.is_dumb_terminal and not once and not as_json
    with Watch(target) as watch:
        first = watch.frame(_cells(console))
        if not first.pools:
            raise BufpoolError("; ".join(first.notes))
        if as_json:
            _print_json(watch, first, interval=interval, once=once)
        elif live:
            last = _show(watch, first, console, interval)
            for note in () if last.pools else last.notes:
                console.print(Text(note), soft_wrap=True)
        else:
            for line in top_view.lines(first, top_view.room_of(console, endless=True)):
                console.print(line, soft_wrap=True)


def _cells(console: Console) -> int:
    return max(20, console.width) * top_view.STRIP_ROWS


def _print_json(watch: Watch, frame: Frame, *, interval: float, once: bool) -> None:
    while True:
        print(json.dumps(frame.as_dict()), flush=True)
        if once or not frame.pools:
            return
        time.sleep(interval)
        frame = watch.frame(1)


def _show(watch: Watch, frame: Frame, console: Console, interval: float) -> Frame:
    """Returns the last frame: without pools, if there are none any more."""
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + interval
        size = None
        while frame.pools:
            if console.size != size:
                size = console.size
                _draw(live, frame, console)
            if keys.pressed(min(max(0.0, due - time.monotonic()), _LOOK)):
                break
            if time.monotonic() >= due:
                due = max(due + interval, time.monotonic() + interval / 2)
                frame = watch.frame(_cells(console))
                _draw(live, frame, console)
    return frame


def _draw(live: Live, frame: Frame, console: Console) -> None:
    found = top_view.lines(frame, top_view.room_of(console, endless=False))
    for line in found:
        line.no_wrap, line.overflow = True, "crop"
    live.update(Group(*found), refresh=True)


class _Keys:
    """The keyboard, if there is one."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd

    def pressed(self, patience: float) -> bool:
        """Waits; true when q was pressed, or the terminal has gone."""
        if self.fd is None:
            time.sleep(patience)
            return False
        if not select.select([self.fd], [], [], patience)[0]:
            return False
        try:
            typed = os.read(self.fd, 1024)
        except OSError:
            return True
        return not typed or b"q" in typed.lower()


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    """Keys come one by one and are not echoed; the terminal is put back however this ends."""
    fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = None if fd is None else termios.tcgetattr(fd)

    def go_on(_: int = 0, __: FrameType | None = None) -> None:
        if fd is not None:
            tty.setcbreak(fd, termios.TCSADRAIN)

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    wanted: dict[int, Callable[[int, FrameType | None], None]]
    wanted = {signal.SIGCONT: go_on, signal.SIGTERM: end, signal.SIGHUP: end}
    handlers = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        go_on()
        yield _Keys(fd)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if fd is not None and before is not None:
            with contextlib.suppress(termios.error):  # it may have gone
                termios.tcsetattr(fd, termios.TCSADRAIN, before)
