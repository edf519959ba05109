/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between tap.c (frames) and tap-open.c (making and configuring interfaces). */
#ifndef NET_NET_TAP_H
#define NET_NET_TAP_H

#include <net/if.h>

#include "net-private.h"

struct tap;

struct tap_queue {
    struct tap *tap;
    unsigned index;
    int fd;
    bool active; /* the device uses it */
    bool busy;   /* a callback is at it, maybe with the lock dropped */
    struct net_watch *read, *write;
    uint8_t *buffer;
    size_t held; /* bytes of a frame in buffer that the device had no room for; 0: none */
};

struct tap {
    struct netdev nd; /* first */
    char ifname[IFNAMSIZ];
    char *down_script; /* NULL: none */
    unsigned vnet_hdr_len;
    struct tap_queue queues[NET_QUEUES_MAX]; /* nd.queues of them */
};

extern const struct netdev_ops net_tap_ops;
/* Watches the descriptors. */
void tap_start(struct tap *t);
/* Runs `script ifname`; it has 30 seconds. */
bool tap_run_script(const char *script, const char *ifname, GError **err);

#endif
