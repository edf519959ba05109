/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mutexes and condition variables on POSIX threads. glib's own are futexes inside a library that
 * the thread sanitizer does not see into, so that it would report every use of them as a race;
 * these it understands. Threads themselves are glib's.
 */
#ifndef UTIL_SYNC_H
#define UTIL_SYNC_H

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct mutex {
    pthread_mutex_t m;
};

struct cond {
    pthread_cond_t c;
};

static inline void mutex_init(struct mutex *m)
{
    pthread_mutex_init(&m->m, NULL);
}
static inline void mutex_clear(struct mutex *m)
{
    pthread_mutex_destroy(&m->m);
}
static inline void mutex_lock(struct mutex *m)
{
    pthread_mutex_lock(&m->m);
}
static inline bool mutex_trylock(struct mutex *m)
{
    return pthread_mutex_trylock(&m->m) == 0;
}
static inline void mutex_unlock(struct mutex *m)
{
    pthread_mutex_unlock(&m->m);
}

/* Waits with a deadline count on CLOCK_MONOTONIC. */
static inline void cond_init(struct cond *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->c, &attr);
    pthread_condattr_destroy(&attr);
}
static inline void cond_clear(struct cond *c)
{
    pthread_cond_destroy(&c->c);
}
static inline void cond_wait(struct cond *c, struct mutex *m)
{
    pthread_cond_wait(&c->c, &m->m);
}
/* deadline_us: g_get_monotonic_time() at which to give up; false then. */
static inline bool cond_wait_until(struct cond *c, struct mutex *m, int64_t deadline_us)
{
    struct timespec ts = { .tv_sec = deadline_us / 1000000,
                           .tv_nsec = deadline_us % 1000000 * 1000 };

    return pthread_cond_timedwait(&c->c, &m->m, &ts) != ETIMEDOUT;
}
static inline void cond_signal(struct cond *c)
{
    pthread_cond_signal(&c->c);
}
static inline void cond_broadcast(struct cond *c)
{
    pthread_cond_broadcast(&c->c);
}

#endif
