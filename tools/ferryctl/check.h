/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a guest is to go, and whether it can. */
#ifndef FERRYCTL_CHECK_H
#define FERRYCTL_CHECK_H

#include "machines.h"

enum check_peer { CHECK_PEER_FERRY, CHECK_PEER_QEMU };

/* --peer's value; NULL is a Ferry. */
bool check_parse_peer(const char *text, enum check_peer *peer, GError **err);

/*
 * DEST as a migration URI: tcp:HOST:PORT, HOST:PORT, unix:PATH, a path (a socket), file:PATH,
 * exec:COMMAND. A relative path is made absolute where the machine is on this host, because its
 * working folder is another one. live says whether somebody answers at the other end.
 */
char *check_destination(const qmp_address *machine, const char *text, bool *live, GError **err);

/*
 * Asks the machine whether its guest can go there and prints what it finds. Returns false when it
 * cannot (*err set, CTL_REFUSED), and when it could not be asked; qmp_is_missing() then tells
 * whether the machine has no such command.
 */
bool check_ask(const struct ctl *ctl, qmp *q, const char *uri, enum check_peer peer, GError **err);

#endif
