/* thread.c: the thread-local block and the process word, see thread.h. */
#include "thread.h"

#include "error.h"
#include "kernel.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

_Thread_local struct bp_thread bp_thread __attribute__((tls_model("initial-exec")));

#define NOTICED (-1)

_Atomic int32_t *bp_process_word;
static int32_t generation; /* of the process that set the word last */

int32_t bp_thread_id(void)
{
    int32_t process = bp_process();
    if (bp_thread.id == 0 || bp_thread.id_process != process || process == 0) {
        int32_t id = bp_kernel_thread();
        if (id != bp_thread.id || bp_thread.id_process != process) { /* after a fork what is in it was the parent's */
            bp_thread.last_pc = 0;
            bp_thread.interned = 0;
        }
        bp_thread.id = id;
        bp_thread.id_process = process;
    }
    return bp_thread.id;
}

uint32_t bp_thread_number(void)
{
    static _Atomic uint32_t last;
    while (bp_thread.serial ==
           0) { /* a handler may be faster: then the later one holds, which nobody else has either */
        bp_thread.serial = atomic_fetch_add(&last, 1) + 1;
    }
    return bp_thread.serial;
}

int bp_process_prepare(void)
{
    if (bp_process_word == NULL) {
        void *place;
        int code = bp_kernel_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &place);
        if (code < 0) {
            return bp_error(code, "cannot map a page of bookkeeping: %s", strerror(-code));
        }
        code = bp_kernel_madvise(place, 4096, MADV_WIPEONFORK);
        if (code < 0) {
            bp_kernel_munmap(place, 4096);
            return bp_error(code, "cannot notice forks: MADV_WIPEONFORK: %s", strerror(-code));
        }
        bp_process_word = place;
    }
    if (atomic_load(bp_process_word) <= 0) {
        atomic_store(bp_process_word, ++generation);
    }
    return 0;
}

bool bp_process_is_new(void)
{
    if (bp_process() > 0 || bp_process_word == NULL) {
        return false;
    }
    int32_t wiped = 0;
    if (atomic_compare_exchange_strong(bp_process_word, &wiped, NOTICED)) {
        return true;
    }
    while (bp_process() == NOTICED) { /* another thread is setting it */
        bp_kernel_sleep_ns(10000);
    }
    return false;
}

void bp_thread_renew(void)
{
    bp_thread.owed = NULL;
    bp_thread.last_pc = 0;
    bp_thread.scratches = 0;
    bp_thread.id = 0;
}
