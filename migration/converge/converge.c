/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between the rounds of a migration and the brakes on its vCPUs: measures, asks throttle.c or
 * dirty-limit.c, and sets. Every end of a migration comes through converge_stop(), so that no guest
 * goes on with a brake of a migration that is over.
 */
#include "migration/converge/converge.h"

#include "accel/accel.h"
#include "migration/converge/dirty-limit.h"
#include "migration/internal.h"
#include "system/throttle.h"
#include "system/vm.h"

#define LOOK_NS      (100 * INT64_C(1000000))
#define LOOK_MOST_NS (1000 * INT64_C(1000000))
#define LOOK_BYTES   (1u << 20)
/* Pages that became dirty to pages sent, in the first round. */
#define HOPELESS       0.6
#define HOPELESS_LOOKS 3
#define TELL_NS        (1000 * INT64_C(1000000))
#define TELL_PERCENT   10
/* A look reads a bit for each page of the guest: with very large ones it may take at most this part
 * of the time. */
#define LOOK_COST 50
/* What one page costs on the wire. */
#define WIRE_PAGE (TARGET_PAGE_SIZE + 8)

static bool throttles(const struct outgoing *out)
{
    return out->options.caps[MIGRATION_CAPABILITY_AUTO_CONVERGE];
}

static struct throttle_params params_now(struct outgoing *out)
{
    struct migration_options now;

    migration_options_get(out->m, &now);
    return (struct throttle_params){
        .trigger = (unsigned)now.throttle_trigger_threshold,
        .initial = (unsigned)now.cpu_throttle_initial,
        .increment = (unsigned)now.cpu_throttle_increment,
        .max = (unsigned)now.max_cpu_throttle,
        .tailslow = now.cpu_throttle_tailslow,
        .ladder = now.throttle_ladder,
    };
}

/* The decision is written down where it says something new: the beginning, and now and then a
 * change that a guest would feel. */
static void set(struct outgoing *out, unsigned percent, const char *why)
{
    struct converge *c = &out->converge;
    unsigned by = percent > c->told ? percent - c->told : c->told - percent;
    int64_t now = monotonic_ns();

    vcpu_throttle_set(out->vm, percent);
    if (by && (!c->told || (by >= TELL_PERCENT && now - c->told_ns >= TELL_NS))) {
        c->told = percent;
        c->told_ns = now;
        history_decide(out, MIGRATION_ACTION_THROTTLE, (int64_t)percent, "%s", why);
    }
}

void converge_start(struct outgoing *out)
{
    struct converge *c = &out->converge;

    c->look_every_ns = LOOK_NS;
    c->throttle.per_round = out->vm->accel->dirty_ring_size > 0;
    if (out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        dirty_limit_begin(out);
    }
}

/* What the link carries now: it may have become another one since the last round. */
static double link_pages_per_s(struct outgoing *out, double seconds)
{
    struct converge *c = &out->converge;
    double carried = (double)(out->o->bytes - c->looked_bytes) / seconds;

    if (!c->link) {
        mutex_lock(&out->m->lock);
        c->link = out->stats.bytes_per_s;
        mutex_unlock(&out->m->lock);
    }
    c->link = (c->link + carried) / 2;
    return c->link / WIRE_PAGE;
}

/* Is there something to be seen? What a few pages took says nothing about the link. */
static bool time_to_look(const struct outgoing *out)
{
    const struct converge *c = &out->converge;
    int64_t since = monotonic_ns() - c->looked_ns;

    return since >= c->look_every_ns &&
           (out->o->bytes - c->looked_bytes >= LOOK_BYTES || since >= LOOK_MOST_NS);
}

/*
 * The first round is the guest's, and it tells how fast the link is. A guest that dirties what has
 * been sent about as fast as it is sent will have written to all of it by the end. Then it only
 * loses by having each write noticed: it may as well write on undisturbed.
 */
static void first_round(struct outgoing *out, double ratio)
{
    struct converge *c = &out->converge;

    c->high_looks = ratio >= HOPELESS ? c->high_looks + 1 : 0;
    if (c->high_looks >= HOPELESS_LOOKS) {
        c->hopeless = true;
        ram_save_leave_dirty(out->ram);
    }
}

static void look(struct outgoing *out, const struct throttle_params *p)
{
    struct converge *c = &out->converge;
    const struct accel_ops *ops = out->vm->accel->ops;
    int64_t before = monotonic_ns();
    uint64_t pages;

    if (!ops->dirty_count || !ops->dirty_count(out->vm, &pages)) {
        c->cannot_count = true;
        return;
    }
    int64_t now = monotonic_ns();

    c->look_every_ns = MAX(LOOK_NS, (now - before) * LOOK_COST);
    if (c->looked_ns) {
        double seconds = (double)(now - c->looked_ns) / 1e9;
        double link = link_pages_per_s(out, seconds);

        if (out->rounds) {
            set(out, throttle_look(&c->throttle, p, pages - c->looked_pages, seconds, link),
                "The guest writes faster than the link carries");
        } else {
            first_round(out, (double)(pages - c->looked_pages) / seconds / link);
        }
    }
    c->looked_ns = now;
    c->looked_pages = pages;
    c->looked_bytes = out->o->bytes;
}

void converge_tick(struct outgoing *out)
{
    struct converge *c = &out->converge;
    bool idle = out->rounds ? c->enough : c->hopeless;

    if (throttles(out) && !idle && !c->cannot_count && time_to_look(out)) {
        struct throttle_params p = params_now(out);

        if (!p.ladder) {
            look(out, &p);
        }
    }
}

static void throttle_after(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;
    struct throttle_params p = params_now(out);
    struct migration_options now;

    migration_options_get(out->m, &now);
    /* what is left fits the pause that is allowed: a guest need not be slowed any further for it,
     * nor could it be, by what it writes to all the time */
    c->enough = (uint64_t)MAX(round->expected_downtime_us, 0) <= now.downtime_limit * 1000;
    if (p.ladder || ((c->cannot_count || c->throttle.per_round) && !c->enough)) {
        set(out,
            throttle_round(&c->throttle, &p, round->bytes / WIRE_PAGE, round->dirtied_pages,
                           c->cannot_count),
            "The guest writes faster than the link carries");
    } else if (!c->cannot_count && !c->enough && time_to_look(out)) {
        look(out, &p);
    } else {
        set(out, MIN(vcpu_throttle_get(out->vm), p.max), "max-cpu-throttle was lowered");
    }
}

void converge_round(struct outgoing *out, const struct migration_round *round)
{
    if (throttles(out)) {
        throttle_after(out, round);
    }
    if (out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        dirty_limit_round(out, round);
    }
}

void converge_stop(struct outgoing *out)
{
    vcpu_throttle_set(out->vm, 0);
    if (out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        dirty_limit_end(out);
    }
}
