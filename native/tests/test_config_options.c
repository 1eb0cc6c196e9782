/* test_config_options.c: BUFPOOL_OPTIONS in a bufpool_config: every key, presets, older configs, and what is refused. */
#include "config_options.h"
#include "harness.h"

static void from_environment(const char *text, bufpool_config *config)
{
    CHECK_OK(setenv("BUFPOOL_OPTIONS", text, 1));
    CHECK_OK(bufpool_config_from_environment(config));
}

static void fields(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_config before = config;
    unsetenv("BUFPOOL_OPTIONS");
    CHECK_OK(bufpool_config_from_environment(&config));
    CHECK_OK(bufpool_config_from_options(&config, NULL));
    CHECK(memcmp(&config, &before, sizeof config) == 0);

    config.capacity = MIB;
    config.name = "mine";
    config.flags = BUFPOOL_LAZY_ZERO;
    from_environment("memory=shared:trap=mprotect:on_fault=resume:log='a:b':report_limit=5:provenance=last:"
                     "provenance_depth=3:fork=exclude:numa='0,2-3':monitor=1:lazy_zero=0:granule=2 MiB",
                     &config);
    CHECK_STRING(config.memory, "shared");
    CHECK_STRING(config.trap, "mprotect");
    CHECK_STRING(config.on_fault, "resume");
    CHECK_STRING(config.log, "a:b");
    CHECK_STRING(config.provenance, "last");
    CHECK_STRING(config.fork, "exclude");
    CHECK_STRING(config.numa, "0,2-3");
    CHECK_STRING(config.name, "mine");
    CHECK(config.report_limit == 5 && config.provenance_depth == 3 && config.granule == 2 * MIB);
    CHECK(config.capacity == MIB && config.page_size == 4096 && config.flags == BUFPOOL_MONITOR);
}

/* The texts stay when the variable's own memory goes. */
static void opens(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    from_environment("name=from outside:on_fault=resume:preset=test", &config);
    from_environment("", &config);
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    bufpool_statistics stats = stats_of(pool);
    CHECK_STRING(stats.name, "from outside");
    CHECK_STRING(stats.on_fault, "resume");
    CHECK_STRING(stats.provenance, "stacks");
    CHECK_OK(bufpool_close(pool));
}

static void refused(const char *text, const char *part)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_config before = config;
    CHECK_IS(bufpool_config_from_options(&config, text), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), part);
    CHECK_OK(setenv("BUFPOOL_OPTIONS", text, 1));
    CHECK_IS(bufpool_config_from_environment(&config), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "BUFPOOL_OPTIONS: ");
    CHECK_HAS(last_error(), part);
    CHECK(memcmp(&config, &before, sizeof config) == 0);
}

/* What a preset says is known here, even if no reader took it; and a pool has it. */
static void preset_keys(const struct bp_preset *preset)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    CHECK_OK(bufpool_config_from_options(&config, preset->options));
    char text[64];
    snprintf(text, sizeof text, "preset=%s", preset->name);
    config = (bufpool_config)BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    CHECK_OK(bufpool_config_from_options(&config, text));
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_close(pool));
}

/* A preset gives way to what the program, or the text, says; then the pool can be opened. */
static void gives_way(const char *text, uint32_t flags, const char *pins, const char *audit)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.flags = flags;
    config.pins = pins;
    config.audit = audit;
    CHECK_OK(bufpool_config_from_options(&config, text));
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    bool production = strstr(text, "production") != NULL;
    CHECK(config.quarantine == 64 * MIB && config.sample == 0);
    CHECK_STRING(config.provenance, production ? "last" : "stacks");
    CHECK(config.flags == (flags | (production ? 0 : BUFPOOL_RED_ZONES)));
    CHECK(stats_of(pool).sample == 0);
    CHECK_OK(bufpool_close(pool));
}

static void presets_give_way(void)
{
    gives_way("preset=test", BUFPOOL_LAZY_ZERO, NULL, NULL);
    gives_way("preset=production", 0, "write", NULL);
    gives_way("preset=production", 0, "all", NULL);
    gives_way("preset=production", 0, NULL, "checksum");
    gives_way("preset=production:pins=all", 0, NULL, NULL);
    gives_way("audit=checksum:preset=production", 0, NULL, NULL);
    gives_way("preset=production:trap=none", 0, NULL, NULL);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    CHECK_OK(bufpool_config_from_options(&config, "preset=production"));
    CHECK(config.sample == 1000 && config.seed == 0);
    CHECK_OK(bufpool_config_from_options(&config, "preset=production:sample=5"));
    CHECK(config.sample == 5);
    config.flags = BUFPOOL_RESERVE;
    CHECK_OK(bufpool_config_from_options(&config, "preset=test"));
    CHECK(config.flags == BUFPOOL_RESERVE);
    /* What is asked for by name is not left out. */
    config = (bufpool_config)BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.pins = "all";
    bufpool_pool *pool;
    CHECK_OK(bufpool_config_from_options(&config, "sample=1000"));
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "every page is guarded");
}

/* A program built with a header whose config ended earlier. */
static void older(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.size = offsetof(bufpool_config, fork);
    config.report_limit = 77;
    CHECK_OK(bufpool_config_from_options(&config, "provenance=last:trap=guard"));
    CHECK_STRING(config.provenance, "last");
    CHECK_IS(bufpool_config_from_options(&config, "trap=uffd:report_limit=3"), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "no field");
    CHECK_STRING(config.trap, "guard");
    CHECK_IS(config.report_limit, ==, 77);
    config.size = 0;
    CHECK_IS(bufpool_config_from_options(&config, "trap=uffd"), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_config_from_environment(NULL), ==, BUFPOOL_EARGUMENT);
    config.size = sizeof config + 8; /* of a newer one */
    CHECK_OK(bufpool_config_from_options(&config, "trap=uffd"));
}

static void *race(void *argument)
{
    bufpool_config *config = argument;
    for (int i = 0; i < 1000; i++) {
        char text[32];
        snprintf(text, sizeof text, "name=n%d", i);
        CHECK_OK(bufpool_config_from_options(config, text));
        CHECK_STRING(config->name, text + 5);
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    fields();
    opens();
    refused("trp=uffd", "unknown key \"trp\": memory, granule, trap,");
    refused("trap=tripwire", "trap=tripwire is unknown here: valid are auto, noautofill, uffd");
    refused("provenance=stacks:on_fault=abrt", "on_fault=abrt is unknown here: valid are abort, raise, resume, freeze");
    refused("capacity=1 GiB", "unknown key \"capacity\"");
    refused("granule=big", "granule=big is not a size");
    refused("preset=tests", "preset=tests is unknown: valid are test, production");
    for (const struct bp_preset *preset = bp_config_presets; preset->name != NULL; preset++) {
        preset_keys(preset);
    }
    presets_give_way();
    older();
    bufpool_config configs[4] = {BUFPOOL_CONFIG_INIT, BUFPOOL_CONFIG_INIT, BUFPOOL_CONFIG_INIT, BUFPOOL_CONFIG_INIT};
    CHECK_IS(run_threads(4, race, configs, sizeof *configs), ==, 4);
    return 0;
}
