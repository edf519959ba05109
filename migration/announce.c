/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Announcements. Switches remember behind which port an address was last seen; after a move that is
 * the old host, until a frame from the address comes out of the new one. So for each network device
 * a RARP request with the device's address as its source is sent (what switches learn from; RFC 903
 * and what hypervisors have long used for this). Neighbours are told where the guest's IP addresses
 * are by gratuitous ARP and unsolicited neighbour advertisements, as far as the guest's own frames
 * have told us of them (net/addresses.h; a Ferry source sends them along, announce-wire.c). And a
 * guest whose driver can is asked to announce itself: it knows all of them.
 *
 * The first round is made in the call that starts the guest; the others follow by a clock of the
 * host, because frames can get lost and switches be late. Rounds go on while the guest is stopped:
 * its address is here all the same. A second announcement of the same name replaces the first.
 *
 * Nothing can fail: a back end that takes no frame has lost it, and the next round comes.
 */
#include "migration/announce.h"

#include <string.h>

#include "migration/internal.h"
#include "net/addresses.h"
#include "net/net.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

struct announcement {
    struct announcer *announcer;
    char *id; /* "" for one without name */
    int64_t max, step;
    int64_t rounds_left, delay; /* delay: ms to the next round */
    GPtrArray *interfaces;      /* char *; NULL: all */
    GSource *timer;             /* on the main loop; NULL: none */
};

struct announcer {
    struct vm *vm;
    bool arrival; /* a guest has arrived and did not run yet */
    GPtrArray *announcements;
};

#define RARP_LEN 60

/* Of the announcement after a migration; QMP clients may use it too, as in QEMU. */
#define ARRIVAL_ID ""

static void announcement_free(gpointer opaque)
{
    struct announcement *a = opaque;

    if (a->timer) {
        g_source_destroy(a->timer);
        g_source_unref(a->timer);
    }
    g_clear_pointer(&a->interfaces, g_ptr_array_unref);
    g_free(a->id);
    g_free(a);
}

static struct announcer *announcer_of(struct vm *vm)
{
    struct migration *m = vm->migration;

    if (!m->announcer) {
        m->announcer = g_new0(struct announcer, 1);
        m->announcer->vm = vm;
        m->announcer->announcements = g_ptr_array_new_with_free_func(announcement_free);
    }
    return m->announcer;
}

static struct announcement *find(struct announcer *r, const char *id)
{
    for (unsigned i = 0; i < r->announcements->len; i++) {
        struct announcement *a = g_ptr_array_index(r->announcements, i);

        if (strcmp(a->id, id) == 0) {
            return a;
        }
    }
    return NULL;
}

static void cancel(struct announcer *r, const char *id)
{
    struct announcement *a = find(r, id);

    if (a) {
        g_ptr_array_remove(r->announcements, a);
    }
}

/* A reverse ARP request for mac by mac, padded to the shortest Ethernet frame. */
static void rarp_frame(uint8_t frame[RARP_LEN], const uint8_t mac[6])
{
    static const uint8_t rarp[] = {
        0x80, 0x35, /* EtherType */
        0x00, 0x01, /* hardware: Ethernet */
        0x08, 0x00, /* protocol: IPv4 */
        0x06, 0x04, /* lengths of their addresses */
        0x00, 0x03, /* request reverse */
    };

    memset(frame, 0, RARP_LEN);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    memcpy(frame + 12, rarp, sizeof(rarp));
    memcpy(frame + 22, mac, 6); /* sender; its IP address is what is not known */
    memcpy(frame + 32, mac, 6); /* target */
}

static bool named(const struct announcement *a, const struct netdev *nd, const char *name)
{
    for (unsigned i = 0; a->interfaces && i < a->interfaces->len; i++) {
        const char *wanted = g_ptr_array_index(a->interfaces, i);

        if (strcmp(wanted, name) == 0 || strcmp(wanted, netdev_id(nd)) == 0) {
            return true;
        }
    }
    return !a->interfaces;
}

static void announce_one(struct netdev *nd, const struct net_client *client, void *client_opaque,
                         const char *name, void *opaque)
{
    uint8_t frame[NET_ANNOUNCE_MAX];
    const struct net_addresses *known = netdev_addresses(nd);

    if (!named(opaque, nd, name)) {
        return;
    }
    rarp_frame(frame, client->mac(client_opaque));
    netdev_send_raw(nd, frame, RARP_LEN);
    for (unsigned i = 0; i < known->count; i++) {
        size_t len = net_address_frame(&known->list[i], client->mac(client_opaque), frame);

        netdev_send_raw(nd, frame, len);
    }
    client->announce(client_opaque);
}

static gboolean on_timer(gpointer opaque);

/* Makes a round; false when it was the last. */
static bool round_made(struct announcement *a)
{
    if (a->announcer->vm->net) {
        net_foreach_client(a->announcer->vm->net, announce_one, a);
    }
    return --a->rounds_left > 0;
}

static void arm(struct announcement *a)
{
    int64_t delay = a->max && a->delay > a->max ? a->max : a->delay;

    if (a->timer) {
        g_source_destroy(a->timer);
        g_source_unref(a->timer);
    }
    a->timer = g_timeout_source_new((guint)delay);
    g_source_set_callback(a->timer, on_timer, a, NULL);
    g_source_attach(a->timer, NULL);
    a->delay += a->step;
}

/* The main loop dispatches with the machine lock held. */
static gboolean on_timer(gpointer opaque)
{
    struct announcement *a = opaque;

    if (round_made(a)) {
        arm(a);
    } else {
        g_ptr_array_remove(a->announcer->announcements, a);
    }
    return G_SOURCE_REMOVE;
}

static void begin(struct announcer *r, const char *id, int64_t initial, int64_t max, int64_t rounds,
                  int64_t step, const GPtrArray *interfaces)
{
    struct announcement *a;

    cancel(r, id);
    if (!rounds) {
        return;
    }
    a = g_new0(struct announcement, 1);
    a->announcer = r;
    a->id = g_strdup(id);
    a->max = max;
    a->step = step;
    a->delay = initial;
    a->rounds_left = rounds;
    if (interfaces) {
        a->interfaces = g_ptr_array_new_with_free_func(g_free);
        for (unsigned i = 0; i < interfaces->len; i++) {
            g_ptr_array_add(a->interfaces, g_strdup(interfaces->pdata[i]));
        }
    }
    g_ptr_array_add(r->announcements, a);
    if (round_made(a)) {
        arm(a);
    } else {
        cancel(r, id);
    }
}

void announce_arrival(struct vm *vm)
{
    announcer_of(vm)->arrival = true;
    if (vm_is_running(vm)) {
        announce_machine_runs(vm);
    }
}

void announce_cancel_arrival(struct vm *vm)
{
    announcer_of(vm)->arrival = false;
    cancel(announcer_of(vm), ARRIVAL_ID);
}

void announce_machine_runs(struct vm *vm)
{
    struct migration *m = vm->migration;

    if (m && m->announcer && m->announcer->arrival) {
        const struct migration_options *o = &m->options;

        m->announcer->arrival = false;
        begin(m->announcer, ARRIVAL_ID, (int64_t)o->announce_initial, (int64_t)o->announce_max,
              (int64_t)o->announce_rounds, (int64_t)o->announce_step, NULL);
    }
}

void announce_free(struct vm *vm)
{
    struct announcer *r = vm->migration->announcer;

    if (r) {
        g_ptr_array_unref(r->announcements);
        g_free(r);
        vm->migration->announcer = NULL;
    }
}

static bool in_range(const char *name, int64_t value, int64_t max, GError **err)
{
    if (value < 0 || value > max) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects a value between 0 and %d", name,
                  (int)max);
        return false;
    }
    return true;
}

bool qmp_announce_self(struct vm *vm, const AnnounceParameters *arg, GError **err)
{
    if (!in_range("initial", arg->initial, ANNOUNCE_INITIAL_MAX, err) ||
        !in_range("max", arg->max, ANNOUNCE_MAX_MAX, err) ||
        !in_range("rounds", arg->rounds, ANNOUNCE_ROUNDS_MAX, err) ||
        !in_range("step", arg->step, ANNOUNCE_STEP_MAX, err)) {
        return false;
    }
    begin(announcer_of(vm), arg->id ? arg->id : ARRIVAL_ID, arg->initial, arg->max, arg->rounds,
          arg->step, arg->interfaces);
    return true;
}
