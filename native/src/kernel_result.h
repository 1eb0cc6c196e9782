/* kernel_result.h: what a system call returned, as kernel.h has it; for the files that make the calls. */
#ifndef BP_KERNEL_RESULT_H
#define BP_KERNEL_RESULT_H

#include <errno.h>

static inline int result(long value)
{
    return value < 0 ? -errno : (int)value;
}

#endif
