/* test_adopt_anon.c: private anonymous memory of the program's own, adopted. */
#include "adopt.h"

static struct mapping map(void)
{
    return map_memory(GRANULE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "adopted anon", "private anonymous");
}

int main(void)
{
    harness_begin();
    return check_adoption(map);
}
