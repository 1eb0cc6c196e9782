/* What a forked child inherits of a pool: the suite of heirs.h on every memory of small pages. */
#include "heirs.h"

int main(void)
{
    harness_begin();
    return for_each_cell(inherit_cell, false);
}
