/* Frames are staged, published, withdrawn and replaced on every memory of small granules. */
#include "publish.h"

static void cell(const char *memory, const char *trap)
{
    publish_with_pins(memory, trap, GRANULE);
    publish_in(memory, trap, NULL, 4 * GRANULE, 0);
    publish_in(memory, trap, NULL, 64 * GRANULE, BUFPOOL_LAZY_ZERO);
    publish_in(memory, trap, NULL, GRANULE, BUFPOOL_RED_ZONES | BUFPOOL_SCRUB);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, true);
}
