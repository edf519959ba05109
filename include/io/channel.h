/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Byte channels: what a migration stream travels on. A channel is a pair of directions over one or
 * two file descriptors (socket, pipe of a command, file, inherited descriptor).
 *
 * A channel is used by one reading and one writing thread, which block in it; any thread may call
 * channel_shutdown(), which ends all blocked and later calls at once with FERRY_ERROR_CANCELLED (or
 * the error given). Every wait has a deadline: channel_set_timeout(). No call needs or takes the
 * machine lock.
 */
#ifndef IO_CHANNEL_H
#define IO_CHANNEL_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct channel;

struct channel *channel_ref(struct channel *ch);
/* Drops a reference; the last one closes the descriptors and reaps an exec: child. */
void channel_unref(struct channel *ch);
typedef struct channel channel; /* for g_autoptr(channel) */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(channel, channel_unref)

/*
 * Reads at least one byte into the vector, blocking up to the timeout. Returns the number of bytes,
 * 0 at the end of the stream, -1 with *err set.
 */
ssize_t channel_readv(struct channel *ch, const struct iovec *iov, int iovcnt, GError **err);
/* Reads exactly len bytes; the end of the stream before that is an error (LINK). */
bool channel_read_all(struct channel *ch, void *buf, size_t len, GError **err);
/* Writes everything the vector names, in order. The vector is modified. */
bool channel_writev_all(struct channel *ch, struct iovec *iov, int iovcnt, GError **err);

/* Ends the channel from any thread: both directions, now and for good. Idempotent. */
void channel_shutdown(struct channel *ch);
/* Flushes and ends the writing direction: closes it for a pipe (waits for an exec: child, checks
 * its exit status), fsyncs nothing. A peer then sees the end of the stream. */
bool channel_finish(struct channel *ch, GError **err);

/* Longest wait for progress of one call, milliseconds; 0 = without limit (only for tests). Default
 * 30,000. */
void channel_set_timeout(struct channel *ch, unsigned ms);
/* The same for the reading direction alone, for a return path on which silence is no fault. */
void channel_set_read_timeout(struct channel *ch, unsigned ms);
void channel_set_write_timeout(struct channel *ch, unsigned ms);
/* Waits up to ms (at least 1) for room to write to; false: there is none. True also when a write
 * would fail at once. */
bool channel_wait_writable(struct channel *ch, unsigned ms);
/* The same for something to read, an end of the stream included. */
bool channel_wait_readable(struct channel *ch, unsigned ms);

/*
 * The errno with which a read or a write has failed, where that says nothing of the peer (the
 * network is gone, nobody answers): it may live. 0: nothing has failed, or the peer has closed or
 * reset the connection, which its process or its host does.
 */
int channel_lost(const struct channel *ch);

/* True for a regular file: what is written only waits there, nobody acts on it meanwhile. */
bool channel_is_file(const struct channel *ch);
/* True where the peer can answer on the same channel (sockets, socket descriptors). */
bool channel_is_duplex(const struct channel *ch);
/* "unix:/path", "tcp:127.0.0.1:4444", "exec:...", "fd:NAME", "file:/path": for messages. Owned by
 * the channel. */
const char *channel_name(const struct channel *ch);

/* Bytes carried so far. */
uint64_t channel_bytes_written(const struct channel *ch);
uint64_t channel_bytes_read(const struct channel *ch);
/* How many bytes lie unsent in the socket's send queue (SIOCOUTQ), 0 where that is not known. */
size_t channel_unsent(const struct channel *ch);
/* From now on the kernel takes about so many bytes and no more ahead of the peer (UNIX socket) or
 * of the network (TCP): what is written next is not far behind. No effect on other channels. Any
 * thread. */
void channel_limit_ahead(struct channel *ch, unsigned bytes);

/*
 * Test aid, FERRY_IO_CHOP=N in the environment: no system call moves more than 1..N bytes (a fixed
 * pseudo-random sequence), so that every short read and write happens.
 */

#endif
