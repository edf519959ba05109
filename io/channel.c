/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Byte channels over descriptors; see include/io/channel.h.
 *
 * All descriptors are used without blocking: a call tries first, and only when the kernel has
 * nothing to give or no room does it poll(), together with an eventfd that channel_shutdown() makes
 * readable for good. That is why a shutdown reaches a blocked call on any thread, and why it never
 * closes a descriptor that another thread is about to use: descriptors are closed by the last
 * reference, and the write end of a pipe by channel_finish() on the writing thread itself.
 *
 * Order in every call: shutdown flag, system call, wait. The timeout counts from the last byte that
 * moved, so a slow peer is fine and a dead one is not.
 *
 * Failures leave the channel as it is; a stream that broke in the middle is useless anyway, so
 * callers drop the channel.
 *
 * Trust: none in the peer: bytes are moved and never looked at, and how many it sends or leaves
 * unread decides nothing but how long a call takes, up to its deadline.
 */
#include "io/channel.h"
#include "channel-private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/socket.h"
#include "util/error.h"

#define CHANNEL_DEFAULT_TIMEOUT_MS 30000
/*
 * Entries of one write to a UNIX socket: about what its buffer holds. What does not fit would be
 * copied in and checked by the kernel again with the next call. TCP takes megabytes, and a write
 * of a megabyte is worth its call; during a longer one the peer's acknowledgements would wait.
 */
#define UNIX_IOV_MAX 128
#define TCP_IOV_MAX  512

/* One direction. Each is used by one thread at a time; timeout and bytes are read by others. */
struct channel_end {
    int fd; /* -1: this direction does not exist or was closed */
    bool restore_blocking;
    unsigned timeout_ms;
    uint64_t bytes;
    uint32_t chop_state; /* next pseudo-random number of FERRY_IO_CHOP */
};

struct channel {
    int refs;
    char *name;
    bool is_socket; /* then both ends hold the same descriptor */
    int iov_max;    /* entries of one write */
    bool finished;
    bool shut;
    int lost; /* errno of the first failure that is not the peer's closing; 0: none */
    int wake_fd;
    unsigned chop; /* 0: off */
    struct channel_end in;
    struct channel_end out;
    const struct channel_ops *ops;
    void *ops_opaque;
};

#define LOAD(field)         __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

static unsigned chop_from_environment(void)
{
    const char *text = g_getenv("FERRY_IO_CHOP");
    guint64 n;

    if (!text || !g_ascii_string_to_unsigned(text, 10, 1, INT_MAX, &n, NULL)) {
        return 0;
    }
    return n;
}

static struct channel *channel_new(const char *name, int read_fd, int write_fd, GError **err)
{
    struct channel *ch;
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (wake_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to open the channel %s", name);
        if (read_fd >= 0) {
            close(read_fd);
        }
        if (write_fd >= 0 && write_fd != read_fd) {
            close(write_fd);
        }
        return NULL;
    }
    ch = g_new0(struct channel, 1);
    ch->refs = 1;
    ch->name = g_strdup(name);
    ch->wake_fd = wake_fd;
    ch->chop = chop_from_environment();
    ch->iov_max = IOV_MAX;
    ch->in = (struct channel_end){
        .fd = read_fd,
        .timeout_ms = CHANNEL_DEFAULT_TIMEOUT_MS,
        .chop_state = 0x9e3779b9,
    };
    ch->out = (struct channel_end){
        .fd = write_fd,
        .timeout_ms = CHANNEL_DEFAULT_TIMEOUT_MS,
        .chop_state = 0x7f4a7c15,
    };
    return ch;
}

struct channel *channel_new_socket(const char *name, int fd, GError **err)
{
    struct channel *ch = channel_new(name, fd, fd, err);

    if (!ch) {
        return NULL;
    }
    /* MSG_DONTWAIT with every call; the flags of a description that others may share stay as they
     * are */
    ch->is_socket = true;
    ch->iov_max = socket_is_unix(fd) ? UNIX_IOV_MAX : TCP_IOV_MAX;
    socket_tune(fd);
    return ch;
}

static void end_set_nonblocking(struct channel_end *end)
{
    int flags = end->fd >= 0 ? fcntl(end->fd, F_GETFL) : -1;

    if (flags >= 0 && !(flags & O_NONBLOCK) && fcntl(end->fd, F_SETFL, flags | O_NONBLOCK) == 0) {
        end->restore_blocking = true;
    }
}

/* Returns 0 or the errno of close(), which for a file on a network is where a write error shows. */
static int end_close(struct channel_end *end)
{
    int fd = end->fd;

    if (fd < 0) {
        return 0;
    }
    if (end->restore_blocking) {
        int flags = fcntl(fd, F_GETFL);

        if (flags >= 0) {
            fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
        }
    }
    end->fd = -1;
    /* After EINTR the descriptor is closed all the same on Linux: never repeated. */
    return close(fd) == 0 || errno == EINTR ? 0 : errno;
}

struct channel *channel_new_fds(const char *name, int read_fd, int write_fd, GError **err)
{
    struct channel *ch = channel_new(name, read_fd, write_fd, err);

    if (!ch) {
        return NULL;
    }
    io_ignore_sigpipe();
    end_set_nonblocking(&ch->in);
    end_set_nonblocking(&ch->out);
    return ch;
}

void channel_set_ops(struct channel *ch, const struct channel_ops *ops, void *opaque)
{
    ch->ops = ops;
    ch->ops_opaque = opaque;
}

struct channel *channel_ref(struct channel *ch)
{
    __atomic_add_fetch(&ch->refs, 1, __ATOMIC_RELAXED);
    return ch;
}

void channel_unref(struct channel *ch)
{
    if (!ch || __atomic_sub_fetch(&ch->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    end_close(&ch->in);
    if (!ch->is_socket) {
        end_close(&ch->out);
    }
    if (ch->ops && ch->ops->destroy) {
        ch->ops->destroy(ch->ops_opaque, ch->shut);
    }
    close(ch->wake_fd);
    g_free(ch->name);
    g_free(ch);
}

static bool channel_check_alive(struct channel *ch, GError **err)
{
    if (LOAD(ch->shut)) {
        error_set(err, FERRY_ERROR_CANCELLED, "The channel %s was shut down", ch->name);
        return false;
    }
    return true;
}

static bool channel_wait(struct channel *ch, int fd, short events, unsigned timeout_ms,
                         const char *what, GError **err)
{
    int r = socket_wait(fd, events, ch->wake_fd, timeout_ms);

    if (r < 0) {
        return channel_check_alive(ch, err);
    }
    if (r == 0) {
        error_set(err, FERRY_ERROR_LINK, "Timeout on the channel %s: %s for %g seconds", ch->name,
                  what, timeout_ms / 1000.0);
        return false;
    }
    return true;
}

bool channel_wait_fd(struct channel *ch, int fd, short events, const char *what, GError **err)
{
    return channel_check_alive(ch, err) &&
           channel_wait(ch, fd, events, LOAD(ch->out.timeout_ms), what, err);
}

/* At most this many bytes for the next system call (FERRY_IO_CHOP); SIZE_MAX when that is off. */
static size_t channel_next_limit(struct channel *ch, struct channel_end *end)
{
    uint32_t x = end->chop_state;

    if (!ch->chop) {
        return SIZE_MAX;
    }
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    end->chop_state = x;
    return 1 + x % ch->chop;
}

/*
 * The part of the vector that one system call gets: IOV_MAX entries, `limit` bytes. `one` is room
 * for an entry that had to be cut; where nothing is cut, the caller's vector is used as it is.
 */
struct slice {
    const struct iovec *iov;
    int cnt;
    struct iovec one;
};

static void slice_take(struct slice *s, const struct iovec *iov, int cnt, int max, size_t limit)
{
    size_t total = 0;
    int n = 0;

    cnt = MIN(cnt, max);
    s->iov = iov;
    s->cnt = cnt;
    if (limit == SIZE_MAX) {
        return;
    }
    while (n < cnt && total < limit && limit - total >= iov[n].iov_len) {
        total += iov[n].iov_len;
        n++;
    }
    s->cnt = n;
    if (n < cnt && total == 0) {
        /* The first entry with bytes is longer than the limit: that one alone, shortened. */
        s->one = (struct iovec){ .iov_base = iov[n].iov_base, .iov_len = limit };
        s->iov = &s->one;
        s->cnt = 1;
    }
}

static ssize_t channel_try(struct channel *ch, struct channel_end *end, const struct iovec *iov,
                           int cnt)
{
    bool writing = end == &ch->out;
    struct slice s;

    slice_take(&s, iov, cnt, writing ? ch->iov_max : IOV_MAX, channel_next_limit(ch, end));
    if (ch->is_socket) {
        struct msghdr msg = { .msg_iov = (struct iovec *)s.iov, .msg_iovlen = s.cnt };

        return writing ? sendmsg(end->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
                       : recvmsg(end->fd, &msg, MSG_DONTWAIT);
    }
    return writing ? writev(end->fd, s.iov, s.cnt) : readv(end->fd, s.iov, s.cnt);
}

static void channel_set_io_error(struct channel *ch, bool writing, int errnum, GError **err)
{
    g_autofree char *why = NULL;

    if (!err) {
        return;
    }
    if (ch->ops && ch->ops->explain) {
        why = ch->ops->explain(ch, ch->ops_opaque);
    }
    /* a full disk is this host's fault, a lost reader the link's */
    error_set(err, ch->is_socket || errnum == EPIPE ? FERRY_ERROR_LINK : FERRY_ERROR_HOST,
              "Failed to %s the channel %s: %s%s%s%s", writing ? "write to" : "read from", ch->name,
              g_strerror(errnum), why ? " (" : "", why ? why : "", why ? ")" : "");
}

/* One step of one direction: at least one byte moved, 0 for the end of the stream, -1 with *err. */
static ssize_t channel_move(struct channel *ch, struct channel_end *end, const struct iovec *iov,
                            int cnt, GError **err)
{
    bool writing = end == &ch->out;

    for (;;) {
        ssize_t n;

        if (!channel_check_alive(ch, err)) {
            return -1;
        }
        if (end->fd < 0) {
            error_set(err, FERRY_ERROR_LINK, "The channel %s is not open for %s", ch->name,
                      writing ? "writing" : "reading");
            return -1;
        }
        n = channel_try(ch, end, iov, cnt);
        if (n >= 0) {
            __atomic_add_fetch(&end->bytes, n, __ATOMIC_RELAXED);
            /* shutdown() makes a blocked read return "end of stream": that is a cancel, not an end
             */
            return n == 0 && !channel_check_alive(ch, err) ? -1 : n;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!channel_wait(ch, end->fd, writing ? POLLOUT : POLLIN, LOAD(end->timeout_ms),
                              writing ? "the peer took no bytes" : "no bytes came", err)) {
                return -1;
            }
            continue;
        }
        int errnum = errno;

        if (channel_check_alive(ch, err)) {
            if (errnum != ECONNRESET && errnum != EPIPE) {
                STORE(ch->lost, errnum);
            }
            channel_set_io_error(ch, writing, errnum, err);
        }
        return -1;
    }
}

/* Skips what has been moved (and empty entries, so that a system call never gets only those). */
static void iov_advance(struct iovec **iov, int *cnt, size_t done)
{
    while (*cnt > 0 && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        (*iov)++;
        (*cnt)--;
    }
    if (*cnt > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

ssize_t channel_readv(struct channel *ch, const struct iovec *iov, int iovcnt, GError **err)
{
    while (iovcnt > 0 && iov->iov_len == 0) {
        iov++;
        iovcnt--;
    }
    if (iovcnt <= 0) {
        error_set(err, FERRY_ERROR_HOST, "No room given to read from the channel %s", ch->name);
        return -1;
    }
    return channel_move(ch, &ch->in, iov, iovcnt, err);
}

bool channel_read_all(struct channel *ch, void *buf, size_t len, GError **err)
{
    size_t done = 0;

    while (done < len) {
        struct iovec iov = { .iov_base = (char *)buf + done, .iov_len = len - done };
        ssize_t n = channel_readv(ch, &iov, 1, err);

        if (n < 0) {
            return false;
        }
        if (n == 0) {
            g_autofree char *why = NULL;

            if (ch->ops && ch->ops->explain) {
                why = ch->ops->explain(ch, ch->ops_opaque);
            }
            error_set(err, FERRY_ERROR_LINK,
                      "The channel %s ended after %" G_GUINT64_FORMAT " bytes, %zu too early%s%s",
                      ch->name, channel_bytes_read(ch), len - done, why ? ": " : "",
                      why ? why : "");
            return false;
        }
        done += n;
    }
    return true;
}

bool channel_writev_all(struct channel *ch, struct iovec *iov, int iovcnt, GError **err)
{
    iov_advance(&iov, &iovcnt, 0);
    while (iovcnt > 0) {
        ssize_t n = channel_move(ch, &ch->out, iov, iovcnt, err);

        if (n < 0) {
            return false;
        }
        iov_advance(&iov, &iovcnt, n);
    }
    return true;
}

void channel_shutdown(struct channel *ch)
{
    uint64_t one = 1;

    if (__atomic_exchange_n(&ch->shut, true, __ATOMIC_ACQ_REL)) {
        return;
    }
    /* Nobody reads the eventfd: it stays readable, for every thread and every later wait. */
    while (write(ch->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    if (ch->is_socket) {
        /* The peer learns it now, not only when the last reference goes. */
        shutdown(ch->in.fd, SHUT_RDWR);
    }
}

bool channel_finish(struct channel *ch, GError **err)
{
    int errnum = 0;

    if (ch->finished) {
        return true;
    }
    if (!channel_check_alive(ch, err)) {
        return false;
    }
    if (ch->is_socket) {
        if (shutdown(ch->out.fd, SHUT_WR) < 0) {
            errnum = errno;
        }
    } else {
        errnum = end_close(&ch->out);
    }
    if (errnum) {
        channel_set_io_error(ch, true, errnum, err);
        return false;
    }
    if (ch->ops && ch->ops->finish && !ch->ops->finish(ch, ch->ops_opaque, err)) {
        return false;
    }
    ch->finished = true;
    return true;
}

int channel_read_fd(const struct channel *ch)
{
    return ch->in.fd;
}

void channel_close_read(struct channel *ch)
{
    end_close(&ch->in);
}

void channel_set_timeout(struct channel *ch, unsigned ms)
{
    STORE(ch->in.timeout_ms, ms);
    STORE(ch->out.timeout_ms, ms);
}

void channel_set_read_timeout(struct channel *ch, unsigned ms)
{
    STORE(ch->in.timeout_ms, ms);
}

void channel_set_write_timeout(struct channel *ch, unsigned ms)
{
    STORE(ch->out.timeout_ms, ms);
}

bool channel_wait_writable(struct channel *ch, unsigned ms)
{
    return ch->out.fd < 0 || socket_wait(ch->out.fd, POLLOUT, ch->wake_fd, MAX(ms, 1u)) != 0;
}

bool channel_wait_readable(struct channel *ch, unsigned ms)
{
    return ch->in.fd < 0 || socket_wait(ch->in.fd, POLLIN, ch->wake_fd, MAX(ms, 1u)) != 0;
}

int channel_lost(const struct channel *ch)
{
    return LOAD(ch->lost);
}

bool channel_is_file(const struct channel *ch)
{
    struct stat st;

    return fstat(ch->out.fd >= 0 ? ch->out.fd : ch->in.fd, &st) == 0 && S_ISREG(st.st_mode);
}

bool channel_is_duplex(const struct channel *ch)
{
    return ch->is_socket;
}

const char *channel_name(const struct channel *ch)
{
    return ch->name;
}

uint64_t channel_bytes_written(const struct channel *ch)
{
    return __atomic_load_n(&ch->out.bytes, __ATOMIC_RELAXED);
}

uint64_t channel_bytes_read(const struct channel *ch)
{
    return __atomic_load_n(&ch->in.bytes, __ATOMIC_RELAXED);
}

void channel_limit_ahead(struct channel *ch, unsigned bytes)
{
    if (ch->is_socket) {
        socket_limit_ahead(ch->in.fd, bytes);
    }
}

size_t channel_unsent(const struct channel *ch)
{
    int queued = 0;

    if (!ch->is_socket || ioctl(ch->out.fd, SIOCOUTQ, &queued) < 0 || queued < 0) {
        return 0;
    }
    return queued;
}
