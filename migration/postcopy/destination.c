/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that comes before its memory. "mig/incoming" goes through it from the top to the bottom:
 *
 *   ADVISE, memory as in precopy, DISCARD ... -> PACKAGED { LISTEN, devices [, RUN] }
 *     -> devices are put in -> [READY, wait for GO] -> the guest runs -> wait for the rest
 *     -> all memory is here: SHUT 0
 *
 * From LISTEN on the stream belongs to "mig/listen" (listen.c), which places pages and sees GO: a
 * device that is loaded may need memory already. "mig/fault" (faults.c) asks for what is touched.
 *
 * Failure: until the guest runs, as of a precopy: it stays with the source. From then on a link
 * that breaks is a pause: "mig/incoming" waits for a new one, and whoever needs no missing page
 * goes on. All memory here means that nobody is needed any more: then a lost link is no failure. A
 * source that may not have heard of it can still come back and be told; until then "mig/incoming"
 * waits for it, which costs nothing and changes nothing.
 */
#include "migration/postcopy/destination.h"

#include <inttypes.h>
#include <string.h>

#include "accel/accel.h"
#include "migration/postcopy/arrival.h"
#include "migration/postcopy/gate.h"
#include "migration/postcopy/listen.h"
#include "migration/ram/load.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/vmstate/savevm.h"
#include "system/vm.h"
#include "util/error.h"

static struct postcopy_in *postcopy_of(struct load *l)
{
    return l->in->postcopy;
}

/* --- commands --- */

bool postcopy_command_advise(struct load *l, unsigned len, GError **err)
{
    struct incoming *in = l->in;
    uint64_t sizes, target;
    struct postcopy_in *p;

    if (!len) {
        return load_refuse(l, err,
                           "Post-copy of dirty bitmaps, which this destination does not "
                           "offer");
    }
    if (!in_be64(l->s, &sizes, err) || !in_be64(l->s, &target, err)) {
        return false;
    }
    if (!l->claimed || postcopy_of(l) || l->ram_open) {
        return load_refuse(l, err, "An announcement of post-copy in the wrong place");
    }
    if (!in->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM]) {
        return load_refuse(l, err,
                           "The source may switch to post-copy, which is not enabled here: set "
                           "capability 'postcopy-ram' on both sides");
    }
    if (!l->return_path) {
        return load_refuse(l, err, "Post-copy without a return path");
    }
    if (!arrival_check_page_sizes(l->vm, sizes, target, err)) {
        return false;
    }
    p = g_new0(struct postcopy_in, 1);
    p->l = l;
    p->vm = l->vm;
    mutex_init(&p->say_lock);
    p->arrival = arrival_new(l->vm, l->configuration.ignore_shared, err);
    if (!p->arrival) {
        postcopy_in_free(p);
        return false;
    }
    ram_load_advise(l->ram);
    vm_lock(l->vm);
    in->postcopy = p;
    vm_unlock(l->vm);
    return true;
}

static bool advised(struct load *l, const char *what, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);

    if (!p || p->packaged || !l->ram_open || l->ram_ended) {
        return load_refuse(l, err, "A command of post-copy (%s) in the wrong place", what);
    }
    return true;
}

bool postcopy_command_discard(struct load *l, unsigned len, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);
    unsigned fixed, ranges;
    struct ram_block *b;
    uint8_t version, nul;
    char name[256];

    if (!advised(l, "discard", err) || !in_u8(l->s, &version, err) || !in_pstr(l->s, name, err) ||
        !in_u8(l->s, &nul, err)) {
        return false;
    }
    fixed = 1 + 1 + (unsigned)strlen(name) + 1;
    if (version || nul || len < fixed || (len - fixed) % 16) {
        return load_refuse(l, err, "A discard of version %u and %u bytes", version, len);
    }
    b = ram_block_find(l->vm->memory, name);
    if (!b || !b->migratable) {
        return load_refuse(l, err, "A discard of the memory '%s', which is not there", name);
    }
    ranges = (len - fixed) / 16;
    for (unsigned i = 0; i < ranges; i++) {
        uint64_t start, length;

        if (!in_be64(l->s, &start, err) || !in_be64(l->s, &length, err) ||
            !arrival_discard(p->arrival, b, start, length, err)) {
            return false;
        }
    }
    return true;
}

bool postcopy_command_packaged(struct load *l, unsigned len, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);
    struct stream_in *outer = l->s;
    uint32_t length;
    bool ok;

    (void)len;
    if (!in_be32(l->s, &length, err) || !advised(l, "package", err)) {
        return false;
    }
    if (length > PACKAGE_MAX_LENGTH) {
        return load_refuse(l, err, "A package of %u bytes", length);
    }
    p->packaged = true;
    p->package = g_malloc(MAX(length, 1u));
    if (!in_bytes(l->s, p->package, length, err)) {
        return false;
    }
    p->stream = outer;
    l->s = in_new_memory(p->package, length);
    ok = load_package(l, err);
    if (ok && !p->listening) {
        ok = load_refuse(l, err, "A package without the command to listen");
    }
    if (!ok && err && *err) {
        g_prefix_error(err, "In the package with the devices: ");
    }
    in_free(l->s);
    l->s = outer;
    return ok;
}

bool postcopy_command_listen(struct load *l, unsigned len, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);

    (void)len;
    if (!p || !p->packaged || p->listening) {
        return load_refuse(l, err, "A command of post-copy (listen) in the wrong place");
    }
    if (!arrival_listen(p->arrival, listen_request, p, err)) {
        return false;
    }
    p->listening = true;
    p->reader = arrival_reader_new(p->arrival);
    arrival_reader_set_block(p->reader, ram_load_current(l->ram));
    if (!listen_start(p, l->ch, p->stream, err)) {
        return false;
    }
    arrival_ask_again(p->arrival); /* nobody should have asked before there was a link */
    vm_lock(l->vm);
    gate_open(p);
    migration_set_status(l->in->m, MIGRATION_STATUS_POSTCOPY_ACTIVE);
    vm_unlock(l->vm);
    return true;
}

bool postcopy_command_run(struct load *l, unsigned len, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);

    (void)len;
    if (!p || !p->listening || (l->features & FERRY_FEATURE_COMMIT)) {
        return load_refuse(l, err, "A command of post-copy (run) in the wrong place");
    }
    p->run = true;
    return true;
}

bool postcopy_listens(const struct load *l)
{
    return l->in->postcopy && l->in->postcopy->listening;
}

bool postcopy_has_package(const struct load *l)
{
    return l->in->postcopy && l->in->postcopy->packaged;
}

bool postcopy_say(struct load *l, unsigned type, const void *payload, size_t len, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);
    GError *error = NULL;

    if (!p) {
        return return_path_send(l->ch, type, payload, len, err);
    }
    mutex_lock(&p->say_lock);
    bool ok = return_path_send(p->ch ? p->ch : l->ch, type, payload, len, &error);
    if (!ok) {
        g_propagate_error(err, listen_real_reason(p, error));
    }
    mutex_unlock(&p->say_lock);
    return ok;
}

/* --- the guest runs, and has not all of its memory --- */

/* Until "mig/listen" has seen GO, or that there will be none. */
static bool wait_for_go(struct load *l, GError **err)
{
    struct postcopy_in *p = postcopy_of(l);
    struct migration *m = l->in->m;
    int64_t deadline = g_get_monotonic_time() + (int64_t)migration_timeout(m, go_timeout) * 1000;
    bool in_time = true;

    load_phase(l, MIGRATION_PHASE_GO);
    mutex_lock(&m->lock);
    while (!l->go && p->link && in_time && !atomic_load(&l->in->cancelled)) {
        in_time = cond_wait_until(&m->cond, &m->lock, deadline);
    }
    bool go = l->go;
    mutex_unlock(&m->lock);
    if (!go) {
        if (in_time) {
            if (listen_join(p, err)) {
                load_refuse(l, err, "The end of the memory before the guest was handed over");
            }
        } else {
            error_set(err, FERRY_ERROR_LINK, "Nothing came within go-timeout");
        }
        g_prefix_error(err, "The source did not hand over the guest, which stays there: ");
    }
    return go;
}

/* The link is lost: until another one carries on, or the end of the process (false). */
static bool wait_for_link(struct load *l, const GError *why)
{
    struct incoming *in = l->in;
    struct postcopy_in *p = postcopy_of(l);

    load_phase(l, MIGRATION_PHASE_PAUSED);
    vm_lock(l->vm);
    g_free(in->error);
    in->error = p->paused_by_us ? g_strdup("Paused by migrate-pause") : g_strdup(why->message);
    if (!p->paused_by_us) {
        report_warning("Post-copy is paused, the guest waits where it needs memory: %s",
                       why->message);
    }
    p->paused_by_us = false;
    migration_set_status(in->m, MIGRATION_STATUS_POSTCOPY_PAUSED);
    vm_unlock(l->vm);
    for (;;) {
        g_autoptr(GError) error = NULL;

        if (!listen_accept(p, &error)) {
            return false;
        }
        load_phase(l, MIGRATION_PHASE_RECOVER);
        if (listen_start(p, p->new_ch, NULL, &error)) {
            return true;
        }
        report_warning("%s", error->message);
        vm_lock(l->vm);
        migration_set_status(in->m, MIGRATION_STATUS_POSTCOPY_PAUSED);
        vm_unlock(l->vm);
    }
}

static bool tell(struct load *l)
{
    struct postcopy_in *p = postcopy_of(l);
    uint32_t zero = 0;

    return p->ch && postcopy_say(l, RETURN_SHUT, &zero, sizeof(zero), NULL) && listen_bye(p);
}

/* The guest has all of its memory. */
static void complete(struct load *l)
{
    struct incoming *in = l->in;
    struct postcopy_in *p = postcopy_of(l);

    vm_lock(l->vm);
    gate_close(p);
    g_clear_pointer(&in->error, g_free);
    if (in->m->status == MIGRATION_STATUS_POSTCOPY_RECOVER) {
        migration_set_status(in->m, MIGRATION_STATUS_POSTCOPY_ACTIVE);
    }
    migration_set_status(in->m, MIGRATION_STATUS_COMPLETED);
    p->untold = true;
    vm_unlock(l->vm);
    arrival_stop(p->arrival);
}

/* Tells the source, however often the link breaks, until it has heard it or the process ends. */
static void tell_source(struct load *l)
{
    struct postcopy_in *p = postcopy_of(l);
    bool told = tell(l);

    while (!told && !atomic_load(&l->in->cancelled)) {
        g_autoptr(GError) error = NULL;

        listen_close(p);
        if (!listen_accept(p, &error)) {
            break;
        }
        told = listen_start(p, p->new_ch, NULL, &error) && listen_join(p, &error) && tell(l);
    }
    vm_lock(l->vm);
    p->untold = false;
    vm_unlock(l->vm);
}

static void let_idle_spin(struct load *l, bool may)
{
    if (l->vm->accel->ops->idle_spin) {
        l->vm->accel->ops->idle_spin(l->vm, may);
    }
}

/* From here on the link may break. */
static void begin_to_run(struct load *l)
{
    struct postcopy_in *p = postcopy_of(l);
    struct migration *m = l->in->m;

    vm_lock(l->vm);
    mutex_lock(&m->lock);
    p->runs = true;
    if (p->paused_by_us && l->in->ch) {
        channel_shutdown(l->in->ch); /* asked for just before */
    }
    mutex_unlock(&m->lock);
    vm_unlock(l->vm);
}

bool postcopy_finish(struct load *l, bool (*run)(struct load *l, GError **err), GError **err)
{
    struct postcopy_in *p = postcopy_of(l);
    struct migration *m = l->in->m;
    bool ok;

    if (l->features & FERRY_FEATURE_COMMIT) {
        migration_hold(m, MIGRATION_HOLD_POINT_INCOMING_READY, &l->in->cancelled);
        if (!postcopy_say(l, RETURN_FERRY_READY, NULL, 0, err) || !wait_for_go(l, err)) {
            return false;
        }
        migration_hold(m, MIGRATION_HOLD_POINT_INCOMING_GO, &l->in->cancelled);
    } else if (!p->run) {
        return load_refuse(l, err, "A package that does not say that the guest is to run");
    }
    let_idle_spin(l, false);
    vm_lock(l->vm);
    ok = load_hand_over(l, run, err);
    vm_unlock(l->vm);
    if (!ok) {
        return false;
    }
    load_phase(l, MIGRATION_PHASE_POSTCOPY);
    if (l->features & FERRY_FEATURE_RUNS) {
        load_say_runs(l, NULL); /* else: on the next link */
    }
    begin_to_run(l);
    for (;;) {
        GError *why = NULL;

        if (listen_join(p, &why)) {
            break;
        }
        if (atomic_load(&l->in->cancelled)) {
            g_clear_error(&why);
            error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
            return false;
        }
        if (!arrival_missing_pages(p->arrival)) {
            g_clear_error(&why);
            break;
        }
        ok = wait_for_link(l, why);
        g_clear_error(&why);
        if (!ok) {
            error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
            return false;
        }
    }
    complete(l);
    let_idle_spin(l, true);
    tell_source(l);
    postcopy_in_stop(l->in);
    return true;
}

void postcopy_in_stop(struct incoming *in)
{
    if (in->postcopy) {
        listen_stop(in->postcopy);
        arrival_stop(in->postcopy->arrival);
    }
}

void postcopy_in_free(struct postcopy_in *p)
{
    if (p) {
        arrival_stop(p->arrival);
        gate_free(p);
        arrival_free(p->arrival);
        mutex_clear(&p->say_lock);
        g_clear_error(&p->unsent);
        g_free(p->package);
        g_free(p);
    }
}

/* --- from the main loop --- */

const struct arrival *postcopy_arrival(const struct incoming *in)
{
    return in->postcopy && in->postcopy->listening ? in->postcopy->arrival : NULL;
}

bool postcopy_in_pause(struct incoming *in, GError **err)
{
    struct postcopy_in *p = in->postcopy;

    if (in->m->status != MIGRATION_STATUS_POSTCOPY_ACTIVE &&
        in->m->status != MIGRATION_STATUS_POSTCOPY_RECOVER) {
        error_set(err, FERRY_ERROR_USER,
                  "migrate-pause is currently only supported during postcopy-active state");
        return false;
    }
    p->paused_by_us = true;
    mutex_lock(&in->m->lock);
    if (in->ch && p->runs) {
        channel_shutdown(in->ch); /* else as soon as it runs: GO is not to be lost */
    }
    mutex_unlock(&in->m->lock);
    return true;
}

bool postcopy_in_recoverable(const struct incoming *in)
{
    return in->postcopy && (in->postcopy->untold ||
                            (!in->m->out && in->m->status == MIGRATION_STATUS_POSTCOPY_PAUSED));
}

bool postcopy_in_recover(struct incoming *in, const struct transport_address *addr, int fd,
                         GError **err)
{
    in->listener = transport_listen(addr, fd, err);
    if (!in->listener) {
        return false;
    }
    mutex_lock(&in->m->lock);
    cond_broadcast(&in->m->cond);
    mutex_unlock(&in->m->lock);
    return true;
}

void postcopy_in_abandon(struct incoming *in)
{
    if (in->postcopy && in->postcopy->listening) {
        gate_close(in->postcopy);
        /* whoever waits for memory gets zeroes, and must not go on with them */
        if (in->vm->accel->ops->kick) {
            in->vm->accel->ops->kick(in->vm);
        }
        arrival_stop(in->postcopy->arrival);
    }
}
