/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the destination says to the source: reading it on the source (a thread of its own), sending
 * it on the destination. */
#ifndef MIGRATION_RETURN_PATH_H
#define MIGRATION_RETURN_PATH_H

#include "io/channel.h"

struct return_path;

enum return_wait {
    RETURN_WAIT_FERRY_PONG, /* the answer to FERRY_PING_MAGIC */
    RETURN_WAIT_CHECK,      /* all of FERRY_CHECK, see return_path_expect_check() */
    RETURN_WAIT_READY,      /* FERRY_READY */
    RETURN_WAIT_RUNS,       /* FERRY_RUNS, in post-copy */
    RETURN_WAIT_BITMAP,     /* RECV_BITMAP, see return_path_ask_bitmap() */
    RETURN_WAIT_RESUME,     /* RESUME_ACK */
    RETURN_WAIT_SHUT,       /* SHUT 0 */
};

/* What a guest that has left still asks for. Called on the reader's thread, without locks. */
struct return_path_ops {
    /* bytes of a block; idstr NULL: of the block of the last request */
    bool (*request)(void *opaque, const char *idstr, uint64_t offset, uint64_t length,
                    GError **err);
    /* which pages the destination has, see return_path_ask_bitmap() */
    bool (*received)(void *opaque, const char *idstr, const uint8_t *bits, size_t len,
                     GError **err);
    /* something came, or the path has ended */
    void (*woken)(void *opaque);
};

/* Source: starts the reader. NULL and *err where the host has no thread left. */
struct return_path *return_path_new(struct channel *ch, GError **err);
/* Ends it; the channel has been shut down. */
void return_path_free(struct return_path *rp);
/*
 * What the stream asks for from here on; before the bytes that ask for it can leave. Anything else
 * that the destination says ends the path.
 */
void return_path_ask(struct return_path *rp, enum return_wait what);
/* From here on requests for pages are legitimate. Before the bytes that let the guest leave. */
void return_path_serve(struct return_path *rp, const struct return_path_ops *ops, void *opaque);
/* The stream asks for the received bitmap of a block of so many pages; answered by ops->received,
 * and RETURN_WAIT_BITMAP is over. One at a time. */
void return_path_ask_bitmap(struct return_path *rp, const char *idstr, uint64_t pages);
/* Whether the answer came, without waiting. */
bool return_path_has(struct return_path *rp, enum return_wait what);
/* Whether a ping that was asked has been answered. */
bool return_path_answered(struct return_path *rp, uint32_t value);
/* The peer has closed the connection in an orderly way, and all that it said has been read. */
bool return_path_closed(struct return_path *rp);
/* False: too many have no answer yet, and this one must not be sent either. */
bool return_path_ask_pong(struct return_path *rp, uint32_t value);
/* False and *err when the path has broken, or the destination said that it failed (PEER, with its
 * own words where it gave any). Any thread. */
bool return_path_check(struct return_path *rp, GError **err);
/* The link has broken: reads what is still on its way, for at most timeout_ms, and all that has
 * arrived by then. True and *err: the destination itself said why it failed. */
bool return_path_failure(struct return_path *rp, unsigned timeout_ms, GError **err);
/*
 * Whether the destination certainly does not run the guest, after a wait for SHUT failed: it said
 * so, or (by_closing: as a QEMU does) closed without SHUT 0. Bytes that make no sense, silence, and
 * a link that broke say nothing.
 */
bool return_path_refused(struct return_path *rp, bool by_closing);
/* Blocks until it came. LINK after timeout_ms naming what was waited for, or as
 * return_path_check(). */
bool return_path_wait(struct return_path *rp, enum return_wait what, unsigned timeout_ms,
                      GError **err);
/* FERRY_FEATURE_* of the destination, 0 for a QEMU. After RETURN_WAIT_FERRY_PONG. */
uint64_t return_path_features(struct return_path *rp);

/* How long the destination says that it took from GO until the guest ran; UINT64_MAX when it said
 * nothing. It is the peer's word: no more than a figure. After RETURN_WAIT_SHUT. */
uint64_t return_path_runs_ns(struct return_path *rp);

/* Blocks until the answer to a PING with this value (STREAM_PING_ROUND and up, rising) came: the
 * destination has read all before it. */
bool return_path_wait_pong(struct return_path *rp, uint32_t value, unsigned timeout_ms,
                           GError **err);

/* A check has been asked for: its answer may come from now on, once. */
void return_path_expect_check(struct return_path *rp);
/* That answer, after RETURN_WAIT_CHECK; the caller owns it. */
GByteArray *return_path_take_check(struct return_path *rp);

/* Destination: sends one message. One thread. */
bool return_path_send(struct channel *ch, unsigned type, const void *payload, size_t len,
                      GError **err);
bool return_path_send_be32(struct channel *ch, unsigned type, uint32_t value, GError **err);

#endif
