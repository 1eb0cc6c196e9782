/* layer_own.h: how pages are closed, in the layer without bufpool: what HIDE can be. */
#ifndef DETECTION_LAYER_OWN_H
#define DETECTION_LAYER_OWN_H

#define HIDE_NONE 0
#define HIDE_MPROTECT 1
#define HIDE_POISON 2
#define HIDE_REQUESTS 3

#endif
