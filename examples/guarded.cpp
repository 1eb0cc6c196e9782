// A stray access becomes a C++ exception, in the thread and at the call that made it.
#include <bufpool/bufpool.h>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

struct StrayAccess : std::runtime_error {
    bufpool_fault fault;
    explicit StrayAccess(const bufpool_fault &what)
        : std::runtime_error(std::string("stray ") + bufpool_access_name(what.access) + " of page " +
                             std::to_string(what.page) + " at offset " + std::to_string(what.offset) + ", which is " +
                             bufpool_state_name(what.state)),
          fault(what)
    {
    }
};

// Runs work(). As with longjmp, no destructor runs in it when it strays: keep it down to the access itself. What work()
// throws passes through; it must not unwind the guarded call, which is C.
template <class Work> void guarded(Work work)
{
    struct Call {
        Work &work;
        std::exception_ptr thrown;
        static void run(void *argument)
        {
            Call &call = *static_cast<Call *>(argument);
            try {
                call.work();
            } catch (...) {
                call.thrown = std::current_exception();
            }
        }
    } call{work, nullptr};
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (bufpool_guarded_call(Call::run, &call, &fault) == BUFPOOL_ESTRAY)
        throw StrayAccess(fault);
    if (call.thrown)
        std::rethrow_exception(call.thrown);
}

template <class Work> void report(const char *where, Work work)
{
    try {
        guarded(work);
    } catch (const std::exception &error) {
        std::cout << where << ": " << error.what() << '\n';
    }
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

    report("here", [row] { row[2] = 'R'; });
    report("nested", [row] {
        report("inner", [row] { row[3] = row[4]; });
        row[5] = 'R'; // the outer one still holds
    });
    std::thread([row] { report("in a thread", [row] { row[6] = 'R'; }); }).join();
    report("of its own", [] { throw std::out_of_range("no such row"); });
    return bufpool_close(pool) < 0;
}
