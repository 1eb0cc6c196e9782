/* ways.c: the names of the ways, see ways.h. */
#include "ways.h"

#include <stdio.h>

_Atomic uint32_t bp_ways_choice;

const char *bufpool_way_name(bufpool_way way)
{
    static const char *const names[BUFPOOL_WAYS] = {
        [BUFPOOL_WAY_MOVE] = "move",
        [BUFPOOL_WAY_HUGE_MOVE] = "huge move",
        [BUFPOOL_WAY_ZEROPAGE] = "zeropage",
        [BUFPOOL_WAY_COPY] = "copy",
        [BUFPOOL_WAY_CONTINUE] = "continue",
        [BUFPOOL_WAY_WRITE] = "write",
        [BUFPOOL_WAY_TOUCH] = "touch",
        [BUFPOOL_WAY_MOVE_OUT] = "move out",
        [BUFPOOL_WAY_BATCH] = "process_madvise",
        [BUFPOOL_WAY_DROP] = "madvise",
        [BUFPOOL_WAY_PUNCH] = "punch",
        [BUFPOOL_WAY_FRAME_MOVE] = "frame move",
        [BUFPOOL_WAY_FRAME_COPY] = "frame copy",
    };
    return (unsigned)way < BUFPOOL_WAYS && names[way] != NULL ? names[way] : "";
}

void bp_ways_text(uint32_t set, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (unsigned way = 0; way < BUFPOOL_WAYS; way++) {
        if (set & BP_WAY(way) && used < size) {
            int more = snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", bufpool_way_name(way));
            used += more > 0 ? (size_t)more : 0;
        }
    }
}
