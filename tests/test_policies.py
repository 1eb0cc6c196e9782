"""on_fault, in processes of their own: what dies, what goes on, what is written where."""

from __future__ import annotations

import signal
from typing import Any

import pytest

REPORT = "bufpool: stray"
SIGNALS = (-signal.SIGBUS, -signal.SIGSEGV)


@pytest.mark.parametrize("access", ["print(view[7])", "view[7] = 1", "print(ctypes.string_at(page.address + 7, 1))"])
def test_abort_reports_and_dies(child: Any, trap: str, access: str) -> None:
    done = child(
        f"""
        pool = bufpool.Pool("1 MiB", trap={trap!r}, on_fault="abort", name="orders")
        page = pool.page(5)
        view = page.buffer
        print("before", flush=True)
        {access}
        print("after", flush=True)
        """
    )
    assert done.returncode in SIGNALS, done.stderr
    assert done.stdout == "before\n"
    assert done.stderr.count(REPORT) == 1
    kind = "write" if "=" in access else "read"
    assert f"stray {kind} of an unallocated page" in done.stderr
    assert 'page 5 of pool "orders" is unallocated; offset 7' in done.stderr


def test_abort_still_raises_for_guarded_access(child: Any, trap: str) -> None:
    done = child(
        f"""
        with bufpool.Pool("1 MiB", trap={trap!r}, on_fault="abort") as pool:
            try:
                pool.page(5)[7]
            except bufpool.StrayAccessError as error:
                print(error.report.page, error.report.offset)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 7\n", "")


def test_resume_reports_and_goes_on(child: Any, trap: str) -> None:
    done = child(
        f"""
        with bufpool.Pool("1 MiB", trap={trap!r}, on_fault="resume") as pool:
            view = pool.page(5).buffer
            print(view[7] == bufpool.POISON)
            view[8] = 1
            bufpool.check()
            view[9] = 1
            print(pool.stats().faults, [report.offset for report in pool.faults])
        """
    )
    assert (done.returncode, done.stdout) == (0, "True\n2 [7, 9]\n"), done.stderr
    assert done.stderr.count(REPORT) == 2


def test_raise_writes_what_nobody_asked_for_at_the_end(child: Any, trap: str) -> None:
    done = child(
        f"""
        pool = bufpool.Pool("1 MiB", trap={trap!r})
        pool.page(5).buffer[7] = 1
        print("end")
        """
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert done.stderr.count(REPORT) == 1


def test_an_uncaught_error_shows_the_report(child: Any, trap: str) -> None:
    done = child(
        f"""
        pool = bufpool.Pool("1 MiB", trap={trap!r})
        pool.page(5)[7]
        """
    )
    assert done.returncode == 1
    assert "StrayAccessError: " in done.stderr
    assert done.stderr.count(REPORT) == 1


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("on_fault", ["abort", "raise", "resume"])
def test_faulthandler_in_both_orders(child: Any, trap: str, order: str, on_fault: str) -> None:
    done = child(
        f"""
        if {order!r} == "before":
            faulthandler.enable()
        pool = bufpool.Pool("1 MiB", trap={trap!r}, on_fault={on_fault!r})
        if {order!r} == "after":
            faulthandler.enable()
        pool.page(5).buffer[7] = 1
        try:
            pool.stats()
        except bufpool.StrayAccessError as error:
            print("raised", error.report.offset)
        try:
            pool.page(6)[8]
        except bufpool.StrayAccessError as error:
            print("guarded", error.report.offset)
        """
    )
    if on_fault == "abort":
        assert done.returncode in SIGNALS
        assert done.stderr.count(REPORT) == 1
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("raised 7\n" if on_fault == "raise" else "guarded 8\n")
        assert done.stdout.endswith("guarded 8\n")
        assert done.stderr.count(REPORT) == (on_fault == "resume")


@pytest.mark.parametrize("order", ["none", "before", "after"])
def test_a_foreign_fault_passes_on(child: Any, trap: str, order: str) -> None:
    done = child(
        f"""
        if {order!r} == "before":
            faulthandler.enable()
        pool = bufpool.Pool("1 MiB", trap={trap!r})
        if {order!r} == "after":
            faulthandler.enable()
        ctypes.string_at(8)
        """
    )
    assert done.returncode == -signal.SIGSEGV
    assert "bufpool" not in done.stderr.replace("import bufpool", "")
    assert ("Segmentation fault" in done.stderr) == (order != "none")


def test_a_signal_that_somebody_sends_reaches_the_handler_of_before(child: Any, trap: str) -> None:
    done = child(
        f"""
        signal.signal(signal.SIGBUS, lambda number, frame: print("handled", number, flush=True))
        pool = bufpool.Pool("1 MiB", trap={trap!r})
        os.kill(os.getpid(), signal.SIGBUS)
        time.sleep(0)
        try:
            pool.page(5)[7]
        except bufpool.StrayAccessError:
            print("trapped")
        pool.close()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"handled {int(signal.SIGBUS)}\ntrapped\n", "")
