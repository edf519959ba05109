/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of migration/ share. A vm has one struct migration; each `migrate` makes a struct
 * outgoing, each destination one struct incoming, owned by it and kept after their end for
 * query-migrate.
 *
 * Locks: fields say which. "machine" is vm_lock(); "m" is migration.lock, a leaf lock that is held
 * for a few instructions and never while taking another one. docs/architecture.md has the picture.
 */
#ifndef MIGRATION_INTERNAL_H
#define MIGRATION_INTERNAL_H

#include <glib.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/channel.h"
#include "io/transport.h"
#include "migration/converge/converge.h"
#include "migration/converge/policy.h"
#include "migration/history.h"
#include "migration/postcopy/departure.h"
#include "migration/predict.h"
#include "migration/ram/save.h"
#include "qapi/qapi-types.h"
#include "util/clock.h"
#include "util/sync.h"

struct dirty_limits;
struct dirty_rate;
struct premap;
struct ram_load;
struct return_path;
struct vm;
struct vm_config;
struct page_hinter;
struct postcopy_in;
struct urgent;
struct outgoing;
struct incoming;

struct migration_options {
    bool caps[MIGRATION_CAPABILITY__MAX];
    uint64_t max_bandwidth;              /* bytes/s, 0 = without limit */
    uint64_t max_postcopy_bandwidth;     /* bytes/s, 0 = without limit */
    uint64_t avail_switchover_bandwidth; /* bytes/s, 0 = what was measured */
    uint64_t downtime_limit;             /* ms */
    uint64_t xbzrle_cache_size;          /* bytes, a power of two */
    uint64_t throttle_trigger_threshold; /* percent of the bytes sent in a round */
    uint64_t cpu_throttle_initial, cpu_throttle_increment, max_cpu_throttle; /* percent */
    uint64_t cpu_throttle_tailslow;                                          /* 0 or 1 */
    bool throttle_ladder; /* the steps were set: go by them */
    uint64_t announce_initial, announce_max, announce_rounds, announce_step; /* announce.h */
    uint64_t x_vcpu_dirty_limit_period;                                      /* ms */
    uint64_t vcpu_dirty_limit; /* MiB/s, of each vCPU */
    /* ms; where 0 is allowed it means for ever */
    uint64_t connect_timeout;
    uint64_t greeting_timeout;
    uint64_t link_timeout;
    uint64_t pre_switchover_timeout;
    uint64_t ready_timeout;
    uint64_t confirm_timeout;
    uint64_t begin_timeout;
    uint64_t stream_timeout;
    uint64_t go_timeout;
    uint64_t reconnect_interval;
    uint64_t reconnect_timeout;
};

struct migration {
    struct vm *vm;
    const struct vm_config *cfg;
    struct mutex lock; /* "m" */
    struct cond cond;  /* hold released, migrate-continue, cancel */

    struct migration_options options; /* written: machine and m; read: either */
    char *reconnect_listen;           /* m; a URI, NULL: none */
    GPtrArray *reconnect_addresses;   /* m; char * */
    struct policy policy;             /* machine */
    MigrationStatus status;           /* machine */
    GPtrArray *blockers;              /* machine; struct blocker * */
    unsigned next_blocker;

    RunState saved_state;  /* machine; what globalstate says: the state before the stop for the
                              switchover */
    bool loaded_state_set; /* machine; a stream brought globalstate */
    RunState loaded_state;
    bool partial_memory; /* test aid: a stream need not bring every page */

    MigrationHoldPoint hold; /* m */
    bool held;               /* m */

    struct outgoing *out;              /* machine; the last one */
    GPtrArray *checks;                 /* machine; struct check_job *: migrate-check under way */
    unsigned operator_blocker;         /* machine; handle of migrate-set-blocker, 0: none */
    struct incoming *in;               /* machine */
    bool incoming_defer;               /* machine; migrate-incoming may be used */
    struct dirty_rate *dirty_rate;     /* machine */
    struct dirty_limits *dirty_limits; /* machine */
    struct announcer *announcer;       /* machine */
    struct page_hinter *hinter;        /* machine; NULL: none */
    struct premap *premap;             /* made with the machine, then of the incoming thread */
};

/* --- migration.c --- */
GPtrArray *migration_blocker_reasons(
    struct migration *m); /* char *; g_ptr_array_unref(). Machine lock held. */

/* --- qmp.c: what migrate and migrate-check have in common; machine lock held --- */
/* The address that exactly one of the two gives; NULL and *err (USER). */
struct transport_address *migration_address(const char *uri, const GPtrArray *channels,
                                            GError **err);
/* The descriptor behind fd: addresses and /dev/fdset paths, which is the caller's; -1 for others.
 * False: there is no such descriptor. */
bool migration_address_fd(struct vm *vm, struct transport_address *a, int flags, int *fd,
                          GError **err);
/* False and *err (USER): there is no guest here, or it is on its way. */
bool migration_guest_is_here(struct migration *m, GError **err);

/* --- check/check.c --- */
GPtrArray *migration_checks_new(void); /* struct check_job * */
/* Ends what migrate-check still asks; its clients get no answer. Machine lock held; dropped
 * meanwhile. */
void migration_checks_end(struct migration *m);

/* What stands behind the cause in error-desc, before the phase. */
#define MIGRATION_PLACE_SOURCE      ", at the source in phase "
#define MIGRATION_PLACE_DESTINATION ", at the destination in phase "

/* --- state.c --- */
bool migration_transition_legal(MigrationStatus from, MigrationStatus to);
/* Changes the status and emits MIGRATION. An illegal change is a bug of ours and aborts. Machine
 * lock held. */
void migration_set_status(struct migration *m, MigrationStatus to);
/* A migration in either direction is under way. Machine lock held. */
bool migration_is_active(const struct migration *m);
/* The picture of the table for docs, in Graphviz. g_free() */
char *migration_state_dot(void);

/* --- options.c --- */
void migration_options_init(struct migration_options *o);
void migration_options_get(struct migration *m,
                           struct migration_options *o); /* a copy; any thread */
/* One of the timeouts as it is now: migration_timeout(m, ready_timeout). Any thread. */
unsigned migration_timeout_at(struct migration *m, size_t offset);
#define migration_timeout(m, name) migration_timeout_at(m, offsetof(struct migration_options, name))

/* Parameters that are no numbers; copies, any thread. NULL: none. */
struct transport_address *migration_reconnect_listen(struct migration *m);
/* struct transport_address *, maybe none */
GPtrArray *migration_reconnect_addresses(struct migration *m);

/* --- hold.c --- */
/* Waits while this point is held; returns at once when `cancelled` is or becomes true. No machine
 * lock. */
void migration_hold(struct migration *m, MigrationHoldPoint point, atomic_bool *cancelled);

/* --- outgoing side: source.c, switchover.c --- */

/* What a pause consists of, in the order in which it happens. */
enum pause_part {
    PAUSE_STOP,    /* vCPUs stop */
    PAUSE_SYNC,    /* the last look at what was dirtied */
    PAUSE_MEMORY,  /* the rest of the memory, until it is written */
    PAUSE_DEVICES, /* device state, until it is written */
    PAUSE_LOAD,    /* until the destination says that it has loaded everything */
    PAUSE_DISKS,   /* until what was written is on the disks, and they are given up */
    PAUSE_CONFIRM, /* until it says that the guest runs */
    PAUSE_PARTS,
};

struct outgoing_stats {
    int64_t start_ns, active_ns, end_ns; /* CLOCK_MONOTONIC */
    int64_t stop_ns, downtime_ns;        /* guest stopped; 0 until then */
    int64_t pause_ns[PAUSE_PARTS];       /* its parts */
    int64_t disks_left_ns;               /* their locks were given up; 0: there are none */
    int64_t lock_gap_ns;                 /* from then until the guest ran; 0: not known */
    int64_t expected_downtime_us;
    uint64_t bytes, precopy_bytes, downtime_bytes;
    double bytes_per_s; /* measured in the last round */
    uint64_t dirty_pages_per_s, pages_per_s;
    int64_t rtt_ns;
};

/* What a migration has once it may come to post-copy. */
struct postcopy_out {
    atomic_bool wanted;
    struct departure *departure;    /* set with m held; from the switch on */
    struct departure_stream stream; /* the main one; thread only */
    struct mutex urgent_lock;       /* a leaf, but is held while pages are written */
    struct channel *urgent_ch; /* urgent_lock; pages that were asked for; NULL: on the main one */
    struct departure_stream urgent; /* urgent_lock */
    uint64_t bytes_before;          /* sent when the guest left; thread only */
    uint64_t bytes;                 /* m; sent since */
    uint32_t release_ping;          /* thread only, see release_sent(); 0: none is under way */
    uint64_t release_at;            /* bytes sent when it left */
    uint64_t events;                /* m; rises with all that comes on the return path */
    bool left;                      /* m; the guest is on the other side */
    bool ran;                       /* machine; the destination has said that it runs the guest */
    bool paused_by_us;              /* m; migrate-pause */
    bool given_up;                  /* m; migrate-take-back */
    bool abandoned;                 /* m; the process ends */
    struct transport_address
        *resume_addr; /* m; where a paused one is to go on; NULL: nowhere yet */
    int resume_fd;    /* m */
};

struct outgoing {
    struct migration *m;
    struct vm *vm;
    struct migration_options
        options; /* capabilities as they were at the start; parameters: migration_options_get() */
    struct transport_address *addr;
    int fd; /* for fd:, until the transport takes it */
    GThread *thread;
    int cancel_fd; /* eventfd, readable from the cancel on */
    atomic_bool cancelled;
    atomic_bool finished; /* the thread is at its end: it can be joined without waiting */
    bool committed;       /* m; GO, or the end of the stream, is about to leave: no way back */
    bool continued;       /* m; migrate-continue came */
    bool runs_there;      /* machine; the destination has confirmed that it runs the guest */

    struct channel *ch;   /* set with m held */
    struct stream_out *o; /* thread only, like all below */
    struct ram_save *ram;
    struct return_path *rp;    /* NULL: no return path */
    uint64_t features;         /* FERRY_FEATURE_* in use */
    uint32_t rounds;           /* that are over */
    uint32_t drains;           /* waits for the destination to have read everything */
    bool guest_stopped;        /* by us */
    bool was_running;          /* machine; it is to run when it is ours again */
    RunState state_before;     /* machine; the guest's state before we stopped it */
    int64_t clocks_stopped_ns; /* where the guest's pause begins on its own clocks, see
                                  x86_clock_stopped_at() */
    struct policy_run policy;
    uint64_t policy_limit;        /* m; ms that the policy has set last, 0: none */
    uint64_t limit_before;        /* m */
    bool switch_now;              /* the policy: without looking further */
    uint64_t stop_bytes;          /* sent before the guest was stopped */
    uint64_t suspend_ms;          /* the policy: stop the guest for so long; 0: no */
    struct prediction prediction; /* written: the thread with m; read: it, or with m */
    int64_t burst_ns;             /* when the last slice of the round began to leave */
    uint64_t burst_bytes;         /* what it has brought */
    double owed_bytes;            /* sent beyond max-bandwidth; below 0: short of it */
    int64_t owed_ns;              /* when that was so */
    int64_t pause_mark_ns;        /* until here the pause's parts are known */
    struct converge converge;
    bool hints_asked; /* thread only: between page_hints_begin() and _end() */
    struct postcopy_out postcopy;

    struct outgoing_stats stats;      /* m */
    struct migration_history history; /* m */
    MigrationPhase phase;             /* m */
    struct ram_save_stats final_ram;  /* m; once `ram` is gone */
    struct departure_stats final_departure;
    char *error; /* machine; why it failed */
};

/* Starts the thread; takes addr and fd. Machine lock held. */
bool outgoing_start(struct migration *m, struct transport_address *addr, int fd, GError **err);
/* Joins a finished (or, with cancel, any) run and frees it. Machine lock held; dropped while
 * joining. */
void outgoing_free(struct outgoing *out);
/* Asks the run to stop; machine lock held. False and *err after the commit point. */
bool outgoing_cancel(struct outgoing *out, GError **err);
/* The process ends: whatever it still waits for, it waits no longer. Machine lock held. */
void outgoing_abandon(struct outgoing *out);
bool outgoing_check(struct outgoing *out, GError **err); /* cancelled? return path broken? */
/* Opens the link (takes fd) and closes it, with the one for urgent pages where that is wanted; its
 * thread, no machine lock. */
bool outgoing_connect(struct outgoing *out, const struct transport_address *addr, int fd,
                      unsigned timeout_ms, GError **err);
void outgoing_close_link(struct outgoing *out);
/* Puts the guest back to how it was before the stop for the switchover. Machine lock held. */
void outgoing_give_back(struct outgoing *out);
/* Waits until the destination has read all that was sent. Without a return path that is taken for
 * granted. False: it has failed, or, with *late, has only not read it in this time. */
bool outgoing_drain(struct outgoing *out, unsigned timeout_ms, bool *late, GError **err);
/* Sleeps up to ms; false when cancelled meanwhile. */
bool outgoing_sleep(struct outgoing *out, unsigned ms);
/* What the run does or waits for from now on; its thread, without m. */
void outgoing_phase(struct outgoing *out, MigrationPhase phase);
/* Queues a ping. False: so many are unanswered that this one is left out. */
bool outgoing_ping(struct outgoing *out, uint32_t value);
/* Queues a command record (enum stream_command). */
void stream_put_command(struct stream_out *o, unsigned command, const void *payload, uint16_t len);

/* page-hints.c, the thread, no machine lock. Asks the guest which memory it does not need, if it
 * can be asked; ends that, if it was begun. */
void page_hints_begin(struct outgoing *out);
void page_hints_end(struct outgoing *out);

/* switchover.c. Stops the guest, sends the rest, commits. True: the destination has the guest.
 * False: see outgoing_abort(). */
bool switchover_run(struct outgoing *out, bool *again, GError **err);
/* The guest is stopped when so short a pause is expected, whatever a further round might bring. */
#define GOOD_ENOUGH_MS 10.0
/* The pause, in microseconds, if the guest were stopped now with so many pages left; also for
 * query-migrate. */
int64_t switchover_expect(struct outgoing *out, uint64_t remaining_pages);
/* Called once per round: is it time? A yes goes into the history. */
struct switchover_judge {
    uint64_t remaining_before;
    unsigned stalled;
    uint64_t max_bandwidth; /* as it was at the last round's end */
};
bool switchover_due(struct outgoing *out, struct switchover_judge *j,
                    const struct migration_round *round);

/* --- incoming side: incoming.c, greeting.c, destination.c --- */
struct incoming {
    struct migration *m;
    struct vm *vm;
    struct migration_options options;
    struct listener *listener;
    struct transport_address *addr;
    GThread *thread;
    int wake_fd; /* eventfd: a greeting is over, or `cancelled` */
    atomic_bool cancelled;
    atomic_bool finished;
    GPtrArray *greeters;   /* struct greeter *; changed by `thread` with m held */
    struct channel *ch;    /* that brings the guest; set with m held */
    struct mutex ram_lock; /* a leaf; while greetings run they share `ram` */
    struct ram_load *ram;
    bool exit_on_error;
    struct postcopy_in *postcopy; /* machine; NULL: it has not come to that */
    struct urgent *urgent;        /* connections for urgent pages; NULL: none are expected */
    atomic_bool taken;    /* a guest comes: who has said nothing yet is not asked any more */
    MigrationPhase phase; /* m */
    char *error;          /* machine */
};
bool incoming_start(struct migration *m, struct transport_address *addr, int fd, bool exit_on_error,
                    GError **err);
void incoming_free(struct incoming *in);
/* The main connection is there: the listening socket is closed, or goes to `urgent` where further
 * ones belong to it (postcopy-preempt). The incoming thread. */
void incoming_take_listener(struct incoming *in);
/*
 * The load itself, from a connected channel to the running guest; the status must be setup. A
 * failure is told to the source and leaves the status as it is. For tests, which have no thread and
 * no listener. Without the machine lock.
 */
bool incoming_load(struct incoming *in, struct channel *ch, GError **err);

/* --- vm-state.c: the sections of the machine itself --- */
void migration_register_vm_state(struct migration *m);

/* --- configuration.c --- */
/* What a source says of itself before anything else. */
struct configuration {
    char machine[256];
    bool ignore_shared, has_uuid;
    uint8_t uuid[16];
    char unknown[256]; /* a capability that this side does not have, "" for none */
};
struct stream_in;
void configuration_save(struct outgoing *out, struct stream_out *o);
/* Reads it behind its type byte; any thread. */
bool configuration_read(struct stream_in *s, struct configuration *c, GError **err);
/* Whether it fits this machine and the capabilities in `in`. */
bool configuration_check(const struct incoming *in, const struct configuration *c, GError **err);

/* --- stats.c --- */
MigrationInfo *migration_info(struct migration *m);

#endif
