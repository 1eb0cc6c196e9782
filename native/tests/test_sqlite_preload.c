/* test_sqlite_preload.c: the stock sqlite3 shell under LD_PRELOAD: 100,000 inserts, an integrity check and a dump equal
 * to the untrapped one; and no start at all with wrong options. libbufpool_sqlite3.so is the one named by
 * BUFPOOL_SQLITE_PRELOAD, else that of the build which this program is of. */
#include "test_sqlite.h"

#include <sys/wait.h>

#define INSERTS 100000

static char directory[256];
static char preload[600];

/* Runs a command in the test's directory; answers its exit code. */
static int shell(const char *format, const char *options)
{
    char command[2048];
    char line[1500];
    snprintf(line, sizeof line, format, options);
    snprintf(command, sizeof command, "cd '%s' && exec timeout 300 %s", directory, line);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int trapped(const char *options, const char *arguments)
{
    char command[1200];
    setenv("BUFPOOL_OPTIONS", options, 1);
    setenv("PRELOAD", preload, 1);
    snprintf(command, sizeof command, "env LD_PRELOAD=\"$PRELOAD\" sqlite3 %s", arguments);
    return shell("%s", command);
}

static const char *content_of(const char *name)
{
    static char content[65536];
    char path[300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    size_t size = fread(content, 1, sizeof content - 1, file);
    fclose(file);
    content[size] = '\0';
    return content;
}

static bool file_has(const char *name, const char *text)
{
    bool has = strstr(content_of(name), text) != NULL;
    if (!has)
        fprintf(stderr, "%s has no \"%s\": %s\n", name, text, content_of(name));
    return has;
}

static void write_script(void)
{
    char path[300];
    uint64_t random = 99;
    snprintf(path, sizeof path, "%s/script.sql", directory);
    FILE *script = fopen(path, "w");
    CHECK(script != NULL);
    fprintf(script, "create table t(a integer primary key, b text, c real);\ncreate index i on t(b);\nbegin;\n");
    for (unsigned i = 0; i < INSERTS; i++)
        fprintf(script, "insert into t values (%u, 'text %llx of row', %u.5);\n", i,
                (unsigned long long)next_random(&random), i % 977);
    fprintf(script, "commit;\ndelete from t where a %% 10 = 3;\nupdate t set b = b || b where a %% 7 = 0;\n");
    fprintf(script, "pragma integrity_check;\nselect count(*), sum(c), count(distinct b) from t;\n.dump\n");
    CHECK(fclose(script) == 0);
}

static void same_dump(const char *options)
{
    CHECK(shell("%s", "rm -f trapped.db") == 0);
    CHECK(trapped(options, "trapped.db < script.sql > trapped.out 2> trapped.err") == 0);
    CHECK(shell("%s", "cmp stock.out trapped.out") == 0);
    CHECK(file_has("trapped.err", "bufpool: SQLite page cache: trap "));
    CHECK(strstr(content_of("trapped.err"), " 0 evictions") == NULL);
}

static void refused(const char *options, const char *part)
{
    CHECK(trapped(options, "refused.db 'create table t(a)' > refused.out 2> refused.err") != 0);
    CHECK(file_has("refused.err", part));
    CHECK(shell("%s", "test ! -s refused.db") == 0);
}

static void find_preload(void)
{
    char program[512] = "";
    const char *named = getenv("BUFPOOL_SQLITE_PRELOAD");
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    *strrchr(program, '/') = '\0';
    if (named != NULL)
        snprintf(preload, sizeof preload, "%s", named);
    else
        snprintf(preload, sizeof preload, "%s/../libbufpool_sqlite3.so", program);
    if (access(preload, R_OK) == 0)
        return;
    fprintf(stderr, "there is no %s: build it, or name it in BUFPOOL_SQLITE_PRELOAD\n", preload);
    exit(1);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip("the stock shell cannot load a library with a sanitizer in it");
#endif
    find_preload();
    make_directory(directory);
    if (shell("%s", "sqlite3 -version > version.out 2>&1") != 0) {
        remove_directory(directory);
        skip("there is no sqlite3 shell on this machine");
    }
    write_script();
    CHECK(shell("%s", "sqlite3 stock.db < script.sql > stock.out") == 0);
    CHECK(file_has("stock.out", "ok\n90000|"));
    same_dump("capacity=64 MiB:stats=1");
    same_dump("capacity='1 MiB':stats=yes:name=small:on_fault=abort");
    same_dump("capacity='1 MiB':stats=1:provenance=stacks:provenance_depth=3:report_limit=5:monitor=0");
    same_dump("capacity='1 MiB':stats=1:on_fault=freeze");
    same_dump("capacity='1 MiB':stats=1:preset=production");
    CHECK(file_has("trapped.err", "SQLite page cache: pins off, sample 1000, ") &&
          file_has("trapped.err", " 0 pages left open"));
    same_dump("capacity='1 MiB':stats=1:sample=2:seed=9:fill=pattern:scrub=1:quarantine=1 MiB");
    same_dump("capacity='1 MiB':stats=1:preset=test:pins=all");
    CHECK(file_has("trapped.err", "SQLite page cache: pins all, ") && file_has("trapped.err", " 0 pages left open"));
    CHECK(strstr(content_of("trapped.err"), " 0 pin cycles") == NULL);

    refused("capcity=64 MiB", "unknown key \"capcity\"");
    refused("capacity=lots", "capacity=lots is not a size");
    refused("trap=tripwire", "tripwire");
    refused("on_fault=raise", "on_fault=raise is unknown here: valid are abort, resume, freeze");
    refused("on_fault=abrt", "on_fault=abrt is unknown here: valid are abort, resume, freeze");
    refused("name=", "name is \"\": 1 to 57 bytes are right");
    refused("provenance=sometimes", "sometimes");
    refused("pins=most", "pins=most is unknown here: valid are off, count, write, all");
    refused("provenance=stacks:provenance_depth=99", "provenance_depth is 99");
    refused("lazy_zero=1", "unknown key \"lazy_zero\"");
    refused("red_zones=1", "red_zones is not possible here: SQLite reads a little past its pages");
    refused("fill=ones", "fill=ones is unknown here: valid are zeros, pattern");
    refused("sample=5:pins=all", "every page is guarded");
    refused("preset=none", "preset=none is unknown");
    refused("report_limit=lots", "report_limit=lots is not a number");
    refused("monitor=1:trap=mprotect", "system calls");
    refused("stats=1:stats=1", "stats is given twice");
    CHECK(trapped("help=1", ":memory: 'select 1' > help.out 2> help.err") == 0);
    CHECK(file_has("help.err", "  capacity=half of the memory") && file_has("help.out", "1\n"));
    CHECK(file_has("help.err", "  name=sqlite ") && file_has("help.err", "  on_fault=abort "));
    CHECK(strstr(content_of("help.err"), "lazy_zero") == NULL && strstr(content_of("help.err"), " red_zones") == NULL);
    remove_directory(directory);
    return 0;
}
