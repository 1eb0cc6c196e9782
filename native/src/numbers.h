/* numbers.h: a batch's page numbers in memory of our own, apart from the caller's array, which might itself be stray.
 */
#ifndef BP_NUMBERS_H
#define BP_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#define BP_NUMBERS_INLINE 128

struct bp_numbers {
    uint64_t *at;
    uint64_t few[BP_NUMBERS_INLINE];
};

/* Room for count numbers. Errors: -ENOMEM. Not async-signal-safe. */
int bp_numbers_open(struct bp_numbers *numbers, size_t count);

/* The same, copied from the caller's array. Errors: EARGUMENT (NULL). */
int bp_numbers_copy(struct bp_numbers *numbers, size_t count, const uint64_t *from);
void bp_numbers_close(struct bp_numbers *numbers);

/* The end of the run of consecutive numbers that begins at index i. */
size_t bp_numbers_run(const uint64_t *numbers, size_t count, size_t i);

#endif
