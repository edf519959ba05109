/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The set of network back ends, and what lies between one and the device that uses it: the link,
 * which frames pass, who may go when. See include/net/net.h.
 *
 * A frame that finds no device or a link that is down is lost, as in a cable that is not plugged
 * in. A back end that is removed while one of its callbacks waits for memory of the guest is closed
 * at once and freed when the callback is through (refs).
 */
#include "net-private.h"

#include <string.h>

#include "migration/migration.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "qapi/type.h"
#include "system/keyval.h"
#include "system/vm.h"
#include "util/error.h"

struct net_set {
    struct vm *vm;
    GPtrArray *netdevs; /* struct netdev *, in order of opening */
    unsigned next_name;
    unsigned next_mac; /* last byte's distance from the first default address */
};

static struct netdev *(*const openers[])(struct net_set *set, struct vm *vm, const Netdev *options,
                                         GError **err) = {
    [NET_CLIENT_DRIVER_USER] = net_user_open,
    [NET_CLIENT_DRIVER_TAP] = net_tap_open,
};

struct net_set *net_set_new(struct vm *vm)
{
    struct net_set *set = g_new0(struct net_set, 1);

    set->vm = vm;
    set->netdevs = g_ptr_array_new();
    return set;
}

static void netdev_close(struct netdev *nd)
{
    nd->closed = true;
    g_ptr_array_remove(nd->set->netdevs, nd);
    nd->ops->close(nd);
    if (nd->client) {
        const struct net_client *client = g_steal_pointer(&nd->client);

        client->gone(g_steal_pointer(&nd->client_opaque));
    }
    netdev_unref(nd);
}

void net_set_free(struct net_set *set)
{
    if (set) {
        while (set->netdevs->len) {
            netdev_close(g_ptr_array_index(set->netdevs, set->netdevs->len - 1));
        }
        g_ptr_array_free(set->netdevs, TRUE);
        g_free(set);
    }
}

struct netdev *netdev_new(const struct netdev_ops *ops, size_t size, struct net_set *set,
                          struct vm *vm, const char *id)
{
    struct netdev *nd = g_malloc0(size);

    nd->ops = ops;
    nd->set = set;
    nd->vm = vm;
    nd->id = g_strdup(id);
    nd->queues = 1;
    nd->refs = 1;
    return nd;
}

void netdev_ref(struct netdev *nd)
{
    nd->refs++;
}

void netdev_unref(struct netdev *nd)
{
    if (--nd->refs == 0) {
        g_free(nd->id);
        g_free(nd);
    }
}

struct netdev *net_find(struct net_set *set, const char *id)
{
    for (unsigned i = 0; i < set->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(set->netdevs, i);

        if (strcmp(nd->id, id) == 0) {
            return nd;
        }
    }
    return NULL;
}

bool net_open(struct net_set *set, const Netdev *options, GError **err)
{
    struct netdev *nd;

    if (!keyval_is_identifier(options->id)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'id' expects an identifier: a letter, then letters, digits, '-', '.', "
                  "'_'");
        return false;
    }
    if (net_find(set, options->id)) {
        error_set(err, FERRY_ERROR_USER, "Duplicate ID '%s'", options->id);
        return false;
    }
    nd = openers[options->type](set, set->vm, options, err);
    if (!nd) {
        return false;
    }
    g_ptr_array_add(set->netdevs, nd);
    return true;
}

/* Keys that may be given several times and make a list. */
static const char *const list_keys[] = { "hostfwd", "dnssearch", NULL };

Netdev *net_parse_option(const char *text, GError **err)
{
    g_autoptr(json_t) opts = NULL;
    Netdev *options = NULL;
    bool is_json = text[0] == '{';

    opts = is_json ? keyval_parse_or_json(text, "type", NULL, &is_json, err)
                   : keyval_parse_lists(text, "type", list_keys, "str", err);
    if (opts) {
        qapi_read(&qapi_type_netdev, NULL, opts, is_json ? QAPI_READ_JSON : QAPI_READ_KEYVAL,
                  &options, err);
    }
    return options;
}

/* ---- the device's side ---- */

bool net_attach(struct netdev *nd, const struct net_client *client, void *opaque, const char *name,
                const char *model, GError **err)
{
    if (nd->client) {
        error_set(err, FERRY_ERROR_USER, "Network back end '%s' is in use by another device",
                  nd->id);
        return false;
    }
    nd->client = client;
    nd->client_opaque = opaque;
    nd->client_name = name;
    nd->client_model = model;
    netdev_flush(nd, 0);
    return true;
}

void net_detach(struct netdev *nd)
{
    nd->client = NULL;
    nd->client_opaque = NULL;
    nd->addresses.count = 0;
}

const char *netdev_id(const struct netdev *nd)
{
    return nd->id;
}

unsigned netdev_queues(const struct netdev *nd)
{
    return nd->queues;
}

bool netdev_set_queues(struct netdev *nd, unsigned active, GError **err)
{
    return !nd->ops->set_queues || nd->ops->set_queues(nd, active, err);
}

bool netdev_has_vnet_hdr(const struct netdev *nd)
{
    return nd->has_vnet_hdr;
}

void netdev_set_vnet_hdr_len(struct netdev *nd, unsigned len)
{
    nd->hdr_len = nd->has_vnet_hdr ? len : 0;
    if (nd->ops->set_vnet_hdr_len) {
        nd->ops->set_vnet_hdr_len(nd, len);
    }
}

bool netdev_has_ufo(const struct netdev *nd)
{
    return nd->has_ufo;
}

void netdev_set_offload(struct netdev *nd, bool csum, bool tso4, bool tso6, bool ecn, bool ufo)
{
    if (nd->ops->set_offload) {
        nd->ops->set_offload(nd, csum, tso4, tso6, ecn, ufo);
    }
}

bool netdev_send(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count)
{
    if (!netdev_link_up(nd)) {
        return true;
    }
    if (nd->client && net_addresses_concerned(iov, count, nd->hdr_len)) {
        net_addresses_sent(&nd->addresses, nd->client->mac(nd->client_opaque), iov, count,
                           nd->hdr_len);
    }
    return nd->ops->send(nd, queue, iov, count);
}

void netdev_send_raw(struct netdev *nd, const void *frame, size_t len)
{
    if (netdev_link_up(nd)) {
        nd->ops->send_raw(nd, frame, len);
    }
}

void netdev_flush(struct netdev *nd, unsigned queue)
{
    nd->ops->flush(nd, queue);
}

bool netdev_link_up(const struct netdev *nd)
{
    return !nd->unplugged && !nd->broken && !nd->closed;
}

struct net_addresses *netdev_addresses(struct netdev *nd)
{
    return &nd->addresses;
}

/* ---- the back end's side ---- */

bool netdev_receive(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count)
{
    if (!nd->client || !netdev_link_up(nd)) {
        return true;
    }
    if (nd->addresses.count && net_addresses_concerned(iov, count, nd->hdr_len)) {
        net_addresses_received(&nd->addresses, nd->client->mac(nd->client_opaque), iov, count,
                               nd->hdr_len);
    }
    return nd->client->receive(nd->client_opaque, queue, iov, count);
}

bool netdev_can_receive(struct netdev *nd, unsigned queue)
{
    return !nd->client || !netdev_link_up(nd) || nd->client->can_receive(nd->client_opaque, queue);
}

void netdev_sent(struct netdev *nd, unsigned queue)
{
    if (nd->client) {
        nd->client->sent(nd->client_opaque, queue);
    }
}

static void link_changed(struct netdev *nd)
{
    bool up = netdev_link_up(nd);

    if (nd->client) {
        nd->client->link_changed(nd->client_opaque, up);
    }
    for (unsigned i = 0; i < nd->queues; i++) {
        if (up) {
            netdev_flush(nd, i);
        } else {
            netdev_sent(nd, i); /* what waits is lost */
        }
    }
}

void netdev_set_broken(struct netdev *nd)
{
    if (!nd->broken) {
        nd->broken = true;
        link_changed(nd);
    }
}

/* ---- all of them ---- */

void net_foreach_client(struct net_set *set,
                        void (*fn)(struct netdev *nd, const struct net_client *client,
                                   void *client_opaque, const char *name, void *opaque),
                        void *opaque)
{
    for (unsigned i = 0; i < set->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(set->netdevs, i);

        if (nd->client) {
            fn(nd, nd->client, nd->client_opaque, nd->client_name, opaque);
        }
    }
}

static bool mac_in_use(struct net_set *set, const uint8_t mac[6])
{
    for (unsigned i = 0; i < set->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(set->netdevs, i);

        if (nd->client && memcmp(nd->client->mac(nd->client_opaque), mac, 6) == 0) {
            return true;
        }
    }
    return false;
}

void net_default_mac(struct net_set *set, uint8_t mac[6])
{
    static const uint8_t first[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

    do {
        memcpy(mac, first, 6);
        mac[5] = (uint8_t)(mac[5] + set->next_mac++);
    } while (mac_in_use(set, mac) && set->next_mac < 256);
}

char *net_default_name(struct net_set *set, const char *model)
{
    return g_strdup_printf("%s.%u", model, set->next_name++);
}

void net_describe(struct net_set *set, GString *out)
{
    for (unsigned i = 0; i < set->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(set->netdevs, i);

        if (nd->client) {
            const uint8_t *m = nd->client->mac(nd->client_opaque);

            g_string_append_printf(out,
                                   "%s: index=0,type=nic,model=%s,macaddr="
                                   "%02x:%02x:%02x:%02x:%02x:%02x\r\n \\ ",
                                   nd->client_name, nd->client_model, m[0], m[1], m[2], m[3], m[4],
                                   m[5]);
        }
        g_string_append_printf(out, "%s: index=0,type=%s,", nd->id, nd->ops->kind);
        nd->ops->describe(nd, out);
        g_string_append_printf(out, "%s\r\n", netdev_link_up(nd) ? "" : ",link=down");
    }
}

/* "[NETDEV] RULE": the back end named, or the first that has such rules. */
static struct netdev *hostfwd_target(struct net_set *set, const char *args, const char **rule,
                                     GError **err)
{
    const char *space = strchr(args, ' ');
    g_autofree char *id = space ? g_strndup(args, (gsize)(space - args)) : NULL;

    *rule = space ? space + 1 + strspn(space + 1, " ") : args;
    for (unsigned i = 0; i < set->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(set->netdevs, i);

        if (nd->ops->hostfwd && (!id || strcmp(nd->id, id) == 0)) {
            return nd;
        }
    }
    if (id) {
        error_set(err, FERRY_ERROR_USER, "unrecognized netdev id '%s'", id);
    } else {
        error_set(err, FERRY_ERROR_USER, "user mode network stack not in use");
    }
    return NULL;
}

void net_hostfwd(struct net_set *set, bool add, const char *args, GString *out)
{
    g_autoptr(GError) err = NULL;
    const char *rule;
    struct netdev *nd = hostfwd_target(set, args, &rule, &err);

    if (nd && nd->ops->hostfwd(nd, rule, add, &err) && !add) {
        g_string_append_printf(out, "host forwarding rule for %s removed\r\n", rule);
    }
    if (err) {
        g_string_append_printf(out, "%s\r\n", err->message);
    }
}

/* ---- QMP ---- */

/* What is saved of back ends is read without a lock while a stream comes. */
static bool refuse_while_migrating(struct vm *vm, GError **err)
{
    if (migration_is_under_way(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "Network back ends cannot come or go during a migration: wait, or cancel it");
        return true;
    }
    return false;
}

bool qmp_netdev_add(struct vm *vm, const Netdev *arg, GError **err)
{
    return !refuse_while_migrating(vm, err) && net_open(vm->net, arg, err);
}

bool qmp_netdev_del(struct vm *vm, const struct qmp_netdev_del_arg *arg, GError **err)
{
    struct netdev *nd = net_find(vm->net, arg->id);

    if (!nd) {
        error_set(err, FERRY_ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", arg->id);
        return false;
    }
    if (refuse_while_migrating(vm, err)) {
        return false;
    }
    netdev_close(nd);
    return true;
}

/* By the name of the back end or of its device. */
static struct netdev *find_either(struct net_set *set, const char *name)
{
    struct netdev *nd = net_find(set, name);

    for (unsigned i = 0; !nd && i < set->netdevs->len; i++) {
        struct netdev *other = g_ptr_array_index(set->netdevs, i);

        if (other->client && strcmp(other->client_name, name) == 0) {
            nd = other;
        }
    }
    return nd;
}

bool qmp_set_link(struct vm *vm, const struct qmp_set_link_arg *arg, GError **err)
{
    struct netdev *nd = find_either(vm->net, arg->name);

    if (!nd) {
        error_set(err, FERRY_ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", arg->name);
        return false;
    }
    if (nd->unplugged == arg->up) {
        nd->unplugged = !arg->up;
        link_changed(nd);
    }
    return true;
}

GPtrArray *qmp_query_rx_filter(struct vm *vm, const struct qmp_query_rx_filter_arg *arg,
                               GError **err)
{
    g_autoptr(GPtrArray) list = qapi_list_new(&qapi_type_rx_filter_info);

    for (unsigned i = 0; i < vm->net->netdevs->len; i++) {
        struct netdev *nd = g_ptr_array_index(vm->net->netdevs, i);

        if (nd->client && (!arg->name || strcmp(nd->client_name, arg->name) == 0)) {
            g_ptr_array_add(list, nd->client->rx_filter(nd->client_opaque));
        }
    }
    if (arg->name && !list->len) {
        error_set(err, FERRY_ERROR_USER,
                  net_find(vm->net, arg->name) ? "net client(%s) isn't a NIC"
                                               : "invalid net client name: %s",
                  arg->name);
        return NULL;
    }
    return g_steal_pointer(&list);
}
