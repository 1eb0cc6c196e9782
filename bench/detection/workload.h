/* workload.h: the workloads, and what they share. */
#ifndef DETECTION_WORKLOAD_H
#define DETECTION_WORKLOAD_H

#include <stdint.h>

void workload(void);
void workload_sqlite(void);

uint64_t workload_operations(uint64_t otherwise); /* DETECTION_OPERATIONS */
uint64_t workload_random(void);                   /* the same numbers in every run */
uint64_t workload_now(void);                      /* nanoseconds of processor time, user's and system's */

#endif
