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

/* The decision is written down where it says something new: the beginning, and each change that a
 * guest would feel. */
static void set(struct outgoing *out, unsigned percent, const char *why)
{
    unsigned before = vcpu_throttle_get(out->vm);
    bool feel = (before == 0) != (percent == 0) || percent + 10 <= before || before + 10 <= percent;

    if (percent == before) {
        return;
    }
    vcpu_throttle_set(out->vm, percent);
    if (feel) {
        history_decide(out, MIGRATION_ACTION_THROTTLE, (int64_t)percent, "%s", why);
    }
}

void converge_start(struct outgoing *out)
{
    struct converge *c = &out->converge;

    c->look_every_ns = LOOK_NS;
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
    int64_t since = migration_now_ns() - c->looked_ns;

    return since >= c->look_every_ns &&
           (out->o->bytes - c->looked_bytes >= LOOK_BYTES || since >= LOOK_MOST_NS);
}

static void look(struct outgoing *out, const struct throttle_params *p)
{
    struct converge *c = &out->converge;
    const struct accel_ops *ops = out->vm->accel->ops;
    int64_t before = migration_now_ns();
    uint64_t pages;

    if (!ops->dirty_count || !ops->dirty_count(out->vm, &pages)) {
        c->cannot_count = true;
        return;
    }
    int64_t now = migration_now_ns();

    c->look_every_ns = MAX(LOOK_NS, (now - before) * LOOK_COST);
    if (c->looked_ns) {
        double seconds = (double)(now - c->looked_ns) / 1e9;
        double link = link_pages_per_s(out, seconds);

        set(out, throttle_look(&c->throttle, p, pages - c->looked_pages, seconds, link),
            "The guest writes faster than the link carries");
    }
    c->looked_ns = now;
    c->looked_pages = pages;
    c->looked_bytes = out->o->bytes;
}

void converge_tick(struct outgoing *out)
{
    struct converge *c = &out->converge;

    /* until all memory has gone once, whatever the guest writes is mostly still to be sent */
    if (out->rounds && throttles(out) && !c->cannot_count && time_to_look(out)) {
        struct throttle_params p = params_now(out);

        if (!p.ladder) {
            look(out, &p);
        }
    }
}

void converge_round(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;

    if (throttles(out)) {
        struct throttle_params p = params_now(out);

        if (p.ladder || c->cannot_count) {
            set(out,
                throttle_round(&c->throttle, &p, round->bytes / WIRE_PAGE, round->dirtied_pages),
                "The guest writes faster than the link carries");
        } else if (time_to_look(out)) {
            look(out, &p);
        }
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
