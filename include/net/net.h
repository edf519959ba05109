/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Network back ends (-netdev): user (libslirp) and tap. One network device attaches to each.
 *
 * Threads. All calls with the machine lock held; a back end's descriptors are watched on the I/O
 * thread's context (virtio_context()), whose callbacks take the lock.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct netdev;
struct net_set; /* all of a machine */
struct vm;

/* What a device is told. */
struct net_client {
    /* A frame for the guest, with the header that the device asked for in front. False: no room
     * now; the back end keeps it and stops reading until netdev_flush(). */
    bool (*receive)(void *opaque, unsigned queue, const struct iovec *iov, unsigned count);
    bool (*can_receive)(void *opaque, unsigned queue);
    void (*link_changed)(void *opaque, bool up); /* set_link */
    /* A frame that send() did not take can be tried again. */
    void (*sent)(void *opaque, unsigned queue);
    /* Tells the network where this guest is now, by the guest itself if it can; see announce.h. */
    void (*announce)(void *opaque);
    const uint8_t *(*mac)(void *opaque);
};

bool net_open(struct net_set *set, const json_t *options, GError **err); /* -netdev */
struct netdev *net_find(struct net_set *set, const char *id);
bool net_attach(struct netdev *nd, const struct net_client *client, void *opaque, GError **err);
void net_detach(struct netdev *nd);

unsigned netdev_queues(const struct netdev *nd); /* pairs */
bool netdev_set_queues(struct netdev *nd, unsigned active, GError **err);
/* vnet header: whether it can carry one, and of which length the device wants it (0, 10, 12). */
bool netdev_has_vnet_hdr(const struct netdev *nd);
void netdev_set_vnet_hdr_len(struct netdev *nd, unsigned len);
/* Which offloads the guest takes from the back end (VIRTIO_NET_F_GUEST_*). */
void netdev_set_offload(struct netdev *nd, bool csum, bool tso4, bool tso6, bool ecn, bool ufo);

/* A frame from the guest. True: taken (also when it was lost, as networks do). False: not now. */
bool netdev_send(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count);
void netdev_flush(struct netdev *nd, unsigned queue);
bool netdev_link_up(const struct netdev *nd);

struct net_set *net_set_new(struct vm *vm);
void net_set_free(struct net_set *set);

#endif
