/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Network back ends (-netdev): user (libslirp) and tap. One network device attaches to each.
 *
 * Threads. All calls with the machine lock held; a back end's descriptors are watched on the I/O
 * thread's context (virtio_context()), whose callbacks take the lock. Frames for the guest are
 * given to receive() on the I/O thread only, and never from inside a call of the device.
 *
 * Life. A back end can go (netdev_del, a tap that vanishes for good is only down) while a device
 * uses it: the device then hears gone() and has none any more.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "net/addresses.h"
#include "qapi/qapi-types.h"

struct netdev;
struct net_set; /* all of a machine */
struct vm;

#define NET_QUEUES_MAX 64    /* pairs of a back end */
#define NET_FRAME_MAX  65550 /* bytes of a frame without its vnet header: what a tap can carry */

/* What a device is told and asked. */
struct net_client {
    /*
     * A frame for the guest; in front of it the header that the device asked for
     * (netdev_set_vnet_hdr_len(); none where the back end cannot). True: taken, or not for this
     * guest. False: no room now; the back end keeps it and stops reading until netdev_flush().
     * May drop the machine lock while memory of the guest comes (post-copy).
     */
    bool (*receive)(void *opaque, unsigned queue, const struct iovec *iov, unsigned count);
    bool (*can_receive)(void *opaque, unsigned queue);
    void (*link_changed)(void *opaque, bool up); /* set_link, a tap that vanished */
    /* What send() did not take can be tried again. */
    void (*sent)(void *opaque, unsigned queue);
    /* Asks the guest to tell the network where it is, if its driver can. */
    void (*announce)(void *opaque);
    void (*gone)(void *opaque); /* the back end is no more; it is detached */
    const uint8_t *(*mac)(void *opaque);
    /* Where its registers are, guest-physical: the same device on both sides of a move. */
    uint64_t (*place)(void *opaque);
    RxFilterInfo *(*rx_filter)(void *opaque); /* the caller frees it */
};

/* A back end as -netdev and netdev_add describe it. */
bool net_open(struct net_set *set, const Netdev *options, GError **err);
/* The same from an option's text, key=value or JSON. */
Netdev *net_parse_option(const char *text, GError **err);
struct netdev *net_find(struct net_set *set, const char *id);
/* name (the device's id) and model stay the device's until it detaches. */
bool net_attach(struct netdev *nd, const struct net_client *client, void *opaque, const char *name,
                const char *model, GError **err);
void net_detach(struct netdev *nd);

unsigned netdev_queues(const struct netdev *nd); /* pairs */
/* The device uses the first `active` pairs; of the others the back end brings nothing. */
bool netdev_set_queues(struct netdev *nd, unsigned active, GError **err);
/* Whether it can carry a vnet header (struct virtio_net_hdr) in front of frames both ways; and how
 * long that is: 10 or 12. */
bool netdev_has_vnet_hdr(const struct netdev *nd);
void netdev_set_vnet_hdr_len(struct netdev *nd, unsigned len);
/* UDP fragmentation offload, which some kernels lack. */
bool netdev_has_ufo(const struct netdev *nd);
/* Which offloads the guest takes from the back end (VIRTIO_NET_F_GUEST_*). */
void netdev_set_offload(struct netdev *nd, bool csum, bool tso4, bool tso6, bool ecn, bool ufo);

/* A frame from the guest, with the vnet header where there is one. True: taken (also when it was
 * lost, as networks do). False: not now, sent() will say when. */
bool netdev_send(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count);
/* A frame of the VMM's own (an announcement), without header. */
void netdev_send_raw(struct netdev *nd, const void *frame, size_t len);
/* The device has room again. */
void netdev_flush(struct netdev *nd, unsigned queue);
bool netdev_link_up(const struct netdev *nd);

/* What the guest's frames have told of its addresses; to be added to, or forgotten when another
 * driver or another MAC address takes over. */
struct net_addresses *netdev_addresses(struct netdev *nd);

/* Back ends with a device, for announcements. fn must not open or remove any. */
void net_foreach_client(struct net_set *set,
                        void (*fn)(struct netdev *nd, const struct net_client *client,
                                   void *client_opaque, const char *name, void *opaque),
                        void *opaque);
const char *netdev_id(const struct netdev *nd);

/* The next of 52:54:00:12:34:56 and upward that no device of this machine was given. */
void net_default_mac(struct net_set *set, uint8_t mac[6]);

/* A name for a device without id: "virtio-net-device.0"; the caller frees it. */
char *net_default_name(struct net_set *set, const char *model);

struct net_set *net_set_new(struct vm *vm);
/* All devices have detached. */
void net_set_free(struct net_set *set);

/* For the monitor for people: lines end with \r\n. */
void net_describe(struct net_set *set, GString *out);
/* hostfwd_add, hostfwd_remove: "[NETDEV] RULE". */
void net_hostfwd(struct net_set *set, bool add, const char *args, GString *out);

#endif
