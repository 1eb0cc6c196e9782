/* tables.c: the file of shared tables, see tables.h. */
#include "tables.h"

#include "error.h"
#include "kernel.h"
#include "lazy.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define OS_PAGE 4096
#define MAX_PAGES (UINT64_C(1) << 32) /* 16 TiB of 4 KiB pages */
#define MAX_PAGE_SIZE (UINT64_C(1) << 30)

_Static_assert(sizeof(struct bp_header) <= OS_PAGE, "the members begin at the second OS page");
_Static_assert(sizeof(struct bp_constants) % 8 == 0 &&
                   offsetof(struct bp_constants, checksum) + 8 == sizeof(struct bp_constants),
               "no padding that a checksum would have to leave out");

static size_t members_size(void)
{
    size_t size = (BP_MAX_MEMBERS + 1) * sizeof(struct bp_member);
    return (size + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
}

uint64_t bp_tables_provenance(const struct bp_constants *constants)
{
    uint64_t size =
        OS_PAGE + members_size() + bp_pages_size(constants->capacity / constants->page_size, constants->rest);
    return (size + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
}

static uint64_t file_size(const struct bp_constants *constants)
{
    return bp_tables_provenance(constants) +
           bp_provenance_size(constants->provenance.mode, constants->capacity / constants->page_size);
}

static uint64_t checksum(const struct bp_constants *constants)
{
    const unsigned char *bytes = (const unsigned char *)constants;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < offsetof(struct bp_constants, checksum); i++) {
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

static void lay(struct bp_pages *pages, const struct bp_constants *constants, bool fresh)
{
    char *place = pages->place;
    pages->header = pages->place;
    pages->counts = &pages->header->counts;
    pages->members = (struct bp_member *)(place + OS_PAGE);
    bp_pages_lay(pages, constants->capacity / constants->page_size, constants->rest, place + OS_PAGE + members_size(),
                 fresh);
}

/* Maps the file, and opens a description for what this process locks to repair it: one that is handed to nobody, nor mapped,
 * since a mapping keeps it in a forked child, and the locks with it. */
static int open_file(struct bp_pages *pages, int fd, const struct bp_constants *constants)
{
    int mapped = bp_kernel_reopen(fd);
    int code = mapped < 0 ? mapped : bp_lazy_map_file(mapped, 0, bp_tables_provenance(constants), &pages->place);
    if (mapped >= 0) {
        bp_kernel_close(mapped);
    }
    pages->mapped = code < 0 ? 0 : bp_tables_provenance(constants);
    pages->fd = code < 0 ? code : bp_kernel_reopen(fd);
    code = pages->fd < 0 ? pages->fd : 0;
    if (code < 0) {
        bp_pages_close(pages);
    }
    return code;
}

int bp_tables_create(struct bp_pages *pages, struct bp_constants *constants)
{
    *pages = (struct bp_pages){.fd = -1, .counts = &pages->own};
    constants->magic = BP_TABLES_MAGIC;
    constants->version = BP_TABLES_VERSION;
    constants->size = sizeof(struct bp_header);
    constants->members = BP_MAX_MEMBERS;
    constants->member_size = sizeof(struct bp_member);
    constants->file_size = file_size(constants);
    int made = bp_kernel_memfd(BP_TABLES_NAME, constants->file_size, 0);
    if (made < 0) {
        return made;
    }
    int code = open_file(pages, made, constants);
    bp_kernel_close(made);
    if (code < 0) {
        return code;
    }
    lay(pages, constants, true);
    BP_STORED("tables laid");
    return 0;
}

void bp_tables_publish(struct bp_pages *pages, struct bp_constants *constants)
{
    constants->checksum = checksum(constants);
    memcpy(&pages->header->constants, constants, sizeof *constants);
    BP_STORED("tables published");
}

static int strange(const char *what, unsigned long long found, unsigned long long wanted)
{
    return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: %s is %llu, and has to be %llu", what,
                    found, wanted);
}

static bool is_text(const char *text, size_t room)
{
    size_t length = strnlen(text, room);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < ' ') {
            return false;
        }
    }
    return length > 0 && length < room;
}

static int check_sizes(const struct bp_constants *constants)
{
    uint64_t granule = constants->granule;
    if (granule < OS_PAGE || granule > MAX_PAGE_SIZE || (granule & (granule - 1)) != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: a granule of %llu bytes",
                        (unsigned long long)granule);
    }
    if (constants->page_size == 0 || constants->page_size > MAX_PAGE_SIZE || constants->page_size % granule != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: pages of %llu bytes",
                        (unsigned long long)constants->page_size);
    }
    if (constants->capacity == 0 || constants->capacity % constants->page_size != 0 ||
        constants->capacity / constants->page_size > MAX_PAGES) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: a capacity of %llu bytes",
                        (unsigned long long)constants->capacity);
    }
    if (constants->rest > constants->capacity / constants->page_size || constants->rest > BP_MAX_REST) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: a quarantine of %llu pages",
                        (unsigned long long)constants->rest);
    }
    return 0;
}

int bp_tables_read(int fd, struct bp_constants *constants)
{
    uint64_t length;
    uint64_t frames;
    bool sealed = bp_kernel_is_sealed(fd); /* first: from then on the length is what it is */
    int code = bp_kernel_file_size(fd, &length, &frames);
    ssize_t got = code < 0 ? code : bp_kernel_read_again(fd, constants, sizeof *constants);
    if (got < 0) {
        return bp_error((int)got, "the handle's tables (descriptor %d) cannot be read: %s", fd, strerror((int)-got));
    }
    if ((size_t)got < sizeof *constants || constants->magic != BP_TABLES_MAGIC) {
        return bp_error(BUFPOOL_EARGUMENT, "descriptor %d is not the tables of a pool: pass what bufpool_share() gave",
                        fd);
    }
    if (constants->version != BP_TABLES_VERSION) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "the pool's tables have layout %u, and this version (" BUFPOOL_VERSION ") knows %d: all "
                        "processes need the same version of bufpool",
                        constants->version, BP_TABLES_VERSION);
    }
    if (constants->checksum != checksum(constants)) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables are damaged: their checksum is wrong");
    }
    if (constants->size != sizeof(struct bp_header)) {
        return strange("the header's size", constants->size, sizeof(struct bp_header));
    }
    if (constants->members != BP_MAX_MEMBERS || constants->member_size != sizeof(struct bp_member)) {
        return strange("the size of their entries", constants->member_size, sizeof(struct bp_member));
    }
    code = check_sizes(constants);
    if (code < 0) {
        return code;
    }
    if (!bp_provenance_valid(&constants->provenance)) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: provenance of mode %u and depth %u",
                        constants->provenance.mode, constants->provenance.depth);
    }
    uint64_t wanted = file_size(constants);
    if (constants->file_size != wanted || length != wanted) {
        return strange("their length", length, wanted);
    }
    if (!is_text(constants->name, sizeof constants->name) || !is_text(constants->memory, sizeof constants->memory)) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: the pool's name is no text");
    }
    if (!sealed) {
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: their file is not sealed against "
                                           "changes of its size, so it is not what bufpool_share() gave");
    }
    if (bp_kernel_hugetlbfs(NULL, fd, &length) == 0) { /* a touch would be a bus error where none is free */
        return bp_error(BUFPOOL_EARGUMENT, "the handle's tables cannot be used: their file is one of huge pages, so it "
                                           "is not what bufpool_share() gave");
    }
    return 0;
}

int bp_tables_map(struct bp_pages *pages, int fd, const struct bp_constants *constants)
{
    *pages = (struct bp_pages){.fd = -1, .counts = &pages->own};
    int code = open_file(pages, fd, constants);
    if (code < 0) {
        return code;
    }
    lay(pages, constants, false);
    return 0;
}
