"""A forked child has the pool, armed, with pages of its own: its bugs are reported as the parent's are."""

import os

import bufpool

pool = bufpool.Pool("1 GiB", name="buffers", on_fault="resume")
page = pool.allocate(b"a row of data")

child = os.fork()
if child == 0:
    page[0:1] = b"A"  # the child's own
    view = page.buffer
    page.free()
    view[4]  # the bug, in the child: the page is freed there
    os._exit(0)

os.waitpid(child, 0)
print("in the parent the page is", page.state, page[0:13])
pool.close()
