/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which IP addresses a guest has behind a network device, learned from what it says of itself, and
 * how the network is told of one. Pure: no locks, no machine.
 *
 * Learned is what a host says of its own address only: an ARP request, a gratuitous ARP reply, a
 * neighbour advertisement of an address with that address as its source and with the override flag.
 * Other answers may be for somebody else (a proxy). Frames with a VLAN tag are not looked at: an
 * address in one network must not be announced in another.
 *
 * An address that somebody else says is theirs is forgotten: the guest had it, and it has moved on.
 *
 * Trust: none in what frames say. They may be guest memory, and are copied before they are judged.
 */
#ifndef NET_ADDRESSES_H
#define NET_ADDRESSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define NET_ADDRESSES_MAX 8  /* of a device; a further one takes the place of the oldest */
#define NET_ANNOUNCE_MAX  86 /* bytes of the longest frame of net_address_frame() */

struct net_address {
    uint8_t family;    /* 4 or 6 */
    bool router;       /* IPv6: it said that it is one, and a neighbour must not hear otherwise */
    uint8_t bytes[16]; /* IPv4: the first four, the rest zero */
};

struct net_addresses {
    unsigned count;
    struct net_address list[NET_ADDRESSES_MAX]; /* oldest first */
};

/* One that a host can have: of a known family, neither a group nor its own loop nor none at all. */
bool net_address_valid(const struct net_address *a);
/* Adds it, or makes it the newest. */
void net_addresses_add(struct net_addresses *t, const struct net_address *a);

/* Looks at a frame (`skip` bytes into iov) that the guest with this MAC address sends, or that
 * comes for it. */
void net_addresses_sent(struct net_addresses *t, const uint8_t mac[6], const struct iovec *iov,
                        unsigned count, size_t skip);
void net_addresses_received(struct net_addresses *t, const uint8_t mac[6], const struct iovec *iov,
                            unsigned count, size_t skip);

/*
 * Whether a frame could tell of an address, from its type alone: what every frame is asked.
 * Inline would be of no use: reading the type is the cost.
 */
bool net_addresses_concerned(const struct iovec *iov, unsigned count, size_t skip);

/* The frame that tells the network that a is at mac: gratuitous ARP (a request, RFC 5227), or an
 * unsolicited neighbour advertisement (RFC 4861, 7.2.6). Its length. */
size_t net_address_frame(const struct net_address *a, const uint8_t mac[6],
                         uint8_t frame[NET_ANNOUNCE_MAX]);

#endif
