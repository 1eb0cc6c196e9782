/* engine.c: an engine's calls of bufpool, in a build that has switched it off; C99 and C++11. See run. */
#include <bufpool/bufpool.h>
#include <bufpool/optimistic.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static void count(void *argument)
{
    ++*(int *)argument;
}

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    bufpool_location location = BUFPOOL_LOCATION_INIT;
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    bufpool_section section;
    bufpool_pool *pool = (bufpool_pool *)&config; /* not NULL */
    uint64_t page = 0;
    size_t found = 1;
    char text[100];
    int calls = 0;
    int copy = 0;

    /* What gives memory says no, and why. */
    config.capacity = 1 << 20;
    CHECK(bufpool_config_from_environment(&config) == 0);
    CHECK(bufpool_open(&config, &pool) == BUFPOOL_EUNSUPPORTED && pool == NULL);
    CHECK(bufpool_last_error(text, sizeof text) > 40 && text[8] == 'i');
    CHECK(bufpool_attach(&config, &handle, &pool) == BUFPOOL_EUNSUPPORTED);
    CHECK(bufpool_adopt(&config, 4096, -1, &config, &pool) == BUFPOOL_EUNSUPPORTED);
    CHECK(bufpool_allocate(pool, NULL, 0, &page) == BUFPOOL_EUNSUPPORTED);
    CHECK(bufpool_stats(pool, &statistics) == BUFPOOL_EUNSUPPORTED);
    CHECK(bufpool_inspect(pool, 0, &findings) == BUFPOOL_EUNSUPPORTED);
    CHECK(bufpool_strerror(BUFPOOL_EUNSUPPORTED)[0] == 'b' && bufpool_strerror(0)[0] == 's');

    /* What watches sees nothing. */
    CHECK(bufpool_check(&fault) == 0 && bufpool_told(&fault) == 0 && bufpool_flush(pool) == 0);
    CHECK(bufpool_explain(text, sizeof text, &fault) == 0);
    CHECK(bufpool_locate(text, &location) == BUFPOOL_EARGUMENT);
    CHECK(bufpool_faults(pool, 0, 1, &fault, &found) == 0 && found == 0);
    CHECK(bufpool_set_caller("engine") == 0 && bufpool_install_handlers() == 0);
    bufpool_set_place(42);

    /* What wraps the engine's own work does that work. */
    CHECK(bufpool_guarded_call(count, &calls, &fault) == 0 && calls == 1);
    CHECK(bufpool_guarded_copy(&copy, &calls, sizeof copy, NULL) == 0 && copy == 1);
    if (!bufpool_optimistic_enter(&section)) {
        CHECK(0);
    }
    bufpool_optimistic_leave(&section);
    CHECK(bufpool_handle_close(&handle) == 0 && bufpool_close(pool) == 0);
    return 0;
}
