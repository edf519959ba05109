/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between the files of virtio-net: the device, its control queue and its saved state. */
#ifndef HW_NET_VIRTIO_NET_H
#define HW_NET_VIRTIO_NET_H

#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"
#include "net/net.h"

/* Feature bits: VIRTIO 1.1, 5.1.3. */
enum {
    NET_F_CSUM = 0,
    NET_F_GUEST_CSUM = 1,
    NET_F_CTRL_GUEST_OFFLOADS = 2,
    NET_F_MTU = 3,
    NET_F_MAC = 5,
    NET_F_GSO = 6, /* legacy */
    NET_F_GUEST_TSO4 = 7,
    NET_F_GUEST_TSO6 = 8,
    NET_F_GUEST_ECN = 9,
    NET_F_GUEST_UFO = 10,
    NET_F_HOST_TSO4 = 11,
    NET_F_HOST_TSO6 = 12,
    NET_F_HOST_ECN = 13,
    NET_F_HOST_UFO = 14,
    NET_F_MRG_RXBUF = 15,
    NET_F_STATUS = 16,
    NET_F_CTRL_VQ = 17,
    NET_F_CTRL_RX = 18,
    NET_F_CTRL_VLAN = 19,
    NET_F_CTRL_RX_EXTRA = 20,
    NET_F_GUEST_ANNOUNCE = 21,
    NET_F_MQ = 22,
    NET_F_CTRL_MAC_ADDR = 23,
    NET_F_COUNT = 24,
};

#define NET_BIT(f) (UINT64_C(1) << (f))
/* What the guest takes from the back end and can switch while it runs. */
#define NET_GUEST_OFFLOADS                                                                         \
    (NET_BIT(NET_F_GUEST_CSUM) | NET_BIT(NET_F_GUEST_TSO4) | NET_BIT(NET_F_GUEST_TSO6) |           \
     NET_BIT(NET_F_GUEST_ECN) | NET_BIT(NET_F_GUEST_UFO))

/* The device's own status field. */
#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

#define NET_MAC_TABLE  64
#define NET_VLAN_BYTES 512

/* Which frames the guest takes; what the wire carries of it too. */
struct net_filter {
    uint8_t promisc, allmulti, alluni, nomulti, nouni, nobcast;
    uint8_t multi_overflow, uni_overflow; /* the driver wanted more addresses than fit */
    unsigned in_use, first_multi;
    uint8_t table[NET_MAC_TABLE][6]; /* unicast, then multicast */
    uint8_t vlans[NET_VLAN_BYTES];   /* a bit per VLAN */
};

struct virtio_net {
    struct virtio_device vdev; /* first */

    /* properties */
    char *mac_text, *netdev_id, *tx;
    bool offer[NET_F_COUNT];
    uint16_t host_mtu, rx_queue_size, tx_queue_size;

    struct netdev *nd;  /* NULL: none, or it went */
    bool vnet_hdr, ufo; /* what it can; constant after realize */
    char *name;         /* of the device in commands */
    uint8_t own_mac[6];
    uint8_t mac[6]; /* what the driver made of it */
    uint16_t status;
    unsigned max_pairs, pairs; /* pairs: in use by the driver */
    uint64_t offloads;         /* of NET_GUEST_OFFLOADS */
    unsigned hdr_len;          /* of the driver's header */
    bool merge;                /* a frame may take several buffers */
    struct net_filter filter;
    bool queues_refused;          /* the back end could not switch pairs, which was said */
    bool filter_told;             /* NIC_RX_FILTER_CHANGED was sent, nobody has asked since */
    bool blocked[NET_QUEUES_MAX]; /* the back end did not take a frame of this transmit queue */
};

/* True for a frame that the guest takes. dst: at least 14 bytes of it. */
bool net_filter_accepts(const struct net_filter *f, const uint8_t mac[6], const uint8_t *frame,
                        size_t len);
void net_filter_reset(struct net_filter *f);

/* virtio-net-ctrl.c: the handler of the control queue. */
void virtio_net_handle_ctrl(struct virtio_device *v, struct virtqueue *vq);
/* Tells the back end what the guest takes. */
void virtio_net_apply_offloads(struct virtio_net *n);
/* The driver gives the device another address. */
void virtio_net_set_mac(struct virtio_net *n, const uint8_t mac[6]);
/* Uses the first `pairs` pairs of queues. */
bool virtio_net_use_pairs(struct virtio_net *n, unsigned pairs, GError **err);
RxFilterInfo *virtio_net_rx_filter(void *opaque);

/* virtio-net-wire.c */
extern const struct virtio_wire virtio_net_wire;

#endif
