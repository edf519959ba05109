/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names to addresses. getaddrinfo() may block for as long as a name server likes and cannot be
 * interrupted, so numeric addresses are converted directly and names on a helper thread. The thread
 * and the waiter share a lookup object with two references; whoever comes last frees it, so a
 * waiter may leave at any time.
 */
#include "socket-private.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "io/socket.h"
#include "util/error.h"

struct lookup {
    int refs;
    int done_fd; /* eventfd, readable when result and list are there */
    char *host;  /* NULL: all addresses */
    char *port;
    struct addrinfo hints;
    int result;       /* EAI_... */
    int result_errno; /* for EAI_SYSTEM */
    struct addrinfo *list;
};

static void lookup_unref(struct lookup *lk)
{
    if (__atomic_sub_fetch(&lk->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    if (lk->list) {
        freeaddrinfo(lk->list);
    }
    close(lk->done_fd);
    g_free(lk->host);
    g_free(lk->port);
    g_free(lk);
}

static void lookup_run(struct lookup *lk)
{
    lk->result = getaddrinfo(lk->host, lk->port, &lk->hints, &lk->list);
    lk->result_errno = errno;
}

static gpointer lookup_thread(gpointer data)
{
    struct lookup *lk = data;
    uint64_t one = 1;

    lookup_run(lk);
    while (write(lk->done_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    lookup_unref(lk);
    return NULL;
}

/* 0 done, else ECANCELED, ETIMEDOUT or why no thread could be had. */
static int lookup_on_thread(struct lookup *lk, int cancel_fd, gint64 deadline)
{
    g_autoptr(GThread) thread = NULL;
    unsigned left_ms;
    int r;

    lk->refs++;
    thread = g_thread_try_new("resolve", lookup_thread, lk, NULL);
    if (!thread) {
        lk->refs--;
        return EAGAIN;
    }
    if (!socket_deadline_left(deadline, &left_ms)) {
        return ETIMEDOUT;
    }
    r = socket_wait(lk->done_fd, POLLIN, cancel_fd, left_ms);
    if (r > 0) {
        uint64_t count;

        /* also the point after which the thread's writes are seen */
        return read(lk->done_fd, &count, sizeof(count)) == sizeof(count) ? 0 : EIO;
    }
    return r < 0 ? ECANCELED : ETIMEDOUT;
}

static void set_lookup_error(const struct lookup *lk, const char *target, GError **err)
{
    const char *why =
        lk->result == EAI_SYSTEM ? g_strerror(lk->result_errno) : gai_strerror(lk->result);

    error_set(err, FERRY_ERROR_LINK, "address resolution failed for %s: %s", target, why);
}

bool resolve_tcp(const struct transport_address *addr, enum resolve_purpose purpose, int cancel_fd,
                 gint64 deadline, struct addrinfo **list, GError **err)
{
    g_autofree char *target = g_strdup_printf("%s:%s", addr->host, addr->port);
    struct lookup *lk;
    int errnum = 0;

    if (!socket_check_port(addr->port, err)) {
        return false;
    }
    lk = g_new0(struct lookup, 1);
    lk->refs = 1;
    lk->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lk->host = *addr->host ? g_strdup(addr->host) : NULL;
    lk->port = g_strdup(addr->port);
    lk->hints.ai_family = addr->family;
    lk->hints.ai_socktype = SOCK_STREAM;
    lk->hints.ai_flags = AI_NUMERICHOST | (purpose == RESOLVE_LISTEN ? AI_PASSIVE : 0);
    if (lk->done_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to look up %s", target);
        lookup_unref(lk);
        return false;
    }
    lookup_run(lk);
    if (lk->result == EAI_NONAME && lk->host) {
        lk->hints.ai_flags &= ~AI_NUMERICHOST;
        errnum = lookup_on_thread(lk, cancel_fd, deadline);
    }
    if (errnum == ECANCELED) {
        error_set(err, FERRY_ERROR_CANCELLED, "Looking up %s was cancelled", target);
    } else if (errnum) {
        error_set(err, FERRY_ERROR_LINK, "address resolution failed for %s: %s", target,
                  g_strerror(errnum));
    } else if (lk->result) {
        set_lookup_error(lk, target, err);
    } else {
        *list = g_steal_pointer(&lk->list);
    }
    bool ok = !errnum && !lk->result;

    lookup_unref(lk);
    return ok;
}
