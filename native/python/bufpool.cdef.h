/* What Python calls, as cffi reads it: bufpool.h and bufpool_sqlite.h (tests/test_cdef.py compares), then prelude.h. */

typedef ... siginfo_t;

/* ---- bufpool.h ---- */

#define BUFPOOL_EARGUMENT -4097
#define BUFPOOL_EEXHAUSTED -4098
#define BUFPOOL_ESTATE -4099
#define BUFPOOL_EUNSUPPORTED -4100
#define BUFPOOL_ECLOSED -4101
#define BUFPOOL_ESTRAY -4102

const char *bufpool_strerror(int code);

int bufpool_last_error(char *buffer, size_t size);

size_t bufpool_last_done(void);

const char *bufpool_version(void);

typedef struct bufpool_pool bufpool_pool;

#define BUFPOOL_LAZY_ZERO 1
#define BUFPOOL_HOST_HANDLER 2
#define BUFPOOL_LOCK 4
#define BUFPOOL_DUMP 8
#define BUFPOOL_RESERVE 16
#define BUFPOOL_DISCARD 32
#define BUFPOOL_TELL 128
#define BUFPOOL_FIXED_ADDRESS 256
#define BUFPOOL_RED_ZONES 512
#define BUFPOOL_SCRUB 1024
#define BUFPOOL_PIN_KEYS 2048
#define BUFPOOL_CHECK_HEADROOM 4096
#define BUFPOOL_MONITOR 64

typedef struct bufpool_config {
    size_t size;
    uint64_t capacity;
    uint64_t page_size;
    const char *memory;
    const char *trap;
    const char *on_fault;
    const char *name;
    const char *log;
    uint32_t flags;
    uint64_t granule;
    const char *numa;
    const char *provenance;
    uint32_t provenance_depth;
    const char *fork;
    uint32_t report_limit;
    uint64_t quarantine;
    const char *fill;
    const char *pins;
    const char *audit;
    uint32_t sample;
    uint64_t seed;
    uint64_t free_lag;
} bufpool_config;

int bufpool_config_from_environment(bufpool_config *config);
int bufpool_config_from_options(bufpool_config *config, const char *options);
int bufpool_open(const bufpool_config *config, bufpool_pool **pool);

int bufpool_close(bufpool_pool *pool);

int bufpool_keep(bufpool_pool *pool);
int bufpool_release(bufpool_pool *pool);

typedef struct bufpool_handle {
    size_t size;
    int memory;
    int tables;
} bufpool_handle;

int bufpool_share(bufpool_pool *pool, bufpool_handle *handle);
int bufpool_handle_close(bufpool_handle *handle);
int bufpool_attach(const bufpool_config *config, const bufpool_handle *handle, bufpool_pool **pool);
int bufpool_adopt(void *base, uint64_t length, int fd, const bufpool_config *config, bufpool_pool **pool);
int bufpool_probe(const char *memory, const char *trap, char *trap_found, size_t size);
int bufpool_probe_keys(void);
int bufpool_probe_uring(void);

const char *bufpool_memory_name(size_t n);
const char *bufpool_trap_name(size_t n);

#define BUFPOOL_USERS_ONE 1
#define BUFPOOL_USERS_ATTACHED 2
#define BUFPOOL_USERS_ANYONE 4
int bufpool_cell(const char *memory, const char *trap, uint32_t *users);

typedef enum bufpool_state {
    BUFPOOL_STATE_UNALLOCATED = 0,
    BUFPOOL_STATE_ALLOCATED = 1,
    BUFPOOL_STATE_FREED = 2,
    BUFPOOL_STATE_EVICTED = 3,
    BUFPOOL_STATE_CLOSED = 4,
    BUFPOOL_STATE_UNPINNED = 5,
    BUFPOOL_STATE_READ_ONLY = 6,
    BUFPOOL_STATE_RED_ZONE = 7
} bufpool_state;

const char *bufpool_state_name(bufpool_state state);

int bufpool_allocate(bufpool_pool *pool, const void *data, size_t size, uint64_t *page);

int bufpool_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size);

int bufpool_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages);

int bufpool_allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages);

int bufpool_free(bufpool_pool *pool, uint64_t page);

int bufpool_free_many(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_settle(bufpool_pool *pool);

int bufpool_evict(bufpool_pool *pool, uint64_t page);
int bufpool_evict_many(bufpool_pool *pool, size_t count, const uint64_t *pages);

int bufpool_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size);
int bufpool_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data);
int bufpool_stage(bufpool_pool *pool, size_t count, void **frames);
int bufpool_publish(bufpool_pool *pool, size_t count, void **frames, const uint64_t *pages);
int bufpool_withdraw(bufpool_pool *pool, size_t count, const uint64_t *pages, void **frames);
int bufpool_unstage(bufpool_pool *pool, size_t count, void **frames);
int bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page);
int bufpool_read_from(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results);
int bufpool_write_to(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results);

void *bufpool_address(const bufpool_pool *pool, uint64_t page);

int bufpool_page_state(const bufpool_pool *pool, uint64_t page, bufpool_state *state);

int bufpool_list(bufpool_pool *pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages,
                             size_t *found);

int bufpool_pin(bufpool_pool *pool, uint64_t page, bool write);
int bufpool_unpin(bufpool_pool *pool, uint64_t page);
int bufpool_unpin_for(bufpool_pool *pool, uint64_t page, bool write);
int bufpool_pin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write);
int bufpool_unpin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write);

int bufpool_mark_clean(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_mark_dirty(bufpool_pool *pool, size_t count, const uint64_t *pages);

typedef struct bufpool_location {
    size_t size;
    bufpool_pool *pool;
    uint64_t page;
    uint64_t offset;
} bufpool_location;

int bufpool_locate(const void *address, bufpool_location *location);

typedef enum bufpool_way {
    BUFPOOL_WAY_MOVE = 0,
    BUFPOOL_WAY_HUGE_MOVE = 1,
    BUFPOOL_WAY_ZEROPAGE = 2,
    BUFPOOL_WAY_COPY = 3,
    BUFPOOL_WAY_CONTINUE = 4,
    BUFPOOL_WAY_WRITE = 5,
    BUFPOOL_WAY_TOUCH = 6,
    BUFPOOL_WAY_MOVE_OUT = 7,
    BUFPOOL_WAY_BATCH = 8,
    BUFPOOL_WAY_DROP = 9,
    BUFPOOL_WAY_PUNCH = 10,
    BUFPOOL_WAY_FRAME_MOVE = 11,
    BUFPOOL_WAY_FRAME_COPY = 12,
    BUFPOOL_WAYS = 24
} bufpool_way;

const char *bufpool_way_name(bufpool_way way);

typedef struct bufpool_statistics {
    size_t size;
    uint64_t capacity;
    uint64_t page_size;
    uint64_t granule;
    uint64_t address;
    uint64_t pages;
    uint64_t allocated;
    uint64_t evicted;
    uint64_t scratched;
    uint64_t high_water;
    uint64_t allocations;
    uint64_t frees;
    uint64_t evictions;
    uint64_t populates;
    uint64_t faults;
    uint64_t repeats;
    uint64_t scratch_maps;
    uint64_t scratch_ns;
    uint64_t reports_lost;
    uint64_t frames_kept;
    uint64_t recycled;
    char name[64];
    char memory[64];
    char trap[16];
    char on_fault[16];
    char backing[32];
    char trap_note[768];
    uint64_t huge_fills;
    uint64_t small_fills;
    uint64_t reserve_lost;
    char memory_note[256];
    char provenance[8];
    uint64_t provenance_lost;
    uint64_t restarts;
    uint64_t reports_limited;
    uint64_t faults_all;
    uint32_t members;
    uint64_t red_zone;
    uint64_t quarantined;
    uint64_t pins;
    uint64_t pin_operations;
    char pins_mode[8];
    uint64_t clean;
    char audit[16];
    uint64_t sample;
    uint64_t seed;
    uint64_t sampled;
    char fill_ways[64];
    char zap_ways[64];
    uint64_t ways[BUFPOOL_WAYS];
    uint64_t ways_busy;
    uint64_t ways_memory;
    uint64_t ways_refused;
    uint64_t staged;
    uint64_t frames_moved;
    uint64_t frames_copied;
    uint64_t pages_read;
    uint64_t pages_written;
    uint64_t io_requests;
    uint64_t io_queued;
    uint64_t lagging;
    uint64_t lag_reused;
} bufpool_statistics;

int bufpool_stats(const bufpool_pool *pool, bufpool_statistics *statistics);

typedef enum bufpool_wrong {
    BUFPOOL_WRONG_ABANDONED = 1,
    BUFPOOL_WRONG_LOST_FRAME = 2,
    BUFPOOL_WRONG_STRAY_FRAME = 3,
    BUFPOOL_WRONG_INDEX = 4,
    BUFPOOL_WRONG_SCRATCH = 5,
    BUFPOOL_WRONG_STATE = 6
} bufpool_wrong;

const char *bufpool_wrong_name(bufpool_wrong wrong);

typedef struct bufpool_wrong_page {
    uint64_t page;
    bufpool_wrong what;
    bufpool_state state;
} bufpool_wrong_page;

#define BUFPOOL_WRONG_PAGES 16

typedef struct bufpool_findings {
    size_t size;
    uint64_t pages;
    uint64_t allocated;
    uint64_t evicted;
    uint64_t free;
    uint64_t busy;
    uint64_t abandoned;
    uint64_t lost_frames;
    uint64_t stray_frames;
    uint64_t index_wrong;
    uint64_t counts_wrong;
    uint64_t scratched;
    uint64_t scratch_wrong;
    uint64_t states_wrong;
    uint64_t repaired;
    uint32_t exact;
    uint32_t wrong_count;
    bufpool_wrong_page wrong[BUFPOOL_WRONG_PAGES];
    uint64_t lagging;
} bufpool_findings;

#define BUFPOOL_REPAIR 1

int bufpool_inspect(bufpool_pool *pool, uint32_t flags, bufpool_findings *findings);

typedef enum bufpool_access { BUFPOOL_READ = 0, BUFPOOL_WRITE = 1, BUFPOOL_EXECUTE = 2 } bufpool_access;

#define BUFPOOL_STACK_DEPTH 32

#define BUFPOOL_FAULT_RACED 1
#define BUFPOOL_FAULT_FORKED 2
#define BUFPOOL_FAULT_LOST 4
#define BUFPOOL_FAULT_INHERITED 8
#define BUFPOOL_FAULT_LIMITED 16
#define BUFPOOL_FAULT_TOLD 32
#define BUFPOOL_FAULT_WENT_THROUGH 128
#define BUFPOOL_FAULT_OTHERS_PIN 256
#define BUFPOOL_FAULT_FOREIGN 64

typedef enum bufpool_event {
    BUFPOOL_EVENT_NONE = 0,
    BUFPOOL_EVENT_ALLOCATE = 1,
    BUFPOOL_EVENT_POPULATE = 2,
    BUFPOOL_EVENT_FREE = 3,
    BUFPOOL_EVENT_EVICT = 4,
    BUFPOOL_EVENT_CLOSE = 5,
    BUFPOOL_EVENT_PIN = 6,
    BUFPOOL_EVENT_UNPIN = 7
} bufpool_event;

const char *bufpool_event_name(bufpool_event event);

#define BUFPOOL_ORIGIN_DEPTH 16

typedef struct bufpool_origin {
    uint64_t sequence;
    int64_t time_ns;
    uint32_t event;
    int32_t thread_id;
    int32_t pid;
    uint32_t stack_depth;
    char thread_name[16];
    uint64_t stack[BUFPOOL_ORIGIN_DEPTH];
    char caller[512];
    char process_name[16];
    uint32_t foreign;
    uint32_t unused;
} bufpool_origin;

#define BUFPOOL_NO_PAGE 0xffffffffffffffff

typedef struct bufpool_fault {
    size_t size;
    uint64_t sequence;
    uint64_t address;
    uint64_t pc;
    uint64_t page;
    uint64_t offset;
    uint64_t pool_address;
    uint64_t pool_capacity;
    uint64_t page_size;
    int64_t time_ns;
    int32_t pid;
    int32_t thread_id;
    int32_t signal;
    uint32_t flags;
    bufpool_access access;
    bufpool_state state;
    uint32_t stack_depth;
    char thread_name[16];
    char pool_name[64];
    char memory[64];
    char trap[16];
    uint64_t stack[BUFPOOL_STACK_DEPTH];
    uint64_t below;
    uint64_t above;
    bufpool_origin allocated;
    bufpool_origin freed;
    char fork_note[256];
    char in_syscall[32];
    char process_name[16];
    uint64_t red_zone;
    uint64_t seed;
    uint32_t sample;
    uint32_t read_pins;
    uint32_t write_pins;
    uint32_t unused;
    bufpool_origin pinned;
} bufpool_fault;

size_t bufpool_format_text(const bufpool_fault *fault, char *buffer, size_t size);
size_t bufpool_format_json(const bufpool_fault *fault, char *buffer, size_t size);
const char *bufpool_access_name(bufpool_access access);

size_t bufpool_symbol(uint64_t address, char *buffer, size_t size);

typedef enum bufpool_verdict {
    BUFPOOL_VERDICT_REPORT = 0,
    BUFPOOL_VERDICT_RESTART = 1,
    BUFPOOL_VERDICT_RESUME = 2,
    BUFPOOL_VERDICT_PASS = 3
} bufpool_verdict;

typedef bufpool_verdict (*bufpool_fault_callback)(const bufpool_fault *fault, void *context);

int bufpool_set_fault_callback(bufpool_pool *pool, bufpool_fault_callback callback, void *context);

bool bufpool_handle_signal(int signo, siginfo_t *info, void *ucontext);

int bufpool_install_handlers(void);

#define BUFPOOL_POISON 0xDB
#define BUFPOOL_FRESH 0xCD
#define BUFPOOL_SCRUBBED 0xDF
const char *bufpool_pattern(const void *address, size_t length);

int bufpool_thaw(bufpool_pool *pool, const char *policy);

int bufpool_explain(const void *address, size_t length, bufpool_fault *fault);
int bufpool_explain_for(const void *address, size_t length, bool write, bufpool_fault *fault);

int bufpool_check(bufpool_fault *fault);

int bufpool_check_ended(bufpool_pool *pool, bufpool_fault *fault);

int bufpool_told(bufpool_fault *fault);

int bufpool_told_ended(bufpool_pool *pool, bufpool_fault *fault);

int bufpool_flush(bufpool_pool *pool);

int bufpool_faults(const bufpool_pool *pool, uint64_t after, size_t count, bufpool_fault *faults, size_t *found);

int bufpool_pin_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *pinned, bufpool_origin *unpinned);
int bufpool_page_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *allocated, bufpool_origin *freed);

typedef struct bufpool_changed {
    size_t size;
    uint64_t page;
    char pattern[16];
    bufpool_origin allocated;
    bufpool_origin pinned;
    bufpool_origin unpinned;
} bufpool_changed;

int bufpool_audit(bufpool_pool *pool, uint64_t from, size_t count, bufpool_changed *changed, size_t *found);

int bufpool_set_caller(const char *text);

void bufpool_set_place(uint64_t place);

int bufpool_last_fault(bufpool_fault *fault);

int bufpool_guarded_call(void (*function)(void *), void *argument, bufpool_fault *fault);

int bufpool_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault);

/* ---- bufpool_sqlite.h ---- */

typedef struct bufpool_sqlite_config {
    size_t size;
    uint64_t capacity;
    const char *memory;
    const char *trap;
    const char *on_fault;
    const char *name;
    const char *log;
    const char *library;
    void *handle;
    const char *provenance;
    uint32_t provenance_depth;
    uint32_t report_limit;
    bool monitor;
    const char *pins;
    uint64_t quarantine;
    const char *fill;
    bool scrub;
    uint32_t sample;
    uint64_t seed;
    const char *evict;
} bufpool_sqlite_config;

int bufpool_sqlite_install(const bufpool_sqlite_config *config);

int bufpool_sqlite_uninstall(void);

bool bufpool_sqlite_installed(void);

typedef struct bufpool_sqlite_statistics {
    size_t size;
    uint64_t capacity;
    uint64_t resident;
    uint64_t resident_peak;
    uint64_t pages;
    uint64_t unpinned;
    uint64_t caches;
    uint64_t caches_opened;
    uint64_t groups;
    uint64_t hits;
    uint64_t misses;
    uint64_t absent;
    uint64_t refused;
    uint64_t exhausted;
    uint64_t recycles;
    uint64_t steals;
    uint64_t evictions;
    uint64_t populates;
    uint64_t evict_failures;
    int32_t sqlite_version;
    char library[256];
    uint64_t pins;
    uint64_t left_open;
    uint64_t replaced;
} bufpool_sqlite_statistics;

int bufpool_sqlite_stats(bufpool_sqlite_statistics *statistics);

typedef struct bufpool_sqlite_group {
    size_t size;
    bufpool_pool *pool;
    uint64_t sqlite_page_size;
    uint64_t page_size;
    uint64_t slots_per_granule;
    uint64_t caches;
    uint64_t resident;
    uint64_t resting;
    uint64_t cushions;
    uint64_t address_limit;
    uint64_t evictions;
    uint64_t populates;
    uint64_t evict_failures;
    char memory[64];
    char trap[16];
    uint64_t replaced;
    char evict[16];
} bufpool_sqlite_group;

int bufpool_sqlite_group_stats(size_t n, bufpool_sqlite_group *group);

size_t bufpool_sqlite_pools(bufpool_pool **pools, size_t count);

int bufpool_sqlite_last_error(char *buffer, size_t size);

/* ---- prelude.h ---- */

#define BUFPOOL_PY_OWED ...

void bufpool_py_outlive(void);

int bufpool_py_check(void);
int bufpool_py_check_ended(bufpool_pool *pool);

int64_t bufpool_py_allocate(bufpool_pool *pool, const void *data, size_t size);
int64_t bufpool_py_allocate_zeros(bufpool_pool *pool);
int bufpool_py_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size);
int bufpool_py_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages);
int bufpool_py_allocate_filled(bufpool_pool *pool, size_t count, uint64_t *pages, const void *data,
                               size_t size);
int bufpool_py_free(bufpool_pool *pool, uint64_t page);
int bufpool_py_free_many(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_py_settle(bufpool_pool *pool);
int bufpool_py_evict(bufpool_pool *pool, uint64_t page);
int bufpool_py_evict_many(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_py_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size);
int bufpool_py_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data,
                             size_t size);
int bufpool_py_stage(bufpool_pool *pool, size_t count, void **frames);
int bufpool_py_publish(bufpool_pool *pool, size_t count, void **frames, const uint64_t *pages);
int bufpool_py_withdraw(bufpool_pool *pool, size_t count, const uint64_t *pages, void **frames);
int bufpool_py_unstage(bufpool_pool *pool, size_t count, void **frames);
int bufpool_py_replace(bufpool_pool *pool, uint64_t victim, uint64_t page);
int bufpool_py_read_from(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results);
int bufpool_py_write_to(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results);
int bufpool_py_pin(bufpool_pool *pool, uint64_t page, bool write);
int bufpool_py_pin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write);
int bufpool_py_mark_clean(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_py_mark_dirty(bufpool_pool *pool, size_t count, const uint64_t *pages);
int bufpool_py_list(bufpool_pool *pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages,
                    size_t *found);

int bufpool_py_state(const bufpool_pool *pool, uint64_t page);
int bufpool_py_states(const bufpool_pool *pool, size_t count, const uint64_t *pages, uint8_t *states);
int bufpool_py_copy(uint64_t place, void *to, const void *from, size_t size);
int bufpool_py_get(uint64_t place, uintptr_t address);
int bufpool_py_read(uint64_t place, void *to, uintptr_t address, size_t size);
int bufpool_py_write(uint64_t place, uintptr_t address, const void *from, size_t size);
int bufpool_py_read_many(const bufpool_pool *pool, uint64_t place, size_t size, size_t count, const uint64_t *pages,
                         char *to, size_t *done);
