/* test_sqlite_install.c: install and uninstall, initialised or not, and each refusal with its reason; a refusal leaves
 * SQLite's own page cache in place and usable. */
#include "cache.h"
#include "test_sqlite.h"

static sqlite library;

/* The call has to fail with the code and to say the part. */
static void refused(int code, const bufpool_sqlite_config *config, const char *part)
{
    char sentence[1024];
    CHECK_RESULT(code, bufpool_sqlite_install(config));
    CHECK((size_t)bufpool_sqlite_last_error(sentence, sizeof sentence) == strlen(sentence));
    if (strstr(sentence, part) == NULL) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", sentence, part);
        exit(1);
    }
    CHECK(!bufpool_sqlite_installed());
}

static void use(bool ours)
{
    char answer[64];
    sqlite3 *db = NULL;
    bufpool_sqlite_statistics before = BUFPOOL_SQLITE_STATISTICS_INIT;
    bufpool_sqlite_statistics after = BUFPOOL_SQLITE_STATISTICS_INIT;
    CHECK((bufpool_sqlite_stats(&before) == 0) == ours);
    CHECK(library.open(":memory:", &db) == 0);
    run(&library, db, "create table t(a); insert into t values (41)");
    ask(&library, db, "select a + 1 from t", answer);
    CHECK(strcmp(answer, "42") == 0);
    CHECK((bufpool_sqlite_stats(&after) == 0) == ours);
    if (ours)
        CHECK(after.misses > before.misses && after.caches > 0 && after.resident > 0);
    CHECK(library.close(db) == 0);
}

static void wrong_fields(void)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    refused(BUFPOOL_EARGUMENT, NULL, "config is NULL");
    config.size = 8;
    refused(BUFPOOL_EARGUMENT, &config, "config.size is 8");
    config = (bufpool_sqlite_config)BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = 4096;
    refused(BUFPOOL_EARGUMENT, &config, "capacity is 4096 bytes");
    config.capacity = UINT64_C(5) << 40;
    refused(BUFPOOL_EARGUMENT, &config, "4 TiB");
    config.capacity = UINT64_C(16) << 20;
    config.name = "a name that is very much longer than the sixty or so that are allowed";
    refused(BUFPOOL_EARGUMENT, &config, "name is 69 bytes");
    config.name = "";
    refused(BUFPOOL_EARGUMENT, &config, "name is \"\"");
    config.name = NULL;
    config.trap = "tripwire";
    refused(BUFPOOL_EARGUMENT, &config, "tripwire");
    config.trap = "auto";
    config.memory = "paper";
    refused(BUFPOOL_EARGUMENT, &config, "paper");
    config.memory = NULL;
    config.on_fault = "shrug";
    refused(BUFPOOL_EARGUMENT, &config, "shrug");
    config.on_fault = NULL;
    config.provenance = "sometimes";
    refused(BUFPOOL_EARGUMENT, &config, "sometimes");
    config.provenance = "stacks";
    config.provenance_depth = 99;
    refused(BUFPOOL_EARGUMENT, &config, "provenance_depth is 99");
    config.provenance = NULL;
    config.provenance_depth = 0;
    config.monitor = true;
    config.trap = "mprotect";
    refused(BUFPOOL_EUNSUPPORTED, &config, "system calls");
    config.monitor = false;
    config.trap = "auto";
    config.library = "/nowhere/libsqlite3.so";
    refused(BUFPOOL_EARGUMENT, &config, "/nowhere/libsqlite3.so");
    config.library = "libc.so.6"; /* not linked to SQLite, as a library that contains it statically and hides it */
    refused(BUFPOOL_EUNSUPPORTED, &config, "statically");
}

static void twice_and_open(const bufpool_sqlite_config *config)
{
    sqlite3 *db = NULL;
    CHECK_RESULT(0, bufpool_sqlite_install(config));
    CHECK_RESULT(BUFPOOL_ESTATE, bufpool_sqlite_install(config));
    use(true);
    CHECK(library.open(":memory:", &db) == 0);
    CHECK_RESULT(BUFPOOL_ESTATE, bufpool_sqlite_uninstall());
    CHECK(bufpool_sqlite_installed());
    run(&library, db, "create table t(a)");
    CHECK(library.close(db) == 0);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
    CHECK_RESULT(BUFPOOL_ESTATE, bufpool_sqlite_uninstall());
    use(false);
}

static void statistics(const bufpool_sqlite_config *config)
{
    bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
    bufpool_sqlite_group group = BUFPOOL_SQLITE_GROUP_INIT;
    bufpool_pool *pools[4] = {NULL};
    sqlite3 *db = NULL;
    CHECK(bufpool_sqlite_pools(NULL, 0) == 0);
    CHECK_RESULT(BUFPOOL_ESTATE, bufpool_sqlite_group_stats(0, &group));
    CHECK_RESULT(0, bufpool_sqlite_install(config));
    CHECK(library.open(":memory:", &db) == 0);
    run(&library, db, "pragma page_size = 1024; create table t(a); insert into t values (zeroblob(100000))");
    CHECK(bufpool_sqlite_pools(pools, 4) == 2 && pools[0] != NULL && pools[1] != NULL && pools[2] == NULL);
    CHECK_RESULT(0, bufpool_sqlite_stats(&all));
    CHECK(all.groups == 2 && all.capacity == config->capacity && all.sqlite_version >= SQLITE_VERSION_PCACHE2);
    CHECK(strstr(all.library, "sqlite3") != NULL);
    CHECK_RESULT(0, bufpool_sqlite_group_stats(1, &group));
    CHECK(group.pool == pools[1] && group.sqlite_page_size == 1024 && group.page_size >= 4096);
    CHECK(group.slots_per_granule == group.page_size / 1024 && group.caches == 1);
    CHECK(all.pages >= 98 && group.resident * group.slots_per_granule >= all.pages);
    CHECK(group.resident * group.page_size == all.resident && all.resident_peak >= all.resident);
    CHECK(strlen(group.trap) > 0 && strcmp(group.trap, "auto") != 0 && strcmp(group.memory, "anon") == 0);
    CHECK_RESULT(BUFPOOL_EARGUMENT, bufpool_sqlite_group_stats(2, &group));
    CHECK_RESULT(BUFPOOL_EARGUMENT, bufpool_sqlite_stats(NULL));
    CHECK(library.close(db) == 0);
    CHECK_RESULT(0, bufpool_sqlite_group_stats(1, &group));
    CHECK(group.caches == 0 && group.resident == 0 && group.resting > 0);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
}

/* The program shuts SQLite down and gives it another page cache. */
static void install_again(const bufpool_sqlite_config *config, const sqlite3_pcache_methods2 *other)
{
    CHECK_RESULT(BUFPOOL_ESTATE, sq_install_again());
    CHECK_RESULT(0, bufpool_sqlite_install(config));
    use(true);
    CHECK(library.shutdown() == 0);
    CHECK(!sq_cache_active());
    CHECK_RESULT(0, sq_install_again());
    use(true);
    CHECK(library.shutdown() == 0);
    CHECK(library.config(SQLITE_CONFIG_PCACHE2, other) == SQLITE_OK);
    CHECK_RESULT(0, sq_install_again());
    use(true);
    CHECK(sq_cache_active());
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
}

/* An SQLite that counts no memory cannot say whether connections are open. */
static void no_memory_count(const bufpool_sqlite_config *config)
{
    enum { SQLITE_CONFIG_MEMSTATUS = 9 };
    CHECK(library.shutdown() == 0);
    CHECK(library.config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK && library.initialize() == SQLITE_OK);
    refused(BUFPOOL_EUNSUPPORTED, config, "counts no memory");
    use(false);
    CHECK(library.shutdown() == 0 && library.config(SQLITE_CONFIG_MEMSTATUS, 1) == SQLITE_OK);
}

static void two_libraries(const bufpool_sqlite_config *config)
{
    char directory[256];
    char path[300];
    char command[800];
    Dl_info info;
    CHECK(dladdr((void *)library.open, &info) != 0);
    make_directory(directory);
    snprintf(path, sizeof path, "%s/libsqlite3.so.0", directory);
    snprintf(command, sizeof command, "cp '%s' '%s'", info.dli_fname, path);
    CHECK(system(command) == 0);
    void *copy = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(copy != NULL);
    refused(BUFPOOL_EARGUMENT, config, path);
    bufpool_sqlite_config named = *config;
    named.handle = library.handle;
    CHECK_RESULT(0, bufpool_sqlite_install(&named));
    use(true);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
    dlclose(copy);
    remove_directory(directory);
}

int main(void)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(64) << 20;
    library = load_sqlite();
    sqlite3_pcache_methods2 stock;
    CHECK(library.config(SQLITE_CONFIG_GETPCACHE2, &stock) == SQLITE_OK);

    /* Not yet initialised, the only SQLite in the process, found without being named. */
    CHECK_RESULT(0, bufpool_sqlite_install(&config));
    use(true);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());

    CHECK(library.initialize() == 0);
    wrong_fields();
    use(false);

    sqlite3 *db = NULL;
    CHECK(library.open(":memory:", &db) == 0);
    run(&library, db, "create table t(a); insert into t values (1)");
    refused(BUFPOOL_ESTATE, &config, "connections are open");
    run(&library, db, "insert into t values (2)");
    CHECK(library.close(db) == 0);

    config.handle = library.handle;
    twice_and_open(&config);
    config.handle = NULL;
    config.library = "libsqlite3.so.0";
    twice_and_open(&config);
    statistics(&config);
    install_again(&config, &stock);
    config.library = NULL;
    no_memory_count(&config);
    two_libraries(&config);
    return 0;
}
