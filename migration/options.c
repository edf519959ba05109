/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Capabilities and parameters. One table of parameters gives set, query, range and default; one of
 * capabilities says which exclude or need each other. A request that has one bad value changes
 * nothing.
 */
#include "migration/internal.h"
#include "migration/ram/xbzrle-cache.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

struct parameter {
    const char *name;
    size_t has, value; /* in MigrateSetParameters and in MigrationParameters */
    size_t q_has, q_value;
    size_t option; /* in struct migration_options */
    uint64_t def, max;
    const char *expects;
    bool (*valid)(uint64_t value); /* besides max; may be NULL */
};

#define PARAM(cname, qname, default_, max_, expects_)                                              \
    PARAM_IF(cname, qname, default_, max_, expects_, NULL)

#define PARAM_IF(cname, qname, default_, max_, expects_, valid_)                                   \
    {                                                                                              \
        qname, offsetof(MigrateSetParameters, has_##cname), offsetof(MigrateSetParameters, cname), \
            offsetof(MigrationParameters, has_##cname), offsetof(MigrationParameters, cname),      \
            offsetof(struct migration_options, cname), default_, max_, expects_, valid_            \
    }

static bool valid_cache_size(uint64_t bytes)
{
    return bytes >= TARGET_PAGE_SIZE && !(bytes & (bytes - 1));
}

static const struct parameter parameters[] = {
    /* unlimited by default, unlike QEMU's 128 MiB/s: a limit is for the operator who knows of other
       traffic */
    PARAM(max_bandwidth, "max_bandwidth", 0, UINT64_MAX, NULL),
    PARAM(downtime_limit, "downtime_limit", 300, 2000 * 1000,
          "an integer in the range of 0 to (2000 * 1000) ms"),
    PARAM(avail_switchover_bandwidth, "avail_switchover_bandwidth", 0, UINT64_MAX, NULL),
    PARAM(max_postcopy_bandwidth, "max_postcopy_bandwidth", 0, UINT64_MAX, NULL),
    PARAM_IF(xbzrle_cache_size, "xbzrle_cache_size", 64 << 20, UINT64_MAX,
             "a power of two no less than the target page size", valid_cache_size),
};

#define AT(type, base, offset) (*(type *)(void *)((char *)(uintptr_t)(base) + (offset)))

void migration_options_init(struct migration_options *o)
{
    *o = (struct migration_options){ 0 };
    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        AT(uint64_t, o, parameters[i].option) = parameters[i].def;
    }
}

void migration_options_get(struct migration *m, struct migration_options *o)
{
    mutex_lock(&m->lock);
    *o = m->options;
    mutex_unlock(&m->lock);
}

bool qmp_migrate_set_parameters(struct vm *vm, const MigrateSetParameters *arg, GError **err)
{
    struct migration *m = vm->migration;

    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const struct parameter *p = &parameters[i];

        if (AT(bool, arg, p->has) && (AT(uint64_t, arg, p->value) > p->max ||
                                      (p->valid && !p->valid(AT(uint64_t, arg, p->value))))) {
            error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects %s", p->name, p->expects);
            return false;
        }
    }
    /* a running migration changes its cache later, when nobody can be told any more */
    if (arg->has_xbzrle_cache_size && !xbzrle_cache_possible(arg->xbzrle_cache_size, err)) {
        return false;
    }
    mutex_lock(&m->lock);
    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const struct parameter *p = &parameters[i];

        if (AT(bool, arg, p->has)) {
            AT(uint64_t, &m->options, p->option) = AT(uint64_t, arg, p->value);
        }
    }
    mutex_unlock(&m->lock);
    return true;
}

MigrationParameters *qmp_query_migrate_parameters(struct vm *vm, GError **err)
{
    MigrationParameters *info = g_new0(MigrationParameters, 1);

    (void)err;
    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const struct parameter *p = &parameters[i];

        AT(bool, info, p->q_has) = true;
        AT(uint64_t, info, p->q_value) = AT(uint64_t, &vm->migration->options, p->option);
    }
    return info;
}

bool qmp_migrate_set_capabilities(struct vm *vm, const struct qmp_migrate_set_capabilities_arg *arg,
                                  GError **err)
{
    struct migration *m = vm->migration;

    /* a destination that still waits for its source may be told what to expect */
    if (migration_is_active(m) &&
        !(vm->run_state == RUN_STATE_INMIGRATE && m->status == MIGRATION_STATUS_SETUP)) {
        error_set(err, FERRY_ERROR_USER, "There's a migration process in progress");
        return false;
    }
    mutex_lock(&m->lock);
    for (unsigned i = 0; i < arg->capabilities->len; i++) {
        const MigrationCapabilityStatus *c = g_ptr_array_index(arg->capabilities, i);

        m->options.caps[c->capability] = c->state;
    }
    mutex_unlock(&m->lock);
    return true;
}

GPtrArray *qmp_query_migrate_capabilities(struct vm *vm, GError **err)
{
    GPtrArray *list =
        g_ptr_array_new_with_free_func((GDestroyNotify)qapi_migration_capability_status_free);

    (void)err;
    for (int i = 0; i < MIGRATION_CAPABILITY__MAX; i++) {
        MigrationCapabilityStatus *c = g_new0(MigrationCapabilityStatus, 1);

        c->capability = (MigrationCapability)i;
        c->state = vm->migration->options.caps[i];
        g_ptr_array_add(list, c);
    }
    return list;
}
