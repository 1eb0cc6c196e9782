/*
 * words.h: the data: every distinct word of the files in a folder, with the line in which it was found first.
 *
 * It lies in a memfd, which all processes map: the driver fills it, the workers read it.
 */
#ifndef KV_WORDS_H
#define KV_WORDS_H

#include "tree.h"

struct kv_words; /* in the memfd */

/* Words of letters, digits and underscores that begin with none of the digits, of at most KV_MAX_KEY bytes. At most
 * `most` of them. Returns the descriptor, or -errno. */
int kv_words_read(const char *folder, uint32_t most);

/* NULL: errno says why. */
const struct kv_words *kv_words_map(int fd);

uint32_t kv_words_count(const struct kv_words *words);
struct kv_text kv_word(const struct kv_words *words, uint32_t word);

/* The value that write number `id` puts for a word: the id, then the line of another word, which both determine.
 * buffer: KV_MAX_VALUE bytes. */
struct kv_text kv_word_value(const struct kv_words *words, uint32_t word, uint64_t id, char *buffer);

#endif
