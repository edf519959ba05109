/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between user.c and user-options.c. */
#ifndef NET_NET_USER_H
#define NET_NET_USER_H

#include <slirp/libslirp.h>

#include "net-private.h"

/* Strings are borrowed from the options. */
struct user_config {
    SlirpConfig slirp;
    const char **search;
};

bool user_config_read(const NetdevUserOptions *u, struct user_config *c, GError **err);
void user_config_clear(struct user_config *c);

#endif
