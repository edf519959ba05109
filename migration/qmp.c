/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands that start, steer and end a migration. They run on the main loop with the machine
 * lock held, check everything that can be known at once, and leave the work to a thread.
 */
#include <fcntl.h>

#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/postcopy/destination.h"
#include "migration/postcopy/source.h"
#include "monitor/monitor.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

static struct transport_address *from_socket(const SocketAddress *s, GError **err)
{
    struct transport_address *a = g_new0(struct transport_address, 1);

    switch (s->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        a->type = TRANSPORT_TCP;
        a->host = g_strdup(s->u.inet.host);
        a->port = g_strdup(s->u.inet.port);
        a->to = s->u.inet.has_to ? s->u.inet.to : 0;
        if (!transport_family_from_flags(s->u.inet.has_ipv4 ? s->u.inet.ipv4 : -1,
                                         s->u.inet.has_ipv6 ? s->u.inet.ipv6 : -1, &a->family,
                                         err)) {
            transport_address_free(a);
            return NULL;
        }
        return a;
    case SOCKET_ADDRESS_TYPE_UNIX:
        a->type = TRANSPORT_UNIX;
        a->path = g_strdup(s->u.q_unix.path);
        return a;
    case SOCKET_ADDRESS_TYPE_FD:
        a->type = TRANSPORT_FD;
        a->fd_name = g_strdup(s->u.fd.str);
        return a;
    default:
        transport_address_free(a);
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'channels' has a socket type that carries no migration: use inet, "
                  "unix or fd");
        return NULL;
    }
}

static struct transport_address *from_channel(const MigrationChannel *c, GError **err)
{
    struct transport_address *a;

    switch (c->addr->transport) {
    case MIGRATION_ADDRESS_TYPE_SOCKET:
        return from_socket(&c->addr->u.socket, err);
    case MIGRATION_ADDRESS_TYPE_EXEC: {
        const GPtrArray *args = c->addr->u.exec.args;

        if (!args->len) {
            error_set(err, FERRY_ERROR_USER,
                      "Parameter 'args' of an exec channel names no program");
            return NULL;
        }
        a = g_new0(struct transport_address, 1);
        a->type = TRANSPORT_EXEC;
        a->argv = g_new0(char *, args->len + 1);
        for (unsigned i = 0; i < args->len; i++) {
            a->argv[i] = g_strdup(g_ptr_array_index(args, i));
        }
        return a;
    }
    case MIGRATION_ADDRESS_TYPE_FILE:
        a = g_new0(struct transport_address, 1);
        a->type = TRANSPORT_FILE;
        a->path = g_strdup(c->addr->u.file.filename);
        a->offset = c->addr->u.file.offset;
        return a;
    default:
        error_set(err, FERRY_ERROR_USER, "Parameter 'channels' has an unknown transport");
        return NULL;
    }
}

struct transport_address *migration_address(const char *uri, const GPtrArray *channels,
                                            GError **err)
{
    if (!uri && !channels) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'uri' is missing");
        return NULL;
    }
    if (uri && channels) {
        error_set(err, FERRY_ERROR_USER,
                  "'uri' and 'channels' arguments are mutually exclusive; exactly one of the two "
                  "should be present in "
                  "'migrate' qmp command");
        return NULL;
    }
    if (uri) {
        return transport_parse_uri(uri, err);
    }
    if (channels->len != 1) {
        error_set(err, FERRY_ERROR_USER,
                  "Channel list must have exactly one entry, of type 'main'");
        return NULL;
    }
    return from_channel(g_ptr_array_index(channels, 0), err);
}

bool migration_address_fd(struct vm *vm, struct transport_address *a, int flags, int *fd,
                          GError **err)
{
    *fd = -1;
    if (a->type == TRANSPORT_FD) {
        *fd = monitor_get_fd(vm, a->fd_name, err);
        return *fd >= 0;
    }
    if (a->type == TRANSPORT_FILE && monitor_fdset_is_path(a->path)) {
        *fd = monitor_fdset_open(vm->monitors, a->path, flags, err);
        return *fd >= 0;
    }
    return true;
}

bool migration_guest_is_here(struct migration *m, GError **err)
{
    struct vm *vm = m->vm;

    if (vm->run_state == RUN_STATE_INMIGRATE) {
        error_set(err, FERRY_ERROR_USER, "Guest is waiting for an incoming migration");
        return false;
    }
    if (migration_is_active(m)) {
        error_set(err, FERRY_ERROR_USER, "There's a migration process in progress");
        return false;
    }
    if (vm->run_state == RUN_STATE_POSTMIGRATE) {
        error_set(err, FERRY_ERROR_USER,
                  "Can't migrate the vm that was paused due to previous migration");
        return false;
    }
    return true;
}

/* A new address for a paused post-copy. */
static bool resume(struct migration *m, const struct qmp_migrate_arg *arg, GError **err)
{
    struct transport_address *addr;
    int fd;

    if (!m->out || m->status != MIGRATION_STATUS_POSTCOPY_PAUSED) {
        error_set(err, FERRY_ERROR_USER, "Cannot resume if there is no paused migration");
        return false;
    }
    addr = migration_address(arg->uri, arg->channels, err);
    if (!addr) {
        return false;
    }
    if (!migration_address_fd(m->vm, addr, O_RDWR, &fd, err)) {
        transport_address_free(addr);
        return false;
    }
    postcopy_resume(m->out, addr, fd);
    return true;
}

bool qmp_migrate(struct vm *vm, const struct qmp_migrate_arg *arg, GError **err)
{
    struct migration *m = vm->migration;
    struct transport_address *addr;
    int fd;

    if (arg->resume) {
        return resume(m, arg, err);
    }
    if (!migration_guest_is_here(m, err)) {
        return false;
    }
    if (arg->blk || arg->inc) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter '%s' asks for block migration, which Ferry does not have: use shared "
                  "storage",
                  arg->blk ? "blk" : "inc");
        return false;
    }
    if (m->blockers->len) {
        g_autoptr(GPtrArray) reasons = migration_blocker_reasons(m);
        g_autofree char *all = NULL;

        g_ptr_array_add(reasons, NULL);
        all = g_strjoinv("; ", (char **)reasons->pdata);
        error_set(err, FERRY_ERROR_USER, "%s", all);
        return false;
    }
    addr = migration_address(arg->uri, arg->channels, err);
    if (!addr) {
        return false;
    }
    if (!migration_address_fd(vm, addr, O_WRONLY, &fd, err)) {
        transport_address_free(addr);
        return false;
    }
    return outgoing_start(m, addr, fd, err);
}

bool qmp_migrate_cancel(struct vm *vm, GError **err)
{
    struct migration *m = vm->migration;

    /* with nothing to cancel it does nothing, as QEMU's */
    if (!m->out || !migration_is_active(m) || m->status == MIGRATION_STATUS_CANCELLING) {
        return true;
    }
    if (m->status == MIGRATION_STATUS_POSTCOPY_ACTIVE ||
        m->status == MIGRATION_STATUS_POSTCOPY_PAUSED ||
        m->status == MIGRATION_STATUS_POSTCOPY_RECOVER) {
        error_set(err, FERRY_ERROR_USER,
                  "The migration cannot be cancelled any more: the destination has been told to "
                  "run the guest; migrate-pause pauses it");
        return false;
    }
    if (!outgoing_cancel(m->out, err)) {
        return false;
    }
    migration_set_status(m, MIGRATION_STATUS_CANCELLING);
    return true;
}

bool qmp_migrate_continue(struct vm *vm, const struct qmp_migrate_continue_arg *arg, GError **err)
{
    struct migration *m = vm->migration;

    if (arg->state != MIGRATION_STATUS_PRE_SWITCHOVER ||
        m->status != MIGRATION_STATUS_PRE_SWITCHOVER) {
        error_set(err, FERRY_ERROR_USER, "Migration not in expected state: %s",
                  qapi_migration_status_str(m->status));
        return false;
    }
    mutex_lock(&m->lock);
    m->out->continued = true;
    cond_broadcast(&m->cond);
    mutex_unlock(&m->lock);
    return true;
}

bool qmp_migrate_incoming(struct vm *vm, const struct qmp_migrate_incoming_arg *arg, GError **err)
{
    struct migration *m = vm->migration;
    struct transport_address *addr;
    int fd;

    if (vm->run_state != RUN_STATE_INMIGRATE) {
        error_set(err, FERRY_ERROR_USER, "'-incoming' was not specified on the command line");
        return false;
    }
    if (!m->incoming_defer) {
        error_set(err, FERRY_ERROR_USER, "The incoming migration has already been started");
        return false;
    }
    addr = migration_address(arg->uri, arg->channels, err);
    if (!addr) {
        return false;
    }
    if (!migration_address_fd(vm, addr, O_RDONLY, &fd, err)) {
        transport_address_free(addr);
        return false;
    }
    if (!incoming_start(m, addr, fd, !arg->has_exit_on_error || arg->exit_on_error, err)) {
        return false;
    }
    m->incoming_defer = false;
    return true;
}

bool migration_may_run(struct vm *vm, GError **err)
{
    const struct migration *m = vm->migration;

    if (vm->run_state == RUN_STATE_POSTMIGRATE && m->out && m->out->runs_there) {
        error_set(
            err, FERRY_ERROR_USER,
            "The destination has confirmed that it runs the guest, and two copies would write "
            "the same disks: when that one has certainly ended, use migrate-take-back");
        return false;
    }
    return true;
}

/* The link was lost around the moment in which the guest was handed over. */
static bool take_back_paused(struct outgoing *out, GError **err)
{
    if (postcopy_ran_there(out)) {
        error_set(err, FERRY_ERROR_USER,
                  "The guest has run at the destination, and what is here is its memory of before: "
                  "resume the migration instead");
        return false;
    }
    postcopy_give_up(out);
    return true;
}

bool qmp_migrate_take_back(struct vm *vm, GError **err)
{
    struct migration *m = vm->migration;

    if (m->out && m->status == MIGRATION_STATUS_POSTCOPY_PAUSED) {
        return take_back_paused(m->out, err);
    }
    if (vm->run_state != RUN_STATE_POSTMIGRATE || !m->out) {
        error_set(err, FERRY_ERROR_USER,
                  "No guest has left from here that could be taken back (run state '%s')",
                  qapi_run_state_str(vm->run_state));
        return false;
    }
    m->out->runs_there = false;
    return qmp_cont(vm, err);
}

MigrationInfo *qmp_query_migrate(struct vm *vm, GError **err)
{
    (void)err;
    return migration_info(vm->migration);
}

bool qmp_migrate_start_postcopy(struct vm *vm, GError **err)
{
    struct migration *m = vm->migration;

    if (!m->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM]) {
        error_set(err, FERRY_ERROR_USER,
                  "Enable postcopy with migrate_set_capability before the start of migration");
        return false;
    }
    if (!m->out || m->status == MIGRATION_STATUS_NONE ||
        !m->out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM]) {
        error_set(err, FERRY_ERROR_USER,
                  "Postcopy must be started after migration has been started");
        return false;
    }
    /* wanted as soon as it is possible; no harm where it is late */
    postcopy_want(m->out);
    return true;
}

static bool pause_refused(GError **err)
{
    error_set(err, FERRY_ERROR_USER,
              "migrate-pause is currently only supported during postcopy-active state");
    return false;
}

bool qmp_migrate_pause(struct vm *vm, GError **err)
{
    struct migration *m = vm->migration;

    return m->out                     ? postcopy_pause(m->out, err)
           : m->in && m->in->postcopy ? postcopy_in_pause(m->in, err)
                                      : pause_refused(err);
}

bool qmp_migrate_recover(struct vm *vm, const struct qmp_migrate_recover_arg *arg, GError **err)
{
    struct migration *m = vm->migration;
    struct transport_address *addr;
    int fd;

    if (!m->in || !postcopy_in_recoverable(m->in)) {
        error_set(err, FERRY_ERROR_USER,
                  "Migrate recover can only be run when postcopy is paused.");
        return false;
    }
    if (m->in->listener) {
        error_set(err, FERRY_ERROR_USER, "Migrate recovery is triggered already");
        return false;
    }
    addr = migration_address(arg->uri, NULL, err);
    if (!addr) {
        return false;
    }
    if (!migration_address_fd(vm, addr, O_RDWR, &fd, err)) {
        transport_address_free(addr);
        return false;
    }
    bool ok = postcopy_in_recover(m->in, addr, fd, err);

    transport_address_free(addr);
    return ok;
}
