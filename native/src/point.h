/*
 * point.h: the moments at which a process may be killed: after every store to what other processes have, too.
 *
 * BP_STORED("what was stored") is nothing at all, but in the test programs that are built with BUFPOOL_KILL_POINTS:
 * there it calls bp_stored(), which the test defines, and which kills the process at the moment of its choice. All
 * points stand in the section bp_points, so that the test knows of those that it has not met.
 */
#ifndef BP_POINT_H
#define BP_POINT_H

#ifdef BUFPOOL_KILL_POINTS
struct bp_point {
    char name[32];
};

void bp_stored(const struct bp_point *point);

#define BP_STORED(what) \
    do { \
        static const struct bp_point bp_here __attribute__((section("bp_points"), used)) = {what}; \
        bp_stored(&bp_here); \
    } while (0)
#else
#define BP_STORED(what) ((void)0)
#endif

#endif
