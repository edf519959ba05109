/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control queue of virtio-net: VIRTIO 1.1, 5.1.6.5. A request is two bytes that say what, its
 * data, and a byte that the device writes: done or not. A request without room for either breaks
 * the rules; one whose data is wrong is only refused.
 */
#include "virtio-net.h"

#include <inttypes.h>
#include <string.h>

#include "qapi/qapi-events.h"
#include "qapi/type.h"
#include "util/error.h"

#define CTRL_HDR 2
#define CTRL_OK  0
#define CTRL_ERR 1

struct ctrl_data {
    const struct virtqueue_element *elem;
    size_t at; /* next byte */
};

/* The next bytes of the request; false: there are fewer. */
static bool next(struct ctrl_data *d, void *out, size_t len)
{
    size_t n = iov_read(d->elem->out, d->elem->out_count, d->at, out, len);

    d->at += n;
    return n == len;
}

static bool next_le16(struct ctrl_data *d, unsigned *value)
{
    uint8_t b[2];

    if (!next(d, b, sizeof(b))) {
        return false;
    }
    *value = (unsigned)(b[0] | b[1] << 8);
    return true;
}

/* Clients hear of a change once, until they have looked. */
static void filter_changed(struct virtio_net *n)
{
    if (!n->filter_told) {
        n->filter_told = true;
        qapi_event_send_nic_rx_filter_changed(n->vdev.dev.vm, n->vdev.dev.id, n->vdev.dev.path);
    }
}

static bool rx_mode(struct virtio_net *n, unsigned command, struct ctrl_data *d)
{
    struct net_filter *f = &n->filter;
    uint8_t *const modes[] = { &f->promisc, &f->allmulti, &f->alluni,
                               &f->nomulti, &f->nouni,    &f->nobcast };
    uint8_t on;
    bool extra = command >= 2;

    if (command >= G_N_ELEMENTS(modes) || !next(d, &on, 1) ||
        !virtio_has(&n->vdev, extra ? NET_F_CTRL_RX_EXTRA : NET_F_CTRL_RX)) {
        return false;
    }
    *modes[command] = on != 0;
    filter_changed(n);
    return true;
}

/* One of the two lists of TABLE_SET, behind what f has. A list that does not fit is left out. */
static bool read_list(struct net_filter *f, uint8_t *overflow, struct ctrl_data *d)
{
    uint8_t b[4];
    uint32_t count;

    if (!next(d, b, sizeof(b))) {
        return false;
    }
    count = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    if (count > (d->elem->out_bytes - d->at) / 6) {
        return false;
    }
    if (count > NET_MAC_TABLE - f->in_use) {
        *overflow = 1;
        d->at += (size_t)count * 6;
        return true;
    }
    if (!next(d, f->table[f->in_use], (size_t)count * 6)) {
        return false;
    }
    f->in_use += count;
    return true;
}

static bool mac(struct virtio_net *n, unsigned command, struct ctrl_data *d)
{
    struct net_filter f = n->filter;
    uint8_t address[6];

    if (command == 1) {
        if (!virtio_has(&n->vdev, NET_F_CTRL_MAC_ADDR) || d->elem->out_bytes != CTRL_HDR + 6 ||
            !next(d, address, sizeof(address))) {
            return false;
        }
        virtio_net_set_mac(n, address);
        filter_changed(n);
        return true;
    }
    if (command != 0 || !virtio_has(&n->vdev, NET_F_CTRL_RX)) {
        return false;
    }
    f.in_use = f.first_multi = 0;
    f.uni_overflow = f.multi_overflow = 0;
    memset(f.table, 0, sizeof(f.table));
    if (!read_list(&f, &f.uni_overflow, d)) {
        return false;
    }
    f.first_multi = f.in_use;
    if (!read_list(&f, &f.multi_overflow, d) || d->at != d->elem->out_bytes) {
        return false;
    }
    n->filter = f;
    filter_changed(n);
    return true;
}

static bool vlan(struct virtio_net *n, unsigned command, struct ctrl_data *d)
{
    unsigned vid;

    if (!virtio_has(&n->vdev, NET_F_CTRL_VLAN) || command > 1 || !next_le16(d, &vid) ||
        vid >= NET_VLAN_BYTES * 8) {
        return false;
    }
    if (command == 0) {
        n->filter.vlans[vid / 8] |= (uint8_t)(1 << (vid % 8));
    } else {
        n->filter.vlans[vid / 8] &= (uint8_t) ~(1 << (vid % 8));
    }
    filter_changed(n);
    return true;
}

static bool announce(struct virtio_net *n, unsigned command, struct ctrl_data *d G_GNUC_UNUSED)
{
    if (command != 0 || !virtio_has(&n->vdev, NET_F_GUEST_ANNOUNCE) ||
        !(n->status & NET_S_ANNOUNCE)) {
        return false;
    }
    n->status &= (uint16_t)~NET_S_ANNOUNCE;
    return true;
}

bool virtio_net_use_pairs(struct virtio_net *n, unsigned pairs, GError **err)
{
    g_autoptr(GError) error = NULL;

    /* fewer are used whatever the back end makes of it: what it brings for the others finds nobody
     */
    if (n->nd && !netdev_set_queues(n->nd, pairs, &error) && pairs > n->pairs) {
        g_propagate_error(err, g_steal_pointer(&error));
        return false;
    }
    n->pairs = pairs;
    for (unsigned i = 0; n->nd && i < pairs; i++) {
        netdev_flush(n->nd, i);
    }
    return true;
}

static bool multi_queue(struct virtio_net *n, unsigned command, struct ctrl_data *d)
{
    g_autoptr(GError) err = NULL;
    unsigned pairs, before = n->pairs;

    if (!virtio_has(&n->vdev, NET_F_MQ) || command != 0 || !next_le16(d, &pairs) || pairs < 1 ||
        pairs > n->max_pairs) {
        return false;
    }
    if (!virtio_net_use_pairs(n, pairs, &err)) {
        if (!n->queues_refused) { /* a guest must not fill the log */
            n->queues_refused = true;
            report_warning("%s", err->message);
        }
        virtio_net_use_pairs(n, before, NULL);
        return false;
    }
    for (unsigned i = before; i < pairs; i++) {
        virtqueue_kick(g_ptr_array_index(n->vdev.queues, 2 * i + 1));
    }
    return true;
}

void virtio_net_apply_offloads(struct virtio_net *n)
{
    if (n->nd) {
        netdev_set_offload(n->nd, n->offloads >> NET_F_GUEST_CSUM & 1,
                           n->offloads >> NET_F_GUEST_TSO4 & 1, n->offloads >> NET_F_GUEST_TSO6 & 1,
                           n->offloads >> NET_F_GUEST_ECN & 1, n->offloads >> NET_F_GUEST_UFO & 1);
    }
}

static bool offloads(struct virtio_net *n, unsigned command, struct ctrl_data *d)
{
    uint8_t b[8];
    uint64_t wanted = 0;

    if (!virtio_has(&n->vdev, NET_F_CTRL_GUEST_OFFLOADS) || command != 0 ||
        !next(d, b, sizeof(b))) {
        return false;
    }
    for (unsigned i = 0; i < 8; i++) {
        wanted |= (uint64_t)b[i] << (8 * i);
    }
    if (wanted & ~(n->vdev.guest_features & NET_GUEST_OFFLOADS)) {
        return false;
    }
    n->offloads = wanted;
    virtio_net_apply_offloads(n);
    return true;
}

/* By the first byte of a request; the second is the command. */
static bool (*const classes[])(struct virtio_net *n, unsigned command, struct ctrl_data *d) = {
    rx_mode, mac, vlan, announce, multi_queue, offloads,
};

void virtio_net_handle_ctrl(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_net *n = (struct virtio_net *)v;
    struct virtqueue_element *elem;

    while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
        struct ctrl_data d = { .elem = elem };
        uint8_t header[CTRL_HDR], ack;

        if (elem->in_bytes < 1 || !next(&d, header, sizeof(header))) {
            virtio_error(v,
                         "a control request of %" PRIu64 " and %" PRIu64
                         " bytes has no header or no room for the answer",
                         elem->out_bytes, elem->in_bytes);
            g_free(elem);
            return;
        }
        ack = header[0] < G_N_ELEMENTS(classes) && classes[header[0]](n, header[1], &d) ? CTRL_OK
                                                                                        : CTRL_ERR;
        iov_write(elem->in, elem->in_count, 0, &ack, 1);
        virtqueue_push(vq, elem, 1);
        virtqueue_notify(vq);
        g_free(elem);
    }
}

/* ---- query-rx-filter ---- */

static char *mac_text(const uint8_t m[6])
{
    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

static RxState state(bool none, bool all)
{
    return none ? RX_STATE_NONE : all ? RX_STATE_ALL : RX_STATE_NORMAL;
}

RxFilterInfo *virtio_net_rx_filter(void *opaque)
{
    struct virtio_net *n = opaque;
    const struct net_filter *f = &n->filter;
    RxFilterInfo *info = g_new0(RxFilterInfo, 1);
    bool by_vlan = virtio_has(&n->vdev, NET_F_CTRL_VLAN);

    info->name = g_strdup(n->name);
    info->promiscuous = f->promisc;
    info->unicast = state(f->nouni, f->alluni);
    info->multicast = state(f->nomulti, f->allmulti);
    info->vlan = by_vlan ? RX_STATE_NORMAL : RX_STATE_ALL;
    info->broadcast_allowed = !f->nobcast;
    info->multicast_overflow = f->multi_overflow;
    info->unicast_overflow = f->uni_overflow;
    info->main_mac = mac_text(n->mac);
    info->vlan_table = g_array_new(FALSE, FALSE, sizeof(int64_t));
    info->unicast_table = g_ptr_array_new_with_free_func(g_free);
    info->multicast_table = g_ptr_array_new_with_free_func(g_free);
    for (int64_t vid = NET_VLAN_BYTES * 8 - 1; vid >= 0; vid--) {
        if (f->vlans[vid / 8] >> (vid % 8) & 1) {
            g_array_append_val(info->vlan_table, vid);
        }
    }
    for (unsigned i = 0; i < f->in_use; i++) {
        g_ptr_array_add(i < f->first_multi ? info->unicast_table : info->multicast_table,
                        mac_text(f->table[i]));
    }
    n->filter_told = false;
    return info;
}
