/* format.h: reports as text and as JSON for a handler, whose stack may be small. */
#ifndef BP_FORMAT_H
#define BP_FORMAT_H

#include "modules.h"

#include <bufpool/bufpool.h>

#define BP_FRAMES (BUFPOOL_STACK_DEPTH + 3 * BUFPOOL_ORIGIN_DEPTH)

/* Room to look up all the frames of a report. */
struct bp_frames {
    uint32_t count;
    uint32_t starts[5]; /* of each stack in addresses, and the end */
    uint64_t addresses[BP_FRAMES];
    struct bp_module modules[BP_FRAMES];
    char names[2048];
    struct bp_modules_room room;
};

/* bufpool_format_text() and _json() with the room given. Async-signal-safe. */
size_t bp_format_text(const bufpool_fault *fault, struct bp_frames *frames, char *buffer, size_t size);
size_t bp_format_json(const bufpool_fault *fault, struct bp_frames *frames, char *buffer, size_t size);

#endif
