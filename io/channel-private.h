/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How transports make channels (see io/channel.h for what a channel is). Only io/ includes this.
 */
#ifndef IO_CHANNEL_PRIVATE_H
#define IO_CHANNEL_PRIVATE_H

#include "io/channel.h"

/* What a channel does beyond moving bytes; every member may be NULL. */
struct channel_ops {
    /* After the writing side was closed: waits for what must still happen. */
    bool (*finish)(struct channel *ch, void *opaque, GError **err);
    /* Why the stream may have ended ("the command exited with status 127"), NULL if nothing is
     * known. g_free() */
    char *(*explain)(struct channel *ch, void *opaque);
    /* The last reference has gone, the descriptors are closed; frees opaque. Must not block. */
    void (*destroy)(void *opaque, bool was_shut_down);
};

/* Both directions over one connected stream socket. The descriptor is the channel's from now on,
 * also on failure (NULL, HOST: no descriptors left), where it is closed. */
struct channel *channel_new_socket(const char *name, int fd, GError **err);
/*
 * One or two descriptors that are no sockets, -1 for a direction that does not exist. Pipes and
 * terminals become non-blocking; a description that was blocking before is put back at the end,
 * because other processes may share it.
 */
struct channel *channel_new_fds(const char *name, int read_fd, int write_fd, GError **err);
void channel_set_ops(struct channel *ch, const struct channel_ops *ops, void *opaque);

/* For finish(): waits for a descriptor with the channel's timeout and its shutdown. `what`
 * completes "Timeout: ... within 30 seconds". */
bool channel_wait_fd(struct channel *ch, int fd, short events, const char *what, GError **err);
int channel_read_fd(const struct channel *ch);
/* Closes the reading descriptor early; for the reading thread. */
void channel_close_read(struct channel *ch);

#endif
