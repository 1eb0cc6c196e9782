/* say.h: this thread's last error of the SQLite page cache, as a sentence. */
#ifndef BUFPOOL_SQLITE_SAY_H
#define BUFPOOL_SQLITE_SAY_H

/* Keeps the sentence and returns code. */
int sq_say(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for an error that bufpool just returned to this thread: "what: bufpool's own sentence". */
int sq_say_bufpool(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
