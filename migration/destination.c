/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The incoming side, from the end of a greeting (greeting.c) to the running guest, on the thread
 * "mig/incoming" (incoming.c):
 *
 *   does the configuration fit -> records until EOF -> put devices in -> [READY, wait for GO] ->
 *   run the guest, say SHUT 0
 *
 * This file parses what the peer sent. Trust: none. Every length, id and name is checked before
 * use; memory is written only inside known blocks (migration/ram/load.c); device state is parsed
 * into plain structs and touches a device only after the last byte of the stream was good
 * (migration/vmstate/savevm.c).
 *
 * Failure: the guest never runs here; the source is told why where it listens, and the process
 * exits with status 1 (or stays, with exit-on-error=false).
 *
 * Deadlines: a Ferry that is silent for stream-timeout is taken to be gone (it lets itself be heard
 * while it waits for its operator). A QEMU may be held at its switchover for hours without a word;
 * for that only TCP's keepalive finds a dead link. Between READY and GO there is go-timeout.
 */
#include <inttypes.h>
#include <string.h>

#include "accel/accel.h"
#include "block/block.h"
#include "migration/announce-wire.h"
#include "migration/announce.h"
#include "migration/destination.h"
#include "migration/postcopy/destination.h"
#include "migration/ram/load.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/vmstate/savevm.h"
#include "qapi/qapi-events.h"
#include "system/memory-lease.h"
#include "system/vm-init.h"
#include "target/i386/cpu.h"
#include "util/error.h"

/* How long to wait for a description that a QEMU may have left out. */
#define DRAIN_TIMEOUT_MS 1000
/* How long to look whether KVM takes the guest: its refusal takes microseconds. */
#define ENTRY_TIMEOUT_US 500

/* --- sections --- */

static bool load_footer(struct load *l, uint32_t id, const char *idstr, GError **err)
{
    uint8_t type;
    uint32_t got;

    if (!in_u8(l->s, &type, err)) {
        return false;
    }
    if (type != STREAM_FOOTER) {
        return load_refuse(l, err, "Missing section footer for %s", idstr);
    }
    if (!in_be32(l->s, &got, err)) {
        return false;
    }
    if (got != id) {
        return load_refuse(l, err,
                           "Mismatched section id in footer for %s - read 0x%x expected 0x%x",
                           idstr, got, id);
    }
    return true;
}

static bool load_section_header(struct load *l, uint8_t type, GError **err)
{
    uint32_t id, instance, version;
    char idstr[256];

    if (!in_be32(l->s, &id, err) || !in_pstr(l->s, idstr, err) || !in_be32(l->s, &instance, err) ||
        !in_be32(l->s, &version, err)) {
        return false;
    }
    if (g_str_equal(idstr, "ram")) {
        if (type != STREAM_SECTION_START || instance || l->ram_open) {
            return load_refuse(l, err, "A ram section of the wrong kind or a second one");
        }
        if (version != RAM_VERSION) {
            return load_refuse(l, err, "savevm: unsupported version %u for 'ram' v%u", version,
                               RAM_VERSION);
        }
        l->ram_open = true;
        l->ram_id = id;
        if (!ram_load_section(l->ram, l->s, err) || !load_footer(l, id, idstr, err)) {
            return false;
        }
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_ACTIVE, &l->in->cancelled);
        return true;
    }
    if (!savevm_load_section(l->devices, l->s, idstr, instance, version, err)) {
        return false;
    }
    return load_footer(l, id, idstr, err);
}

static bool load_section_part(struct load *l, uint8_t type, GError **err)
{
    uint32_t id;

    if (!in_be32(l->s, &id, err)) {
        return false;
    }
    if (!l->ram_open || id != l->ram_id || postcopy_has_package(l)) {
        return load_refuse(l, err, "Unknown savevm section %u", id);
    }
    if (l->ram_ended) {
        return load_refuse(l, err, "Memory after the end of the ram section");
    }
    l->ram_ended = type == STREAM_SECTION_END;
    return ram_load_section(l->ram, l->s, err) && load_footer(l, id, "ram", err);
}

/*
 * Where zero pages may be left out, only END tells that nothing is missing. Elsewhere each page has
 * been named, and END may be absent: QEMU's background snapshots have none. A QEMU whose guest can
 * name free pages (page-hints.c) does not send those either.
 */
static bool memory_complete(struct load *l, GError **err)
{
    if (!l->ram_open || (!l->ram_ended && (l->features & FERRY_FEATURE_ZEROED))) {
        return load_refuse(l, err, "The end before all of the memory has come");
    }
    return (l->features & FERRY_FEATURE_ZEROED) || l->in->m->partial_memory || l->in->m->hinter ||
           ram_load_complete(l->ram, err);
}

/* The record behind a type byte other than EOF. */
static bool load_record(struct load *l, uint8_t type, GError **err)
{
    switch (type) {
    case STREAM_SECTION_START:
    case STREAM_SECTION_FULL:
        return load_section_header(l, type, err);
    case STREAM_SECTION_PART:
    case STREAM_SECTION_END:
        return load_section_part(l, type, err);
    case STREAM_COMMAND:
        return load_command(l, err);
    default:
        return load_refuse(l, err, "Unknown savevm section type %d", type);
    }
}

static bool go_on(struct load *l, GError **err)
{
    if (atomic_load(&l->in->cancelled)) {
        error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
        return false;
    }
    return true;
}

static bool load_records(struct load *l, GError **err)
{
    for (;;) {
        uint8_t type;

        if (!in_u8(l->s, &type, err)) {
            return false;
        }
        if (type == STREAM_EOF) {
            /* what is missing would silently keep its state after reset */
            return memory_complete(l, err) && savevm_load_complete(l->devices, err);
        }
        if (!load_record(l, type, err)) {
            return false;
        }
        if (postcopy_has_package(l)) {
            return savevm_load_complete(l->devices, err); /* memory follows */
        }
        if (!go_on(l, err)) {
            return false;
        }
    }
}

bool load_package(struct load *l, GError **err)
{
    uint8_t type;

    while (in_peek(l->s, 0, &type)) {
        if (!in_u8(l->s, &type, err) || !load_record(l, type, err) || !go_on(l, err)) {
            return false;
        }
    }
    return true;
}

/* --- after the end of the stream --- */

static bool skip_description(struct load *l, GError **err)
{
    uint32_t len;

    if (!in_be32(l->s, &len, err)) {
        return false;
    }
    if (len > VMDESC_MAX_LENGTH) {
        return load_refuse(l, err, "A description of %u bytes", len);
    }
    return in_skip(l->s, len, err);
}

/* Between Ferries: the description and then GO. */
static bool wait_for_go(struct load *l, GError **err)
{
    uint8_t type;
    uint16_t command, len;
    bool described = false;

    load_phase(l, MIGRATION_PHASE_GO);
    channel_set_read_timeout(l->ch, migration_timeout(l->in->m, go_timeout));
    for (;;) {
        if (!in_u8(l->s, &type, err)) {
            g_prefix_error(err, "The source did not hand over the guest, which stays there: ");
            return false;
        }
        if (type == STREAM_VMDESCRIPTION && !described) {
            described = true;
            if (!skip_description(l, err)) {
                return false;
            }
            continue;
        }
        if (type != STREAM_COMMAND || !in_be16(l->s, &command, err) || !in_be16(l->s, &len, err) ||
            command != STREAM_CMD_FERRY_GO || len != 8) {
            return (err && *err) ? false
                                 : load_refuse(l, err, "Something else than a go after the end");
        }
        if (!in_be64(l->s, &l->pause_ns, err)) {
            return false;
        }
        l->go = true;
        l->go_at_ns = monotonic_ns();
        return true;
    }
}

/* Puts the loaded state in. Machine lock held. */
static bool put_devices(struct load *l, GError **err)
{
    l->in->m->loaded_state_set = false;
    if (!savevm_load_commit(l->devices, err) ||
        (l->vm->accel->ops->post_load && !l->vm->accel->ops->post_load(l->vm, err))) {
        return false;
    }
    announce_put_addresses(l->vm, l->addresses);
    return true;
}

/*
 * Takes the disks, which the source has given up. A guest that is to stay stopped can leave them
 * for a while (late-block-activate): then `cont` takes them.
 */
static bool take_disks(struct load *l, RunState state, GError **err)
{
    if (l->in->options.caps[MIGRATION_CAPABILITY_LATE_BLOCK_ACTIVATE] &&
        (state != RUN_STATE_RUNNING || !l->vm->autostart)) {
        return true;
    }
    return block_activate_all(l->vm, err);
}

/* The guest is ours now, or false: its disks are not. Machine lock held. */
static bool run_guest(struct load *l, GError **err)
{
    struct migration *m = l->in->m;
    RunState state = m->loaded_state_set ? m->loaded_state : RUN_STATE_RUNNING;
    g_autoptr(GError) busy = NULL;

    if (!take_disks(l, state, err)) {
        return false;
    }
    if (l->go && state == RUN_STATE_RUNNING) {
        int64_t pause =
            (int64_t)MIN(l->pause_ns, (uint64_t)INT64_MAX / 4) + (monotonic_ns() - l->go_at_ns);

        if (!x86_clock_adjust(l->vm, pause)) {
            report_warning("The guest's clocks could not be moved past the pause of %" PRId64 " ms",
                           pause / 1000000);
        }
    }
    l->ran_at_ns = monotonic_ns();
    if (!memory_lease_take(l->vm->memory, &busy)) {
        report_warning("%s", busy->message); /* too late: the source has given the guest away */
    }
    announce_arrival(l->vm); /* when it runs: below, or later by cont */
    if (state == RUN_STATE_RUNNING) {
        if (l->vm->autostart) {
            l->runs = true;
            vm_start(l->vm);
        } else {
            vm_set_run_state(l->vm, RUN_STATE_PAUSED);
        }
    } else {
        vm_set_run_state(l->vm, state);
    }
    return true;
}

/*
 * Whether no vCPU can even enter the guest. Then it is not ours after all: a source that waits for
 * our confirmation takes it back. Where one of several vCPUs got in, it is ours, and stopped.
 */
static bool check_entered(struct load *l, GError **err)
{
    bool (*entered)(struct vm * vm, unsigned timeout_us, GError **err) = l->vm->accel->ops->entered;
    g_autoptr(GError) disks = NULL;

    if (!l->runs || !l->return_path || !entered || entered(l->vm, ENTRY_TIMEOUT_US, err)) {
        return true;
    }
    vm_lock(l->vm);
    announce_cancel_arrival(l->vm);
    vm_unlock(l->vm);
    if (l->in->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED]) {
        memory_lease_drop(l->vm->memory);
    }
    vm_lock(l->vm);
    if (!block_inactivate_all(l->vm, &disks)) {
        report_warning("%s", disks->message); /* they go when this process ends */
    }
    vm_unlock(l->vm);
    return false;
}

bool load_hand_over(struct load *l, bool (*run)(struct load *l, GError **err), GError **err)
{
    if (l->vm->exiting) {
        error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
        return false;
    }
    return run(l, err);
}

static bool finish(struct load *l, GError **err)
{
    bool ferry = l->features & FERRY_FEATURE_COMMIT;
    GError *late = NULL;
    uint8_t type;
    bool ok;

    load_phase(l, MIGRATION_PHASE_LOAD);
    migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_LOADED, &l->in->cancelled);
    vm_lock(l->vm);
    ok = put_devices(l, err);
    vm_unlock(l->vm);
    if (!ok) {
        return false;
    }
    if (postcopy_has_package(l)) {
        return postcopy_finish(l, run_guest, err);
    }
    if (ferry) {
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_READY, &l->in->cancelled);
        if (!return_path_send(l->ch, RETURN_FERRY_READY, NULL, 0, err) || !wait_for_go(l, err)) {
            return false;
        }
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_GO, &l->in->cancelled);
    }
    vm_lock(l->vm);
    ok = load_hand_over(l, run_guest, err);
    vm_unlock(l->vm);
    if (!ok) {
        return false;
    }
    if (!check_entered(l, err)) {
        return false;
    }
    /* the guest runs: from here on nothing is a failure any more */
    vm_lock(l->vm);
    migration_set_status(l->in->m, MIGRATION_STATUS_COMPLETED);
    vm_unlock(l->vm);
    if (!ferry && in_wait(l->s, DRAIN_TIMEOUT_MS) && in_u8(l->s, &type, NULL) &&
        type == STREAM_VMDESCRIPTION) {
        skip_description(l, NULL); /* only so that closing does not throw away what it carries */
    }
    /* without this the source would run the guest too */
    if (l->features & FERRY_FEATURE_RUNS && l->runs) {
        load_say_runs(l, NULL);
    }
    if (l->return_path) {
        return_path_send_be32(l->ch, RETURN_SHUT, 0, &late);
    }
    if (late) {
        report_warning("The guest runs here, but the source could not be told: %s", late->message);
        g_clear_error(&late);
    }
    return true;
}

/* What the source said of itself must fit what is set here at this moment. */
static bool begin(struct load *l, GError **err)
{
    struct incoming *in = l->in;

    vm_lock(l->vm);
    migration_options_get(in->m, &in->options); /* until now they could be changed */
    migration_set_status(in->m, MIGRATION_STATUS_ACTIVE);
    vm_unlock(l->vm);
    load_phase(l, MIGRATION_PHASE_STREAM);
    l->claimed = true;
    /* a QEMU that waits for its operator says nothing */
    channel_set_read_timeout(
        l->ch, l->features & FERRY_FEATURE_COMMIT ? migration_timeout(in->m, stream_timeout) : 0);
    return configuration_check(in, &l->configuration, err);
}

/* A source that runs its guest in the very file that its stream would be written to is refused. */
static bool claim_memory(struct load *l, GError **err)
{
    return l->in->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED] ||
           memory_lease_take(l->vm->memory, err);
}

/* What memory holds was found out for the offer (greeting.c), when others could still write to a
 * shared file, and for another connection perhaps. From now on nobody else does. */
static bool look_at_memory(struct load *l, GError **err)
{
    if (!ram_load_begin(l->in->ram, l->configuration.ignore_shared) &&
        l->features & FERRY_FEATURE_ZEROED) {
        error_set(err, FERRY_ERROR_HOST,
                  "Another process has written to this destination's memory since the source was "
                  "told that it is zero; migrate again");
        return false;
    }
    return true;
}

void load_name_place(struct load *l, GError *error)
{
    if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        mutex_lock(&l->in->m->lock);
        MigrationPhase at = l->in->phase;
        mutex_unlock(&l->in->m->lock);
        error_append(error, MIGRATION_PLACE_DESTINATION "'%s'", qapi_migration_phase_str(at));
    }
}

bool load_guest(struct load *l, GError **err)
{
    GError *error = NULL;

    l->devices = savevm_load_new(l->vm->savevm);
    if (!begin(l, &error) || !claim_memory(l, &error) || !look_at_memory(l, &error) ||
        !load_records(l, &error) || !finish(l, &error)) {
        load_name_place(l, error);
        load_send_failure(l, error);
        postcopy_in_stop(l->in);
        g_propagate_error(err, error);
        savevm_load_free(l->devices);
        return false;
    }
    savevm_load_free(l->devices);
    return true;
}
