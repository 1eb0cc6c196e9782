/* symbol.c: the name of a function, for text that is made outside of the signal handler. */
#include "text.h"

#include <bufpool/bufpool.h>
#include <dlfcn.h>

size_t bufpool_symbol(uint64_t address, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    Dl_info found;
    if (dladdr((const void *)(uintptr_t)address, &found) != 0 && found.dli_sname != NULL) {
        bp_text_put(&text, found.dli_sname);
        bp_text_put(&text, "+");
        bp_text_hex(&text, address - (uintptr_t)found.dli_saddr);
    }
    return bp_text_end(&text);
}
