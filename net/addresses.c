/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See include/net/addresses.h. Layouts: RFC 826 (ARP), RFC 4861 (neighbour discovery). */
#include "net/addresses.h"

#include <string.h>

#include "hw/virtio/queue.h"

#define ETH_HLEN    14
#define TYPE_AT     12
#define TYPE_ARP    0x0806
#define TYPE_IPV6   0x86dd
#define ARP_END     42
#define ADVERT_END  78 /* of the fixed part of a neighbour advertisement */
#define FRAME_MIN   60
#define IPV6_HLEN   40
#define ICMPV6      58
#define ICMPV6_NA   136
#define NA_ROUTER   0x80
#define NA_OVERRIDE 0x20
#define NA_LENGTH   32 /* with the option that has the MAC address */

/* What a frame says of an address. */
struct told {
    struct net_address address;
    uint8_t mac[6]; /* where it is */
    bool own;       /* the sender speaks of itself */
};

static unsigned be16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

bool net_address_valid(const struct net_address *a)
{
    static const uint8_t zero[16];

    if (a->family == 4) {
        /* not this network, not the loop, no group, no broadcast; nothing behind it */
        return a->bytes[0] && a->bytes[0] != 127 && a->bytes[0] < 224 && !a->router &&
               memcmp(a->bytes + 4, zero, 12) == 0;
    }
    /* neither :: and ::1 (nor what else is in ::/64, which no link has) nor a group */
    return a->family == 6 && a->bytes[0] != 0xff && memcmp(a->bytes, zero, 8) != 0;
}

/* The router flag is no part of it. */
static bool is_same(const struct net_address *a, const struct net_address *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static void forget(struct net_addresses *t, const struct net_address *a)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < t->count; i++) {
        if (!is_same(&t->list[i], a)) {
            t->list[kept++] = t->list[i];
        }
    }
    t->count = kept;
}

void net_addresses_add(struct net_addresses *t, const struct net_address *a)
{
    struct net_address copy = *a;

    forget(t, &copy);
    if (t->count == NET_ADDRESSES_MAX) {
        t->count--;
        memmove(t->list, t->list + 1, t->count * sizeof(t->list[0]));
    }
    t->list[t->count++] = copy;
}

/* An ARP frame, ARP_END bytes of it. */
static bool arp_tells(const uint8_t *f, struct told *t)
{
    /* Ethernet, IPv4, their lengths */
    static const uint8_t kind[] = { 0x00, 0x01, 0x08, 0x00, 0x06, 0x04 };
    unsigned operation = be16(f + 20);

    if (memcmp(f + 14, kind, sizeof(kind)) != 0) {
        return false;
    }
    t->address.family = 4;
    memcpy(t->address.bytes, f + 28, 4);
    memcpy(t->mac, f + 22, 6);
    t->own = memcmp(f + 6, f + 22, 6) == 0 &&
             (operation == 1 || (operation == 2 && memcmp(f + 28, f + 38, 4) == 0));
    return true;
}

/* An IPv6 frame, ADVERT_END bytes of it. */
static bool advert_tells(const uint8_t *f, struct told *t)
{
    /* a hop limit of 255 says that it comes from this link */
    if (f[14] >> 4 != 6 || f[20] != ICMPV6 || f[21] != 255 || f[54] != ICMPV6_NA || f[55] != 0 ||
        be16(f + 18) < ADVERT_END - ETH_HLEN - IPV6_HLEN) {
        return false;
    }
    t->address.family = 6;
    t->address.router = f[58] & NA_ROUTER;
    memcpy(t->address.bytes, f + 62, 16);
    memcpy(t->mac, f + 6, 6);
    t->own = memcmp(f + 22, f + 62, 16) == 0 && (f[58] & NA_OVERRIDE);
    return true;
}

static bool frame_tells(const struct iovec *iov, unsigned count, size_t skip, struct told *t)
{
    uint8_t f[ADVERT_END];
    size_t len = iov_read(iov, count, skip, f, sizeof(f));
    bool tells;

    *t = (struct told){ 0 };
    if (len < ARP_END) {
        return false;
    }
    tells = be16(f + TYPE_AT) == TYPE_ARP                        ? arp_tells(f, t)
            : be16(f + TYPE_AT) == TYPE_IPV6 && len == sizeof(f) ? advert_tells(f, t)
                                                                 : false;
    return tells && net_address_valid(&t->address);
}

bool net_addresses_concerned(const struct iovec *iov, unsigned count, size_t skip)
{
    uint8_t b[2];

    if (iov_read(iov, count, skip + TYPE_AT, b, sizeof(b)) != sizeof(b)) {
        return false;
    }
    return be16(b) == TYPE_ARP ||
           (be16(b) == TYPE_IPV6 && iov_read(iov, count, skip + ETH_HLEN + 6, b, 1) == 1 &&
            b[0] == ICMPV6);
}

void net_addresses_sent(struct net_addresses *t, const uint8_t mac[6], const struct iovec *iov,
                        unsigned count, size_t skip)
{
    struct told told;

    if (frame_tells(iov, count, skip, &told) && told.own && memcmp(told.mac, mac, 6) == 0) {
        net_addresses_add(t, &told.address);
    }
}

void net_addresses_received(struct net_addresses *t, const uint8_t mac[6], const struct iovec *iov,
                            unsigned count, size_t skip)
{
    struct told told;

    if (frame_tells(iov, count, skip, &told) && memcmp(told.mac, mac, 6) != 0) {
        forget(t, &told.address);
    }
}

/* ---- telling ---- */

static size_t arp_frame(const struct net_address *a, const uint8_t mac[6], uint8_t *f)
{
    static const uint8_t request[] = {
        0x08, 0x06, /* EtherType */
        0x00, 0x01, /* hardware: Ethernet */
        0x08, 0x00, /* protocol: IPv4 */
        0x06, 0x04, /* lengths of their addresses */
        0x00, 0x01, /* request */
    };

    memset(f, 0, FRAME_MIN);
    memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    memcpy(f + TYPE_AT, request, sizeof(request));
    memcpy(f + 22, mac, 6); /* sender */
    memcpy(f + 28, a->bytes, 4);
    memcpy(f + 38, a->bytes, 4); /* target; its hardware address is what is asked for */
    return FRAME_MIN;
}

/* Of a pseudo header and what follows it: RFC 1071, RFC 8200 8.1. */
static uint16_t checksum(const uint8_t *packet)
{
    uint32_t sum = NA_LENGTH + ICMPV6;

    /* both addresses, then the message */
    for (size_t i = 8; i < IPV6_HLEN + NA_LENGTH; i += 2) {
        sum += be16(packet + i);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static size_t advert_frame(const struct net_address *a, const uint8_t mac[6], uint8_t *f)
{
    static const uint8_t all_nodes_mac[] = { 0x33, 0x33, 0, 0, 0, 1 };
    static const uint8_t all_nodes[16] = { 0xff, 0x02, [15] = 1 };
    uint8_t *ip = f + ETH_HLEN, *icmp = ip + IPV6_HLEN;
    uint16_t sum;

    memset(f, 0, NET_ANNOUNCE_MAX);
    memcpy(f, all_nodes_mac, 6);
    memcpy(f + 6, mac, 6);
    f[TYPE_AT] = TYPE_IPV6 >> 8;
    f[TYPE_AT + 1] = TYPE_IPV6 & 0xff;
    ip[0] = 6 << 4;
    ip[5] = NA_LENGTH;
    ip[6] = ICMPV6;
    ip[7] = 255;
    memcpy(ip + 8, a->bytes, 16);
    memcpy(ip + 24, all_nodes, 16);
    icmp[0] = ICMPV6_NA;
    icmp[4] = NA_OVERRIDE | (a->router ? NA_ROUTER : 0);
    memcpy(icmp + 8, a->bytes, 16);
    icmp[24] = 2; /* option: the link-layer address of the target */
    icmp[25] = 1; /* its length in units of eight bytes */
    memcpy(icmp + 26, mac, 6);
    sum = checksum(ip);
    icmp[2] = (uint8_t)(sum >> 8);
    icmp[3] = (uint8_t)sum;
    return NET_ANNOUNCE_MAX;
}

size_t net_address_frame(const struct net_address *a, const uint8_t mac[6],
                         uint8_t frame[NET_ANNOUNCE_MAX])
{
    return a->family == 4 ? arp_frame(a, mac, frame) : advert_frame(a, mac, frame);
}
