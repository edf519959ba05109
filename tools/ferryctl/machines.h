/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which machine is meant.
 *
 * A machine is its QMP socket. Sockets that follow the convention lie as NAME.qmp in
 * $XDG_RUNTIME_DIR/ferry or /run/ferry; whoever starts machines decides whether to follow it, so
 * any other socket can be given with -s or FERRY_SOCKET.
 */
#ifndef FERRYCTL_MACHINES_H
#define FERRYCTL_MACHINES_H

#include "ctl.h"
#include "qmp.h"

/* Paths of the sockets in the run folders, sorted by name; strings of the array. */
GPtrArray *machines_scan(void);
/* "web1" of ".../web1.qmp"; clean. */
char *machines_name(const struct ctl *ctl, const qmp_address *address);

/* unix:PATH, a path, tcp:HOST:PORT, HOST:PORT, or the name of a machine in a run folder. */
qmp_address *machines_parse(const struct ctl *ctl, const char *text, GError **err);
/* The machine that -s, FERRY_SOCKET or there being only one says. */
qmp_address *machines_chosen(const struct ctl *ctl, GError **err);

/* Connects to it with the patience of --wait. */
qmp *machines_connect(const struct ctl *ctl, GError **err);

/* query-status's state, clean. */
char *machines_run_state(const struct ctl *ctl, qmp *q, GError **err);

/* "HOST:PORT" with [] where they are needed, split; false when text is not of that form. */
bool machines_split_host_port(const char *text, char **host, char **port);

#endif
