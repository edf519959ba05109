/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real-time clock (data sheet: Motorola MC146818A).
 *
 * Time. The clock does not tick. It knows that it stood at base_rtc seconds plus offset ns when the
 * RTC's source clock (-rtc clock=: the host's time, the host's monotonic clock, or the virtual
 * clock) stood at last_update, and computes the present time when somebody looks. Setting the time
 * moves this anchor. While the guest holds the clock (SET, or the divider in reset) the time is
 * what the CMOS bytes say.
 *
 * Flags. Update and alarm flags are computed likewise: rtc_catch_up() goes through the seconds
 * since it last looked. A timer makes it look at the end of each second while an interrupt by them
 * is enabled; else it looks when the guest reads register C.
 *
 * Timers are on the virtual clock, deadlines on the source clock. With a host clock the virtual one
 * stands still while the machine is stopped, so a deadline can pass meanwhile; the handlers look at
 * the source clock, never at how often they were called.
 *
 * Lost periodic interrupts: with -rtc driftfix=slew a tick that comes while the last one is not
 * acknowledged yet (register C not read) is counted, and given later, on acknowledge.
 *
 * In the stream: the anchor, the CMOS bytes, and the deadlines in QEMU's terms. With the host's
 * time as source the anchor means the same on the destination, so the guest's clock goes on through
 * the move; with the other two it goes on from where it stood.
 */
#include <string.h>
#include <time.h>

#include "hw/rtc/mc146818rtc.h"

#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "system/config.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/clock.h"

#define RTC_PORT   0x70
#define CMOS_SIZE  128
#define CMOS_LOOSE 0x7f /* index bits */

#define NS_PER_SECOND INT64_C(1000000000)
#define DAY           86400
/* "Update in progress" shows this long before the second ends. */
#define UIP_NS (8 * NS_PER_SECOND / PERIODIC_HZ)
/* The first second after the divider's reset has half its length. */
#define DIVIDER_START_NS (NS_PER_SECOND / 2)
#define PERIODIC_HZ      32768
/* Ticks given on acknowledge in a row at most, so that a guest gets on with something else. */
#define REINJECT_MAX 20
/* Lost ticks remembered at most. */
#define COALESCED_MAX 100000

enum cmos {
    CMOS_SECOND = 0x00,
    CMOS_SECOND_ALARM = 0x01,
    CMOS_MINUTE = 0x02,
    CMOS_MINUTE_ALARM = 0x03,
    CMOS_HOUR = 0x04,
    CMOS_HOUR_ALARM = 0x05,
    CMOS_DAY_OF_WEEK = 0x06,
    CMOS_DAY = 0x07,
    CMOS_MONTH = 0x08,
    CMOS_YEAR = 0x09,
    CMOS_A = 0x0a,
    CMOS_B = 0x0b,
    CMOS_C = 0x0c,
    CMOS_D = 0x0d,
    CMOS_BASE_MEMORY = 0x15,     /* 2 bytes, KiB */
    CMOS_EXTENDED_MEMORY = 0x17, /* 2 bytes, KiB from 1 MiB, at most 65535; again at 0x30 */
    CMOS_EXTENDED_MEMORY_2 = 0x30,
    CMOS_CENTURY = 0x32,
    CMOS_MEMORY_ABOVE_16M = 0x34, /* 2 bytes, 64 KiB units */
    CMOS_CENTURY_PS2 = 0x37,      /* another name of CMOS_CENTURY */
    CMOS_MEMORY_ABOVE_4G = 0x5b,  /* 3 bytes, 64 KiB units */
};

enum {
    A_UIP = 0x80,
    A_DIVIDER = 0x70,
    A_DIVIDER_RESET = 0x60, /* and above: the clock stands */
    A_RATE = 0x0f,
    B_SET = 0x80,
    B_PERIODIC = 0x40,
    B_ALARM = 0x20,
    B_UPDATE = 0x10,
    B_SQUARE_WAVE = 0x08,
    B_BINARY = 0x04,
    B_24H = 0x02,
    C_IRQ = 0x80,
    C_PERIODIC = 0x40,
    C_ALARM = 0x20,
    C_UPDATE = 0x10,
    D_VALID = 0x80,
    HOUR_PM = 0x80,
    ALARM_ANY = 0xc0, /* both bits set: any value will do */
};

/* What is saved, in the shape the wire has. Times in ns of the source clock; -1 not armed. */
struct rtc_state {
    uint8_t cmos[CMOS_SIZE];
    uint8_t index;
    int64_t periodic_timer, next_periodic;
    uint32_t irq_coalesced;
    uint32_t period; /* of the periodic interrupt, 1/32768 s; 0: none */
    uint64_t base_rtc;
    uint64_t last_update;
    int64_t offset;
    int64_t update_timer;
    uint64_t next_alarm;
    uint16_t reinject_count;
};

struct rtc {
    struct device dev;
    unsigned irq;
    int clock; /* RTC_CLOCK_... */
    bool slew;
    struct rtc_state s; /* timers: only next_periodic is kept here */
    int64_t seen;       /* second up to which flags are computed */
    struct vm_timer *periodic, *update;
};

static int64_t source_ns(const struct rtc *rtc)
{
    switch (rtc->clock) {
    case RTC_CLOCK_HOST:
        return clock_ns(CLOCK_REALTIME);
    case RTC_CLOCK_RT:
        return monotonic_ns();
    default:
        return vm_clock_ns(rtc->dev.vm);
    }
}

/* Arms a timer for a time of the source clock. */
static void arm(struct rtc *rtc, struct vm_timer *timer, int64_t at_ns)
{
    int64_t wait = at_ns - source_ns(rtc);

    vm_timer_mod(timer, vm_clock_ns(rtc->dev.vm) + MAX(wait, 0));
}

/*
 * The time in ns since 1970. The arithmetic is modulo 2^64: anchors come from streams, and a wild
 * one must give a wrong time, nothing worse.
 */
static int64_t time_ns(const struct rtc *rtc)
{
    return (int64_t)(rtc->s.base_rtc * (uint64_t)NS_PER_SECOND +
                     ((uint64_t)source_ns(rtc) - rtc->s.last_update) + (uint64_t)rtc->s.offset);
}

static int64_t floor_seconds(int64_t ns)
{
    return ns / NS_PER_SECOND - (ns % NS_PER_SECOND < 0);
}

static int64_t subsecond_ns(int64_t ns)
{
    return ns - floor_seconds(ns) * NS_PER_SECOND;
}

/* The guest holds the clock: time does not pass. */
static bool held(const struct rtc *rtc)
{
    return (rtc->s.cmos[CMOS_B] & B_SET) || (rtc->s.cmos[CMOS_A] & A_DIVIDER) >= A_DIVIDER_RESET;
}

/* The source clock's time at which the time will be `seconds`. */
static int64_t source_at(const struct rtc *rtc, int64_t seconds)
{
    return (int64_t)((uint64_t)source_ns(rtc) + (uint64_t)seconds * (uint64_t)NS_PER_SECOND -
                     (uint64_t)time_ns(rtc));
}

/* CMOS bytes and numbers */

static uint8_t encode(const struct rtc *rtc, unsigned v)
{
    return (uint8_t)(rtc->s.cmos[CMOS_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t v)
{
    return rtc->s.cmos[CMOS_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 0x0f);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
    if (rtc->s.cmos[CMOS_B] & B_24H) {
        return encode(rtc, hour);
    }
    return (uint8_t)(encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t v)
{
    if (rtc->s.cmos[CMOS_B] & B_24H) {
        return decode(rtc, v);
    }
    return decode(rtc, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

static void time_to_cmos(struct rtc *rtc, int64_t seconds)
{
    uint8_t *cmos = rtc->s.cmos;
    time_t t = (time_t)seconds;
    struct tm tm;
    unsigned year;

    if (!gmtime_r(&t, &tm)) {
        return; /* a year beyond int: the bytes stay */
    }
    year = (unsigned)(tm.tm_year + 1900) % 10000;
    cmos[CMOS_SECOND] = encode(rtc, (unsigned)tm.tm_sec);
    cmos[CMOS_MINUTE] = encode(rtc, (unsigned)tm.tm_min);
    cmos[CMOS_HOUR] = encode_hour(rtc, (unsigned)tm.tm_hour);
    cmos[CMOS_DAY_OF_WEEK] = encode(rtc, (unsigned)tm.tm_wday + 1);
    cmos[CMOS_DAY] = encode(rtc, (unsigned)tm.tm_mday);
    cmos[CMOS_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
    cmos[CMOS_YEAR] = encode(rtc, year % 100);
    cmos[CMOS_CENTURY] = encode(rtc, year / 100);
}

static int64_t cmos_to_time(const struct rtc *rtc)
{
    const uint8_t *cmos = rtc->s.cmos;
    /* numbers out of range, which a guest may write, carry over as timegm() does it */
    struct tm tm = {
        .tm_sec = (int)decode(rtc, cmos[CMOS_SECOND]),
        .tm_min = (int)decode(rtc, cmos[CMOS_MINUTE]),
        .tm_hour = (int)decode_hour(rtc, cmos[CMOS_HOUR]),
        .tm_mday = (int)decode(rtc, cmos[CMOS_DAY]),
        .tm_mon = (int)decode(rtc, cmos[CMOS_MONTH]) - 1,
        .tm_year =
            (int)(decode(rtc, cmos[CMOS_CENTURY]) * 100 + decode(rtc, cmos[CMOS_YEAR])) - 1900,
    };

    return timegm(&tm);
}

/* The time becomes `seconds` and `fraction` ns now. */
static void set_time(struct rtc *rtc, int64_t seconds, int64_t fraction)
{
    rtc->s.base_rtc = (uint64_t)seconds;
    rtc->s.last_update = (uint64_t)source_ns(rtc);
    rtc->s.offset = fraction;
    rtc->seen = seconds;
}

/* Interrupts */

static void update_line(struct rtc *rtc)
{
    uint8_t *cmos = rtc->s.cmos;
    uint8_t mask = B_PERIODIC | B_ALARM | B_UPDATE; /* the same bits in B and C */

    if (cmos[CMOS_C] & cmos[CMOS_B] & mask) {
        cmos[CMOS_C] |= C_IRQ;
    } else {
        cmos[CMOS_C] &= (uint8_t)~C_IRQ;
    }
    vm_irq_set(rtc->dev.vm, rtc->irq, cmos[CMOS_C] & C_IRQ);
}

struct alarm {
    int second, minute, hour; /* -1: any */
};

static struct alarm get_alarm(const struct rtc *rtc)
{
    const uint8_t *cmos = rtc->s.cmos;
    uint8_t s = cmos[CMOS_SECOND_ALARM], m = cmos[CMOS_MINUTE_ALARM], h = cmos[CMOS_HOUR_ALARM];

    return (struct alarm){
        .second = s >= ALARM_ANY ? -1 : (int)decode(rtc, s),
        .minute = m >= ALARM_ANY ? -1 : (int)decode(rtc, m),
        .hour = h >= ALARM_ANY ? -1 : (int)decode_hour(rtc, h),
    };
}

/*
 * The first second from t on in which the alarm comes; t + DAY where it comes in none (an hour that
 * no day has). A move asks this while the guest stands still: it goes by hours and minutes.
 */
static int64_t alarm_from(const struct alarm *a, int64_t t)
{
    int64_t end = t + DAY;

    while (t < end) {
        int in_day = (int)((t % DAY + DAY) % DAY);

        if (a->hour >= 0 && a->hour != in_day / 3600) {
            t += 3600 - in_day % 3600;
        } else if (a->minute >= 0 && a->minute != in_day / 60 % 60) {
            t += 60 - in_day % 60;
        } else if (a->second >= 0 && a->second != in_day % 60) {
            t++;
        } else {
            return t;
        }
    }
    return end;
}

static bool wants_updates(const struct rtc *rtc)
{
    return (rtc->s.cmos[CMOS_B] & (B_ALARM | B_UPDATE)) && !held(rtc);
}

/* Sets the flags of all seconds that have ended; arms the timer for the next where that matters. */
static void rtc_catch_up(struct rtc *rtc)
{
    int64_t now = floor_seconds(time_ns(rtc));

    if (held(rtc)) {
        vm_timer_del(rtc->update);
        return;
    }
    if (now > rtc->seen) {
        struct alarm alarm = get_alarm(rtc);
        /* a day has every time of day once */
        int64_t from = now - rtc->seen > DAY ? now - DAY : rtc->seen;

        rtc->s.cmos[CMOS_C] |= C_UPDATE;
        if (alarm_from(&alarm, from + 1) <= now) {
            rtc->s.cmos[CMOS_C] |= C_ALARM;
        }
    }
    rtc->seen = now;
    if (wants_updates(rtc)) {
        arm(rtc, rtc->update, source_at(rtc, now + 1));
    } else {
        vm_timer_del(rtc->update);
    }
}

static void on_update(void *opaque)
{
    struct rtc *rtc = opaque;

    rtc_catch_up(rtc);
    update_line(rtc);
}

/* The periodic interrupt */

static uint32_t selected_period(const struct rtc *rtc)
{
    unsigned rate = rtc->s.cmos[CMOS_A] & A_RATE;

    if (!(rtc->s.cmos[CMOS_B] & B_PERIODIC) || rate == 0) {
        return 0;
    }
    /* the two fastest of the 32 kHz time base stand for slow ones */
    return UINT32_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

static int64_t period_ticks(int64_t ns)
{
    return (int64_t)((__int128)ns * PERIODIC_HZ / NS_PER_SECOND);
}

static int64_t ticks_ns(int64_t ticks)
{
    return (int64_t)((__int128)ticks * NS_PER_SECOND / PERIODIC_HZ) + 1;
}

/* Arms the periodic timer for the next multiple of the period. */
static void periodic_arm(struct rtc *rtc)
{
    int64_t period = rtc->s.period, ticks;

    if (period == 0) {
        vm_timer_del(rtc->periodic);
        return;
    }
    ticks = period_ticks(source_ns(rtc));
    rtc->s.next_periodic = ticks_ns(ticks - ticks % period + period);
    arm(rtc, rtc->periodic, rtc->s.next_periodic);
}

static void periodic_update(struct rtc *rtc)
{
    uint32_t period = selected_period(rtc);

    if (period != rtc->s.period) {
        rtc->s.period = period;
        rtc->s.irq_coalesced = 0;
        periodic_arm(rtc);
    }
}

static void on_periodic(void *opaque)
{
    struct rtc *rtc = opaque;
    int64_t late;

    if (rtc->s.period == 0) {
        return;
    }
    late = period_ticks(source_ns(rtc)) - period_ticks(rtc->s.next_periodic);
    if (rtc->slew) {
        int64_t lost = late > 0 ? late / rtc->s.period : 0;

        lost += (rtc->s.cmos[CMOS_C] & C_PERIODIC) != 0;
        rtc->s.irq_coalesced = (uint32_t)MIN((int64_t)rtc->s.irq_coalesced + lost, COALESCED_MAX);
    }
    rtc->s.cmos[CMOS_C] |= C_PERIODIC;
    periodic_arm(rtc);
    update_line(rtc);
}

/* The guest acknowledged a tick: it may have the next one that was lost. */
static void reinject(struct rtc *rtc)
{
    if (rtc->s.irq_coalesced == 0) {
        rtc->s.reinject_count = 0;
        return;
    }
    if (rtc->s.reinject_count >= REINJECT_MAX) {
        rtc->s.reinject_count = 0; /* goes on with the next regular tick */
        return;
    }
    rtc->s.reinject_count++;
    rtc->s.irq_coalesced--;
    rtc->s.cmos[CMOS_C] |= C_PERIODIC;
    update_line(rtc);
}

/* Registers */

static unsigned selected_register(const struct rtc *rtc)
{
    return rtc->s.index == CMOS_CENTURY_PS2 ? CMOS_CENTURY : rtc->s.index;
}

static uint8_t read_c(struct rtc *rtc)
{
    uint8_t c;
    bool periodic;

    rtc_catch_up(rtc);
    update_line(rtc);
    c = rtc->s.cmos[CMOS_C];
    periodic = c & C_PERIODIC;
    rtc->s.cmos[CMOS_C] = 0;
    update_line(rtc);
    if (periodic && rtc->slew) {
        reinject(rtc);
    }
    return c;
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size G_GNUC_UNUSED)
{
    struct rtc *rtc = opaque;
    unsigned index = selected_register(rtc);
    int64_t now;

    if (offset == 0) {
        return 0xff; /* the index is write only */
    }
    switch (index) {
    case CMOS_SECOND:
    case CMOS_MINUTE:
    case CMOS_HOUR:
    case CMOS_DAY_OF_WEEK:
    case CMOS_DAY:
    case CMOS_MONTH:
    case CMOS_YEAR:
    case CMOS_CENTURY:
        if (!held(rtc)) {
            time_to_cmos(rtc, floor_seconds(time_ns(rtc)));
        }
        return rtc->s.cmos[index];
    case CMOS_A:
        now = time_ns(rtc);
        return rtc->s.cmos[CMOS_A] |
               (!held(rtc) && subsecond_ns(now) >= NS_PER_SECOND - UIP_NS ? A_UIP : 0);
    case CMOS_C:
        return read_c(rtc);
    default:
        return rtc->s.cmos[index];
    }
}

/* A time register changes while the clock runs: the new time counts from the same fraction on. */
static void write_time(struct rtc *rtc, unsigned index, uint8_t value)
{
    int64_t now = time_ns(rtc);

    if (held(rtc)) {
        rtc->s.cmos[index] = value;
        return;
    }
    time_to_cmos(rtc, floor_seconds(now));
    rtc->s.cmos[index] = value;
    set_time(rtc, cmos_to_time(rtc), subsecond_ns(now));
    rtc_catch_up(rtc);
}

static void write_a(struct rtc *rtc, uint8_t value)
{
    bool was_held = held(rtc);
    int64_t now = time_ns(rtc);
    uint8_t divider = rtc->s.cmos[CMOS_A] & A_DIVIDER;

    rtc->s.cmos[CMOS_A] = value & (uint8_t)~A_UIP;
    if (held(rtc) && !was_held) {
        time_to_cmos(rtc, floor_seconds(now));
        rtc->s.offset = subsecond_ns(now);
    } else if (was_held && !held(rtc)) {
        /* out of the divider's reset (SET is checked in write_b) */
        set_time(rtc, cmos_to_time(rtc),
                 divider >= A_DIVIDER_RESET ? NS_PER_SECOND - DIVIDER_START_NS : 0);
    }
    periodic_update(rtc);
    rtc_catch_up(rtc);
}

static void write_b(struct rtc *rtc, uint8_t value)
{
    bool was_held = held(rtc);
    int64_t now = time_ns(rtc);
    uint8_t changed = rtc->s.cmos[CMOS_B] ^ value;

    rtc_catch_up(rtc); /* the flags so far are those of the old setting */
    if (!was_held) {
        time_to_cmos(rtc, floor_seconds(now));
    }
    if (value & B_SET) {
        value &= (uint8_t)~B_UPDATE; /* setting SET clears the update interrupt */
    }
    rtc->s.cmos[CMOS_B] = value;
    if (held(rtc) && !was_held) {
        rtc->s.offset = subsecond_ns(now);
    } else if (was_held && !held(rtc)) {
        set_time(rtc, cmos_to_time(rtc), subsecond_ns(rtc->s.offset));
    } else if (!held(rtc) && (changed & (B_BINARY | B_24H))) {
        time_to_cmos(rtc, floor_seconds(now)); /* the same time in the new form */
    }
    periodic_update(rtc);
    rtc_catch_up(rtc);
    update_line(rtc);
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value64, unsigned size G_GNUC_UNUSED)
{
    struct rtc *rtc = opaque;
    uint8_t value = (uint8_t)value64;
    unsigned index = selected_register(rtc);

    if (offset == 0) {
        rtc->s.index = value & CMOS_LOOSE;
        return;
    }
    switch (index) {
    case CMOS_SECOND_ALARM:
    case CMOS_MINUTE_ALARM:
    case CMOS_HOUR_ALARM:
        rtc_catch_up(rtc);
        rtc->s.cmos[index] = value;
        update_line(rtc);
        break;
    case CMOS_SECOND:
    case CMOS_MINUTE:
    case CMOS_HOUR:
    case CMOS_DAY_OF_WEEK:
    case CMOS_DAY:
    case CMOS_MONTH:
    case CMOS_YEAR:
    case CMOS_CENTURY:
        write_time(rtc, index, value);
        break;
    case CMOS_A:
        write_a(rtc, value);
        break;
    case CMOS_B:
        write_b(rtc, value);
        break;
    case CMOS_C:
    case CMOS_D:
        break; /* read only */
    default:
        rtc->s.cmos[index] = value;
        break;
    }
}

static const struct io_ops rtc_ops = { .read = rtc_read, .write = rtc_write, .max_size = 1 };

static void rtc_reset(struct device *dev)
{
    struct rtc *rtc = (struct rtc *)dev;

    rtc->s.cmos[CMOS_B] &= (uint8_t) ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE_WAVE);
    rtc->s.cmos[CMOS_C] = 0;
    rtc->s.irq_coalesced = 0;
    rtc->s.reinject_count = 0;
    periodic_update(rtc);
    rtc_catch_up(rtc);
    rtc->s.cmos[CMOS_C] = 0;
    update_line(rtc);
}

static bool rtc_realize(struct device *dev, GError **err G_GNUC_UNUSED)
{
    struct rtc *rtc = (struct rtc *)dev;

    rtc->periodic = vm_timer_new(dev->vm, on_periodic, rtc);
    rtc->update = vm_timer_new(dev->vm, on_update, rtc);
    memory_add_io(dev->vm->memory, IO_SPACE_PORT, RTC_PORT, 2, &rtc_ops, rtc, "rtc");
    return true;
}

static void rtc_unrealize(struct device *dev)
{
    struct rtc *rtc = (struct rtc *)dev;

    vm_timer_free(rtc->periodic);
    vm_timer_free(rtc->update);
}

/* vmstate */

/* When the alarm comes next, on the source clock: what QEMU's timers compare with. */
static uint64_t next_alarm_ns(const struct rtc *rtc)
{
    struct alarm alarm = get_alarm(rtc);
    int64_t now = floor_seconds(time_ns(rtc));

    return (uint64_t)source_at(rtc, MIN(alarm_from(&alarm, now + 1), now + DAY));
}

static bool rtc_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    struct rtc *rtc = opaque;
    struct rtc_state *s = state;

    if (!held(rtc)) {
        rtc_catch_up(rtc);
        time_to_cmos(rtc, rtc->seen);
    }
    *s = rtc->s;
    s->periodic_timer = rtc->s.period ? rtc->s.next_periodic : -1;
    /* the end of this second, as long as its flag is not set yet */
    s->update_timer = held(rtc) || ((s->cmos[CMOS_C] & C_UPDATE) && !wants_updates(rtc))
                          ? -1
                          : source_at(rtc, rtc->seen + 1);
    s->next_alarm = next_alarm_ns(rtc);
    return true;
}

static bool rtc_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                     GError **err G_GNUC_UNUSED)
{
    struct rtc *rtc = opaque;

    rtc->s = *(const struct rtc_state *)state;
    rtc->s.index &= CMOS_LOOSE;
    rtc->s.irq_coalesced = MIN(rtc->s.irq_coalesced, COALESCED_MAX);
    if (rtc->clock == RTC_CLOCK_RT) {
        /* another host's monotonic clock says nothing here */
        set_time(rtc, cmos_to_time(rtc), subsecond_ns(rtc->s.offset));
    }
    rtc->seen = floor_seconds(time_ns(rtc));
    if (rtc->s.update_timer >= 0 && rtc->s.update_timer < source_ns(rtc)) {
        rtc->seen--; /* a second ended on the way, and its flag is still to be set */
    }
    rtc->s.period = selected_period(rtc);
    periodic_arm(rtc);
    if (!held(rtc)) {
        /* looks once when the machine runs again, and goes on from there */
        vm_timer_mod(rtc->update, 0);
    }
    return true;
}

static bool reinject_needed(const void *state)
{
    return ((const struct rtc_state *)state)->reinject_count != 0;
}

static const struct vmstate reinject_vmstate = {
    .name = "mc146818rtc/irq_reinject_on_ack_count",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct rtc_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct rtc_state, "irq_reinject_on_ack_count", VMS_U16, reinject_count),
            {},
        },
};

static const struct vmstate rtc_vmstate = {
    .name = "mc146818rtc",
    .version = 3,
    .min_version = 3,
    .size = sizeof(struct rtc_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_BYTES(struct rtc_state, "cmos_data", cmos, CMOS_SIZE),
            VMS_F(struct rtc_state, "cmos_index", VMS_U8, index),
            VMS_PAD("unused[0]", 28),
            VMS_F(struct rtc_state, "periodic_timer", VMS_TIMER, periodic_timer),
            VMS_F(struct rtc_state, "next_periodic_time", VMS_I64, next_periodic),
            VMS_PAD("unused[1]", 24),
            VMS_F(struct rtc_state, "irq_coalesced", VMS_U32, irq_coalesced),
            VMS_F(struct rtc_state, "period", VMS_U32, period),
            VMS_F(struct rtc_state, "base_rtc", VMS_U64, base_rtc),
            VMS_F(struct rtc_state, "last_update", VMS_U64, last_update),
            VMS_F(struct rtc_state, "offset", VMS_I64, offset),
            VMS_F(struct rtc_state, "update_timer", VMS_TIMER, update_timer),
            VMS_F(struct rtc_state, "next_alarm_time", VMS_U64, next_alarm),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &reinject_vmstate, .needed = reinject_needed },
            {},
        },
    .save = rtc_save,
    .load = rtc_load,
};

static const struct device_class rtc_class = {
    .name = "mc146818rtc",
    .description = "Real-time clock and CMOS memory",
    .size = sizeof(struct rtc),
    .realize = rtc_realize,
    .unrealize = rtc_unrealize,
    .reset = rtc_reset,
    .vmstate = &rtc_vmstate,
};
DEVICE_CLASS(rtc_class);

/* What the clock shows at the start, ns since 1970 as if it were UTC. */
static int64_t start_time_ns(const struct vm_config *cfg)
{
    int64_t now = clock_ns(CLOCK_REALTIME);
    time_t t = (time_t)(now / NS_PER_SECOND);
    struct tm tm;

    if (cfg->rtc_base == RTC_BASE_DATETIME) {
        return cfg->rtc_base_seconds * NS_PER_SECOND;
    }
    if (cfg->rtc_base == RTC_BASE_LOCALTIME && localtime_r(&t, &tm)) {
        return timegm(&tm) * NS_PER_SECOND + now % NS_PER_SECOND;
    }
    return now;
}

struct device *rtc_create(struct vm *vm, const struct vm_config *cfg, unsigned irq, GError **err)
{
    struct device *dev = device_new(vm, &rtc_class, NULL, err);
    struct rtc *rtc = (struct rtc *)dev;
    int64_t start;

    if (!dev) {
        return NULL;
    }
    rtc->irq = irq;
    rtc->clock = (int)cfg->rtc_clock;
    rtc->slew = cfg->rtc_driftfix_slew;
    rtc->s.cmos[CMOS_A] = 0x26; /* 32768 Hz time base, 1024 Hz periodic rate */
    rtc->s.cmos[CMOS_B] = B_24H;
    rtc->s.cmos[CMOS_D] = D_VALID;
    start = start_time_ns(cfg);
    set_time(rtc, floor_seconds(start), subsecond_ns(start));
    time_to_cmos(rtc, floor_seconds(start));
    dev->savevm_order = SAVEVM_ORDER_RTC;
    return device_realize(dev, err) ? dev : NULL;
}

static void put_bytes(struct rtc *rtc, unsigned index, unsigned count, uint64_t value)
{
    for (unsigned i = 0; i < count; i++) {
        rtc->s.cmos[index + i] = (uint8_t)(value >> 8 * i);
    }
}

void rtc_set_memory_size(struct device *dev, uint64_t below_4g, uint64_t above_4g)
{
    struct rtc *rtc = (struct rtc *)dev;
    const uint64_t mib = UINT64_C(1) << 20, unit = UINT64_C(1) << 16;
    uint64_t extended = below_4g > mib ? (below_4g - mib) / 1024 : 0;
    uint64_t above_16m = below_4g > 16 * mib ? (below_4g - 16 * mib) / unit : 0;

    put_bytes(rtc, CMOS_BASE_MEMORY, 2, 640);
    put_bytes(rtc, CMOS_EXTENDED_MEMORY, 2, MIN(extended, UINT16_MAX));
    put_bytes(rtc, CMOS_EXTENDED_MEMORY_2, 2, MIN(extended, UINT16_MAX));
    put_bytes(rtc, CMOS_MEMORY_ABOVE_16M, 2, MIN(above_16m, UINT16_MAX));
    put_bytes(rtc, CMOS_MEMORY_ABOVE_4G, 3, MIN(above_4g / unit, 0xffffff));
}
