"""Who freed the page, and where: a row is kept for longer than the page that it lies on."""

import bufpool

pool = bufpool.Pool("1 GiB", name="buffers", provenance="stacks")


def load() -> bufpool.Page:
    return pool.allocate(b"a row of data")


def make_room(victim: bufpool.Page) -> None:
    victim.free()


def scan(page: bufpool.Page) -> bytes:
    make_room(page)  # deep in a call, because another page is wanted
    return page[0:5]  # the bug


try:
    scan(load())
except bufpool.StrayAccessError as error:
    print(error.report)
    freed = error.report.freed
    print("look at:", freed.event, freed.python_stack[-1].rpartition("/")[2])
pool.close()
