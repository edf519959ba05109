/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The reckoning of the throttle; see throttle.h. */
#include "migration/converge/throttle.h"

#include <glib.h>

/* Pages to be sent again, as a part of those sent. */
#define AIM 0.5
/* How many looks in a row must be above the trigger before the guest is touched. */
#define LOOKS 2
/* How many rounds, for the ladder. */
#define ROUNDS 2
/* A look at a few pages, or one that met a pause of the host, must not turn the throttle over. */
#define DOWN_MOST 0.4
#define UP_MOST   2.0
/* A round in which this part became dirty again: all of it, as far as can be told. */
#define ALL 0.9
/* So few pages say nothing: a guest always writes to some, its clock and its stack. */
#define PAGES_LEAST 64

static double share_least(const struct throttle_params *p)
{
    return (100.0 - p->max) / 100.0;
}

static unsigned percent(const struct throttle *t, const struct throttle_params *p)
{
    return t->engaged ? MIN((unsigned)(100.0 * (1.0 - t->share) + 0.5), p->max) : 0;
}

/* More, or less, by what separates `ratio` (dirtied to sent) from the aim; by a factor of `down` to
 * `up`. */
static void steer(struct throttle *t, const struct throttle_params *p, double ratio, double down,
                  double up)
{
    double factor = ratio > 0 ? AIM / ratio : up;

    t->share = CLAMP(t->share * CLAMP(factor, down, up), share_least(p), 1.0);
}

unsigned throttle_look(struct throttle *t, const struct throttle_params *p, uint64_t pages,
                       double seconds, double link_pages_per_s)
{
    if (seconds <= 0 || link_pages_per_s <= 0) {
        return percent(t, p);
    }
    double ratio = (double)pages / seconds / link_pages_per_s;

    if (pages < PAGES_LEAST && ratio > AIM) {
        return percent(t, p);
    }
    if (!t->engaged) {
        t->high_looks = ratio * 100 > p->trigger ? t->high_looks + 1 : 0;
        t->engaged = t->high_looks >= LOOKS;
        t->share = 1.0;
    }
    if (t->engaged) {
        steer(t, p, ratio, DOWN_MOST, t->per_round ? 1.0 : UP_MOST);
    }
    return percent(t, p);
}

/* One more step of the ladder. */
static void step(struct throttle *t, const struct throttle_params *p, double ratio)
{
    unsigned now = percent(t, p), by = p->increment;

    if (!t->engaged) {
        t->engaged = true;
        t->share = 1.0 - p->initial / 100.0;
    } else {
        if (p->tailslow) {
            /* what would bring it just below the trigger, if writing follows the share */
            double enough = 100.0 - (100.0 - now) * p->trigger / 100.0 / ratio;

            by = MIN(by, enough > now ? (unsigned)(enough - now) : 0);
        }
        t->share = 1.0 - (now + by) / 100.0;
    }
    t->share = MAX(t->share, share_least(p));
}

unsigned throttle_round(struct throttle *t, const struct throttle_params *p, uint64_t sent_pages,
                        uint64_t dirtied_pages, bool blind)
{
    double ratio = (double)dirtied_pages / (double)MAX(sent_pages, UINT64_C(1));
    bool high = ratio * 100 > p->trigger;

    t->high = high ? t->high + 1 : 0;
    if (p->ladder) {
        if (t->high >= ROUNDS) {
            t->high = 0;
            step(t, p, ratio);
        }
        return percent(t, p);
    }
    if (!t->engaged) {
        t->engaged = t->high >= ROUNDS;
        t->share = 1.0;
    }
    if (t->engaged && (blind || ratio < AIM || ratio > ALL)) {
        /* a round in which everything became dirty may have been far beyond the link */
        steer(t, p, ratio, blind && ratio > ALL ? 0.25 : DOWN_MOST, UP_MOST);
    }
    return percent(t, p);
}
