// An outside program in C++: the same as consumer.c, and every initialiser and callback type of the header.
#include <atomic>
#include <bufpool/bufpool.h>
#include <bufpool/optimistic.h>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace
{

int fail(const std::string &what)
{
    std::vector<char> sentence(512);
    bufpool_last_error(sentence.data(), sentence.size());
    std::fprintf(stderr, "consumer: %s: %s\n", what.c_str(), sentence.data());
    return 1;
}

bufpool_verdict resume(const bufpool_fault *, void *context)
{
    static_cast<std::atomic<int> *>(context)->fetch_add(1);
    return BUFPOOL_VERDICT_RESUME;
}

} // namespace

int main()
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_location location = BUFPOOL_LOCATION_INIT;
    bufpool_pool *pool = nullptr;
    const std::string text = "hello";
    std::uint64_t page = 0;
    std::atomic<int> calls{0};

    config.capacity = UINT64_C(64) << 20;
    config.name = "consumer";
    if (bufpool_open(&config, &pool))
        return fail("bufpool_open");
    if (bufpool_set_fault_callback(pool, resume, &calls))
        return fail("bufpool_set_fault_callback");
    if (bufpool_allocate(pool, text.data(), text.size(), &page))
        return fail("bufpool_allocate");
    char *byte = static_cast<char *>(bufpool_address(pool, page)) + 123;
    if (text != byte - 123)
        return fail("the page does not hold what it was given");
    if (bufpool_locate(byte, &location) || location.pool != pool || location.page != page || location.offset != 123)
        return fail("bufpool_locate finds another place");
    if (bufpool_free(pool, page))
        return fail("bufpool_free");
    const auto write = [](void *address) { *static_cast<volatile char *>(address) = 1; };
    if (bufpool_guarded_call(write, byte, &fault) != BUFPOOL_ESTRAY)
        return fail("a stray write was not caught");
    if (fault.address != reinterpret_cast<std::uintptr_t>(byte) || fault.page != page || fault.offset != 123 ||
        fault.access != BUFPOOL_WRITE || fault.state != BUFPOOL_STATE_FREED)
        return fail("the fault names something else");
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        static_cast<void>(*static_cast<volatile char *>(byte));
        bufpool_optimistic_leave(&section);
        return fail("a stray read did not restart its section");
    }
    if (section.address != byte)
        return fail("a section names something else");
    write(byte); // outside a guarded call the callback decides
    if (calls != 1)
        return fail("the callback was not called once");
    if (bufpool_stats(pool, &statistics) || statistics.faults != 2 || statistics.frees != 1)
        return fail("bufpool_stats counts something else");
    return bufpool_close(pool) ? fail("bufpool_close") : 0;
}
