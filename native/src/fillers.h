/* fillers.h: what pages are filled from: zeros, and the pattern BUFPOOL_POISON. Made at the first open, kept for ever. */
#ifndef BP_FILLERS_H
#define BP_FILLERS_H

#include <stddef.h>

#define BP_FILL_SIZE ((size_t)2 << 20)

/* Errors: -ENOMEM, with a sentence. */
int bp_fill_prepare(void);

/* A file of BP_FILL_SIZE bytes of the pattern, to be mapped over huge granules. Errors: -errno, with a sentence. */
int bp_fill_prepare_file(void);

/* At least so many bytes of BUFPOOL_FRESH, or of BUFPOOL_SCRUBBED; of huge granules the frames are shared. With the registry
 * locked. Errors: -errno, with a sentence. */
int bp_fill_prepare_bytes(unsigned char byte, size_t size, const char **bytes);

extern const void *bp_fill_zeros;  /* BP_FILL_SIZE bytes */
extern const void *bp_fill_poison; /* BP_GRANULE bytes */
extern int bp_fill_file;           /* or -1 */

#endif
