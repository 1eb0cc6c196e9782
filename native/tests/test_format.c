/* Fault reports as text and as JSON, from faults made by hand: content, every cut, names that are no text. */
#include "harness.h"

static bufpool_fault example(void)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    fault.sequence = 7;
    fault.address = 0x7f0000003010;
    fault.pc = 0x10; /* in no module */
    fault.page = 3;
    fault.offset = 16;
    fault.pool_address = 0x7f0000000000;
    fault.pool_capacity = 64 * KIB;
    fault.page_size = 4096;
    fault.time_ns = INT64_C(951782400123456789); /* 2000-02-29T00:00:00.123456Z */
    fault.pid = 1234;
    fault.thread_id = 1235;
    fault.signal = SIGBUS;
    fault.access = BUFPOOL_WRITE;
    fault.state = BUFPOOL_STATE_EVICTED;
    fault.stack_depth = 2;
    fault.below = fault.above = BUFPOOL_NO_PAGE;
    fault.stack[0] = 0x10;
    fault.stack[1] = 0x20;
    strcpy(fault.thread_name, "worker");
    strcpy(fault.pool_name, "main");
    strcpy(fault.memory, "anon");
    strcpy(fault.trap, "uffd");
    return fault;
}

static void text(void)
{
    bufpool_fault fault = example();
    char buffer[8192];
    char line[128];
    size_t length = bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_IS(length, ==, strlen(buffer));
    CHECK_HAS(buffer, "==1234==ERROR: bufpool: stray write of an evicted page\n");
    CHECK_HAS(buffer, "WRITE at address 0x7f0000003010, pc 0x10\n");
    CHECK_HAS(buffer, "thread 1235 \"worker\" of process 1234, 2000-02-29T00:00:00.123456Z, SIGBUS\n");
    CHECK_HAS(buffer, "#0 0x10\n");
    CHECK_HAS(buffer, "#1 0x20\n");
    CHECK_HAS(buffer, "page 3 of pool \"main\" is evicted; offset 16 of 4096 bytes; the page is "
                      "[0x7f0000003000, 0x7f0000004000)");
    CHECK_HAS(buffer, "pool \"main\" is [0x7f0000000000, 0x7f0000010000): 16 pages of 4 KiB, memory anon, trap uffd\n");
    CHECK_HAS(buffer, "==1234==END of bufpool report 7\n");
    CHECK_IS(count_in(buffer, "note:"), ==, 0);

    static const char *const headlines[] = {"a stray",      "an unallocated page", "an allocated page",
                                            "a freed page", "an evicted page",     "a page of a closed pool"};
    for (int state = 0; state < 5; state++) {
        fault.state = (bufpool_state)state;
        bufpool_format_text(&fault, buffer, sizeof buffer);
        CHECK_HAS(buffer, headlines[state + 1]);
    }
    fault.flags = BUFPOOL_FAULT_RACED | BUFPOOL_FAULT_FORKED;
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "allocated since");
    CHECK_HAS(buffer, "forked child");
    CHECK_HAS(buffer, "a page of the parent's pool");
    fault.flags = BUFPOOL_FAULT_INHERITED;
    strcpy(fault.fork_note, "this is a forked child of process 1; the pool was inherited");
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "a page of a closed pool\n");
    CHECK_HAS(buffer, "  note: this is a forked child of process 1; the pool was inherited\n");
    fault.fork_note[0] = 0;
    fault.flags = 0;
    fault.access = BUFPOOL_EXECUTE;
    fault.signal = SIGSEGV;
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "stray execute of");
    CHECK_HAS(buffer, "EXECUTE at address");
    CHECK_HAS(buffer, "never executable");
    CHECK_HAS(buffer, "SIGSEGV");

    /* Who took the page, who gave it, and what lies beside it. */
    fault.freed = (bufpool_origin){.sequence = 12,
                                   .time_ns = fault.time_ns - INT64_C(61002345678),
                                   .event = BUFPOOL_EVENT_EVICT,
                                   .thread_id = 77,
                                   .pid = 1234,
                                   .stack_depth = 1,
                                   .thread_name = "evictor",
                                   .stack = {0x30},
                                   .caller = "a.py:1 in f\nb.py:2 in g"};
    fault.allocated = (bufpool_origin){
        .sequence = 3, .time_ns = fault.time_ns + 5000000, .event = BUFPOOL_EVENT_POPULATE, .pid = 99, .thread_id = 98};
    fault.below = 2;
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  neighbours: 16 bytes past the end of page 2, which is allocated\n"
                      "  evicted by thread 77 \"evictor\", 2000-02-28T23:58:59.121111Z, 61.002 s before (event 12)\n"
                      "    #0 0x30\n"
                      "    on behalf of, innermost last:\n"
                      "      a.py:1 in f\n"
                      "      b.py:2 in g\n"
                      "  populated by thread 98 of process 99, 2000-02-29T00:00:00.128456Z, 0.005 s after (event 3)\n");
    fault.allocated.stack_depth = 2;
    fault.allocated.stack[0] = fault.allocated.stack[1] = (uint64_t)(uintptr_t)text; /* a place in this program */
    fault.allocated.foreign = 2;                                                     /* the second of the other */
    strcpy(fault.allocated.process_name, "eng\x1bine");
    strcpy(fault.process_name, "checker");
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  thread 1235 \"worker\" of process 1234 \"checker\", 2");
    CHECK_HAS(buffer, "  populated by thread 98 of process 99 \"eng\\u001bine\", 2");
    CHECK_IS(count_in(buffer, "test_format+0x"), ==, 1);
    snprintf(line, sizeof line, "    #1 0x%llx in process 99\n", (unsigned long long)fault.allocated.stack[1]);
    CHECK_HAS(buffer, line);
    bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "\"pid\":99,\"process_name\":\"eng\\u001bine\",\"native_stack\":[\"");
    snprintf(line, sizeof line, ",\"0x%llx\"],\"caller\":[]}", (unsigned long long)fault.allocated.stack[1]);
    CHECK_HAS(buffer, line);
    bufpool_fault reused = fault;
    reused.freed.event = BUFPOOL_EVENT_FREE;
    reused.allocated.event = BUFPOOL_EVENT_ALLOCATE;
    bufpool_format_text(&reused, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  allocated by thread 98");
    CHECK_IS(count_in(buffer, "has been used again"), ==, 0);
    reused.allocated.sequence = 13;
    bufpool_format_text(&reused, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  freed by thread 77 \"evictor\", ");
    CHECK_HAS(buffer, "  allocated again by thread 98");
    CHECK_HAS(buffer, "  note: the page's number has been used again: ");
    reused.freed.sequence = (UINT64_C(1) << 39) - 1; /* they are counted modulo 2^39 */
    bufpool_format_text(&reused, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  allocated again by thread 98");
    reused.freed.event = BUFPOOL_EVENT_EVICT;
    bufpool_format_text(&reused, buffer, sizeof buffer);
    CHECK_IS(count_in(buffer, "again"), ==, 0);
    fault.freed.event = 17;
    fault.allocated.thread_id = 0;
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "  unknown by thread 77");
    CHECK_HAS(buffer, "  populated by a thread that is not known any more");
    fault = example();
    strcpy(fault.in_syscall, "pwrite64");
    fault.access = BUFPOOL_READ;
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "\nREAD by system call pwrite64 at address 0x7f0000003010,");
    bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "\"in_syscall\":\"pwrite64\"");

    fault.stack[0] = (uint64_t)(uintptr_t)text; /* a place in this program */
    bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "test_format+0x");
}

static void json(void)
{
    bufpool_fault fault = example();
    char buffer[8192];
    size_t length = bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_IS(length, ==, strlen(buffer));
    CHECK_STRING(buffer,
                 "{\"sequence\":7,\"time\":\"2000-02-29T00:00:00.123456Z\",\"pid\":1234,\"thread_id\":1235,"
                 "\"thread_name\":\"worker\",\"process_name\":\"\",\"access\":\"write\",\"state\":\"evicted\","
                 "\"address\":\"0x7f0000003010\","
                 "\"pc\":\"0x10\",\"pool\":\"main\",\"pool_address\":\"0x7f0000000000\",\"pool_capacity\":65536,"
                 "\"page\":3,\"offset\":16,\"page_size\":4096,\"red_zone\":0,\"sample\":0,\"seed\":null,\"memory\":"
                 "\"anon\",\"trap\":\"uffd\",\"signal\":7,"
                 "\"raced\":false,\"forked\":false,\"lost\":false,\"went_through\":false,\"others_pin\":false,"
                 "\"read_pins\":0,\"write_pins\":0,\"inherited\":false,\"fork_note\":null,"
                 "\"in_syscall\":null,\"below\":null,\"above\":null,\"allocated\":null,\"freed\":null,\"pinned\":null,"
                 "\"native_stack\":[\"0x10\",\"0x20\"]}");

    strcpy(fault.pool_name, "q\" b\\ n\n t\t d\x7f e\x1b \xc3\xa9 \xf0\x9f\x90\x9b \xff \xc3 \xed\xa0\x80 \xc0\x80");
    bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "\"pool\":\"q\\\" b\\\\ n\\u000a t\\u0009 d\\u007f e\\u001b \xc3\xa9 \xf0\x9f\x90\x9b \\u00ff "
                      "\\u00c3 \\u00ed\\u00a0\\u0080 \\u00c0\\u0080\",");
    for (const char *at = buffer; *at != 0; at++) {
        CHECK((unsigned char)*at >= 0x20 && *at != 0x7f); /* one line, no control characters */
    }
    memset(fault.pool_name, 'x', sizeof fault.pool_name - 1);
    fault.pool_name[sizeof fault.pool_name - 1] = 0;
    fault.pool_name[60] = (char)0xe2; /* a sequence cut by the end of the name */
    fault.pool_name[61] = (char)0x82;
    fault.pool_name[62] = 0;
    bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_HAS(buffer, "xx\\u00e2\\u0082\"");
}

/* A terminal must not be steered by a name. */
static void text_of_wild_names(void)
{
    bufpool_fault fault = example();
    strcpy(fault.pool_name, "a\x1b[2Jb\nc");
    strcpy(fault.thread_name, "t\x07\r");
    char buffer[8192];
    bufpool_format_text(&fault, buffer, sizeof buffer);
    for (const char *at = buffer; *at != 0; at++) {
        CHECK((unsigned char)*at >= 0x20 || *at == '\n');
    }
    CHECK(strstr(buffer, "b\nc") == NULL);
    CHECK_IS(count_in(buffer, "==END of bufpool report"), ==, 1);
}

/* Every size from 0: terminated, a prefix of the whole, the whole length returned, nothing written behind. */
static void cuts(size_t (*format)(const bufpool_fault *, char *, size_t))
{
    bufpool_fault fault = example();
    char whole[8192];
    size_t length = format(&fault, whole, sizeof whole);
    CHECK_IS(format(&fault, NULL, 0), ==, length);
    char buffer[8192];
    for (size_t size = 0; size <= length + 2; size++) {
        memset(buffer, '#', sizeof buffer);
        CHECK_IS(format(&fault, buffer, size), ==, length);
        if (size > 0) {
            size_t kept = size <= length ? size - 1 : length;
            CHECK(memcmp(buffer, whole, kept) == 0);
            CHECK_IS(buffer[kept], ==, 0);
        }
        for (size_t i = size; i < sizeof buffer; i++) {
            CHECK_IS(buffer[i], ==, '#');
        }
    }
}

/* Values at their limits neither overflow nor hang. */
static void extremes(void)
{
    bufpool_fault fault;
    memset(&fault, 0xff, sizeof fault);
    fault.size = sizeof fault;
    fault.thread_name[15] = fault.pool_name[63] = fault.memory[63] = fault.trap[15] = fault.fork_note[255] = 0;
    fault.in_syscall[31] = fault.process_name[15] = 0;
    fault.time_ns = INT64_MAX;
    char buffer[32768];
    size_t length = bufpool_format_text(&fault, buffer, sizeof buffer);
    CHECK_IS(length, ==, strlen(buffer));
    CHECK_HAS(buffer, "2262-04-11T23:47:16.854775Z");
    CHECK_HAS(buffer, "stray unknown of a page of the parent's pool");
    length = bufpool_format_json(&fault, buffer, sizeof buffer);
    CHECK_IS(length, ==, strlen(buffer));
    CHECK_HAS(buffer, "18446744073709551615");
    memset(&fault, 0, sizeof fault);
    CHECK_IS(bufpool_format_text(&fault, buffer, sizeof buffer), ==, strlen(buffer));
    CHECK_HAS(buffer, "1970-01-01T00:00:00.000000Z");
    CHECK_STRING(bufpool_state_name((bufpool_state)99), "unknown");
    CHECK_STRING(bufpool_access_name((bufpool_access)99), "unknown");
}

int main(void)
{
    harness_begin();
    text();
    json();
    text_of_wild_names();
    cuts(bufpool_format_text);
    cuts(bufpool_format_json);
    extremes();
    return 0;
}
