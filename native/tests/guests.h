/* guests.h: children that attach to a pool by its handle, and what becomes of one when the opener closes the pool. */
#ifndef GUESTS_H
#define GUESTS_H

#include "harness.h"

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static bufpool_config attach_config(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.on_fault = "resume";
    return config;
}

static bufpool_pool *attach(void)
{
    bufpool_config config = attach_config();
    bufpool_pool *attached = NULL;
    CHECK_OK(bufpool_attach(&config, &handle, &attached));
    return attached;
}

/* Two pipes. */
static int to_guest[2];
static int to_host[2];

static void open_pipes(void)
{
    CHECK_OK(pipe2(to_guest, O_CLOEXEC));
    CHECK_OK(pipe2(to_host, O_CLOEXEC));
}

static void close_pipes(void)
{
    for (int i = 0; i < 2; i++) {
        close(to_guest[i]);
        close(to_host[i]);
    }
}

/* In the guest, once it is attached. */
static void await_close(void)
{
    char byte = 0;
    CHECK_IS(write(to_host[1], &byte, 1), ==, 1);
    CHECK_IS(read(to_guest[0], &byte, 1), ==, 1);
}

static void *close_for_all(void *pool)
{
    char byte;
    CHECK_IS(read(to_host[0], &byte, 1), ==, 1);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(write(to_guest[1], &byte, 1), ==, 1);
    return NULL;
}

/* Closes the pool while a child that runs guest() is in await_close(); and the handle. */
static void close_amid(bufpool_pool *pool, void (*guest)(void *))
{
    pthread_t thread;
    open_pipes();
    CHECK_OK(pthread_create(&thread, NULL, close_for_all, pool));
    passes(guest, NULL);
    CHECK_OK(pthread_join(thread, NULL));
    close_pipes();
    CHECK_OK(bufpool_handle_close(&handle));
}

#endif
