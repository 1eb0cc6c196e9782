"""Python's faulthandler beside us: enabled before, after, disabled later; its other handlers. In child processes."""

from __future__ import annotations

import signal
from typing import Any

import pytest

REPORT = "bufpool: stray"
FATAL = "Fatal Python error"
SIGNALS = (-signal.SIGBUS, -signal.SIGSEGV)
STRAY = "pool.page(5).buffer[7] = 1"
NULL = "ctypes.string_at(1, 1)"


@pytest.fixture(params=["", "file=open('crash', 'w')"], ids=["stderr", "file"])
def enable(request: pytest.FixtureRequest) -> str:
    """The statement that enables faulthandler, on stderr or in a file."""
    return f"faulthandler.enable({request.param})"


def crash_text(tmp_path: Any, enable: str, done: Any) -> str:
    return str((tmp_path / "crash").read_text() if "file" in enable else done.stderr)


def opening(trap: str, on_fault: str) -> str:
    return f'pool = bufpool.Pool("1 MiB", trap={trap!r}, on_fault={on_fault!r})'


@pytest.mark.parametrize("on_fault", ["raise", "resume", "abort"])
def test_enabled_before_it_does_not_see_our_faults(child: Any, trap: str, on_fault: str) -> None:
    done = child(
        f"""
        faulthandler.enable()
        {opening(trap, on_fault)}
        {STRAY}
        print("after", flush=True)
        """
    )
    assert (done.returncode in SIGNALS) == (on_fault == "abort"), done.stderr
    assert done.stdout == ("" if on_fault == "abort" else "after\n")
    assert done.stderr.count(REPORT) == 1
    assert FATAL not in done.stderr


def test_enabled_before_it_gets_what_is_not_ours(child: Any, tmp_path: Any, trap: str, enable: str) -> None:
    done = child(f"{enable}\n{opening(trap, 'resume')}\n{STRAY}\n{NULL}")
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.count(REPORT) == 1
    assert crash_text(tmp_path, enable, done).count(f"{FATAL}: Segmentation fault") == 1


@pytest.mark.parametrize("on_fault", ["raise", "resume", "abort"])
def test_enabled_after_it_speaks_first_and_hands_over(
    child: Any, tmp_path: Any, trap: str, enable: str, on_fault: str
) -> None:
    done = child(
        f"""
        {opening(trap, on_fault)}
        {enable}
        {STRAY}
        print("after", flush=True)
        {STRAY.replace("5", "6")}
        """
    )
    assert (done.returncode in SIGNALS) == (on_fault == "abort"), done.stderr
    assert done.stdout == ("" if on_fault == "abort" else "after\n")
    assert done.stderr.count(REPORT) == (1 if on_fault == "abort" else 2)
    assert crash_text(tmp_path, enable, done).count(FATAL) == 1  # it has then put us back


def test_enabled_after_it_gets_what_is_not_ours(child: Any, tmp_path: Any, trap: str, enable: str) -> None:
    done = child(f"{opening(trap, 'resume')}\n{enable}\n{NULL}")
    assert done.returncode == -signal.SIGSEGV
    assert REPORT not in done.stderr
    assert crash_text(tmp_path, enable, done).count(FATAL) == 1


@pytest.mark.parametrize("how", ["bufpool.install_handlers()", 'bufpool.Pool("4 KiB")'])
def test_in_front_again(child: Any, trap: str, how: str) -> None:
    done = child(
        f"""
        {opening(trap, "resume")}
        faulthandler.enable()
        {how}
        {STRAY}
        print("after", flush=True)
        {NULL}
        """
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "after\n")
    assert done.stderr.count(REPORT) == 1
    assert done.stderr.count(FATAL) == 1
    assert done.stderr.index(REPORT) < done.stderr.index(FATAL)


def test_enabled_after_and_disabled_again(child: Any, trap: str) -> None:
    done = child(
        f"""
        {opening(trap, "resume")}
        faulthandler.enable()
        faulthandler.disable()
        {STRAY}
        print("after", flush=True)
        {NULL}
        """
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "after\n")
    assert done.stderr.count(REPORT) == 1
    assert FATAL not in done.stderr


@pytest.mark.parametrize("again", [False, True])
def test_enabled_before_and_disabled_later_puts_back_what_was_before_both(child: Any, trap: str, again: bool) -> None:
    """As documented: then nobody is called, and the process ends without a report, unless we are put in front again."""
    done = child(
        f"""
        faulthandler.enable()
        {opening(trap, "resume")}
        faulthandler.disable()
        {"bufpool.install_handlers()" if again else ""}
        {STRAY}
        print("after", flush=True)
        {NULL}
        """
    )
    assert done.returncode == (-signal.SIGSEGV if again or trap != "uffd" else -signal.SIGBUS)
    assert done.stdout == ("after\n" if again else "")
    assert done.stderr.count(REPORT) == again
    assert FATAL not in done.stderr


def test_enabled_and_disabled_behind_us(child: Any, trap: str) -> None:
    """Disabled while it stood behind us: what is not ours meets the default, and does not hang."""
    done = child(
        f"""
        {opening(trap, "resume")}
        faulthandler.enable()
        bufpool.install_handlers()
        faulthandler.disable()
        bufpool.install_handlers()
        {STRAY}
        print("after", flush=True)
        {NULL}
        """
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "after\n")
    assert done.stderr.count(REPORT) == 1


@pytest.mark.parametrize("chain", [False, True])
def test_register(child: Any, trap: str, chain: bool) -> None:
    """A dump on request, before and after a stray access."""
    done = child(
        f"""
        faulthandler.register(signal.SIGUSR1, chain={chain})
        {"signal.signal(signal.SIGUSR1, signal.SIG_IGN)" if not chain else ""}
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        {opening(trap, "resume")}
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR2)
            {STRAY}
            bufpool.check()
        print(pool.stats().faults)
        """
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert done.stderr.count(REPORT) == 3
    assert done.stderr.count("(most recent call first)") == 3


def test_register_for_the_fault_signals_is_enabled_after(child: Any, trap: str) -> None:
    """faulthandler refuses SIGSEGV; SIGBUS likewise."""
    done = child(
        f"""
        {opening(trap, "resume")}
        for signo in (signal.SIGSEGV, signal.SIGBUS):
            try:
                faulthandler.register(signo)
            except RuntimeError:
                print("refused")
        {STRAY}
        """
    )
    assert (done.returncode, done.stdout) == (0, "refused\nrefused\n"), done.stderr
    assert done.stderr.count(REPORT) == 1


def test_dump_traceback_later(child: Any, trap: str) -> None:
    """Its watchdog thread dumps all stacks again and again while stray accesses are handled.

    All of them in one call: CPython's dump of a thread that enters and leaves Python functions crashes by itself.
    """
    done = child(
        f"""
        pool = bufpool.Pool("8 MiB", trap={trap!r})
        size = pool.capacity
        faulthandler.dump_traceback_later(0.001, repeat=True)
        ctypes.string_at(pool.address, size)
        faulthandler.cancel_dump_traceback_later()
        try:
            bufpool.check()
        except bufpool.StrayAccessError as error:
            print(len({{report.page for report in error.reports}}))
        """
    )
    assert (done.returncode, done.stdout) == (0, "2048\n"), done.stderr
    assert "Timeout" in done.stderr


def test_a_python_signal_handler_that_strays(child: Any, trap: str) -> None:
    """Python runs it between two instructions, in the main thread: its stray accesses are like any other."""
    done = child(
        f"""
        {opening(trap, "raise")}
        def strays(signo, frame):
            pool.page(6).buffer[8]
        signal.signal(signal.SIGUSR1, strays)
        signal.raise_signal(signal.SIGUSR1)
        try:
            bufpool.check()
        except bufpool.StrayAccessError as error:
            print(error.report.page, error.report.offset)
        def raises(signo, frame):
            pool.page(6)[9]
        signal.signal(signal.SIGUSR1, raises)
        try:
            signal.raise_signal(signal.SIGUSR1)
        except bufpool.StrayAccessError as error:
            print(error.report.page, error.report.offset)
        """
    )
    assert (done.returncode, done.stdout) == (0, "6 8\n6 9\n"), done.stderr


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("on_fault", ["raise", "resume", "abort"])
def test_python_handlers_of_the_fault_signals(child: Any, trap: str, on_fault: str, before: bool) -> None:
    """signal.signal(SIGSEGV, ...) sets a C handler that only makes a note: behind us it does not see our faults."""
    setting = "for signo in (signal.SIGBUS, signal.SIGSEGV): signal.signal(signo, lambda *_: print('called'))"
    done = child(
        f"""
        {setting if before else ""}
        {opening(trap, on_fault)}
        {"" if before else setting}
        {"" if before else "bufpool.install_handlers()"}
        {STRAY}
        print("after", flush=True)
        """
    )
    assert (done.returncode in SIGNALS) == (on_fault == "abort"), done.stderr
    assert done.stdout == ("" if on_fault == "abort" else "after\n")
    assert done.stderr.count(REPORT) == 1


def test_a_foreign_fault_under_a_python_handler_ends_the_process(child: Any, trap: str) -> None:
    """Without us it would fault for ever: a handler in Python gets no chance to run."""
    done = child(
        f"""
        signal.signal(signal.SIGSEGV, lambda *_: print("called"))
        {opening(trap, "resume")}
        {NULL}
        """
    )
    assert done.returncode == -signal.SIGSEGV
    assert REPORT not in done.stderr
