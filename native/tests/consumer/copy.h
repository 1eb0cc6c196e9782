/* What copy.c offers to two_copies.c, under the symbol "bufpool_copy". Results: 0 for as it should be. */
#ifndef COPY_H
#define COPY_H

struct copy {
    int (*open)(void);
    int (*stray)(void (*inside)(void)); /* makes a stray access after inside() (may be NULL), and checks its fault */
    int (*faults)(void);                /* the stray accesses that this copy counted */
    int (*close)(void);
};

#endif
