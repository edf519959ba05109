/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The migration object of a machine: its making, its end, -incoming, and who cannot migrate and
 * why. */
#include "migration/announce.h"
#include "migration/migration.h"

#include <fcntl.h>

#include "migration/converge/dirty-limit.h"
#include "migration/converge/dirty-rate.h"
#include "migration/internal.h"
#include "migration/ram/premap.h"
#include "migration/vmstate.h"
#include "monitor/monitor.h"
#include "system/config.h"
#include "system/vm.h"
#include "util/error.h"

struct blocker {
    unsigned handle;
    char *reason;
};

static void blocker_free(gpointer p)
{
    struct blocker *b = p;

    g_free(b->reason);
    g_free(b);
}

bool migration_init(struct vm *vm, const struct vm_config *cfg, GError **err)
{
    struct migration *m = g_new0(struct migration, 1);

    (void)err;
    m->vm = vm;
    m->cfg = cfg;
    m->checks = migration_checks_new();
    m->blockers = g_ptr_array_new_with_free_func(blocker_free);
    mutex_init(&m->lock);
    cond_init(&m->cond);
    migration_options_init(&m->options);
    policy_default(&m->policy);
    m->dirty_rate = dirty_rate_new(vm);
    m->dirty_limits = dirty_limits_new(vm);
    m->reconnect_addresses = g_ptr_array_new_with_free_func(g_free);
    vm->migration = m;
    migration_register_vm_state(m);
    return true;
}

void migration_free(struct vm *vm)
{
    struct migration *m = vm->migration;

    if (!m) {
        return;
    }
    if (m->out) {
        /* after the commit point it cannot be cancelled: it ends by its own deadline, or at once
         * when the channel goes */
        GError *ignored = NULL;

        if (!outgoing_cancel(m->out, &ignored)) {
            g_clear_error(&ignored);
            outgoing_abandon(m->out);
        } else if (migration_is_active(m) && m->status != MIGRATION_STATUS_CANCELLING) {
            migration_set_status(m, MIGRATION_STATUS_CANCELLING);
        }
        outgoing_free(m->out);
    }
    migration_checks_end(m);
    g_ptr_array_unref(m->checks);
    incoming_free(m->in);
    dirty_rate_free(m->dirty_rate);
    dirty_limits_free(m->dirty_limits);
    premap_free(m->premap);
    announce_free(vm);
    savevm_unregister(vm->savevm, m);
    g_ptr_array_free(m->blockers, TRUE);
    g_free(m->reconnect_listen);
    g_ptr_array_unref(m->reconnect_addresses);
    mutex_clear(&m->lock);
    cond_clear(&m->cond);
    vm->migration = NULL;
    g_free(m);
}

bool migration_start_incoming_from_options(struct vm *vm, const char *uri, GError **err)
{
    struct migration *m = vm->migration;
    struct transport_address *addr;
    int fd = -1;

    vm_set_run_state(vm, RUN_STATE_INMIGRATE);
    m->premap = premap_start(vm);
    if (g_str_equal(uri, "defer")) {
        m->incoming_defer = true;
        return true;
    }
    addr = transport_parse_uri(uri, err);
    if (!addr) {
        return false;
    }
    if (addr->type == TRANSPORT_FD) {
        fd = monitor_get_fd(vm, addr->fd_name, err);
    } else if (addr->type == TRANSPORT_FILE && monitor_fdset_is_path(addr->path)) {
        fd = monitor_fdset_open(vm->monitors, addr->path, O_RDONLY, err);
    } else {
        return incoming_start(m, addr, -1, true, err);
    }
    if (fd < 0) {
        transport_address_free(addr);
        return false;
    }
    return incoming_start(m, addr, fd, true, err);
}

bool migration_incoming_pending(struct vm *vm)
{
    return vm->run_state == RUN_STATE_INMIGRATE;
}

bool migration_blocker_add(struct vm *vm, const char *reason, unsigned *handle, GError **err)
{
    struct migration *m = vm->migration;
    struct blocker *b;

    if (vm->only_migratable) {
        error_set(err, FERRY_ERROR_USER,
                  "Disallowing migration blocker (--only-migratable) for: %s", reason);
        return false;
    }
    if (migration_is_active(m)) {
        error_set(err, FERRY_ERROR_USER,
                  "Disallowing migration blocker (migration in progress) for: %s", reason);
        return false;
    }
    b = g_new0(struct blocker, 1);
    b->handle = ++m->next_blocker;
    b->reason = g_strdup(reason);
    g_ptr_array_add(m->blockers, b);
    *handle = b->handle;
    return true;
}

void migration_blocker_remove(struct vm *vm, unsigned handle)
{
    GPtrArray *list = vm->migration->blockers;

    for (unsigned i = 0; i < list->len; i++) {
        if (((struct blocker *)g_ptr_array_index(list, i))->handle == handle) {
            g_ptr_array_remove_index(list, i);
            return;
        }
    }
}

GPtrArray *migration_blocker_reasons(struct migration *m)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; i < m->blockers->len; i++) {
        g_ptr_array_add(list,
                        g_strdup(((struct blocker *)g_ptr_array_index(m->blockers, i))->reason));
    }
    return list;
}

bool migration_is_under_way(const struct vm *vm)
{
    return vm->migration && migration_is_active(vm->migration);
}
