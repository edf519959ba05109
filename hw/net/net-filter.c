/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which frames a driver takes: VIRTIO 1.1, 5.1.6.5.1 to 5.1.6.5.3. Pure functions. */
#include "virtio-net.h"

#include <string.h>

#define ETH_HLEN       14
#define VLAN_ETHERTYPE 0x8100

void net_filter_reset(struct net_filter *f)
{
    *f = (struct net_filter){ .promisc = 1 };
    memset(f->vlans, 0xff, sizeof(f->vlans));
}

static bool in_table(const struct net_filter *f, unsigned from, unsigned to, const uint8_t *address)
{
    for (unsigned i = from; i < to; i++) {
        if (memcmp(f->table[i], address, 6) == 0) {
            return true;
        }
    }
    return false;
}

bool net_filter_accepts(const struct net_filter *f, const uint8_t mac[6], const uint8_t *frame,
                        size_t len)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

    if (f->promisc) {
        return true;
    }
    if (len >= ETH_HLEN + 2 && (frame[12] << 8 | frame[13]) == VLAN_ETHERTYPE) {
        unsigned vid = (unsigned)(frame[14] << 8 | frame[15]) & 0xfff;

        if (!(f->vlans[vid / 8] >> (vid % 8) & 1)) {
            return false;
        }
    }
    if (!(frame[0] & 1)) {
        return !f->nouni && (f->alluni || f->uni_overflow || memcmp(frame, mac, 6) == 0 ||
                             in_table(f, 0, f->first_multi, frame));
    }
    if (memcmp(frame, broadcast, 6) == 0) {
        return !f->nobcast;
    }
    return !f->nomulti &&
           (f->allmulti || f->multi_overflow || in_table(f, f->first_multi, f->in_use, frame));
}
