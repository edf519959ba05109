/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a machine says about its migration at one moment (query-status, query-migrate), taken out of
 * JSON once, so that everything behind works with clean strings and numbers in range.
 *
 * Whatever is missing or of the wrong type is unknown: NULL, or -1 for numbers. QEMU says neither
 * rounds nor decisions, so the arrays are empty then.
 */
#ifndef FERRYCTL_MOVE_H
#define FERRYCTL_MOVE_H

#include "ctl.h"
#include "qmp.h"

/* One pass over the guest's memory; bytes, microseconds, bytes per second. */
struct move_round {
    int64_t number, start_us, duration_us, bytes, dirtied_pages, remaining_pages, bandwidth;
    int64_t throttle; /* percent */
    int64_t expected_downtime_us;
};

struct move_decision {
    int64_t round, time_ms, value; /* value -1: none */
    char *action, *reason;
};

/* [MOVE_PAUSE_WHOLE] is the sum of the others. */
enum { MOVE_PAUSE_WHOLE, MOVE_PAUSE_PARTS = 7 };
extern const char *const move_pause_names[MOVE_PAUSE_PARTS];

typedef struct move {
    unsigned references;
    int64_t taken_us; /* monotonic */
    char *run_state;  /* NULL when not asked for */
    char *status;     /* NULL: there has been no migration */
    char *error, *policy, *phase;
    bool has_ram, listens;
    int64_t transferred, remaining, total, dirty_pages_rate, syncs, page_size;
    double bandwidth; /* bytes per second, as now; negative when unknown */
    int64_t total_ms, setup_ms, downtime_ms, expected_downtime_ms, expected_total_ms, deadline_ms;
    int64_t throttle; /* -1: not throttled or unknown */
    /* what the pause consisted of, microseconds, in the order of move_pause_names; -1: unknown */
    int64_t pause_us[MOVE_PAUSE_PARTS];
    GPtrArray *blocked;   /* char *, clean */
    GArray *rounds;       /* struct move_round */
    GPtrArray *decisions; /* struct move_decision * */
} move;

/* From the value of query-migrate. */
move *move_parse(const struct ctl *ctl, json_t *info);
/* Asks a machine; run_state is left NULL. */
move *move_query(const struct ctl *ctl, qmp *q, GError **err);
/* A move is not changed once it has been read; whoever shows it keeps a reference. One thread. */
move *move_ref(move *m);
void move_unref(move *m);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(move, move_unref)

/* No further news will come about it: completed, failed, cancelled. */
bool move_is_over(const move *m);
/* There is one that is not over. */
bool move_is_running(const move *m);
/* Bytes per second that the guest dirties; -1 when unknown. */
double move_dirty_rate(const move *m);
/* How many rounds there were, 0 when unknown: what the history says, or else QEMU's count, in which
 * the first and the last collection of dirty pages are one each. */
int64_t move_round_count(const move *m);
/* The size of pages that rounds count in. */
int64_t move_page_size(const move *m);

/* What the migration is doing or waiting for, in words; NULL when unknown. The move's. */
const char *move_phase_text(const move *m);
/* How long the guest was paused, microseconds; -1 when unknown. */
int64_t move_pause_us(const move *m);

/* With a run state, of a move in post-copy: the guest came here, and did not leave from here. */
bool move_is_incoming(const move *m);
/* Where the guest is, as a sentence without a full stop; from run state and status. */
char *move_whereabouts(const move *m);

/* "throttle 60 %: The guest writes faster...": what was decided, with its unit, and why. */
char *move_decision_text(const struct move_decision *d);

/* Members as --json has them; see ferryctl(1). */
json_t *move_to_json(const move *m, const char *type);
json_t *move_round_to_json(const struct move_round *r);
json_t *move_decision_to_json(const struct move_decision *d);
/* The way back, for recorded lines; rounds and decisions are added to m. */
void move_from_json(const struct ctl *ctl, move *m, json_t *line);

#endif
