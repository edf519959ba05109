/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to the incoming side of post-copy: the link that its memory comes on, and the thread
 * "mig/listen" that reads it. */
#ifndef MIGRATION_POSTCOPY_LISTEN_H
#define MIGRATION_POSTCOPY_LISTEN_H

#include "migration/destination.h"
#include "migration/postcopy/arrival.h"

struct touch;

struct postcopy_in {
    struct vm *vm;
    struct load *l; /* only until postcopy_finish() is over */
    struct arrival *arrival;
    struct arrival_reader *reader; /* of the main stream */
    bool packaged;                 /* "mig/incoming": PACKAGED came */
    bool listening;                /* LISTEN came */
    bool run;                      /* RUN came */
    uint8_t *package;
    bool paused_by_us; /* machine; migrate-pause */
    bool runs;         /* m; the guest was put to work */
    bool untold;       /* machine; all memory is here, and the source may not know it */

    GThread *thread;          /* "mig/listen", of the link that there is */
    struct stream_in *stream; /* its; of the first link it is load.s */
    bool own_stream;
    bool listens_by_itself; /* at reconnect-listen; "mig/incoming" */
    struct channel *new_ch; /* of a link that begins; owned until listen_start() */
    GError *why;            /* of the thread; after it was joined */
    bool link;              /* m; it is there */

    GThread *toucher; /* main loop; see gate.c */
    struct touch *touch;

    struct mutex say_lock; /* whoever writes on the return path */
    struct channel *ch;    /* say_lock; NULL: none */
    bool asking;           /* say_lock; both sides know what is missing: pages may be asked for */
    const struct ram_block *named; /* say_lock; the block of the last request on this link */
    GError *unsent; /* say_lock; why a request could not be sent, after which the link was ended */
};

/* Starts "mig/listen" on a link; takes a reference to ch. stream: what is read from it already,
 * NULL for a new link. */
bool listen_start(struct postcopy_in *p, struct channel *ch, struct stream_in *stream,
                  GError **err);
/* Waits for the end of the thread. True: all memory has come. False and *err: the link is lost. */
bool listen_join(struct postcopy_in *p, GError **err);
/* Of an error of this link: where the link was ended by us because it broke, why it broke. Takes
 * error, which may be NULL. say_lock. */
GError *listen_real_reason(struct postcopy_in *p, GError *error);
/* After SHUT 0: whether the source has heard it. */
bool listen_bye(struct postcopy_in *p);
/* Closes a link whose thread was joined. */
void listen_close(struct postcopy_in *p);
/* Ends the link and the thread, if they are there. */
void listen_stop(struct postcopy_in *p);
/* Waits for somebody to name an address, and for the source there; p->new_ch. False and *err: the
 * process ends. */
bool listen_accept(struct postcopy_in *p, GError **err);
/* arrival_request(), opaque is the postcopy_in. */
bool listen_request(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length);

#endif
