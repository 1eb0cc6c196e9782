/* text.h: building text in a fixed buffer. Async-signal-safe: no locale, no allocation. */
#ifndef BP_TEXT_H
#define BP_TEXT_H

#include <stddef.h>
#include <stdint.h>

struct bp_text {
    char *at;
    size_t size;   /* of the buffer; what does not fit is dropped */
    size_t length; /* of the whole text, dropped parts too */
};

void bp_text_put(struct bp_text *text, const char *string);
void bp_text_put_bytes(struct bp_text *text, const char *bytes, size_t count);
void bp_text_decimal(struct bp_text *text, uint64_t value);
void bp_text_hex(struct bp_text *text, uint64_t value); /* with 0x */

/* before, the number, after: a path such as /proc/PID/stat, terminated. What does not fit in size bytes is dropped. */
void bp_text_path(char *buffer, size_t size, const char *before, uint64_t number, const char *after);

/* "4 KiB", "1 GiB", or "4352 bytes" where no unit divides it. */
void bp_text_bytes(struct bp_text *text, uint64_t bytes);

/* UTC, "2026-01-31T12:34:56.789012Z", from ns since the epoch. */
void bp_text_time(struct bp_text *text, int64_t ns);

/* A JSON string with its quotes; control characters and bytes that are no UTF-8 are escaped. Of count bytes, or
 * of a terminated string. */
void bp_text_json_bytes(struct bp_text *text, const char *bytes, size_t count);
void bp_text_json(struct bp_text *text, const char *string);

/* The same escapes for plain text, without quotes. */
void bp_text_escaped(struct bp_text *text, const char *bytes, size_t count);

/* Terminates the buffer; returns the whole length. */
size_t bp_text_end(struct bp_text *text);

#endif
