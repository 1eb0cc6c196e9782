/*
 * A fork between stage and publish, on every memory and with all pins: the frames stay the parent's, which publishes them; a
 * child that has the pool has frames of its own; and what moves was shared by the fork, so that it is copied.
 */
#include "publish.h"

static void cell(const char *memory, const char *trap)
{
    at.forks = true;
    publish_with_pins(memory, trap, GRANULE);
    publish_in(memory, trap, NULL, 3 * GRANULE, 0);
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(cell, true);
    if (code == 0 && bufpool_probe("thp", "uffd", NULL, 0) == 0) {
        at.forks = true;
        publish_with_pins("thp", "uffd", 2 * MIB);
        publish_in("thp", "uffd", NULL, 4 * MIB, 0);
    }
    return code;
}
