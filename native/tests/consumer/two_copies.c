/* Two copies of the library in one process: each catches its own stray accesses, and leaves the other's alone. */
#include "copy.h"
#include <dlfcn.h>
#include <stdio.h>

#define ROUNDS 100

static const struct copy *a, *b;
static int inner_result;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "two_copies: line %d: %s\n", __LINE__, #condition); \
            return 1; \
        } \
    } while (0)

static const struct copy *load(const char *path)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct copy *copy = object ? (const struct copy *)dlsym(object, "bufpool_copy") : NULL;
    if (!copy)
        fprintf(stderr, "two_copies: %s: %s\n", path, dlerror());
    return copy;
}

static void stray_in_a(void)
{
    inner_result |= a->stray(NULL);
}

static void stray_in_b(void)
{
    inner_result |= b->stray(NULL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    a = load(argv[1]);
    b = load(argv[2]);
    CHECK(a && b && a != b);
    CHECK(a->open() == 0);
    CHECK(a->stray(NULL) == 0);
    CHECK(b->open() == 0);
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(a->stray(NULL) == 0);
        CHECK(b->stray(NULL) == 0);
        CHECK(a->stray(stray_in_b) == 0 && inner_result == 0);
        CHECK(b->stray(stray_in_a) == 0 && inner_result == 0);
    }
    CHECK(a->faults() == 1 + 3 * ROUNDS);
    CHECK(b->faults() == 3 * ROUNDS);
    CHECK(b->close() == 0);
    CHECK(a->stray(NULL) == 0);
    CHECK(b->stray(NULL) == 0); /* closed, and still trapping */
    CHECK(a->close() == 0);
    return 0;
}
