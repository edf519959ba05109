/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's IP addresses on the wire between Ferries, so that the destination can announce them
 * at once, before the guest has said a word there. A QEMU never sees them
 * (FERRY_FEATURE_ADDRESSES); from one they do not come, and are learned from what the guest sends
 * after it has arrived.
 */
#ifndef MIGRATION_ANNOUNCE_WIRE_H
#define MIGRATION_ANNOUNCE_WIRE_H

#include "migration/destination.h"
#include "net/addresses.h"

/* Bytes of an entry of the command, and how many there can be. */
#define ANNOUNCE_ENTRY       26
#define ANNOUNCE_ENTRIES_MAX 512

struct announced_address {
    uint64_t place; /* of the device: struct net_client */
    struct net_address address;
};

/* Part of the guest's state, before the devices; nothing where there are none, or the destination
 * would not know what it is. Machine lock held, the guest stopped. */
void announce_save_addresses(struct outgoing *out, struct stream_out *o);
/* The command's payload. Entries are appended to `list` (struct announced_address). */
bool announce_parse_addresses(const uint8_t *payload, size_t len, GArray *list, GError **err);
/* The command, into l->addresses. */
bool announce_command_addresses(struct load *l, unsigned len, GError **err);
/* Gives them to the network devices; those that are not here are passed over. The devices are
 * loaded. list: may be NULL. Machine lock held. */
void announce_put_addresses(struct vm *vm, const GArray *list);

#endif
