/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-net: VIRTIO 1.1, 5.1. Pairs of receive and transmit queues, a control queue behind them
 * (virtio-net-ctrl.c), and a back end (net/net.h). What is saved is in virtio-net-wire.c.
 *
 * Frames are not touched here: the guest's buffers go to the back end as they are, and what arrives
 * is copied once, into the guest's buffers. Each frame has a header in front (10 bytes, or 12 with
 * a count of buffers); a back end that knows such headers gets and brings them, for another one
 * they are taken off and put on here, all zero.
 *
 * Flow. A receive queue without buffers makes receive() say no; the back end then waits for
 * netdev_flush(), which the driver's next kick brings. A frame that the back end does not take goes
 * back into its transmit queue until sent(). So nothing is in flight here when the machine has
 * stopped, and the ring alone says what is left to do.
 *
 * Control queue: behind the pairs that the driver knows of, that is third without
 * VIRTIO_NET_F_MQ. All queues therefore have one handler, which goes by the index.
 */
#include "virtio-net.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hw/misc/virtio-slot.h"
#include "system/vm.h"
#include "util/error.h"

#define HDR_LEN_SHORT   10 /* struct virtio_net_hdr without num_buffers */
#define HDR_LEN         12
#define ETH_HLEN        14
#define CTRL_QUEUE_SIZE 64
#define TX_BURST        256 /* frames before other queues and devices have their turn */

static struct virtio_net *net_of(void *opaque)
{
    return opaque;
}

static bool driver_runs(const struct virtio_net *n)
{
    return n->vdev.running && !n->vdev.broken && (n->vdev.status & VIRTIO_STATUS_DRIVER_OK);
}

static struct virtqueue *queue_at(struct virtio_net *n, unsigned index)
{
    return index < n->vdev.queues->len ? g_ptr_array_index(n->vdev.queues, index) : NULL;
}

static unsigned ctrl_index(const struct virtio_net *n)
{
    return virtio_has(&n->vdev, NET_F_MQ) ? 2 * n->max_pairs : 2;
}

/* Bytes in front of a frame as it passes to and from the back end. */
static unsigned backend_hdr_len(const struct virtio_net *n)
{
    return n->vnet_hdr ? n->hdr_len : 0;
}

/* ---- receive ---- */

static bool net_can_receive(void *opaque, unsigned queue)
{
    struct virtio_net *n = opaque;
    struct virtqueue *vq = queue_at(n, 2 * queue);

    if (!driver_runs(n) || queue >= n->pairs || !virtqueue_is_ready(vq)) {
        return false;
    }
    if (virtqueue_is_empty(vq)) {
        /* a buffer may have come between the look and the wish */
        virtqueue_want_kicks(vq, true);
        return !virtqueue_is_empty(vq);
    }
    /* while there are buffers the driver need not say that it adds some */
    virtqueue_want_kicks(vq, false);
    return true;
}

/* The buffers of one frame that is being put into the guest. */
struct rx_frame {
    struct virtqueue_element *elems[VIRTIO_QUEUE_SIZE_MAX];
    uint32_t lens[VIRTIO_QUEUE_SIZE_MAX];
    unsigned count;
};

static void forget(struct rx_frame *f)
{
    while (f->count) {
        g_free(f->elems[--f->count]);
    }
}

static void give_back(struct virtqueue *vq, struct rx_frame *f)
{
    for (unsigned i = f->count; i-- > 0;) {
        virtqueue_unpop(vq, f->elems[i]);
    }
    forget(f);
}

/* Copies `len` bytes from an offset of one vector to an offset of another. */
static void iov_copy_to(const struct virtqueue_element *elem, size_t to, const struct iovec *iov,
                        unsigned count, size_t from, size_t len)
{
    for (unsigned i = 0; i < count && len; i++) {
        size_t n;

        if (from >= iov[i].iov_len) {
            from -= iov[i].iov_len;
            continue;
        }
        n = MIN(len, iov[i].iov_len - from);
        iov_write(elem->in, elem->in_count, to, (const uint8_t *)iov[i].iov_base + from, n);
        to += n;
        len -= n;
        from = 0;
    }
}

/*
 * Puts header and frame (iov, total bytes from the back end) into buffers of vq. True: done or
 * lost; false: not enough buffers, everything is as before.
 */
static bool fill_buffers(struct virtio_net *n, struct virtqueue *vq, const struct iovec *iov,
                         unsigned count, size_t total)
{
    static const uint8_t no_header[HDR_LEN];
    struct virtio_device *v = &n->vdev;
    struct rx_frame frame, *f = &frame;    /* of 12 KiB; only the first entries are ever touched */
    size_t skip = backend_hdr_len(n);      /* header bytes in iov */
    size_t left = total - skip, at = skip; /* of the frame itself */
    uint8_t num_buffers[2];

    f->count = 0;
    do {
        struct virtqueue_element *elem = NULL;
        size_t room, lead = f->count ? 0 : n->hdr_len, n_bytes;

        if (f->count < VIRTIO_QUEUE_SIZE_MAX) {
            elem = virtqueue_pop(vq, sizeof(*elem));
        }
        if (!elem) {
            /* what was popped before a reset, meanwhile, is nobody's: the frame is lost */
            bool lost = v->broken || (f->count && virtqueue_element_is_stale(f->elems[0]));

            if (!lost) {
                give_back(vq, f);
            }
            forget(f);
            return lost;
        }
        room = elem->in_bytes;
        if (!elem->in_count || room <= lead || (f->count && !room)) {
            virtio_error(v, "a receive buffer of %zu bytes has no room for %s", room,
                         lead ? "header and frame" : "a part of a frame");
            g_free(elem);
            forget(f);
            return true;
        }
        n_bytes = MIN(left, room - lead);
        if (n_bytes < left && !n->merge) {
            /* too long for this driver: lost, the buffer stays */
            virtqueue_unpop(vq, elem);
            g_free(elem);
            return true;
        }
        if (lead && skip) {
            iov_copy_to(elem, 0, iov, count, 0, skip);
        } else if (lead) {
            iov_write(elem->in, elem->in_count, 0, no_header, lead);
        }
        iov_copy_to(elem, lead, iov, count, at, n_bytes);
        f->lens[f->count] = (uint32_t)(lead + n_bytes);
        f->elems[f->count++] = elem;
        at += n_bytes;
        left -= n_bytes;
    } while (left);

    if (n->hdr_len == HDR_LEN) {
        num_buffers[0] = (uint8_t)f->count;
        num_buffers[1] = (uint8_t)(f->count >> 8);
        iov_write(f->elems[0]->in, f->elems[0]->in_count, HDR_LEN_SHORT, num_buffers, 2);
    }
    for (unsigned i = 0; i < f->count; i++) {
        virtqueue_fill(vq, f->elems[i], f->lens[i], i);
        g_free(f->elems[i]);
    }
    virtqueue_flush(vq, f->count);
    virtqueue_notify(vq);
    return true;
}

static bool net_receive(void *opaque, unsigned queue, const struct iovec *iov, unsigned count)
{
    struct virtio_net *n = opaque;
    struct virtqueue *vq = queue_at(n, 2 * queue);
    uint8_t start[ETH_HLEN + 4] = { 0 };
    size_t hdr = backend_hdr_len(n), total = 0, got;

    if (!driver_runs(n) || queue >= n->pairs || !virtqueue_is_ready(vq)) {
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        total += iov[i].iov_len;
    }
    if (total < hdr + ETH_HLEN || total > hdr + NET_FRAME_MAX) {
        return true; /* no Ethernet frame */
    }
    got = iov_read(iov, count, hdr, start, sizeof(start));
    if (!net_filter_accepts(&n->filter, n->mac, start, got)) {
        return true;
    }
    if (!fill_buffers(n, vq, iov, count, total)) {
        /* the driver may have added buffers before it heard the wish */
        virtqueue_want_kicks(vq, true);
        return !driver_runs(n) || virtqueue_is_empty(vq) ? false
                                                         : fill_buffers(n, vq, iov, count, total);
    }
    return true;
}

/* ---- transmit ---- */

/* The frame behind `skip` bytes of header; the number of pieces. */
static unsigned frame_pieces(const struct virtqueue_element *elem, size_t skip, struct iovec *out)
{
    unsigned n = 0;

    for (unsigned i = 0; i < elem->out_count; i++) {
        if (skip >= elem->out[i].iov_len) {
            skip -= elem->out[i].iov_len;
            continue;
        }
        out[n].iov_base = (uint8_t *)elem->out[i].iov_base + skip;
        out[n++].iov_len = elem->out[i].iov_len - skip;
        skip = 0;
    }
    return n;
}

/* True: taken or lost. */
static bool send_one(struct virtio_net *n, unsigned pair, const struct virtqueue_element *elem)
{
    g_autofree struct iovec *pieces = NULL;
    unsigned skip = n->hdr_len - backend_hdr_len(n), count;

    if (!n->nd || elem->out_bytes > n->hdr_len + NET_FRAME_MAX) {
        return true;
    }
    if (!skip) {
        return netdev_send(n->nd, pair, elem->out, elem->out_count);
    }
    pieces = g_new(struct iovec, elem->out_count);
    count = frame_pieces(elem, skip, pieces);
    return netdev_send(n->nd, pair, pieces, count);
}

static void transmit(struct virtio_net *n, struct virtqueue *vq, unsigned pair)
{
    struct virtio_device *v = &n->vdev;
    struct virtqueue_element *elem;
    unsigned done = 0;

    if (!driver_runs(n) || pair >= n->pairs || n->blocked[pair]) {
        return;
    }
again:
    virtqueue_want_kicks(vq, false);
    while (done < TX_BURST && (elem = virtqueue_pop(vq, sizeof(*elem)))) {
        if (elem->out_bytes < n->hdr_len) {
            virtio_error(v, "a frame of %" PRIu64 " bytes is shorter than its header",
                         elem->out_bytes);
            g_free(elem);
            return;
        }
        if (!send_one(n, pair, elem)) {
            virtqueue_unpop(vq, elem);
            g_free(elem);
            n->blocked[pair] = true;
            break;
        }
        virtqueue_push(vq, elem, 0);
        g_free(elem);
        done++;
    }
    if (done) {
        virtqueue_notify(vq);
    }
    if (!driver_runs(n) || n->blocked[pair]) {
        return;
    }
    if (done >= TX_BURST) {
        virtqueue_kick(vq);
        return;
    }
    virtqueue_want_kicks(vq, true);
    if (!virtqueue_is_empty(vq)) {
        goto again;
    }
}

static void handle(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_net *n = net_of(v);
    unsigned index = virtqueue_index(vq);

    if (index == ctrl_index(n)) {
        if (virtio_has(v, NET_F_CTRL_VQ)) {
            virtio_net_handle_ctrl(v, vq);
        }
    } else if (index & 1) {
        transmit(n, vq, index / 2);
    } else if (n->nd && index / 2 < n->pairs) {
        netdev_flush(n->nd, index / 2);
    }
}

/* ---- what the back end says ---- */

static void net_sent(void *opaque, unsigned queue)
{
    struct virtio_net *n = opaque;

    if (queue < n->max_pairs && n->blocked[queue]) {
        n->blocked[queue] = false;
        virtqueue_kick(queue_at(n, 2 * queue + 1));
    }
}

static void net_link_changed(void *opaque, bool up)
{
    struct virtio_net *n = opaque;
    uint16_t before = n->status;

    n->status = (uint16_t)(up ? n->status | NET_S_LINK_UP : n->status & ~NET_S_LINK_UP);
    if (n->status != before) {
        virtio_notify_config(&n->vdev);
    }
}

static void net_announce(void *opaque)
{
    struct virtio_net *n = opaque;

    if (driver_runs(n) && virtio_has(&n->vdev, NET_F_GUEST_ANNOUNCE) &&
        virtio_has(&n->vdev, NET_F_CTRL_VQ) && (n->status & NET_S_LINK_UP)) {
        n->status |= NET_S_ANNOUNCE;
        virtio_notify_config(&n->vdev);
    }
}

static void net_gone(void *opaque)
{
    struct virtio_net *n = opaque;

    n->nd = NULL;
    net_link_changed(n, false);
    for (unsigned i = 0; i < n->max_pairs; i++) {
        net_sent(n, i); /* what waits is lost */
    }
}

static const uint8_t *net_mac(void *opaque)
{
    return net_of(opaque)->mac;
}

static uint64_t net_place(void *opaque)
{
    return virtio_slot_base(net_of(opaque)->vdev.slot);
}

static const struct net_client client = {
    .receive = net_receive,
    .can_receive = net_can_receive,
    .link_changed = net_link_changed,
    .sent = net_sent,
    .announce = net_announce,
    .gone = net_gone,
    .mac = net_mac,
    .place = net_place,
    .rx_filter = virtio_net_rx_filter,
};

/* ---- what the driver says ---- */

static void net_get_config(struct virtio_device *v, uint8_t *config)
{
    struct virtio_net *n = net_of(v);
    uint8_t space[12];

    memcpy(space, n->mac, 6);
    space[6] = (uint8_t)n->status;
    space[7] = (uint8_t)(n->status >> 8);
    space[8] = (uint8_t)n->max_pairs;
    space[9] = 0;
    space[10] = (uint8_t)n->host_mtu;
    space[11] = (uint8_t)(n->host_mtu >> 8);
    memcpy(config, space, v->config_len);
}

static void forget_addresses(struct virtio_net *n)
{
    if (n->nd) {
        netdev_addresses(n->nd)->count = 0;
    }
}

void virtio_net_set_mac(struct virtio_net *n, const uint8_t mac[6])
{
    if (memcmp(n->mac, mac, 6) != 0) {
        memcpy(n->mac, mac, 6);
        forget_addresses(n); /* they were at the one before */
    }
}

/* Old drivers set the address here. */
static void net_set_config(struct virtio_device *v, const uint8_t *config)
{
    struct virtio_net *n = net_of(v);

    if (!virtio_has(v, NET_F_CTRL_MAC_ADDR) && !virtio_has(v, VIRTIO_FEATURE_VERSION_1)) {
        virtio_net_set_mac(n, config);
    }
}

/* As many queues as the driver knows of; the last is the control queue. */
static void show_queues(struct virtio_net *n)
{
    bool mq = virtio_has(&n->vdev, NET_F_MQ);

    virtio_show_queues(&n->vdev, ctrl_index(n) + 1);
    if (n->vdev.queues->len > 3) {
        virtqueue_set_default_size(queue_at(n, 2), mq ? n->rx_queue_size : CTRL_QUEUE_SIZE);
    }
}

static void net_set_features(struct virtio_device *v)
{
    struct virtio_net *n = net_of(v);

    n->merge = virtio_has(v, NET_F_MRG_RXBUF);
    n->hdr_len = n->merge || virtio_has(v, VIRTIO_FEATURE_VERSION_1) ? HDR_LEN : HDR_LEN_SHORT;
    n->offloads = v->guest_features & NET_GUEST_OFFLOADS;
    if (n->pairs != 1 && !virtio_has(v, NET_F_MQ)) {
        virtio_net_use_pairs(n, 1, NULL); /* a legacy driver that has changed its mind */
        n->pairs = 1;
    }
    show_queues(n);
    memset(n->filter.vlans, virtio_has(v, NET_F_CTRL_VLAN) ? 0 : 0xff, NET_VLAN_BYTES);
    if (n->nd) {
        netdev_set_vnet_hdr_len(n->nd, n->hdr_len);
    }
    virtio_net_apply_offloads(n);
}

static void net_set_status(struct virtio_device *v, uint8_t status)
{
    struct virtio_net *n = net_of(v);

    for (unsigned i = 0; n->nd && (status & VIRTIO_STATUS_DRIVER_OK) && i < n->pairs; i++) {
        netdev_flush(n->nd, i);
    }
}

static void net_reset(struct virtio_device *v)
{
    struct virtio_net *n = net_of(v);

    net_filter_reset(&n->filter);
    virtio_net_set_mac(n, n->own_mac);
    forget_addresses(n); /* whoever drives it next may have others */
    n->status = !n->nd || netdev_link_up(n->nd) ? NET_S_LINK_UP : 0;
    memset(n->blocked, 0, sizeof(n->blocked));
    if (n->pairs != 1) {
        virtio_net_use_pairs(n, 1, NULL);
        n->pairs = 1; /* also where the back end did not follow: it has vanished */
    }
    n->merge = false;
    n->hdr_len = HDR_LEN_SHORT;
    n->offloads = 0;
    v->guest_features = 0;
    show_queues(n);
    if (n->nd) {
        netdev_set_vnet_hdr_len(n->nd, n->hdr_len);
    }
    virtio_net_apply_offloads(n);
}

static void describe(struct virtio_device *v,
                     void (*add)(void *opaque, const char *name, const char *value), void *opaque)
{
    const struct virtio_net *n = net_of(v);
    g_autofree char *queues = g_strdup_printf("%u", n->max_pairs);

    add(opaque, "queues", queues);
    add(opaque, "vnet_hdr", n->vnet_hdr ? "on" : "off");
    if (n->vnet_hdr) {
        add(opaque, "ufo", n->ufo ? "on" : "off");
    }
    add(opaque, "mac", n->mac_text);
}

static void net_run_state(struct virtio_device *v, bool running)
{
    struct virtio_net *n = net_of(v);

    for (unsigned i = 0; running && n->nd && i < n->pairs; i++) {
        netdev_flush(n->nd, i);
    }
}

/* ---- making it ---- */

static bool parse_mac(const char *text, uint8_t mac[6], GError **err)
{
    unsigned byte[6];
    char end;

    if (strlen(text) != 17 ||
        sscanf(text, "%2x%*1[:-]%2x%*1[:-]%2x%*1[:-]%2x%*1[:-]%2x%*1[:-]%2x%c", &byte[0], &byte[1],
               &byte[2], &byte[3], &byte[4], &byte[5], &end) != 6) {
        error_set(err, FERRY_ERROR_USER,
                  "Property 'mac' doesn't take value '%s': an address like 52:54:00:12:34:56 is "
                  "expected",
                  text);
        return false;
    }
    for (unsigned i = 0; i < 6; i++) {
        mac[i] = (uint8_t)byte[i];
    }
    if (mac[0] & 1) {
        error_set(err, FERRY_ERROR_USER, "Property 'mac' doesn't take the multicast address '%s'",
                  text);
        return false;
    }
    return true;
}

static bool check_properties(struct virtio_net *n, GError **err)
{
    if (n->tx && strcmp(n->tx, "bh") != 0) {
        error_set(err, FERRY_ERROR_USER,
                  "Property 'tx' takes only 'bh': frames are sent when they come");
        return false;
    }
    if (n->rx_queue_size < 256 || n->rx_queue_size > VIRTIO_QUEUE_SIZE_MAX ||
        (n->rx_queue_size & (n->rx_queue_size - 1))) {
        error_set(err, FERRY_ERROR_USER,
                  "Invalid rx_queue_size (= %u), must be a power of 2 between 256 and 1024.",
                  n->rx_queue_size);
        return false;
    }
    if (n->tx_queue_size != 256) {
        error_set(err, FERRY_ERROR_USER, "Invalid tx_queue_size (= %u), only 256 is possible",
                  n->tx_queue_size);
        return false;
    }
    if (n->host_mtu && n->host_mtu < 68) {
        error_set(err, FERRY_ERROR_USER, "Property 'host_mtu' takes 0 or a value from 68 on");
        return false;
    }
    return true;
}

/* Features of the device itself, as its properties and its back end allow. */
static uint64_t offered(const struct virtio_net *n)
{
    const uint64_t needs_vnet = NET_BIT(NET_F_CSUM) | NET_BIT(NET_F_HOST_TSO4) |
                                NET_BIT(NET_F_HOST_TSO6) | NET_BIT(NET_F_HOST_ECN) |
                                NET_BIT(NET_F_HOST_UFO) | NET_GUEST_OFFLOADS;
    const uint64_t needs_ufo = NET_BIT(NET_F_GUEST_UFO) | NET_BIT(NET_F_HOST_UFO);
    const uint64_t needs_ctrl = NET_BIT(NET_F_CTRL_RX) | NET_BIT(NET_F_CTRL_RX_EXTRA) |
                                NET_BIT(NET_F_CTRL_VLAN) | NET_BIT(NET_F_CTRL_MAC_ADDR) |
                                NET_BIT(NET_F_CTRL_GUEST_OFFLOADS) | NET_BIT(NET_F_GUEST_ANNOUNCE) |
                                NET_BIT(NET_F_MQ);
    uint64_t features = NET_BIT(NET_F_MAC);

    for (unsigned i = 0; i < NET_F_COUNT; i++) {
        features |= n->offer[i] ? NET_BIT(i) : 0;
    }
    features |= n->host_mtu ? NET_BIT(NET_F_MTU) : 0;
    if (!n->vnet_hdr) {
        features &= ~needs_vnet;
    } else if (!n->ufo) {
        features &= ~needs_ufo;
    }
    if (!n->offer[NET_F_CTRL_VQ]) {
        features &= ~needs_ctrl;
    }
    if (n->vdev.host_features & NET_BIT(VIRTIO_FEATURE_VERSION_1)) {
        features &= ~NET_BIT(NET_F_GSO);
    }
    return features;
}

/* Its configuration space ends with the last field that an offered feature has. */
static size_t config_length(uint64_t features)
{
    return features & NET_BIT(NET_F_MTU)      ? 12
           : features & NET_BIT(NET_F_MQ)     ? 10
           : features & NET_BIT(NET_F_STATUS) ? 8
                                              : 6;
}

static void net_unrealize(struct virtio_device *v)
{
    struct virtio_net *n = net_of(v);

    if (n->nd) {
        net_detach(n->nd);
        n->nd = NULL;
    }
    g_clear_pointer(&n->name, g_free);
}

static bool net_realize(struct virtio_device *v, GError **err)
{
    struct virtio_net *n = net_of(v);
    struct net_set *set = v->dev.vm->net;
    struct netdev *nd = NULL;
    unsigned queues;

    if (!check_properties(n, err) || (n->mac_text && !parse_mac(n->mac_text, n->own_mac, err))) {
        return false;
    }
    if (n->netdev_id) {
        nd = net_find(set, n->netdev_id);
        if (!nd) {
            error_set(err, FERRY_ERROR_USER,
                      "Property 'virtio-net-device.netdev' can't find value '%s'", n->netdev_id);
            return false;
        }
    }
    if (!n->mac_text) {
        net_default_mac(set, n->own_mac);
        n->mac_text = g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", n->own_mac[0], n->own_mac[1],
                                      n->own_mac[2], n->own_mac[3], n->own_mac[4], n->own_mac[5]);
    }
    memcpy(n->mac, n->own_mac, 6);
    n->name = v->dev.id ? g_strdup(v->dev.id) : net_default_name(set, v->dev.class->name);
    n->hdr_len = HDR_LEN_SHORT;
    if (nd && !net_attach(nd, &client, n, n->name, v->dev.class->name, err)) {
        g_clear_pointer(&n->name, g_free);
        return false;
    }
    n->nd = nd;
    n->vnet_hdr = nd && netdev_has_vnet_hdr(nd);
    n->ufo = nd && netdev_has_ufo(nd);
    n->max_pairs = nd ? netdev_queues(nd) : 1;
    n->pairs = 1;
    n->status = !nd || netdev_link_up(nd) ? NET_S_LINK_UP : 0;
    net_filter_reset(&n->filter);
    if (nd && !netdev_set_queues(nd, 1, err)) {
        net_unrealize(v);
        return false;
    }
    if (nd) {
        netdev_set_vnet_hdr_len(nd, n->hdr_len);
    }
    v->host_features |= offered(n);
    v->config_len = config_length(v->host_features);
    queues = v->host_features & NET_BIT(NET_F_MQ) ? 2 * n->max_pairs : 2;
    for (unsigned i = 0; i < queues; i++) {
        virtio_add_queue(v, i & 1 ? n->tx_queue_size : n->rx_queue_size, handle);
    }
    virtio_add_queue(v, CTRL_QUEUE_SIZE,
                     handle); /* there, as in QEMU, even where it is not offered */
    show_queues(n);
    return true;
}

#define OFFER(n, f, d, h)                                                                          \
    {                                                                                              \
        .name = n, .type = PROPERTY_BOOL, .offset = offsetof(struct virtio_net, offer[f]),         \
        .def = d, .help = h                                                                        \
    }

static const struct property net_properties[] = {
    { "mac", PROPERTY_STRING, offsetof(struct virtio_net, mac_text), 0,
      "its Ethernet address, 52:54:00:12:34:56 and upward unless given" },
    { "netdev", PROPERTY_STRING, offsetof(struct virtio_net, netdev_id), 0,
      "id of the back end (-netdev)" },
    { "tx", PROPERTY_STRING, offsetof(struct virtio_net, tx), 0, "only bh" },
    { "host_mtu", PROPERTY_UINT16, offsetof(struct virtio_net, host_mtu), 0,
      "MTU that the driver is told to use, 0 for none" },
    { "rx_queue_size", PROPERTY_UINT16, offsetof(struct virtio_net, rx_queue_size), 256,
      "buffers in a receive queue, a power of two from 256 to 1024" },
    { "tx_queue_size", PROPERTY_UINT16, offsetof(struct virtio_net, tx_queue_size), 256,
      "frames in a transmit queue" },
    OFFER("csum", NET_F_CSUM, 1, "the driver may leave checksums to us"),
    OFFER("guest_csum", NET_F_GUEST_CSUM, 1, "the driver may take frames without checksum"),
    OFFER("gso", NET_F_GSO, 1, "legacy: segmentation of all kinds"),
    OFFER("guest_tso4", NET_F_GUEST_TSO4, 1, "the driver may take long TCP segments (IPv4)"),
    OFFER("guest_tso6", NET_F_GUEST_TSO6, 1, "the driver may take long TCP segments (IPv6)"),
    OFFER("guest_ecn", NET_F_GUEST_ECN, 1, "also those with ECN"),
    OFFER("guest_ufo", NET_F_GUEST_UFO, 1, "the driver may take long UDP datagrams"),
    OFFER("host_tso4", NET_F_HOST_TSO4, 1, "the driver may send long TCP segments (IPv4)"),
    OFFER("host_tso6", NET_F_HOST_TSO6, 1, "the driver may send long TCP segments (IPv6)"),
    OFFER("host_ecn", NET_F_HOST_ECN, 1, "also those with ECN"),
    OFFER("host_ufo", NET_F_HOST_UFO, 1, "the driver may send long UDP datagrams"),
    OFFER("mrg_rxbuf", NET_F_MRG_RXBUF, 1, "a frame may take several buffers of the driver"),
    OFFER("status", NET_F_STATUS, 1, "the driver sees whether the link is up"),
    OFFER("ctrl_vq", NET_F_CTRL_VQ, 1, "a control queue"),
    OFFER("ctrl_rx", NET_F_CTRL_RX, 1, "the driver may choose what it takes"),
    OFFER("ctrl_vlan", NET_F_CTRL_VLAN, 1, "also by VLAN"),
    OFFER("ctrl_rx_extra", NET_F_CTRL_RX_EXTRA, 1, "in more ways"),
    OFFER("ctrl_mac_addr", NET_F_CTRL_MAC_ADDR, 1, "the driver may set the address"),
    OFFER("ctrl_guest_offloads", NET_F_CTRL_GUEST_OFFLOADS, 1,
          "the driver may switch offloads while it runs"),
    OFFER("guest_announce", NET_F_GUEST_ANNOUNCE, 1,
          "the driver may announce the guest after a move"),
    OFFER("mq", NET_F_MQ, 0, "as many pairs of queues as the back end has"),
    VIRTIO_PROPERTIES,
    {},
};

static const struct virtio_class net_class = {
    .device = {
        .name = "virtio-net-device",
        .description = "network device",
        .size = sizeof(struct virtio_net),
        .properties = net_properties,
        VIRTIO_DEVICE_LIFE,
    },
    .device_id = 1,
    .wire_name = "virtio-net",
    .version = 11,
    .realize = net_realize,
    .unrealize = net_unrealize,
    .get_config = net_get_config,
    .set_config = net_set_config,
    .set_features = net_set_features,
    .set_status = net_set_status,
    .reset = net_reset,
    .run_state = net_run_state,
    .describe = describe,
    .wire = &virtio_net_wire,
};
VIRTIO_CLASS(net_class)
