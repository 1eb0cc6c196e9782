/* error.h: this thread's last error, a sentence with the values in it. Not async-signal-safe. */
#ifndef BP_ERROR_H
#define BP_ERROR_H

#include <stddef.h>

/* Keeps the sentence for bufpool_last_error() and returns code, so that a caller can write: return bp_error(...). */
int bp_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The sentence kept last; "" if none. */
const char *bp_error_text(void);

/* For bufpool_last_done(). Every bp_error() sets it back to 0, so call this afterwards. */
void bp_error_set_done(size_t done);

#endif
