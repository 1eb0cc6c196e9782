/* format.c: a fault as text and as JSON. Async-signal-safe: fixed buffers, plain system calls. */
#include "modules.h"
#include "text.h"

#include <bufpool/bufpool.h>
#include <signal.h>
#include <string.h>

const char *bufpool_state_name(bufpool_state state)
{
    static const char *const names[] = {"unallocated", "allocated", "freed", "evicted", "closed"};
    return (unsigned)state < sizeof names / sizeof *names ? names[state] : "unknown";
}

const char *bufpool_access_name(bufpool_access access)
{
    static const char *const names[] = {"read", "write", "execute"};
    return (unsigned)access < sizeof names / sizeof *names ? names[access] : "unknown";
}

#define NAMES_SIZE 1536

struct frames {
    uint32_t count;
    struct bp_module modules[BUFPOOL_STACK_DEPTH];
    char names[NAMES_SIZE];
};

static void find_frames(const bufpool_fault *fault, struct frames *frames)
{
    frames->count = fault->stack_depth < BUFPOOL_STACK_DEPTH ? fault->stack_depth : BUFPOOL_STACK_DEPTH;
    bp_modules_find(fault->stack, frames->count, frames->modules, frames->names, sizeof frames->names);
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
    } else {
        put_article(text, fault->state);
        bp_text_put(text, " page");
    }
    bp_text_put(text, "\n");
}

static void put_thread(struct bp_text *text, const bufpool_fault *fault)
{
    bp_text_put(text, "  thread ");
    bp_text_decimal(text, (uint64_t)fault->thread_id);
    if (fault->thread_name[0] != 0) {
        bp_text_put(text, " ");
        bp_text_json(text, fault->thread_name); /* escaped: a terminal must not be steered by a name */
    }
    bp_text_put(text, " of process ");
    bp_text_decimal(text, (uint64_t)fault->pid);
    bp_text_put(text, ", ");
    bp_text_time(text, fault->time_ns);
    bp_text_put(text, ", ");
    bp_text_put(text, fault->signal == SIGBUS ? "SIGBUS" : fault->signal == SIGSEGV ? "SIGSEGV" : "signal");
    bp_text_put(text, "\n");
}

static void put_pool(struct bp_text *text, const bufpool_fault *fault)
{
    bp_text_put(text, "  page ");
    bp_text_decimal(text, fault->page);
    bp_text_put(text, " of pool ");
    bp_text_json(text, fault->pool_name);
    bp_text_put(text, " is ");
    bp_text_put(text, bufpool_state_name(fault->state));
    bp_text_put(text, "; offset ");
    bp_text_decimal(text, fault->offset);
    bp_text_put(text, " of ");
    bp_text_decimal(text, fault->page_size);
    bp_text_put(text, " bytes; the page is [");
    bp_text_hex(text, fault->address - fault->offset);
    bp_text_put(text, ", ");
    bp_text_hex(text, fault->address - fault->offset + fault->page_size);
    bp_text_put(text, ")\n  pool ");
    bp_text_json(text, fault->pool_name);
    bp_text_put(text, " is [");
    bp_text_hex(text, fault->pool_address);
    bp_text_put(text, ", ");
    bp_text_hex(text, fault->pool_address + fault->pool_capacity);
    bp_text_put(text, "): ");
    bp_text_decimal(text, fault->page_size == 0 ? 0 : fault->pool_capacity / fault->page_size);
    bp_text_put(text, " pages of ");
    bp_text_bytes(text, fault->page_size);
    bp_text_put(text, ", memory ");
    if (strchr(fault->memory, '/') != NULL) {
        bp_text_json(text, fault->memory);
    } else {
        bp_text_put(text, fault->memory);
    }
    bp_text_put(text, ", trap ");
    bp_text_put(text, fault->trap);
    bp_text_put(text, "\n");
}

static void put_notes(struct bp_text *text, const bufpool_fault *fault)
{
    if (fault->access == BUFPOOL_EXECUTE) {
        bp_text_put(text, "  note: the program jumped into the pool, whose pages are never executable\n");
    }
    if (fault->flags & BUFPOOL_FAULT_RACED && fault->access != BUFPOOL_EXECUTE) {
        bp_text_put(text, "  note: the page was not accessible when it was touched; it has been allocated since\n");
    }
    if (fault->flags & BUFPOOL_FAULT_LOST) {
        bp_text_put(
            text, "  note: the program was right to touch the page; its frame was taken past the pool, as by a process "
                  "that truncated or punched the file\n");
    }
    if (fault->flags & BUFPOOL_FAULT_FORKED) {
        bp_text_put(text,
                    "  note: this is a forked child; pools are not inherited, and the state is that at the fork\n");
    }
}

size_t bufpool_format_text(const bufpool_fault *fault, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    struct frames frames;
    put_headline(&text, fault);
    bp_text_put(&text, fault->access == BUFPOOL_READ ? "READ" : fault->access == BUFPOOL_WRITE ? "WRITE" : "EXECUTE");
    bp_text_put(&text, " at address ");
    bp_text_hex(&text, fault->address);
    bp_text_put(&text, ", pc ");
    bp_text_hex(&text, fault->pc);
    bp_text_put(&text, "\n");
    put_thread(&text, fault);
    find_frames(fault, &frames);
    for (uint32_t i = 0; i < frames.count; i++) {
        bp_text_put(&text, "    #");
        bp_text_decimal(&text, i);
        bp_text_put(&text, " ");
        bp_text_hex(&text, fault->stack[i]);
        if (frames.modules[i].path != NULL) {
            bp_text_put(&text, " (");
            put_place(&text, fault->stack[i], &frames.modules[i]);
            bp_text_put(&text, ")");
        }
        bp_text_put(&text, "\n");
    }
    put_pool(&text, fault);
    put_notes(&text, fault);
    bp_text_put(&text, "==");
    bp_text_decimal(&text, (uint64_t)fault->pid);
    bp_text_put(&text, "==END of bufpool report ");
    bp_text_decimal(&text, fault->sequence);
    bp_text_put(&text, "\n");
    return bp_text_end(&text);
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

static void put_count(struct bp_text *text, const char *key, uint64_t value)
{
    put_key(text, key);
    bp_text_decimal(text, value);
}

/* Addresses are strings: JSON numbers lose bits above 2^53 in many readers. */
static void put_address(struct bp_text *text, const char *key, uint64_t value)
{
    put_key(text, key);
    bp_text_put(text, "\"");
    bp_text_hex(text, value);
    bp_text_put(text, "\"");
}

size_t bufpool_format_json(const bufpool_fault *fault, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    struct frames frames;
    bp_text_put(&text, "{");
    put_count(&text, "sequence", fault->sequence);
    put_key(&text, "time");
    bp_text_put(&text, "\"");
    bp_text_time(&text, fault->time_ns);
    bp_text_put(&text, "\"");
    put_count(&text, "pid", (uint64_t)fault->pid);
    put_count(&text, "thread_id", (uint64_t)fault->thread_id);
    put_member(&text, "thread_name", fault->thread_name);
    put_member(&text, "access", bufpool_access_name(fault->access));
    put_member(&text, "state", bufpool_state_name(fault->state));
    put_address(&text, "address", fault->address);
    put_address(&text, "pc", fault->pc);
    put_member(&text, "pool", fault->pool_name);
    put_address(&text, "pool_address", fault->pool_address);
    put_count(&text, "pool_capacity", fault->pool_capacity);
    put_count(&text, "page", fault->page);
    put_count(&text, "offset", fault->offset);
    put_count(&text, "page_size", fault->page_size);
    put_member(&text, "memory", fault->memory);
    put_member(&text, "trap", fault->trap);
    put_count(&text, "signal", (uint64_t)fault->signal);
    put_key(&text, "raced");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_RACED ? "true" : "false");
    put_key(&text, "forked");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_FORKED ? "true" : "false");
    put_key(&text, "lost");
    bp_text_put(&text, fault->flags & BUFPOOL_FAULT_LOST ? "true" : "false");
    put_key(&text, "native_stack");
    bp_text_put(&text, "[");
    find_frames(fault, &frames);
    for (uint32_t i = 0; i < frames.count; i++) {
        char place[320];
        struct bp_text one = {place, sizeof place, 0};
        put_place(&one, fault->stack[i], &frames.modules[i]);
        bp_text_end(&one);
        bp_text_put(&text, i > 0 ? "," : "");
        bp_text_json(&text, place);
    }
    bp_text_put(&text, "]}");
    return bp_text_end(&text);
}
