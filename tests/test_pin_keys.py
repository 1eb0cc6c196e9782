"""Pools whose pages only threads with a write pin can write: what Python says where there are keys, and where not."""

from __future__ import annotations

import threading

import pytest

import bufpool
from bufpool import doctor

NO_KEYS = bufpool.capabilities().no_pin_keys


def test_doctor() -> None:
    (setting,) = (each for each in doctor.examine().settings if each.name == "pin keys")
    assert setting.value == ("no" if NO_KEYS else "yes")
    assert not NO_KEYS or setting.note == NO_KEYS


def test_refused() -> None:
    with pytest.raises(bufpool.ArgumentError, match='pins is "off"'):
        bufpool.Pool("64 KiB", pin_keys=True)
    with pytest.raises(bufpool.UnsupportedError, match="traps nothing"):
        bufpool.Pool("64 KiB", pins="count", pin_keys=True, trap="none")
    with pytest.raises(bufpool.UnsupportedError, match="transparent huge pages"):
        bufpool.Pool("64 MiB", pins="count", pin_keys=True, memory="thp", page_size=None)


def test_another_thread() -> None:
    if NO_KEYS:
        with pytest.raises(bufpool.UnsupportedError) as refused:
            bufpool.Pool("64 KiB", pins="write", pin_keys=True)
        assert NO_KEYS in str(refused.value)
        pytest.skip(f"no protection keys here: {NO_KEYS}")
    caught: list[bufpool.FaultReport] = []

    with bufpool.Pool("64 KiB", pins="write", pin_keys=True, provenance="last") as pool:
        page = pool.allocate(b"data")

        def write() -> None:
            try:
                page[0] = 1
            except bufpool.StrayAccessError as error:
                caught.append(error.report)

        thread = threading.Thread(target=write)
        with page.pin(write=True):
            page[1] = 66
        thread.start()
        thread.join()
        assert not caught[0].others_pin
        started, ended = threading.Event(), threading.Event()

        def hold() -> None:
            with page.pin(write=True):
                started.set()
                ended.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        started.wait()
        write()
        with pytest.raises(bufpool.PageStateError, match="another thread's"):
            page.unpin(write=True)
        ended.set()
        thread.join()
        assert caught[1].others_pin
        assert caught[1].state == "read-only"
        assert caught[1].pinned is not None
        assert caught[1].pinned.event == "pin"
        assert bytes(page[0:4]) == b"dBta"
