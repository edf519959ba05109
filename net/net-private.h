/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The back ends' side of include/net/net.h. A back end is one file: a struct that begins with
 * struct netdev, its ops, and an open function in the table of net.c.
 */
#ifndef NET_NET_PRIVATE_H
#define NET_NET_PRIVATE_H

#include "net/net.h"

struct netdev_ops {
    const char *kind;
    /* As netdev_send(); the link is up and a device is attached. */
    bool (*send)(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count);
    void (*send_raw)(struct netdev *nd, const void *frame, size_t len);
    void (*flush)(struct netdev *nd, unsigned queue);
    void (*describe)(struct netdev *nd, GString *out); /* "net=...,restrict=off" */
    /* The following may be NULL. */
    bool (*set_queues)(struct netdev *nd, unsigned active, GError **err);
    void (*set_vnet_hdr_len)(struct netdev *nd, unsigned len);
    void (*set_offload)(struct netdev *nd, bool csum, bool tso4, bool tso6, bool ecn, bool ufo);
    bool (*hostfwd)(struct netdev *nd, const char *rule, bool add, GError **err);
    /* Stops watching, frees what it has; the struct itself is freed by the core. */
    void (*close)(struct netdev *nd);
};

struct netdev {
    const struct netdev_ops *ops;
    struct net_set *set;
    struct vm *vm;
    char *id;
    unsigned queues;
    bool has_vnet_hdr, has_ufo;
    unsigned hdr_len; /* of the vnet header in front of frames; 0: none */
    bool unplugged;   /* set_link */
    bool broken;      /* the back end itself: a tap that vanished */
    bool closed;      /* removed; lives on for who is inside a callback */
    unsigned refs;

    const struct net_client *client; /* NULL: no device */
    void *client_opaque;
    const char *client_name, *client_model;
    struct net_addresses addresses; /* of the guest behind it */
};

/* Each opens one kind; NULL with *err set. The core fills in set, vm and id before. */
struct netdev *net_user_open(struct net_set *set, struct vm *vm, const Netdev *options,
                             GError **err);
struct netdev *net_tap_open(struct net_set *set, struct vm *vm, const Netdev *options,
                            GError **err);

/* size is of the whole struct; zeroed. */
struct netdev *netdev_new(const struct netdev_ops *ops, size_t size, struct net_set *set,
                          struct vm *vm, const char *id);
void netdev_ref(struct netdev *nd);
void netdev_unref(struct netdev *nd);

/* What a back end has for the device. receive: also true when there is none. */
bool netdev_receive(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count);
bool netdev_can_receive(struct netdev *nd, unsigned queue);
void netdev_sent(struct netdev *nd, unsigned queue);
/* The back end does not work any more: the link goes down. */
void netdev_set_broken(struct netdev *nd);

/*
 * A descriptor watched on the I/O thread. Made, changed and freed with the machine lock held, from
 * any thread; fn is called with it held and never after net_watch_free(). condition 0: not watched.
 */
struct net_watch;
struct net_watch *net_watch_new(struct vm *vm, int fd, GIOCondition condition,
                                void (*fn)(void *opaque), void *opaque);
void net_watch_set(struct net_watch *watch, GIOCondition condition);
/* fn is called soon, whatever the descriptor says, if it is watched. */
void net_watch_fire(struct net_watch *watch);
void net_watch_free(struct net_watch *watch);

/* net/user-options.c */
struct hostfwd_rule {
    bool udp;
    uint32_t host_address, guest_address; /* network byte order */
    unsigned host_port, guest_port;
};
bool hostfwd_parse(const char *text, bool with_guest, struct hostfwd_rule *rule, GError **err);

#endif
