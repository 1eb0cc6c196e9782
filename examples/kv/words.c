/* words.c: see words.h. */
#include "words.h"

#include <ctype.h>
#include <errno.h>
#include <ftw.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINE 400

struct kv_words {
    uint64_t size; /* bytes of all */
    uint32_t count;
    struct {
        uint32_t key; /* offsets in bytes */
        uint32_t line;
    } at[];
};

/* ---- Reading the files ---- */

static struct {
    uint32_t most;
    uint32_t count;
    char **words;
    char **lines;
    struct hsearch_data known;
} reading; /* nftw() passes nothing on */

static bool is_known(char *word)
{
    ENTRY entry = {word, NULL};
    ENTRY *found;
    return hsearch_r(entry, FIND, &found, &reading.known) != 0;
}

static void take_word(const char *bytes, size_t size, const char *line)
{
    char word[KV_MAX_KEY + 1];
    memcpy(word, bytes, size);
    word[size] = '\0';
    if (reading.count == reading.most || is_known(word)) {
        return;
    }
    ENTRY entry = {strdup(word), NULL};
    ENTRY *made;
    hsearch_r(entry, ENTER, &made, &reading.known);
    reading.words[reading.count] = entry.key;
    reading.lines[reading.count++] = strndup(line, MAX_LINE);
}

static void take_line(char *line)
{
    line[strcspn(line, "\r\n")] = '\0';
    line += strspn(line, " \t");
    for (const char *at = line; *at != '\0';) {
        const char *begin = at;
        while (isalnum((unsigned char)*at) || *at == '_') {
            at++;
        }
        if (at > begin && at - begin <= KV_MAX_KEY && !isdigit((unsigned char)*begin)) {
            take_word(begin, (size_t)(at - begin), line);
        }
        at += at == begin;
    }
}

static int take_file(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)where;
    FILE *file = type == FTW_F ? fopen(path, "r") : NULL;
    char *line = NULL;
    size_t room = 0;
    while (file != NULL && reading.count < reading.most && getline(&line, &room, file) >= 0) {
        take_line(line);
    }
    free(line);
    if (file != NULL) {
        fclose(file);
    }
    return reading.count == reading.most;
}

/* ---- The memfd ---- */

static int write_words(void)
{
    size_t size = sizeof(struct kv_words) + reading.count * sizeof(((struct kv_words *)NULL)->at[0]);
    size_t next = size;
    for (uint32_t i = 0; i < reading.count; i++) {
        size += strlen(reading.words[i]) + strlen(reading.lines[i]) + 2;
    }
    int fd = memfd_create("kv-words", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return -errno;
    }
    struct kv_words *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (words == MAP_FAILED) {
        return -errno;
    }
    words->size = size;
    words->count = reading.count;
    for (uint32_t i = 0; i < reading.count; i++) {
        words->at[i].key = (uint32_t)next;
        next = (size_t)(stpcpy((char *)words + next, reading.words[i]) + 1 - (char *)words);
        words->at[i].line = (uint32_t)next;
        next = (size_t)(stpcpy((char *)words + next, reading.lines[i]) + 1 - (char *)words);
    }
    munmap(words, size);
    return fd;
}

int kv_words_read(const char *folder, uint32_t most)
{
    reading.most = most;
    reading.words = calloc(most, sizeof *reading.words);
    reading.lines = calloc(most, sizeof *reading.lines);
    if (reading.words == NULL || reading.lines == NULL || hcreate_r(most * 2, &reading.known) == 0) {
        return -ENOMEM;
    }
    int code = nftw(folder, take_file, 32, FTW_PHYS) < 0 ? -errno : 0;
    if (code == 0) {
        code = write_words();
    }
    for (uint32_t i = 0; i < reading.count; i++) {
        free(reading.words[i]);
        free(reading.lines[i]);
    }
    free(reading.words);
    free(reading.lines);
    hdestroy_r(&reading.known);
    return code;
}

const struct kv_words *kv_words_map(int fd)
{
    struct stat status;
    void *at = fstat(fd, &status) < 0 ? MAP_FAILED : mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

uint32_t kv_words_count(const struct kv_words *words)
{
    return words->count;
}

static struct kv_text text_at(const struct kv_words *words, uint32_t offset)
{
    const char *text = (const char *)words + offset;
    return (struct kv_text){text, (uint16_t)strlen(text)};
}

struct kv_text kv_word(const struct kv_words *words, uint32_t word)
{
    return text_at(words, words->at[word].key);
}

struct kv_text kv_word_value(const struct kv_words *words, uint32_t word, uint64_t id, char *buffer)
{
    struct kv_text line = text_at(words, words->at[(word + id) % words->count].line);
    memcpy(buffer, &id, sizeof id);
    memcpy(buffer + sizeof id, line.bytes, line.size);
    return (struct kv_text){buffer, (uint16_t)(sizeof id + line.size)};
}
