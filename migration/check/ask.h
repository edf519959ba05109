/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The source's half of a check. */
#ifndef MIGRATION_CHECK_ASK_H
#define MIGRATION_CHECK_ASK_H

#include "migration/check/findings.h"

struct channel;
struct migration;
struct return_path;
struct stream_out;

/*
 * On a connection whose peer has agreed to FERRY_FEATURE_CHECK: sends this side's description,
 * waits for the answer and appends its findings. *program (g_free(); may be NULL): what the peer
 * calls itself. A migration's thread or that of a check, without the machine lock. LINK and PEER
 * errors.
 */
bool check_ask(struct migration *m, struct stream_out *o, struct return_path *rp,
               unsigned timeout_ms, GPtrArray *findings, char **program, GError **err);

/* The whole of a connection that only checks, from its first byte. */
bool check_ask_only(struct migration *m, struct channel *ch, unsigned timeout_ms,
                    GPtrArray *findings, char **program, GError **err);

#endif
