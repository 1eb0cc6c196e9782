"""One pool in many processes: workers attach to it, allocate in it, and what one process frees traps in all."""

import multiprocessing

import bufpool


def work(handle: bufpool.PoolHandle, name: str, index: int, freed: int) -> None:
    with bufpool.Pool.attach(handle, on_fault="resume") as pool:
        assert pool.page(index)[0:5] == b"index"  # written by the other process
        pool.allocate(name.encode())  # stays when this process ends
        if name == "worker 2":
            pool.page(freed).buffer[4]  # the bug: the other process has freed it


if __name__ == "__main__":
    with bufpool.Pool("1 GiB", memory="shared", name="buffers") as pool:
        rows, old, index = (pool.allocate(text) for text in (b"rows", b"old rows", b"index"))
        old.free()
        context = multiprocessing.get_context("spawn")
        with pool.handle() as handle:
            arguments = [(handle, f"worker {i}", index.number, old.number) for i in range(4)]
            workers = [context.Process(target=work, args=each) for each in arguments]
            for worker in workers:
                worker.start()
        for worker in workers:
            worker.join()

        print(*sorted(pool.page(int(number))[0:8].rstrip(b"\0").decode() for number in pool.pages()), sep=", ")
        stats = pool.stats()
        print("processes:", stats.members, "stray accesses here:", stats.faults, "in all:", stats.faults_all)
