/* numbers.c: a batch's page numbers, see numbers.h. */
#include "numbers.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int bp_numbers_open(struct bp_numbers *numbers, size_t count)
{
    numbers->at = numbers->few;
    if (count > BP_NUMBERS_INLINE) {
        numbers->at = count > SIZE_MAX / sizeof(uint64_t) ? NULL : malloc(count * sizeof(uint64_t));
        if (numbers->at == NULL) {
            return bp_error(-ENOMEM, "cannot allocate memory for a batch of %zu pages", count);
        }
    }
    return 0;
}

int bp_numbers_copy(struct bp_numbers *numbers, size_t count, const uint64_t *from)
{
    if (count > 0 && from == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pages is NULL: pass %zu page numbers", count);
    }
    int code = bp_numbers_open(numbers, count);
    if (code == 0 && count > 0) {
        memcpy(numbers->at, from, count * sizeof *from);
    }
    return code;
}

void bp_numbers_close(struct bp_numbers *numbers)
{
    if (numbers->at != numbers->few) {
        free(numbers->at);
    }
}

size_t bp_numbers_run(const uint64_t *numbers, size_t count, size_t i)
{
    size_t end = i + 1;
    while (end < count && numbers[end] == numbers[end - 1] + 1) {
        end++;
    }
    return end;
}
