/* test_options.c: the syntax of options: quotes, sizes, flags, words, presets, and an error for all else. */
#include "options.h"

#include "harness.h"

struct values {
    const char *name;
    const char *word;
    uint64_t capacity;
    uint32_t number;
    uint32_t flags;
};

static const struct bp_option table[] = {
    {"name", BP_OPTION_TEXT, offsetof(struct values, name), 0, "nobody", NULL, "a name"},
    {"word", BP_OPTION_TEXT, offsetof(struct values, word), 0, "yes", "yes no perhaps", "a word"},
    {"capacity", BP_OPTION_SIZE, offsetof(struct values, capacity), 0, "all", NULL, "a size"},
    {"stats", BP_OPTION_FLAG, offsetof(struct values, flags), 4, NULL, NULL, "a flag"},
    {"number", BP_OPTION_NUMBER, offsetof(struct values, number), 0, NULL, NULL, "a number"},
    {"never", BP_OPTION_REFUSED, 0, 0, NULL, NULL, "nobody does"},
};
static const struct bp_preset presets[] = {
    {"small", "capacity=4096:stats=1:hers=1:never=1"}, {"large", "capacity=1 GiB:name=large"}, {NULL, NULL}};

#define KEYS (sizeof table / sizeof *table)

static struct values values;

/* A large one has no name beside number=1. */
static bool fits(const void *held, const char *key)
{
    const struct values *mine = held;
    return strcmp(key, "name") != 0 || mine->number != 1;
}

static int read_options(const char *text)
{
    struct bp_option_set set = {table, KEYS, &values, NULL, fits};
    return bp_options_read("OPTIONS", text, &set, 1, presets);
}

static void good(const char *text, const char *name, uint64_t capacity, bool stats)
{
    values = (struct values){.name = "", .flags = 3};
    if (read_options(text) != 0) {
        fprintf(stderr, "%s: %s\n", text, last_error());
        exit(1);
    }
    CHECK_STRING(values.name, name);
    CHECK(values.capacity == capacity && values.flags == (stats ? 7u : 3u));
}

/* The error has to name the wrong value, and nothing has changed. */
static void bad(const char *text, const char *part)
{
    values = (struct values){.name = "before", .capacity = 1};
    CHECK_IS(read_options(text), ==, BUFPOOL_EARGUMENT);
    CHECK(strncmp(last_error(), "OPTIONS: ", 9) == 0);
    CHECK_HAS(last_error(), part);
    CHECK(strcmp(values.name, "before") == 0 && values.capacity == 1 && values.number == 0 && values.flags == 0);
}

/* Two sets: a key of the first hides that of the second, of which some keys alone are there. */
static void sets(void)
{
    static const struct bp_option own[] = {
        {"word", BP_OPTION_TEXT, offsetof(struct values, word), 0, NULL, "here there", "another word"}};
    struct values mine = {0};
    values = (struct values){0};
    const struct bp_option_set two[] = {{own, 1, &mine, NULL, NULL}, {table, KEYS, &values, "word number name", NULL}};
    CHECK_OK(bp_options_read("OPTIONS", "word=here:number=5:preset=large", two, 2, presets));
    CHECK_STRING(mine.word, "here");
    CHECK(values.word == NULL && values.number == 5 && values.capacity == 0);
    CHECK_STRING(values.name, "large");
    CHECK_IS(bp_options_read("OPTIONS", "word=yes", two, 2, presets), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "word=yes is unknown here: valid are here, there");
    CHECK_IS(bp_options_read("OPTIONS", "capacity=1", two, 2, presets), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "unknown key \"capacity\": word, name, number, preset, help are known");
}

static void ask_for_help(void *argument)
{
    values = (struct values){.name = NULL, .capacity = 0, .number = 7, .flags = 4};
    CHECK(read_options(argument) == 0 || strstr(argument, "wrong") != NULL);
}

static void help(void)
{
    struct child child = run_child(ask_for_help, (void *)(uintptr_t)"help=1:number=9");
    CHECK_PASSED(child);
    CHECK_CHILD(strstr(child.text, "nobody does") == NULL, child);
    static const char *const lines[] = {"OPTIONS is key=value:key='another value'",
                                        "  name=nobody              a name\n",
                                        "  word=yes                 a word: yes, no, perhaps\n",
                                        "  capacity=all             a size\n",
                                        "  stats=1                  a flag\n",
                                        "  number=7                 a number\n",
                                        "  preset=small             capacity=4096:stats=1:hers=1:never=1\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CHECK_CHILD(strstr(child.text, lines[i]) != NULL, child);
    }
    child = run_child(ask_for_help, (void *)(uintptr_t)"help=yes:wrong=1");
    CHECK_PASSED(child);
    CHECK_CHILD(strstr(child.text, "a number") != NULL, child);
    child = run_child(ask_for_help, (void *)(uintptr_t)"help=0");
    CHECK_PASSED(child);
    CHECK_CHILD(child.length == 0, child);
}

int main(void)
{
    harness_begin();
    good(NULL, "", 0, false);
    good("", "", 0, false);
    good("::name=a:::stats=1:", "a", 0, true);
    good("name='a:b=\"c':capacity=4096", "a:b=\"c", 4096, false);
    good("name=\"it's\":stats=yes", "it's", 0, true);
    good("name=", "", 0, false);
    good("name=''", "", 0, false);
    good("stats=on", "", 0, true);
    good("stats=Off", "", 0, false);
    good("name=123456789012345", "123456789012345", 0, false);
    good("capacity=64 MiB", "", UINT64_C(64) << 20, false);
    good("capacity='64 mib'", "", UINT64_C(64) << 20, false);
    good("capacity=64MB", "", 64000000, false);
    good("capacity=1g", "", UINT64_C(1) << 30, false);
    good("capacity=1.5 GiB", "", UINT64_C(3) << 29, false);
    good("capacity=0.5k", "", 512, false);
    good("capacity=16777215 TiB", "", UINT64_C(16777215) << 40, false);
    good("capacity=18446744073709551615", "", UINT64_MAX, false);

    good("number=0", "", 0, false);
    CHECK(values.number == 0);
    good("number=4294967295", "", 0, false);
    CHECK(values.number == UINT32_MAX);
    bad("number=4294967296", "number=4294967296 is not a number: 0 to 4294967295 is right");
    bad("number=", "number= is not a number");
    bad("number=-1", "number=-1 is not a number");
    bad("number=1k", "number=1k is not a number");

    bad("nme=a", "unknown key \"nme\": name, word, capacity, stats, number, preset, help are known");
    bad("=a", "unknown key \"\"");
    bad("name", "\"name\" has no value");
    bad("stats=1:name", "\"name\" has no value");
    bad("Name=a", "unknown key \"Name\"");
    bad("name='a", "no closing '");
    bad("name='a'b", "expected, not \"b\"");
    bad("nme=a:help=2", "unknown key \"nme\"");
    bad("help=2", "help=2 is neither 1 nor 0");
    bad("word=maybe", "word=maybe is unknown here: valid are yes, no, perhaps");
    bad("word=", "word= is unknown here");
    bad("number=1:never=0", "never is not possible here: nobody does");
    bad("word=yes no", "word=yes no is unknown here");
    bad("preset=smal", "preset=smal is unknown: valid are small, large");
    bad("preset=small:preset=large", "preset is given twice");
    bad("number=1:stats=2", "stats=2");
    bad("name=first:stats=1:name=last", "name is given twice, the second time as \"last\"");
    bad("capacity=4096:capacity=4096", "capacity is given twice");
    bad("stats=2", "stats=2");
    bad("stats=", "stats=");
    bad("capacity=", "capacity= is not a size");
    bad("capacity=-1", "capacity=-1");
    bad("capacity=1 XB", "capacity=1 XB");
    bad("capacity=MiB", "capacity=MiB");
    bad("capacity=1.", "capacity=1.");
    bad("capacity=.5k", "capacity=.5k");
    bad("capacity=1.5", "capacity=1.5");
    bad("capacity=1.2.3k", "capacity=1.2.3k");
    bad("capacity=18446744073709551616", "capacity=1844");
    bad("capacity=16777216 TiB", "capacity=16777216 TiB");

    good("preset=small", "", 4096, true);
    good("capacity=5:preset=small", "", 5, true);
    good("preset=small:stats=0:capacity=7", "", 7, false);
    good("preset=large", "large", GIB, false);
    good("name=mine:preset=large", "mine", GIB, false);
    good("preset=large:number=1", "", GIB, false);
    good("name=mine:preset=large:number=1", "mine", GIB, false);

    const char *kept = (read_options("name=the same"), values.name);
    CHECK_OK(read_options("name='the same'"));
    CHECK(values.name == kept);
    CHECK_OK(read_options("name=another"));
    CHECK_STRING(kept, "the same");

    char many[65 * 8] = "";
    for (int i = 0; i < 65; i++) {
        sprintf(many + strlen(many), "k%d=1:", i);
    }
    CHECK_IS(read_options(many), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "more than 64");
    sets();
    help();
    return 0;
}
