// A stray access becomes a C++ exception, in the thread and at the call that made it.
#include <bufpool/bufpool.h>
#include <iostream>
#include <stdexcept>

struct StrayAccess : std::runtime_error {
    bufpool_fault fault;
    explicit StrayAccess(const bufpool_fault &what) : std::runtime_error("stray access"), fault(what)
    {
    }
};

// As with longjmp, no destructor runs in work() when it strays: keep it down to the access itself.
template <class Work> void guarded(Work work)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    const auto call = [](void *argument) { (*static_cast<Work *>(argument))(); };
    if (bufpool_guarded_call(call, &work, &fault) == BUFPOOL_ESTRAY)
        throw StrayAccess(fault);
}

int main()
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = nullptr;
    std::uint64_t page = 0;
    config.capacity = UINT64_C(1) << 30;
    if (bufpool_open(&config, &pool) < 0 || bufpool_allocate(pool, "a row", 6, &page) < 0)
        return 1;
    auto *row = static_cast<volatile char *>(bufpool_address(pool, page));
    bufpool_free(pool, page);
    try {
        guarded([row] { row[2] = 'R'; });
    } catch (const StrayAccess &stray) {
        std::cout << stray.what() << ": " << bufpool_access_name(stray.fault.access) << " of page " << stray.fault.page
                  << " at offset " << stray.fault.offset << ", which is " << bufpool_state_name(stray.fault.state)
                  << '\n';
    }
    return bufpool_close(pool) < 0;
}
