/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the command line to a running machine and back.
 *
 * The steps below are in an order that each of them relies on: descriptors before chardevs that
 * name them, objects before the board that uses them, monitors before anything that emits events,
 * the board before the accelerator counts its memory, a reset before the guest runs or a stream
 * comes in, the system call filter when all is open. The first failing step ends the program with
 * status 1 and one sentence on stderr; whatever was made before it is freed on the same way out
 * that a running machine takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "accel/accel.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "hw/device.h"
#include "hw/virtio/virtio.h"
#include "io/socket.h"
#include "machine-type.h"
#include "migration/migration.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "process.h"
#include "qapi/type.h"
#include "system/keyval.h"
#include "system/memory-lease.h"
#include "system/objects.h"
#include "system/options.h"
#include "system/qtest.h"
#include "system/vm-init.h"
#include "util/error.h"

static bool step_process(struct vm *vm G_GNUC_UNUSED, struct options *o, GError **err)
{
    if (o->process_name) {
        prctl(PR_SET_NAME, o->process_name);
    }
    if (o->mem_lock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "-overcommit mem-lock=on: Cannot lock memory, raise the limit (ulimit -l)");
        return false;
    }
    return !o->pidfile || pidfile_create(o->pidfile, err);
}

static bool step_identity(struct vm *vm, struct options *o, GError **err G_GNUC_UNUSED)
{
    vm->config = &o->config;
    vm->name = g_strdup(o->name);
    memcpy(vm->uuid, o->uuid, sizeof(vm->uuid));
    vm->uuid_set = o->uuid_set;
    vm->no_reboot = o->no_reboot;
    vm->no_shutdown = o->no_shutdown;
    vm->only_migratable = o->only_migratable;
    vm->autostart = !o->paused;
    return true;
}

static bool step_globals(struct vm *vm G_GNUC_UNUSED, struct options *o, GError **err G_GNUC_UNUSED)
{
    for (unsigned i = 0; i < o->globals->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->globals, i);
        const char *driver, *property, *value;

        json_unpack(use->opts, "{s:s, s:s, s:s}", "driver", &driver, "property", &property, "value",
                    &value);
        device_global_add(driver, property, value);
    }
    return true;
}

static bool step_objects(struct vm *vm, struct options *o, GError **err)
{
    vm->objects = object_set_new();
    for (unsigned i = 0; i < o->objects->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->objects, i);
        void *options = NULL;
        bool ok = qapi_read(&qapi_type_object_options, NULL, use->opts,
                            use->is_json ? QAPI_READ_JSON : QAPI_READ_KEYVAL, &options, err) &&
                  object_add(vm->objects, options, err);

        qapi_object_options_free(options);
        if (!ok) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

struct add_fd_options {
    char *opaque;
    unsigned fd, set;
};

static bool add_fd(struct vm *vm, const struct option_use *use, GError **err)
{
    static const struct keyval_field fields[] = {
        KEYVAL_ROW("fd", KEYVAL_UINT, struct add_fd_options, fd, .max = INT32_MAX),
        KEYVAL_ROW("set", KEYVAL_UINT, struct add_fd_options, set, .max = INT32_MAX),
        KEYVAL_ROW("opaque", KEYVAL_STRING, struct add_fd_options, opaque),
        {},
    };
    struct add_fd_options a = {};
    bool ok = keyval_read(fields, use->opts, &a, err);
    int flags = ok ? fcntl((int)a.fd, F_GETFD) : 0;

    if (ok && (!json_object_get(use->opts, "fd") || !json_object_get(use->opts, "set"))) {
        error_set(err, FERRY_ERROR_USER, "Parameters 'fd' and 'set' are required");
        ok = false;
    } else if (ok && a.fd <= STDERR_FILENO) {
        error_set(err, FERRY_ERROR_USER, "fd cannot be a standard I/O stream");
        ok = false;
    } else if (ok && (flags < 0 || (flags & FD_CLOEXEC))) {
        /* what this process opened itself is close-on-exec, what it inherited is not */
        error_set(err, FERRY_ERROR_USER, "fd is not valid or already in use");
        ok = false;
    }
    if (ok) {
        fcntl((int)a.fd, F_SETFD, flags | FD_CLOEXEC);
        ok = monitor_fdset_add(vm->monitors, (int)a.fd, a.set, a.opaque, err) >= 0;
    }
    g_free(a.opaque);
    return ok;
}

static bool step_fds(struct vm *vm, struct options *o, GError **err)
{
    vm->monitors = monitor_set_new(vm);
    for (unsigned i = 0; i < o->fds->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->fds, i);

        if (!add_fd(vm, use, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

static int open_fdset(void *opaque, const char *path, int flags, GError **err)
{
    struct vm *vm = opaque;

    return monitor_fdset_open(vm->monitors, path, flags, err);
}

/* In the background there is no terminal. */
static bool check_terminal(struct options *o, const char *backend, GError **err)
{
    if (o->daemonize && strcmp(backend, "stdio") == 0) {
        error_set(err, FERRY_ERROR_USER, "With -daemonize there is no terminal for 'stdio'");
        return false;
    }
    return true;
}

static bool step_chardevs(struct vm *vm, struct options *o, GError **err)
{
    vm->chardevs = chardev_set_new();
    chardev_set_fdset_opener(vm->chardevs, open_fdset, vm);
    for (unsigned i = 0; i < o->chardevs->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->chardevs, i);
        const char *backend = json_string_value(json_object_get(use->opts, "backend"));

        if (!check_terminal(o, backend, err) || !chardev_open(vm->chardevs, use->opts, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

/* A destination takes its locks when the guest comes. */
static bool step_blocks(struct vm *vm, struct options *o, GError **err)
{
    vm->blocks = block_set_new(vm, virtio_context, !o->config.incoming);
    for (unsigned i = 0; i < o->blockdevs->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->blockdevs, i);

        if (!block_open_blockdev(vm->blocks, use->opts, use->is_json, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    for (unsigned i = 0; i < o->drives->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->drives, i);

        if (!block_open_drive(vm->blocks, use->opts, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

static struct chardev *open_spec(struct vm *vm, struct options *o, const char *id, const char *spec,
                                 GError **err)
{
    return check_terminal(o, spec, err) ? chardev_open_legacy(vm->chardevs, id, spec, err) : NULL;
}

/*
 * Without -serial and -nodefaults the machine has its first port all the same: on the terminal with
 * -nographic, else connected to nothing. Whether it is there is part of the migration stream.
 */
static bool step_serials(struct vm *vm, struct options *o, GError **err)
{
    struct vm_config *c = &o->config;

    for (unsigned i = 0; i < o->serials->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->serials, i);
        g_autofree char *id = g_strdup_printf("serial%u", i);

        if (strcmp(use->arg, "none") == 0) {
            continue;
        }
        c->serials[i] = open_spec(vm, o, id, use->arg, err);
        if (!c->serials[i]) {
            option_use_prefix(use, err);
            return false;
        }
        c->serial_count = i + 1;
    }
    if (!o->serials->len && !o->nodefaults && machine_type_find(c->machine)->build) {
        bool terminal = o->nographic && !o->daemonize;

        c->serials[0] =
            chardev_open_legacy(vm->chardevs, "serial0", terminal ? "stdio" : "null", err);
        c->serial_count = 1;
        return c->serials[0] != NULL;
    }
    return true;
}

static bool step_monitors(struct vm *vm, struct options *o, GError **err)
{
    for (unsigned i = 0; i < o->monitors->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->monitors, i);
        g_autofree char *id = g_strdup_printf("compat_monitor%u", i);
        const char *spec = json_string_value(json_object_get(use->opts, "spec"));
        bool pretty = json_is_true(json_object_get(use->opts, "pretty"));
        struct chardev *chr = open_spec(vm, o, id, spec, err);

        if (!chr || !monitor_add_qmp(vm->monitors, chr, pretty, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

static bool step_accel(struct vm *vm, struct options *o, GError **err)
{
    for (unsigned i = 0; i < o->accels->len; i++) {
        const char *name = g_ptr_array_index(o->accels, i);
        g_autoptr(GError) local = NULL;

        o->config.qtest = strcmp(name, "qtest") == 0;
        vm->accel = o->config.qtest ? accel_qtest_new(vm, &local)
                                    : accel_kvm_new(vm, o->dirty_ring_size, &local);
        if (vm->accel) {
            return true;
        }
        if (i + 1 == o->accels->len) {
            g_propagate_error(err, g_steal_pointer(&local));
            return false;
        }
        report_warning("%s; trying accelerator %s", local->message,
                       (const char *)g_ptr_array_index(o->accels, i + 1));
    }
    g_assert_not_reached();
}

static bool step_migration(struct vm *vm, struct options *o, GError **err)
{
    if (!migration_init(vm, &o->config, err)) {
        return false;
    }
    if (o->migrate_blocker && !migration_set_operator_blocker(vm, o->migrate_blocker, err)) {
        g_prefix_error(err, "-migrate-blocker %s: ", o->migrate_blocker);
        return false;
    }
    return true;
}

static bool step_netdevs(struct vm *vm, struct options *o, GError **err)
{
    for (unsigned i = 0; i < o->netdevs->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->netdevs, i);
        Netdev *netdev = net_parse_option(use->arg, err);
        bool ok = netdev && net_open(vm->net, netdev, err);

        qapi_netdev_free(netdev);
        if (!ok) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

/* The memory backend that -machine memory-backend names; -m and it must agree. */
static bool resolve_memory(struct vm *vm, struct options *o, GError **err)
{
    struct vm_config *c = &o->config;
    struct memory_backend *backend;

    if (!c->memory_backend) {
        return true;
    }
    backend = object_find_memory_backend(vm->objects, c->memory_backend);
    if (!backend) {
        error_set(err, FERRY_ERROR_USER, "Memory backend '%s' not found", c->memory_backend);
        return false;
    }
    if (!o->ram_size_given) {
        c->ram_size = backend->size;
    }
    if (backend->size != c->ram_size) {
        error_set(err, FERRY_ERROR_USER,
                  "Machine memory size does not match the size of the memory backend");
        return false;
    }
    backend->in_use = true;
    c->ram_backend = backend;
    return true;
}

static bool step_board(struct vm *vm, struct options *o, GError **err)
{
    const struct machine_type *type = machine_type_find(o->config.machine);

    if (!type->build) {
        return true;
    }
    return resolve_memory(vm, o, err) && type->build(vm, &o->config, err) &&
           (o->config.incoming || memory_lease_take(vm->memory, err)) &&
           vm->accel->ops->start(vm, err);
}

static bool step_devices(struct vm *vm, struct options *o, GError **err)
{
    for (unsigned i = 0; i < o->devices->len; i++) {
        const struct option_use *use = g_ptr_array_index(o->devices, i);

        if (!device_add(vm, use->opts, err)) {
            option_use_prefix(use, err);
            return false;
        }
    }
    return true;
}

static bool step_qtest(struct vm *vm, struct options *o, GError **err)
{
    struct chardev *chr;

    if (!o->qtest) {
        return true;
    }
    chr = open_spec(vm, o, "qtest", o->qtest, err);
    if (!chr || !qtest_start(vm, chr, o->qtest_log, err)) {
        g_prefix_error(err, "-qtest %s: ", o->qtest);
        return false;
    }
    return true;
}

static bool step_signals(struct vm *vm, struct options *o G_GNUC_UNUSED, GError **err)
{
    return signals_install(vm, err);
}

/* An incoming stream must not be written over, so its state is set before the first reset. */
static bool step_reset(struct vm *vm, struct options *o, GError **err G_GNUC_UNUSED)
{
    if (o->config.incoming) {
        vm_set_run_state(vm, RUN_STATE_INMIGRATE);
    }
    if (vm->board) {
        board_reset(vm);
        vm->accel->ops->reset(vm);
    }
    return true;
}

static bool step_incoming(struct vm *vm, struct options *o, GError **err)
{
    if (!o->config.incoming) {
        return true;
    }
    if (!vm->board) {
        error_set(err, FERRY_ERROR_USER, "-incoming %s: Machine 'none' cannot take a guest",
                  o->config.incoming);
        return false;
    }
    if (!migration_start_incoming_from_options(vm, o->config.incoming, err)) {
        g_prefix_error(err, "-incoming %s: ", o->config.incoming);
        return false;
    }
    return true;
}

static bool step_sandbox(struct vm *vm G_GNUC_UNUSED, struct options *o, GError **err)
{
    return sandbox_enter(&o->sandbox, err);
}

static bool step_background(struct vm *vm G_GNUC_UNUSED, struct options *o, GError **err)
{
    for (unsigned i = 0; i < o->warnings->len; i++) {
        report_warning("%s", (const char *)g_ptr_array_index(o->warnings, i));
    }
    return daemonize_ready(err);
}

static bool (*const steps[])(struct vm *vm, struct options *o, GError **err) = {
    step_process,   step_identity, step_globals,  step_objects,  step_fds,
    step_blocks,    step_chardevs, step_serials,  step_monitors, step_accel,
    step_migration, step_netdevs,  step_board,    step_devices,  step_qtest,
    step_signals,   step_reset,    step_incoming, step_sandbox,  step_background,
};

/* Builds the machine, runs it, takes it apart; the status of the process. */
static int run(struct options *o)
{
    struct vm *vm = vm_new();
    struct object_set *objects;
    g_autoptr(GError) err = NULL;
    bool ok = true;
    int status = 1;

    for (size_t i = 0; ok && i < G_N_ELEMENTS(steps); i++) {
        ok = steps[i](vm, o, &err);
    }
    if (ok) {
        if (vm->autostart && !o->config.incoming) {
            vm_start(vm);
        }
        status = vm_main_loop(vm);
    } else {
        report_error("%s", err->message);
    }
    signals_remove();
    objects = vm->objects; /* memory backends are in use until the memory is gone */
    vm_free(vm);
    object_set_free(objects);
    device_globals_free();
    pidfile_remove();
    return status;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(options) o = NULL;

    io_ignore_sigpipe();
    o = options_parse(argc, argv, &err);
    if (!o) {
        report_error("%s", err->message);
        return 1;
    }
    if (o->done) {
        return 0;
    }
    report_configure(o->timestamp, o->timestamp_guest_name ? o->name : NULL);
    if (o->daemonize && !daemonize_begin(&err)) {
        report_error("%s", err->message);
        return 1;
    }
    return run(o);
}
