/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that connects. Looking up a name and connecting may take long; the thread does both with
 * socket_connect(), which an eventfd can interrupt at any point, and reports through another
 * eventfd that the main loop watches. The thread touches nothing but the job; the main loop joins
 * it before it looks at the result, so no lock is needed.
 */
#include "connect-job.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "chardev-private.h"
#include "io/socket.h"
#include "util/error.h"

#define CONNECT_TIMEOUT_MS 30000

struct connect_job {
    struct transport_address *addr;
    int cancel_fd;
    int done_fd;
    GThread *thread;
    struct chardev_watch *watch;
    void (*done)(void *opaque, int fd, const GError *error);
    void *opaque;
    /* written by the thread, read after joining it */
    int fd;
    GError *error;
};

static void eventfd_raise(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static gpointer connect_thread(gpointer data)
{
    struct connect_job *job = data;

    job->fd = socket_connect(job->addr, job->cancel_fd, CONNECT_TIMEOUT_MS, &job->error);
    eventfd_raise(job->done_fd);
    return NULL;
}

static void connect_job_free(struct connect_job *job)
{
    chardev_watch_free(job->watch);
    if (job->thread) {
        g_thread_join(job->thread);
    }
    if (job->fd >= 0) {
        close(job->fd);
    }
    if (job->cancel_fd >= 0) {
        close(job->cancel_fd);
    }
    if (job->done_fd >= 0) {
        close(job->done_fd);
    }
    g_clear_error(&job->error);
    transport_address_free(job->addr);
    g_free(job);
}

static void connect_job_on_done(void *opaque, GIOCondition revents G_GNUC_UNUSED)
{
    struct connect_job *job = opaque;
    g_autoptr(GError) error = NULL;
    void (*done)(void *opaque, int fd, const GError *error) = job->done;
    void *done_opaque = job->opaque;
    int fd;

    g_thread_join(g_steal_pointer(&job->thread));
    fd = job->fd;
    job->fd = -1;
    error = g_steal_pointer(&job->error);
    connect_job_free(job);
    done(done_opaque, fd, error);
}

struct connect_job *connect_job_start(const struct transport_address *addr,
                                      void (*done)(void *opaque, int fd, const GError *error),
                                      void *opaque, GError **err)
{
    struct connect_job *job = g_new0(struct connect_job, 1);

    job->addr = transport_address_copy(addr);
    job->done = done;
    job->opaque = opaque;
    job->fd = -1;
    job->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    job->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (job->cancel_fd < 0 || job->done_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to create an eventfd");
        connect_job_free(job);
        return NULL;
    }
    job->watch = chardev_watch_new(job->done_fd, G_IO_IN, connect_job_on_done, job);
    job->thread = g_thread_try_new("connect", connect_thread, job, NULL);
    if (!job->thread) {
        error_set(err, FERRY_ERROR_HOST, "Failed to start a thread for connecting");
        connect_job_free(job);
        return NULL;
    }
    return job;
}

void connect_job_cancel(struct connect_job *job)
{
    if (job) {
        eventfd_raise(job->cancel_fd);
        connect_job_free(job);
    }
}
