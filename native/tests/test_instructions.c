/* What an access looks like to the machine: every kind of instruction names its address and its page, and after "resume"
 * the interrupted code finds its registers, its red zone and errno as they were. */
#include "hosts.h"

#if defined(__x86_64__) && !SANITIZED

#include <immintrin.h>

static bufpool_pool *pool;

/* The fault that a function ends in, called guarded. */
static bufpool_fault fault_of(void (*function)(void *), void *argument)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_guarded_call(function, argument, &fault), ==, BUFPOOL_ESTRAY);
    return fault;
}

#define FAULT_IS(function, argument, kind, at) \
    do { \
        bufpool_fault harness_fault = fault_of(function, argument); \
        CHECK_IS(harness_fault.access, ==, kind); \
        CHECK_IS(harness_fault.address, ==, (uintptr_t)(at)); \
        CHECK_IS(harness_fault.page, ==, ((uintptr_t)(at) - harness_fault.pool_address) / GRANULE); \
        CHECK_IS(harness_fault.offset, ==, (uintptr_t)(at) % GRANULE); \
    } while (0)

/* ---- One kind of access each; the argument is where ---- */

static char plain[4 * GRANULE];

static void move_from(void *from)
{
    void *to = plain;
    size_t count = 2 * GRANULE;
    __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
}

static void move_to(void *to)
{
    const void *from = plain;
    size_t count = GRANULE / 4;
    __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
}

static void store_string(void *to)
{
    size_t count = 2 * GRANULE;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(1) : "memory");
}

static void load_8(void *from)
{
    uint64_t value;
    __asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(from) : "memory");
}

static void load_16(void *from)
{
    __asm__ volatile("movdqu (%0), %%xmm0" : : "r"(from) : "xmm0", "memory");
}

static void store_16(void *to)
{
    __asm__ volatile("movdqu %%xmm0, (%0)" : : "r"(to) : "xmm0", "memory");
}

static void exchange(void *at)
{
    __asm__ volatile("lock cmpxchgq %1, (%0)" : : "r"(at), "r"(7L) : "rax", "memory", "cc");
}

static void add(void *at)
{
    __asm__ volatile("lock addl $1, (%0)" : : "r"(at) : "memory", "cc");
}

static void increment(void *at)
{
    __asm__ volatile("incb (%0)" : : "r"(at) : "memory", "cc");
}

static void pop_from(void *at) /* by the stack pointer itself: the handler needs a stack of its own */
{
    __asm__ volatile("movq %%rsp, %%rbx\n\tmovq %0, %%rsp\n\tpopq %%rax\n\tmovq %%rbx, %%rsp"
                     :
                     : "r"(at)
                     : "rax", "rbx", "memory");
}

static void prefetch(void *at)
{
    __asm__ volatile("prefetcht0 (%0)\n\tprefetchw (%0)" : : "r"(at));
}

__attribute__((target("avx2"))) static void gather(void *at)
{
    __m256i offsets = _mm256_setr_epi32(0, 0, 0, 3 * GRANULE, 0, 0, 0, 0); /* all but one on the first page */
    __m256i sum = _mm256_i32gather_epi32(at, offsets, 1);
    __asm__ volatile("" : : "x"(sum));
}

static void addresses(void *argument)
{
    (void)argument;
    use_alternate_stack(64 * KIB);
    pool = open_small("abort");
    CHECK_OK(bufpool_allocate_at(pool, 4, NULL, 0));
    CHECK_OK(bufpool_allocate_at(pool, 8, NULL, 0));
    CHECK_OK(bufpool_allocate_at(pool, 9, NULL, 0));
    char *page = bufpool_address(pool, 4);
    char *end = page + GRANULE;
    FAULT_IS(move_from, end - 100, BUFPOOL_READ, end);
    FAULT_IS(move_to, end - 104, BUFPOOL_WRITE, end);
    FAULT_IS(store_string, end - 1, BUFPOOL_WRITE, end);
    FAULT_IS(move_from, end + 5, BUFPOOL_READ, end + 5);
    for (int within = 1; within < 8; within++) { /* across the edge: the first byte that is not there */
        FAULT_IS(load_8, end - within, BUFPOOL_READ, end);
        FAULT_IS(load_16, end - 2 * within, BUFPOOL_READ, end);
        FAULT_IS(store_16, end - 2 * within, BUFPOOL_WRITE, end);
        FAULT_IS(load_8, page - within, BUFPOOL_READ, page - within); /* from the hole into the page */
        FAULT_IS(store_16, page - within, BUFPOOL_WRITE, page - within);
    }
    load_16(end - 16);
    FAULT_IS(exchange, end + 64, BUFPOOL_WRITE, end + 64);
    FAULT_IS(exchange, end + GRANULE - 8, BUFPOOL_WRITE, end + GRANULE - 8);
    FAULT_IS(add, end + 3, BUFPOOL_WRITE, end + 3);
    FAULT_IS(increment, end + 1, BUFPOOL_WRITE, end + 1);
    FAULT_IS(pop_from, end + 16, BUFPOOL_READ, end + 16);
    prefetch(end + 64); /* no access */
    if (__builtin_cpu_supports("avx2")) {
        char *second = bufpool_address(pool, 8);
        FAULT_IS(gather, second, BUFPOOL_READ, second + 3 * GRANULE);
    }
}

/* ---- After "resume" ---- */

/* Whole instructions that are run again: what they did is done once, on the pattern. */
static void completes(void *argument)
{
    (void)argument;
    pool = open_small("resume");
    uint64_t pattern;
    memset(&pattern, BUFPOOL_POISON, sizeof pattern);
    for (uint64_t page = 0; page < 2; page++) {
        move_from(hole(pool, 3)); /* over three holes */
    }
    CHECK_IS((unsigned char)plain[0], ==, BUFPOOL_POISON);
    CHECK_IS((unsigned char)plain[2 * GRANULE - 1], ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_check(NULL));
    uint64_t *word = (uint64_t *)bufpool_address(pool, 20);
    uint64_t found = pattern;
    CHECK(__atomic_compare_exchange_n(word, &found, 9, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    CHECK_IS(__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST), ==, 9);
    CHECK_IS(*word, ==, 10);
    CHECK_OK(bufpool_check(NULL));
    char *edge = (char *)bufpool_address(pool, 31) - 7; /* one access, two holes */
    uint64_t value;
    memcpy(&value, edge, sizeof value);
    CHECK(value == pattern);
    CHECK_OK(bufpool_check(NULL));
    CHECK_IS(stats_of(pool).scratched, ==, 0);
}

/* Every register that the ABI or the machine has is as it was, and the 128 bytes below the stack pointer. */
static void registers_kept(void *argument)
{
    (void)argument;
    pool = open_small("resume");
    for (uint64_t page = 0; page < 3; page++) {
        uint64_t in[16], out[16], red[16];
        for (uint64_t i = 0; i < 16; i++) {
            in[i] = 0x1111111111111111u * i + page;
        }
        unsigned mxcsr_before, mxcsr_after;
        unsigned short control_before, control_after;
        errno = 123;
        __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr_before), "=m"(control_before));
        /* r15: in, r14: out, r13: red, rcx: the hole. The red zone is written, the fault comes, the red zone is read. */
        __asm__ volatile("movdqu 0(%[in]), %%xmm0\n\tmovdqu 16(%[in]), %%xmm7\n\tmovdqu 32(%[in]), %%xmm15\n\t"
                         "movq 48(%[in]), %%r8\n\tmovq 56(%[in]), %%r9\n\tmovq 64(%[in]), %%r10\n\t"
                         "movq 72(%[in]), %%r11\n\tmovq 80(%[in]), %%rbx\n\tmovq 88(%[in]), %%rdx\n\t"
                         "movq %%r8, -8(%%rsp)\n\tmovq %%r9, -64(%%rsp)\n\tmovq %%rbx, -128(%%rsp)\n\t"
                         "fld1\n\tstd\n\tstc\n\t"
                         "movb (%%rcx), %%al\n\t"
                         "setc %%ah\n\tcld\n\t"
                         "movzbl %%ah, %%eax\n\tmovq %%rax, 96(%[out])\n\t"
                         "fistpq 104(%[out])\n\t"
                         "movdqu %%xmm0, 0(%[out])\n\tmovdqu %%xmm7, 16(%[out])\n\tmovdqu %%xmm15, 32(%[out])\n\t"
                         "movq %%r8, 48(%[out])\n\tmovq %%r9, 56(%[out])\n\tmovq %%r10, 64(%[out])\n\t"
                         "movq %%r11, 72(%[out])\n\tmovq %%rbx, 80(%[out])\n\tmovq %%rdx, 88(%[out])\n\t"
                         "movq -8(%%rsp), %%r8\n\tmovq %%r8, 0(%[red])\n\tmovq -64(%%rsp), %%r8\n\t"
                         "movq %%r8, 8(%[red])\n\tmovq -128(%%rsp), %%r8\n\tmovq %%r8, 16(%[red])\n\t"
                         :
                         : [in] "r"(in), [out] "r"(out), [red] "r"(red), "c"(hole(pool, page))
                         : "rax", "rbx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm7", "xmm15", "memory", "cc");
        __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr_after), "=m"(control_after));
        CHECK_IS(errno, ==, 123);
        CHECK_IS(memcmp(in, out, 96), ==, 0);
        CHECK_IS(out[12], ==, 1); /* the carry flag */
        CHECK_IS(out[13], ==, 1); /* the x87 stack */
        CHECK(red[0] == in[6] && red[1] == in[7] && red[2] == in[10]);
        CHECK_IS(mxcsr_before, ==, mxcsr_after);
        CHECK_IS(control_before, ==, control_after);
    }
    CHECK_IS(stats_of(pool).faults, ==, 3);
}

__attribute__((target("avx"))) static void wide_registers_kept(void *argument)
{
    (void)argument;
    pool = open_small("resume");
    unsigned char in[32], out[32];
    for (int i = 0; i < 32; i++) {
        in[i] = (unsigned char)(200 - i);
    }
    __asm__ volatile("vmovdqu (%0), %%ymm9\n\tmovb (%2), %%al\n\tvmovdqu %%ymm9, (%1)\n\tvzeroupper"
                     :
                     : "r"(in), "r"(out), "r"(hole(pool, 3))
                     : "rax", "xmm9", "memory");
    CHECK_IS(memcmp(in, out, 32), ==, 0);
    CHECK_IS(stats_of(pool).faults, ==, 1);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    passes(addresses, NULL);
    passes(completes, NULL);
    passes(registers_kept, NULL);
    if (__builtin_cpu_supports("avx")) {
        passes(wide_registers_kept, NULL);
    }
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}

#else

int main(void)
{
    printf("the instructions are those of x86-64, and a sanitizer has its own use for registers\n");
    return HARNESS_SKIP;
}

#endif
