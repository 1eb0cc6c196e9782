/* The table of memory x trap: which pairs go together and for whom, and that every other is refused by name. */
#include "harness.h"

#define ONE BUFPOOL_USERS_ONE
#define ATTACHED BUFPOOL_USERS_ATTACHED
#define ANYONE BUFPOOL_USERS_ANYONE
#define NEVER 0x100u /* does not go together */

static const char *const traps[] = {"noautofill", "uffd", "guard", "mprotect", "none"};

static const struct row {
    const char *memory;
    uint32_t users[5]; /* by trap */
} rows[] = {
    {"anon", {NEVER, ONE, ONE, ONE, 0}},
    {"thp", {NEVER, ONE, NEVER, NEVER, 0}},
    {"shared", {NEVER, ONE | ATTACHED, ONE, ONE, 0}},
    {"hugetlb", {NEVER, ONE | ATTACHED, NEVER, ONE, 0}},
    {"path", {ONE | ATTACHED | ANYONE, ONE | ATTACHED, NEVER, ONE, 0}},
};

static void check_names(void)
{
    size_t m = 0;
    for (; m < sizeof rows / sizeof *rows; m++) {
        CHECK_STRING(bufpool_memory_name(m), rows[m].memory);
    }
    CHECK(bufpool_memory_name(m) == NULL);
    size_t t = 0;
    for (; t < sizeof traps / sizeof *traps; t++) {
        CHECK_STRING(bufpool_trap_name(t), traps[t]);
    }
    CHECK(bufpool_trap_name(t) == NULL);
}

/* The sentence of a pair that never goes together names both. */
static void check_refused(const char *memory, const char *trap)
{
    uint32_t users;
    CHECK_IS(bufpool_cell(memory, trap, &users), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), memory);
    CHECK_HAS(last_error(), trap);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = GIB;
    config.page_size = 0;
    config.memory = strcmp(memory, "path") == 0 ? "/dev/path" : memory;
    config.trap = trap;
    bufpool_pool *const unset = (bufpool_pool *)&config;
    bufpool_pool *pool = unset;
    int fds = count_fds();
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), config.memory);
    CHECK_HAS(last_error(), trap);
    CHECK(pool == unset);
    CHECK_IS(count_fds(), ==, fds);
    CHECK_IS(bufpool_probe(config.memory, trap, NULL, 0), ==, BUFPOOL_EUNSUPPORTED);
}

static void check_row(const struct row *row)
{
    for (size_t t = 0; t < sizeof traps / sizeof *traps; t++) {
        if (row->users[t] == NEVER) {
            check_refused(row->memory, traps[t]);
            continue;
        }
        uint32_t users = 0xFFFF;
        CHECK_OK(bufpool_cell(row->memory, traps[t], &users));
        CHECK_IS(users, ==, row->users[t]);
        CHECK_OK(bufpool_cell(row->memory, traps[t], NULL));
    }
}

int main(void)
{
    harness_begin();
    check_names();
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++) {
        check_row(&rows[m]);
    }
    uint32_t users;
    CHECK_OK(bufpool_cell("/any/path", "noautofill", &users));
    CHECK_IS(users, ==, ONE | ATTACHED | ANYONE);
    CHECK_IS(bufpool_cell("disk", "uffd", &users), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "memory \"disk\"");
    CHECK_IS(bufpool_cell("anon", "auto", &users), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "trap \"auto\"");
    CHECK_IS(bufpool_cell(NULL, "uffd", &users), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_cell("anon", NULL, &users), ==, BUFPOOL_EARGUMENT);
    return 0;
}
