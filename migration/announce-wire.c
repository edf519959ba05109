/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See announce-wire.h. The payload of the command is a list of
 *
 *   be64 where the device's registers are, u8 4 or 6, u8 1: a router, else 0, address[16]
 *
 * (IPv4: four bytes and twelve zeros). It may come once. Trust: none; an address that no host can
 * have is refused, and a device keeps no more of them than it would learn itself.
 */
#include "migration/announce-wire.h"

#include <inttypes.h>
#include <string.h>

#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "net/net.h"
#include "system/vm.h"
#include "util/error.h"

static void collect(struct netdev *nd, const struct net_client *client, void *client_opaque,
                    const char *name G_GNUC_UNUSED, void *opaque)
{
    const struct net_addresses *known = netdev_addresses(nd);
    GArray *list = opaque;

    for (unsigned i = 0; i < known->count && list->len < ANNOUNCE_ENTRIES_MAX; i++) {
        struct announced_address entry = { client->place(client_opaque), known->list[i] };

        g_array_append_val(list, entry);
    }
}

void announce_save_addresses(struct outgoing *out, struct stream_out *o)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(struct announced_address));

    if (!(out->features & FERRY_FEATURE_ADDRESSES) || !out->vm->net) {
        return;
    }
    net_foreach_client(out->vm->net, collect, list);
    if (!list->len) {
        return;
    }
    out_u8(o, STREAM_COMMAND);
    out_be16(o, STREAM_CMD_FERRY_ADDRESSES);
    out_be16(o, (uint16_t)(list->len * ANNOUNCE_ENTRY));
    for (unsigned i = 0; i < list->len; i++) {
        const struct announced_address *e = &g_array_index(list, struct announced_address, i);

        out_be64(o, e->place);
        out_u8(o, e->address.family);
        out_u8(o, e->address.router);
        out_bytes(o, e->address.bytes, sizeof(e->address.bytes));
    }
}

bool announce_parse_addresses(const uint8_t *payload, size_t len, GArray *list, GError **err)
{
    if (!len || len % ANNOUNCE_ENTRY || len / ANNOUNCE_ENTRY > ANNOUNCE_ENTRIES_MAX) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has a list of IP addresses of %zu bytes", len);
        return false;
    }
    for (const uint8_t *p = payload; p < payload + len; p += ANNOUNCE_ENTRY) {
        struct announced_address e = { .address = { .family = p[8], .router = p[9] == 1 } };

        memcpy(&e.place, p, sizeof(e.place));
        e.place = GUINT64_FROM_BE(e.place);
        memcpy(e.address.bytes, p + 10, sizeof(e.address.bytes));
        if (p[9] > 1 || !net_address_valid(&e.address)) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has an IP address that no guest can have (entry %zu, "
                      "family %u)",
                      (size_t)(p - payload) / ANNOUNCE_ENTRY, e.address.family);
            return false;
        }
        g_array_append_val(list, e);
    }
    return true;
}

bool announce_command_addresses(struct load *l, unsigned len, GError **err)
{
    g_autofree uint8_t *payload = g_malloc(len);

    if (!(l->features & FERRY_FEATURE_ADDRESSES) || l->addresses) {
        return load_refuse(l, err, "IP addresses that were not agreed on, or came twice");
    }
    l->addresses = g_array_new(FALSE, FALSE, sizeof(struct announced_address));
    return in_bytes(l->s, payload, len, err) &&
           announce_parse_addresses(payload, len, l->addresses, err);
}

static void put(struct netdev *nd, const struct net_client *client, void *client_opaque,
                const char *name G_GNUC_UNUSED, void *opaque)
{
    const GArray *list = opaque;
    uint64_t place = client->place(client_opaque);

    for (unsigned i = 0; i < list->len; i++) {
        const struct announced_address *e = &g_array_index(list, struct announced_address, i);

        if (e->place == place) {
            net_addresses_add(netdev_addresses(nd), &e->address);
        }
    }
}

void announce_put_addresses(struct vm *vm, const GArray *list)
{
    if (list && vm->net) {
        net_foreach_client(vm->net, put, (void *)(uintptr_t)list);
    }
}
