"""Huge pages without privilege: 2 MiB a page, and every hole traps."""

import bufpool

with bufpool.Pool("1 GiB", page_size=None, memory="thp", name="buffers") as pool:  # None: one granule
    page = pool.allocate(b"a row")
    print(pool.page_size, page[:5])
    page.evict()
    try:
        page[1_000_000]
    except bufpool.StrayAccessError as error:
        print(f"stray {error.report.access} at offset {error.report.offset} of an {error.report.state} page")

    stats = pool.stats()
    if stats.small_fills:  # never silent: this system has no huge pages to give
        print(stats.memory_note)
    else:
        print("huge pages filled:", stats.huge_fills)
