/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Private to the incoming side: one connection, from its first byte (greeting.c) over the guest's
 * state (destination.c) to its end. incoming.c has the listening socket and the threads.
 *
 * A struct load is used by one thread at a time: while it is greeted by that connection's own,
 * then, if it brings the guest, by "mig/incoming".
 */
#ifndef MIGRATION_DESTINATION_H
#define MIGRATION_DESTINATION_H

#include "migration/internal.h"

struct stream_in;

struct load {
    struct incoming *in;
    struct vm *vm;
    struct channel *ch;
    struct stream_in *s;
    atomic_bool cancelled; /* nobody wants it any more; releases a hold */

    /* greeting */
    struct configuration configuration; /* what the source said */
    bool has_configuration;
    bool check_only;        /* it began without a configuration: it cannot bring a guest */
    atomic_bool seen_check; /* it has been one that only checks, for other threads */
    atomic_bool spoken;     /* something has come, for other threads */
    bool return_path;       /* the source reads one */
    bool mute;              /* it has asked for one, and this channel carries none */
    bool offered;           /* FERRY_PING_MAGIC came: HELLO was sent */
    bool agreed;            /* and the source has said what of it is used */
    bool claimed;           /* the greeting is over */
    uint64_t can;           /* FERRY_FEATURE_* that this side has */
    uint64_t features;      /* those in use */
    GByteArray *check;      /* the description that is coming in, NULL: none */
    unsigned checks;        /* answered */

    /* the guest */
    struct ram_load *ram; /* of the incoming side */
    struct savevm_load *devices;
    GArray *addresses; /* of its networks, see announce-wire.h; NULL: the source said none */
    bool ram_open;     /* the ram section's START has come */
    bool ram_ended;    /* and its END */
    uint32_t ram_id;
    bool go;           /* FERRY_GO came; in post-copy all three: m */
    uint64_t pause_ns; /* what it said */
    int64_t go_at_ns;
    int64_t ran_at_ns;
    bool runs; /* was started, and not left for somebody's cont */
};

/* What a greeting came to. */
enum greeting {
    GREETING_GUEST,   /* what comes next is the guest's state */
    GREETING_CHECKED, /* the source has had its answers and has gone */
    GREETING_SILENT,  /* nothing came, and now a guest comes on another connection */
    GREETING_FAILED,
};

/* So often a greeting without a word looks whether anybody still wants it. */
#define GREETING_POLL_MS 50u

/* Takes a reference to ch. */
struct load *load_new(struct incoming *in, struct channel *ch);
void load_free(struct load *l);

/* greeting.c */
/*
 * Reads up to the first byte that is no part of a greeting, which stays unread, and answers.
 * Changes nothing on this side. Several connections may be greeted at the same time.
 */
enum greeting load_greet(struct load *l, GError **err);
/* Reads and handles a command. */
bool load_command(struct load *l, GError **err);
/* Puts the side and its phase behind the message of an error, before it is told to anybody. */
void load_name_place(struct load *l, GError *error);
/* Tells the source why; best effort, for at most a second. */
void load_send_failure(struct load *l, const GError *error);
/* Tells the source that the guest runs, and how long that took from its GO (FERRY_FEATURE_RUNS). */
bool load_say_runs(struct load *l, GError **err);
/* What is done or waited for from now on. Any thread, without m. */
void load_phase(struct load *l, MigrationPhase phase);
/* *err: the peer sent what it must not, and where in the stream. Always false. */
bool load_refuse(struct load *l, GError **err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* destination.c */
/* From the end of the greeting to the running guest. The status must be setup. */
bool load_guest(struct load *l, GError **err);
/* The records of l->s up to its end: the devices of a post-copy. */
bool load_package(struct load *l, GError **err);

/* run(), unless the process ends. Machine lock held. */
bool load_hand_over(struct load *l, bool (*run)(struct load *l, GError **err), GError **err);

#endif
