/* format.c: a fault as text and as JSON. Async-signal-safe: fixed buffers, plain system calls. */
#include "format.h"

#include "provenance.h"
#include "text.h"

#include <bufpool/bufpool.h>
#include <signal.h>
#include <string.h>

const char *bufpool_state_name(bufpool_state state)
{
    static const char *const names[] = {"unallocated", "allocated", "freed",     "evicted",
                                        "closed",      "unpinned",  "read-only", "red-zone"};
    return (unsigned)state < sizeof names / sizeof *names ? names[state] : "unknown";
}

const char *bufpool_access_name(bufpool_access access)
{
    static const char *const names[] = {"read", "write", "execute"};
    return (unsigned)access < sizeof names / sizeof *names ? names[access] : "unknown";
}

enum { STRAYED, ALLOCATED, FREED, PINNED };

static void take_stack(struct bp_frames *frames, int which, const uint64_t *stack, uint32_t depth, uint32_t limit)
{
    frames->starts[which] = frames->count;
    depth = depth < limit ? depth : limit;
    memcpy(frames->addresses + frames->count, stack, depth * sizeof *stack);
    frames->count += depth;
    frames->starts[which + 1] = frames->count;
}

/* What is an address of another process is looked up as one of nothing. */
static void take_origin(struct bp_frames *frames, int which, const bufpool_origin *origin)
{
    take_stack(frames, which, origin->stack, origin->stack_depth, BUFPOOL_ORIGIN_DEPTH);
    for (uint32_t i = frames->starts[which]; i < frames->starts[which + 1]; i++) {
        if (origin->foreign >> (i - frames->starts[which]) & 1) {
            frames->addresses[i] = 0;
        }
    }
}

/* Of all the report's stacks with one look at the modules. */
static void find_frames(const bufpool_fault *fault, struct bp_frames *frames)
{
    frames->count = 0;
    take_stack(frames, STRAYED, fault->stack, fault->stack_depth, BUFPOOL_STACK_DEPTH);
    take_origin(frames, ALLOCATED, &fault->allocated);
    take_origin(frames, FREED, &fault->freed);
    take_origin(frames, PINNED, &fault->pinned);
    bp_modules_find(frames->addresses, frames->count, frames->modules, frames->names, sizeof frames->names,
                    &frames->room);
}

/* "/usr/lib/libx.so+0x123", or the bare address where no file is mapped. */
static void put_place(struct bp_text *text, uint64_t address, const struct bp_module *module)
{
    if (module->path == NULL) {
        bp_text_hex(text, address);
        return;
    }
    bp_text_put(text, module->path);
    bp_text_put(text, "+");
    bp_text_hex(text, module->offset);
}

static void put_article(struct bp_text *text, bufpool_state state)
{
    const char *name = bufpool_state_name(state);
    bp_text_put(text, strchr("aeiou", name[0]) != NULL ? "an " : "a ");
    bp_text_put(text, name);
}

/* ==PID== bufpool: stray read of a freed page */
static void put_headline(struct bp_text *text, const bufpool_fault *fault)
{
    bp_text_put(text, "==");
    bp_text_decimal(text, (uint64_t)fault->pid);
    bp_text_put(text, "==ERROR: bufpool: stray ");
    bp_text_put(text, bufpool_access_name(fault->access));
    bp_text_put(text, " of ");
    if (fault->flags & BUFPOOL_FAULT_FORKED) {
        bp_text_put(text, "a page of the parent's pool");
    } else if (fault->state == BUFPOOL_STATE_CLOSED) {
        bp_text_put(text, "a page of a closed pool");
    } else if (fault->flags & BUFPOOL_FAULT_LOST) {
        bp_text_put(text, "an allocated page whose frame is gone");
    } else if (fault->state == BUFPOOL_STATE_RED_ZONE) {
        bp_text_put(text, "a red zone");
    } else {
        put_article(text, fault->state);
        bp_text_put(text, " page");
    }
    bp_text_put(text, "\n");
}

/* A space and the name, if there is one; escaped: a terminal must not be steered by a name. */
static void put_name(struct bp_text *text, const char *name)
{
    size_t length = strnlen(name, 16);
    if (length > 0) {
        bp_text_put(text, " ");
        bp_text_json_bytes(text, name, length);
    }
}

/* A process has the name of its first thread, whose id is its own. */
static void put_process(struct bp_text *text, int32_t pid, const char *name, int32_t thread)
{
    bp_text_put(text, " of process ");
    bp_text_decimal(text, (uint64_t)pid);
    if (thread != pid) {
        put_name(text, name);
    }
}

static void put_thread(struct bp_text *text, const bufpool_fault *fault)
{
    bp_text_put(text, "  thread ");
    bp_text_decimal(text, (uint64_t)fault->thread_id);
    put_name(text, fault->thread_name);
    put_process(text, fault->pid, fault->process_name, fault->thread_id);
    bp_text_put(text, ", ");
    bp_text_time(text, fault->time_ns);
    bp_text_put(text, ", ");
    bp_text_put(text, fault->signal == SIGBUS ? "SIGBUS" : fault->signal == SIGSEGV ? "SIGSEGV" : "signal");
    bp_text_put(text, "\n");
}

static void put_pool(struct bp_text *text, const bufpool_fault *fault)
{
    bool before = (int64_t)fault->offset < 0;
    if (fault->state == BUFPOOL_STATE_RED_ZONE) {
        bp_text_put(text, "  red zone, ");
        bp_text_decimal(text, before ? 0 - fault->offset : fault->offset - fault->page_size + 1);
        bp_text_put(text, before ? " bytes before page " : " bytes past the last one of page ");
        bp_text_decimal(text, fault->page);
        bp_text_put(text, " of pool ");
        bp_text_json(text, fault->pool_name);
        bp_text_put(text, "; the page is [");
    } else {
        bp_text_put(text, "  page ");
        bp_text_decimal(text, fault->page);
        bp_text_put(text, " of pool ");
        bp_text_json(text, fault->pool_name);
        bp_text_put(text, " is ");
        bp_text_put(text, bufpool_state_name(fault->state));
        bp_text_put(text, "; offset ");
        bp_text_put(text, before ? "-" : "");
        bp_text_decimal(text, before ? 0 - fault->offset : fault->offset);
        bp_text_put(text, " of ");
        bp_text_decimal(text, fault->page_size);
        bp_text_put(text, " bytes; the page is [");
    }
    bp_text_hex(text, fault->address - fault->offset);
    bp_text_put(text, ", ");
    bp_text_hex(text, fault->address - fault->offset + fault->page_size);
    bp_text_put(text, ")\n  pool ");
    bp_text_json(text, fault->pool_name);
    bp_text_put(text, " is [");
    bp_text_hex(text, fault->pool_address);
    bp_text_put(text, ", ");
    uint64_t pages = fault->page_size == 0 ? 0 : fault->pool_capacity / fault->page_size;
    bp_text_hex(text, fault->pool_address + fault->pool_capacity + (pages + 1) * fault->red_zone);
    bp_text_put(text, "): ");
    bp_text_decimal(text, pages);
    bp_text_put(text, " pages of ");
    bp_text_bytes(text, fault->page_size);
    if (fault->red_zone > 0) {
        bp_text_put(text, " with red zones of ");
        bp_text_bytes(text, fault->red_zone);
    }
    bp_text_put(text, ", memory ");
    if (strchr(fault->memory, '/') != NULL) {
        bp_text_json(text, fault->memory);
    } else {
        bp_text_put(text, fault->memory);
    }
    bp_text_put(text, ", trap ");
    bp_text_put(text, fault->trap);
    bp_text_put(text, "\n");
    if (fault->sample > 0) {
        bp_text_put(text, "  the pool guards one allocation in ");
        bp_text_decimal(text, fault->sample);
        bp_text_put(text, ": the same ones again with seed ");
        bp_text_decimal(text, fault->seed);
        bp_text_put(text, "\n");
    }
}

/* The page has been freed, and its number used again since. */
static bool is_reused(const bufpool_fault *fault)
{
    return fault->freed.event == BUFPOOL_EVENT_FREE && fault->freed.sequence != 0 &&
           fault->allocated.event == BUFPOOL_EVENT_ALLOCATE && fault->allocated.sequence != 0 &&
           bp_provenance_is_later(fault->allocated.sequence, fault->freed.sequence);
}

static void put_notes(struct bp_text *text, const bufpool_fault *fault)
{
    if (fault->access == BUFPOOL_EXECUTE) {
        bp_text_put(text, "  note: the program jumped into the pool, whose pages are never executable\n");
    }
    if (fault->flags & BUFPOOL_FAULT_RACED && fault->access != BUFPOOL_EXECUTE) {
        bp_text_put(text, "  note: the page was not accessible when it was touched; it has been allocated since\n");
    }
    if (is_reused(fault)) {
        bp_text_put(text,
                    "  note: the page's number has been used again: a pointer from before the free is to a page that "
                    "is gone\n");
    }
    if (fault->flags & BUFPOOL_FAULT_OTHERS_PIN) {
        bp_text_put(
            text, "  note: the page is pinned for writing, by another thread: this one has no write pin in the pool\n");
    }
    if (fault->flags & BUFPOOL_FAULT_WENT_THROUGH) {
        bp_text_put(text, "  note: the write is let through to the page's data, which others may be reading\n");
    }
    if (fault->flags & BUFPOOL_FAULT_FOREIGN) {
        bp_text_put(text, "  note: made by another process, that of the thread; pc is of that process\n");
    }
    if (fault->flags & BUFPOOL_FAULT_LOST) {
        bp_text_put(
            text, "  note: the program was right to touch the page; its frame was taken past the pool, as by a process "
                  "that truncated or punched the file\n");
    }
    if (fault->flags & BUFPOOL_FAULT_FORKED) {
        bp_text_put(text, "  note: ");
        bp_text_put(text, fault->fork_note[0] != 0 ? fault->fork_note : "this is a forked child");
        bp_text_put(text, "; the state is that at the fork\n");
    } else if (fault->fork_note[0] != 0) {
        bp_text_put(text, "  note: ");
        bp_text_put(text, fault->fork_note);
        bp_text_put(text, "\n");
    }
}

static void put_frame(struct bp_text *text, const struct bp_frames *frames, int which, uint32_t n)
{
    uint32_t i = frames->starts[which] + n;
    bp_text_put(text, "    #");
    bp_text_decimal(text, n);
    bp_text_put(text, " ");
    bp_text_hex(text, frames->addresses[i]);
    if (frames->modules[i].path != NULL) {
        bp_text_put(text, " (");
        put_place(text, frames->addresses[i], &frames->modules[i]);
        bp_text_put(text, ")");
    }
    bp_text_put(text, "\n");
}

static void put_stack(struct bp_text *text, const struct bp_frames *frames, int which)
{
    for (uint32_t i = 0; i < frames->starts[which + 1] - frames->starts[which]; i++) {
        put_frame(text, frames, which, i);
    }
}

/* The same of an origin's. */
static void put_history(struct bp_text *text, const bufpool_origin *origin, const struct bp_frames *frames, int which)
{
    for (uint32_t i = 0; i < frames->starts[which + 1] - frames->starts[which]; i++) {
        if (origin->foreign >> i & 1) {
            bp_text_put(text, "    #");
            bp_text_decimal(text, i);
            bp_text_put(text, " ");
            bp_text_hex(text, origin->stack[i]);
            bp_text_put(text, " in process ");
            bp_text_decimal(text, (uint64_t)origin->pid);
            bp_text_put(text, "\n");
        } else {
            put_frame(text, frames, which, i);
        }
    }
}

/* A line of the caller's text from `at` on: its length; -1 at the end. */
static int line_at(const bufpool_origin *origin, size_t at)
{
    size_t rest = at < sizeof origin->caller ? strnlen(origin->caller + at, sizeof origin->caller - at) : 0;
    const char *end = rest == 0 ? NULL : memchr(origin->caller + at, '\n', rest);
    return rest == 0 ? -1 : (int)(end == NULL ? rest : (size_t)(end - (origin->caller + at)));
}

static void put_caller(struct bp_text *text, const bufpool_origin *origin)
{
    int length;
    for (size_t at = 0; (length = line_at(origin, at)) >= 0; at += (size_t)length + 1) {
        bp_text_put(text, at == 0 ? "    on behalf of, innermost last:\n      " : "      ");
        bp_text_escaped(text, origin->caller + at, (size_t)length);
        bp_text_put(text, "\n");
    }
}

/* "1.234 s before" */
static void put_ago(struct bp_text *text, int64_t now, int64_t then)
{
    int64_t us = now / 1000 - then / 1000; /* between the times as they are written: who reads them gets the same */
    uint64_t ms = (us < 0 ? -(uint64_t)us : (uint64_t)us) / 1000;
    bp_text_decimal(text, ms / 1000);
    bp_text_put(text, ms % 1000 < 10 ? ".00" : ms % 1000 < 100 ? ".0" : ".");
    bp_text_decimal(text, ms % 1000);
    bp_text_put(text, now < then ? " s after" : " s before");
}

static void put_origin(struct bp_text *text, const bufpool_fault *fault, const bufpool_origin *origin,
                       const struct bp_frames *frames, int which)
{
    static const char *const verbs[] = {"unknown", "allocated", "populated", "freed",
                                        "evicted", "closed",    "pinned",    "unpinned"};
    if (origin->sequence == 0) {
        return;
    }
    bp_text_put(text, "  ");
    bp_text_put(text, verbs[origin->event < sizeof verbs / sizeof *verbs ? origin->event : 0]);
    bp_text_put(text, which == ALLOCATED && is_reused(fault) ? " again" : "");
    if (origin->thread_id == 0) {
        bp_text_put(text, " by a thread that is not known any more");
    } else {
        bp_text_put(text, " by thread ");
        bp_text_decimal(text, (uint64_t)origin->thread_id);
        put_name(text, origin->thread_name);
    }
    if (origin->pid != fault->pid && origin->pid != 0) {
        put_process(text, origin->pid, origin->process_name, origin->thread_id);
    }
    bp_text_put(text, ", ");
    bp_text_time(text, origin->time_ns);
    bp_text_put(text, ", ");
    put_ago(text, fault->time_ns, origin->time_ns);
    bp_text_put(text, " (event ");
    bp_text_decimal(text, origin->sequence);
    bp_text_put(text, ")\n");
    put_history(text, origin, frames, which);
    put_caller(text, origin);
}

/* For strays that miss a page by a little: what an overrun of the page before comes to, and an underrun of the next. */
static void put_neighbours(struct bp_text *text, const bufpool_fault *fault)
{
    uint64_t at = fault->address - fault->pool_address;
    uint64_t stride = fault->red_zone + fault->page_size;
    bool beside = fault->state == BUFPOOL_STATE_RED_ZONE;
    bool below = fault->below < fault->page || (beside && fault->below == fault->page);
    bool above =
        fault->above != BUFPOOL_NO_PAGE && (fault->above > fault->page || (beside && fault->above == fault->page));
    if (!below && !above) {
        return;
    }
    bp_text_put(text, "  neighbours: ");
    if (below) {
        bp_text_decimal(text, at - (fault->below + 1) * stride);
        bp_text_put(text, " bytes past the end of page ");
        bp_text_decimal(text, fault->below);
    }
    if (above) {
        bp_text_put(text, below ? "; " : "");
        bp_text_decimal(text, fault->red_zone + fault->above * stride - at);
        bp_text_put(text, " bytes before page ");
        bp_text_decimal(text, fault->above);
    }
    bp_text_put(text, below && above ? ", which are allocated\n" : ", which is allocated\n");
}

/* "  pins: 2 for reading, 1 for writing" */
static void put_pins(struct bp_text *text, const bufpool_fault *fault)
{
    if (fault->read_pins + fault->write_pins == 0) {
        return;
    }
    bp_text_put(text, "  pins: ");
    if (fault->read_pins > 0) {
        bp_text_decimal(text, fault->read_pins);
        bp_text_put(text, fault->write_pins > 0 ? " for reading, " : " for reading\n");
    }
    if (fault->write_pins > 0) {
        bp_text_decimal(text, fault->write_pins);
        bp_text_put(text, " for writing\n");
    }
}

size_t bp_format_text(const bufpool_fault *fault, struct bp_frames *frames, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    put_headline(&text, fault);
    bp_text_put(&text, fault->access == BUFPOOL_READ ? "READ" : fault->access == BUFPOOL_WRITE ? "WRITE" : "EXECUTE");
    if (fault->in_syscall[0] != 0) {
        bp_text_put(&text, " by system call ");
        bp_text_put(&text, fault->in_syscall);
    }
    bp_text_put(&text, " at address ");
    bp_text_hex(&text, fault->address);
    bp_text_put(&text, ", pc ");
    bp_text_hex(&text, fault->pc);
    bp_text_put(&text, "\n");
    put_thread(&text, fault);
    find_frames(fault, frames);
    put_stack(&text, frames, STRAYED);
    put_pool(&text, fault);
    put_neighbours(&text, fault);
    put_pins(&text, fault);
    put_origin(&text, fault, &fault->pinned, frames, PINNED);
    put_origin(&text, fault, &fault->freed, frames, FREED);
    put_origin(&text, fault, &fault->allocated, frames, ALLOCATED);
    put_notes(&text, fault);
    bp_text_put(&text, "==");
    bp_text_decimal(&text, (uint64_t)fault->pid);
    bp_text_put(&text, "==END of bufpool report ");
    bp_text_decimal(&text, fault->sequence);
    bp_text_put(&text, "\n");
    return bp_text_end(&text);
}

size_t bufpool_format_text(const bufpool_fault *fault, char *buffer, size_t size)
{
    struct bp_frames frames;
    return bp_format_text(fault, &frames, buffer, size);
}

static void put_key(struct bp_text *text, const char *key)
{
    bp_text_put(text, text->length > 1 ? ",\"" : "\"");
    bp_text_put(text, key);
    bp_text_put(text, "\":");
}

static void put_member(struct bp_text *text, const char *key, const char *value)
{
    put_key(text, key);
    bp_text_json(text, value);
}

/* null if it is empty. */
static void put_text(struct bp_text *text, const char *key, const char *value)
{
    put_key(text, key);
    if (value[0] != 0) {
        bp_text_json(text, value);
    } else {
        bp_text_put(text, "null");
    }
}

static void put_count(struct bp_text *text, const char *key, uint64_t value)
{
    put_key(text, key);
    bp_text_decimal(text, value);
}

static void put_time(struct bp_text *text, int64_t ns)
{
    put_key(text, "time");
    bp_text_put(text, "\"");
    bp_text_time(text, ns);
    bp_text_put(text, "\"");
}

/* Addresses are strings: JSON numbers lose bits above 2^53 in many readers. */
static void put_address(struct bp_text *text, const char *key, uint64_t value)
{
    put_key(text, key);
    bp_text_put(text, "\"");
    bp_text_hex(text, value);
    bp_text_put(text, "\"");
}

/* own: the addresses of frames that are another process's; or NULL. */
static void put_stack_member(struct bp_text *text, const struct bp_frames *frames, int which, const uint64_t *own)
{
    put_key(text, "native_stack");
    bp_text_put(text, "[");
    for (uint32_t i = frames->starts[which]; i < frames->starts[which + 1]; i++) {
        char place[320];
        struct bp_text one = {place, sizeof place, 0};
        uint64_t address =
            frames->addresses[i] != 0 || own == NULL ? frames->addresses[i] : own[i - frames->starts[which]];
        put_place(&one, address, &frames->modules[i]);
        bp_text_end(&one);
        bp_text_put(text, i > frames->starts[which] ? "," : "");
        bp_text_json(text, place);
    }
    bp_text_put(text, "]");
}

static void put_page(struct bp_text *text, const char *key, uint64_t page)
{
    put_key(text, key);
    if (page == BUFPOOL_NO_PAGE) {
        bp_text_put(text, "null");
    } else {
        bp_text_decimal(text, page);
    }
}

static void put_origin_member(struct bp_text *text, const char *key, const bufpool_origin *origin,
                              const struct bp_frames *frames, int which)
{
    put_key(text, key);
    if (origin->sequence == 0) {
        bp_text_put(text, "null");
        return;
    }
    bp_text_put(text, "{\"event\":");
    bp_text_json(text, bufpool_event_name((bufpool_event)origin->event));
    put_count(text, "sequence", origin->sequence);
    put_time(text, origin->time_ns);
    put_count(text, "thread_id", (uint64_t)origin->thread_id);
    put_key(text, "thread_name");
    bp_text_json_bytes(text, origin->thread_name, strnlen(origin->thread_name, sizeof origin->thread_name));
    put_count(text, "pid", (uint64_t)origin->pid);
    put_key(text, "process_name");
    bp_text_json_bytes(text, origin->process_name, strnlen(origin->process_name, sizeof origin->process_name));
    put_stack_member(text, frames, which, origin->stack);
    put_key(text, "caller");
    bp_text_put(text, "[");
    int length;
    for (size_t at = 0; (length = line_at(origin, at)) >= 0; at += (size_t)length + 1) {
        bp_text_put(text, at > 0 ? "," : "");
        bp_text_json_bytes(text, origin->caller + at, (size_t)length);
    }
    bp_text_put(text, "]}");
}

/* A string, as addresses are: all its bits are wanted. */
static void put_seed(struct bp_text *text, const bufpool_fault *fault)
{
    char digits[24];
    struct bp_text one = {digits, sizeof digits, 0};
    if (fault->sample > 0) {
        bp_text_decimal(&one, fault->seed);
    }
    bp_text_end(&one);
    put_text(text, "seed", digits);
}

size_t bp_format_json(const bufpool_fault *fault, struct bp_frames *frames, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    find_frames(fault, frames);
    bp_text_put(&text, "{");
    put_count(&text, "sequence", fault->sequence);
    put_time(&text, fault->time_ns);
    put_count(&text, "pid", (uint64_t)fault->pid);
    put_count(&text, "thread_id", (uint64_t)fault->thread_id);
    put_member(&text, "thread_name", fault->thread_name);
    put_member(&text, "process_name", fault->process_name);
    put_member(&text, "access", bufpool_access_name(fault->access));
    put_member(&text, "state", bufpool_state_name(fault->state));
    put_address(&text, "address", fault->address);
    put_address(&text, "pc", fault->pc);
    put_member(&text, "pool", fault->pool_name);
    put_address(&text, "pool_address", fault->pool_address);
    put_count(&text, "pool_capacity", fault->pool_capacity);
    put_count(&text, "page", fault->page);
    put_key(&text, "offset");
    bp_text_put(&text, (int64_t)fault->offset < 0 ? "-" : "");
    bp_text_decimal(&text, (int64_t)fault->offset < 0 ? 0 - fault->offset : fault->offset);
    put_count(&text, "page_size", fault->page_size);
    put_count(&text, "red_zone", fault->red_zone);
    put_count(&text, "sample", fault->sample);
    put_seed(&text, fault);
    put_member(&text, "memory", fault->memory);
    put_member(&text, "trap", fault->trap);
    put_count(&text, "signal", (uint64_t)fault->signal);
    put_key(&text, "raced");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_RACED ? "true" : "false");
    put_key(&text, "forked");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_FORKED ? "true" : "false");
    put_key(&text, "lost");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_LOST ? "true" : "false");
    put_key(&text, "went_through");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_WENT_THROUGH ? "true" : "false");
    put_key(&text, "others_pin");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_OTHERS_PIN ? "true" : "false");
    put_count(&text, "read_pins", fault->read_pins);
    put_count(&text, "write_pins", fault->write_pins);
    put_key(&text, "inherited");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_INHERITED ? "true" : "false");
    put_text(&text, "fork_note", fault->fork_note);
    put_text(&text, "in_syscall", fault->in_syscall);
    put_page(&text, "below", fault->below);
    put_page(&text, "above", fault->above);
    put_origin_member(&text, "allocated", &fault->allocated, frames, ALLOCATED);
    put_origin_member(&text, "freed", &fault->freed, frames, FREED);
    put_origin_member(&text, "pinned", &fault->pinned, frames, PINNED);
    put_stack_member(&text, frames, STRAYED, NULL);
    bp_text_put(&text, "}");
    return bp_text_end(&text);
}

size_t bufpool_format_json(const bufpool_fault *fault, char *buffer, size_t size)
{
    struct bp_frames frames;
    return bp_format_json(fault, &frames, buffer, size);
}
