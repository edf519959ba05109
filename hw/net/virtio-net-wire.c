/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What virtio-net saves behind what all virtio devices have: version 11 of QEMU's section.
 *
 *   mac[6]  be32 frame waits in the first transmit queue  be32 mergeable buffers  be16 status
 *   u8 promisc, allmulti  be32 n  n addresses, unicast first  vlans[512]  be32 header length known
 *   u8 multi_overflow, uni_overflow, alluni, nomulti, nouni, nobcast, has_ufo
 *   where the back end has several pairs: be16 pairs, be16 in use, be32 frame waits (per further)
 *   where the driver can switch offloads: be64 offloads
 *
 * A frame that waits is in its ring, so that number only says that somebody should look; all queues
 * are looked at when the machine runs. What the driver accepted and what the stream says must agree
 * with what this back end can: a driver that was promised headers cannot do without them.
 */
#include "virtio-net.h"

#include <inttypes.h>
#include <string.h>

#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "util/error.h"

struct net_state {
    uint8_t mac[6];
    uint16_t status;
    unsigned pairs;
    uint64_t offloads;
    struct net_filter filter;
};

static void net_save(struct virtio_device *v, struct stream_out *o)
{
    struct virtio_net *n = (struct virtio_net *)v;
    const struct net_filter *f = &n->filter;

    out_bytes(o, n->mac, 6);
    out_be32(o, n->blocked[0]);
    out_be32(o, n->merge);
    out_be16(o, n->status);
    out_u8(o, f->promisc);
    out_u8(o, f->allmulti);
    out_be32(o, f->in_use);
    out_bytes(o, f->table, (size_t)f->in_use * 6);
    out_bytes(o, f->vlans, NET_VLAN_BYTES);
    out_be32(o, n->vnet_hdr);
    out_u8(o, f->multi_overflow);
    out_u8(o, f->uni_overflow);
    out_u8(o, f->alluni);
    out_u8(o, f->nomulti);
    out_u8(o, f->nouni);
    out_u8(o, f->nobcast);
    out_u8(o, n->ufo);
    if (n->max_pairs > 1) {
        out_be16(o, (uint16_t)n->max_pairs);
        out_be16(o, (uint16_t)n->pairs);
        for (unsigned i = 1; i < n->pairs; i++) {
            out_be32(o, n->blocked[i]);
        }
    }
    if (virtio_has(v, NET_F_CTRL_GUEST_OFFLOADS)) {
        out_be64(o, n->offloads);
    }
}

static bool refuse(GError **err, const char *what, uint64_t value)
{
    error_set(err, FERRY_ERROR_PEER,
              "The migration stream has virtio-net/%s = %" PRIu64 ", which cannot be", what, value);
    return false;
}

static bool read_flag(struct stream_in *in, const char *name, uint8_t *flag, GError **err)
{
    return in_u8(in, flag, err) && (*flag <= 1 || refuse(err, name, *flag));
}

static bool read_flag32(struct stream_in *in, const char *name, uint32_t *flag, GError **err)
{
    return in_be32(in, flag, err) && (*flag <= 1 || refuse(err, name, *flag));
}

static bool parse_filter(struct net_filter *f, struct stream_in *in, GError **err)
{
    if (!read_flag(in, "promisc", &f->promisc, err) ||
        !read_flag(in, "allmulti", &f->allmulti, err) || !in_be32(in, &f->in_use, err)) {
        return false;
    }
    if (f->in_use > NET_MAC_TABLE) {
        return refuse(err, "mac_table.in_use", f->in_use);
    }
    if (!in_bytes(in, f->table, (size_t)f->in_use * 6, err) ||
        !in_bytes(in, f->vlans, NET_VLAN_BYTES, err)) {
        return false;
    }
    while (f->first_multi < f->in_use && !(f->table[f->first_multi][0] & 1)) {
        f->first_multi++;
    }
    return true;
}

/* The two that depend on the back end. */
static bool check_back_end(const struct virtio_net *n, bool vnet_hdr, bool ufo, GError **err)
{
    if (vnet_hdr && !n->vnet_hdr) {
        error_set(err, FERRY_ERROR_PEER,
                  "virtio-net: saved image requires vnet_hdr=on: give the device a tap back end");
        return false;
    }
    if (ufo && !n->ufo) {
        error_set(err, FERRY_ERROR_PEER, "virtio-net: saved image requires TUN_F_UFO support");
        return false;
    }
    return true;
}

static bool parse_pairs(const struct virtio_net *n, struct net_state *s, uint64_t features,
                        struct stream_in *in, GError **err)
{
    uint16_t max, pairs;
    uint32_t waiting;

    s->pairs = 1;
    if (n->max_pairs == 1) {
        return true;
    }
    if (!in_be16(in, &max, err) || !in_be16(in, &pairs, err)) {
        return false;
    }
    if (max != n->max_pairs) {
        error_set(err, FERRY_ERROR_PEER,
                  "virtio-net: different max_queue_pairs: the stream has %u, this back end %u", max,
                  n->max_pairs);
        return false;
    }
    if (pairs < 1 || pairs > max || (pairs > 1 && !(features >> NET_F_MQ & 1))) {
        return refuse(err, "curr_queue_pairs", pairs);
    }
    for (unsigned i = 1; i < pairs; i++) {
        if (!read_flag32(in, "tx_waiting", &waiting, err)) {
            return false;
        }
    }
    s->pairs = pairs;
    return true;
}

static bool net_parse(struct virtio_device *v, void *state, uint64_t features,
                      int version G_GNUC_UNUSED, struct stream_in *in, GError **err)
{
    const struct virtio_net *n = (const struct virtio_net *)v;
    struct net_state *s = state;
    struct net_filter *f = &s->filter;
    uint32_t waiting, merge, vnet_hdr;
    uint8_t ufo;

    if (!in_bytes(in, s->mac, 6, err) || !read_flag32(in, "tx_waiting", &waiting, err) ||
        !read_flag32(in, "mergeable_rx_bufs", &merge, err) || !in_be16(in, &s->status, err) ||
        !parse_filter(f, in, err) || !read_flag32(in, "has_vnet_hdr", &vnet_hdr, err) ||
        !read_flag(in, "mac_table.multi_overflow", &f->multi_overflow, err) ||
        !read_flag(in, "mac_table.uni_overflow", &f->uni_overflow, err) ||
        !read_flag(in, "alluni", &f->alluni, err) || !read_flag(in, "nomulti", &f->nomulti, err) ||
        !read_flag(in, "nouni", &f->nouni, err) || !read_flag(in, "nobcast", &f->nobcast, err) ||
        !read_flag(in, "has_ufo", &ufo, err)) {
        return false;
    }
    if (s->status & ~(NET_S_LINK_UP | NET_S_ANNOUNCE)) {
        return refuse(err, "status", s->status);
    }
    if (merge != (features >> NET_F_MRG_RXBUF & 1)) {
        return refuse(err, "mergeable_rx_bufs", merge);
    }
    if (!check_back_end(n, vnet_hdr, ufo, err) || !parse_pairs(n, s, features, in, err)) {
        return false;
    }
    s->offloads = features & NET_GUEST_OFFLOADS;
    if (features >> NET_F_CTRL_GUEST_OFFLOADS & 1) {
        uint64_t offloads;

        if (!in_be64(in, &offloads, err)) {
            return false;
        }
        if (offloads & ~s->offloads) {
            return refuse(err, "curr_guest_offloads", offloads);
        }
        s->offloads = offloads;
    }
    return true;
}

/* Features are in, and with them header and merging. */
static bool net_load(struct virtio_device *v, const void *state, GError **err)
{
    struct virtio_net *n = (struct virtio_net *)v;
    const struct net_state *s = state;

    memcpy(n->mac, s->mac, 6);
    n->filter = s->filter;
    n->offloads = s->offloads;
    /* whether the link is up is for this host to say */
    n->status = (uint16_t)((s->status & NET_S_ANNOUNCE) |
                           (!n->nd || netdev_link_up(n->nd) ? NET_S_LINK_UP : 0));
    memset(n->blocked, 0, sizeof(n->blocked));
    virtio_net_apply_offloads(n);
    return virtio_net_use_pairs(n, s->pairs, err);
}

const struct virtio_wire virtio_net_wire = {
    .state_size = sizeof(struct net_state),
    .save = net_save,
    .parse = net_parse,
    .load = net_load,
};
