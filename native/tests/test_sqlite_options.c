/* test_sqlite_options.c: BUFPOOL_OPTIONS' syntax: quotes, sizes, flags, and an error for all else. */
#include "options.h"
#include "test_sqlite.h"

static struct {
    char name[16];
    uint64_t capacity;
    uint32_t number;
    bool stats;
} values;

static const option table[] = {
    {"name", OPTION_TEXT, values.name, sizeof values.name, "a name"},
    {"capacity", OPTION_SIZE, &values.capacity, 0, "a size"},
    {"stats", OPTION_FLAG, &values.stats, 0, "a flag"},
    {"number", OPTION_NUMBER, &values.number, 0, "a number"},
};

#define KEYS (sizeof table / sizeof table[0])

static void good(const char *text, const char *name, uint64_t capacity, bool stats)
{
    char error[256] = "";
    memset(&values, 0, sizeof values);
    if (options_parse(text, table, KEYS, error, sizeof error) != 0) {
        fprintf(stderr, "%s: %s\n", text, error);
        exit(1);
    }
    CHECK(strcmp(values.name, name) == 0 && values.capacity == capacity && values.stats == stats);
}

/* The error has to name the wrong value. */
static void bad(const char *text, const char *part)
{
    char error[256] = "";
    CHECK(options_parse(text, table, KEYS, error, sizeof error) == -1);
    if (strstr(error, part) == NULL) {
        fprintf(stderr, "%s: \"%s\" does not say \"%s\"\n", text, error, part);
        exit(1);
    }
}

int main(void)
{
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

    bad("nme=a", "unknown key \"nme\": name, capacity, stats, number are known");
    bad("=a", "unknown key \"\"");
    bad("name", "\"name\" has no value");
    bad("stats=1:name", "\"name\" has no value");
    bad("Name=a", "unknown key \"Name\"");
    bad("name='a", "no closing '");
    bad("name='a'b", "expected, not \"b\"");
    bad("name=1234567890123456", "16 bytes long: at most 15");
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

    char error[8];
    CHECK(options_parse("stats=2", table, KEYS, error, sizeof error) == -1 && strlen(error) == 7);
    char help[256];
    options_help(table, KEYS, help, sizeof help);
    CHECK(strstr(help, "capacity") != NULL && strstr(help, "a flag") != NULL);
    return 0;
}
