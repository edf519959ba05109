/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Capabilities and parameters. One table of parameters gives set, query, range and default; one of
 * capabilities says which exclude or need each other. A request that has one bad value changes
 * nothing.
 */
#include <inttypes.h>
#include <string.h>

#include "accel/accel.h"
#include "accel/kvm.h"
#include "migration/announce.h"
#include "migration/internal.h"
#include "migration/postcopy/arrival.h"
#include "migration/ram/xbzrle-cache.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

struct parameter {
    const char *name;
    size_t has, value; /* in MigrateSetParameters and in MigrationParameters */
    size_t q_has, q_value;
    size_t size;   /* of both values: 1 or 8 bytes */
    size_t option; /* in struct migration_options, always 8 bytes */
    uint64_t def, min, max;
    const char *expects;
    bool (*valid)(uint64_t value); /* besides max; may be NULL */
};

#define PARAM(cname, qname, default_, max_, expects_)                                              \
    PARAM_IF(cname, qname, default_, 0, max_, expects_, NULL)

#define PARAM_MIN(cname, qname, default_, min_, max_, expects_)                                    \
    PARAM_IF(cname, qname, default_, min_, max_, expects_, NULL)

#define PARAM_IF(cname, qname, default_, min_, max_, expects_, valid_)                             \
    {                                                                                              \
        qname, offsetof(MigrateSetParameters, has_##cname), offsetof(MigrateSetParameters, cname), \
            offsetof(MigrationParameters, has_##cname), offsetof(MigrationParameters, cname),      \
            sizeof(((MigrateSetParameters *)0)->cname), offsetof(struct migration_options, cname), \
            default_, min_, max_, expects_, valid_                                                 \
    }

/* An hour. */
#define TIMEOUT_MAX 3600000

static bool valid_cache_size(uint64_t bytes)
{
    return bytes >= TARGET_PAGE_SIZE && !(bytes & (bytes - 1));
}

/* ms; the text says TIMEOUT_MAX */
#define PARAM_DEADLINE(cname, qname, default_, min_)                                               \
    PARAM_MIN(cname, qname, default_, min_, TIMEOUT_MAX, "a value between " #min_ " and 3600000 ms")

static const struct parameter parameters[] = {
    /* unlimited by default, unlike QEMU's 128 MiB/s: a limit is for the operator who knows of other
       traffic */
    PARAM(max_bandwidth, "max_bandwidth", 0, UINT64_MAX, NULL),
    PARAM(downtime_limit, "downtime_limit", 300, 2000 * 1000,
          "an integer in the range of 0 to (2000 * 1000) ms"),
    PARAM(avail_switchover_bandwidth, "avail_switchover_bandwidth", 0, UINT64_MAX, NULL),
    PARAM(max_postcopy_bandwidth, "max_postcopy_bandwidth", 0, UINT64_MAX, NULL),
    PARAM_IF(xbzrle_cache_size, "xbzrle_cache_size", 64 << 20, 0, UINT64_MAX,
             "a power of two no less than the target page size", valid_cache_size),
    PARAM_MIN(throttle_trigger_threshold, "throttle_trigger_threshold", 50, 1, 100,
              "an integer in the range of 1 to 100"),
    PARAM_MIN(cpu_throttle_initial, "cpu_throttle_initial", 20, 1, 99,
              "an integer in the range of 1 to 99"),
    PARAM_MIN(cpu_throttle_increment, "cpu_throttle_increment", 10, 1, 99,
              "an integer in the range of 1 to 99"),
    PARAM(cpu_throttle_tailslow, "cpu_throttle_tailslow", 0, 1, NULL),
    PARAM(max_cpu_throttle, "max_cpu_throttle", 99, 99,
          "an integer in the range of cpu_throttle_initial to 99"),
    PARAM(announce_initial, "announce_initial", 50, ANNOUNCE_INITIAL_MAX,
          "a value between 0 and 100000"),
    PARAM(announce_max, "announce_max", 550, ANNOUNCE_MAX_MAX, "a value between 0 and 100000"),
    PARAM(announce_rounds, "announce_rounds", 5, ANNOUNCE_ROUNDS_MAX, "a value between 0 and 1000"),
    PARAM_MIN(announce_step, "announce_step", 100, 1, ANNOUNCE_STEP_MAX,
              "a value between 0 and 10000"),
    PARAM_MIN(x_vcpu_dirty_limit_period, "x-vcpu-dirty-limit-period", 1000, 1, 1000,
              "a value between 1 and 1000"),
    PARAM_MIN(vcpu_dirty_limit, "vcpu_dirty_limit", 1, 1, UINT64_MAX / TARGET_PAGE_SIZE, NULL),
    /* a deadline for whatever is waited for */
    PARAM_DEADLINE(connect_timeout, "connect-timeout", 30000, 1),
    PARAM_DEADLINE(greeting_timeout, "greeting-timeout", 20000, 1),
    PARAM_DEADLINE(link_timeout, "link-timeout", 30000, 1),
    PARAM_DEADLINE(pre_switchover_timeout, "pre-switchover-timeout", 0, 0),
    PARAM_DEADLINE(ready_timeout, "ready-timeout", 30000, 1),
    PARAM_DEADLINE(confirm_timeout, "confirm-timeout", 30000, 1),
    PARAM_DEADLINE(begin_timeout, "begin-timeout", 60000, 1),
    PARAM_DEADLINE(stream_timeout, "stream-timeout", 120000, 0),
    PARAM_DEADLINE(go_timeout, "go-timeout", 60000, 1),
    PARAM_MIN(reconnect_interval, "reconnect-interval", 20, 1, 60000,
              "a value between 1 and 60000 ms"),
    PARAM(reconnect_timeout, "reconnect-timeout", 0, 86400000, "a value between 0 and 86400000 ms"),
};

#define AT(type, base, offset) (*(type *)(void *)((char *)(uintptr_t)(base) + (offset)))

static uint64_t value_of(const struct parameter *p, const void *base, size_t offset)
{
    return p->size == 1 ? AT(uint8_t, base, offset) : AT(uint64_t, base, offset);
}

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

unsigned migration_timeout_at(struct migration *m, size_t offset)
{
    mutex_lock(&m->lock);
    unsigned ms = (unsigned)AT(uint64_t, &m->options, offset);
    mutex_unlock(&m->lock);
    return ms;
}

static bool in_range(const struct parameter *p, uint64_t value)
{
    return value >= p->min && value <= p->max && (!p->valid || p->valid(value));
}

static bool refuse(const struct parameter *p, GError **err)
{
    if (p->expects) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects %s", p->name, p->expects);
    } else {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' must be greater than %" PRIu64 " MB/s",
                  p->name, p->min);
    }
    return false;
}

/* --- addresses for a post-copy whose link is lost --- */

/* Both sides need an address that can be used again and again, and the answers of the other one. */
static bool reconnect_address_possible(const char *name, const char *uri, GError **err)
{
    g_autoptr(transport_address) a = transport_parse_uri(uri, err);

    if (!a) {
        g_prefix_error(err, "Parameter '%s': ", name);
        return false;
    }
    if (a->type != TRANSPORT_TCP && a->type != TRANSPORT_UNIX) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects tcp: or unix: addresses, not '%s'",
                  name, uri);
        return false;
    }
    return true;
}

static bool reconnect_possible(const MigrateSetParameters *arg, GError **err)
{
    if (arg->reconnect_listen && *arg->reconnect_listen &&
        !reconnect_address_possible("reconnect-listen", arg->reconnect_listen, err)) {
        return false;
    }
    for (unsigned i = 0; arg->reconnect_addresses && i < arg->reconnect_addresses->len; i++) {
        if (!reconnect_address_possible("reconnect-addresses",
                                        g_ptr_array_index(arg->reconnect_addresses, i), err)) {
            return false;
        }
    }
    return true;
}

/* m held. */
static void set_reconnect(struct migration *m, const MigrateSetParameters *arg)
{
    if (arg->reconnect_listen) {
        g_free(m->reconnect_listen);
        m->reconnect_listen = *arg->reconnect_listen ? g_strdup(arg->reconnect_listen) : NULL;
    }
    if (arg->reconnect_addresses) {
        g_ptr_array_set_size(m->reconnect_addresses, 0);
        for (unsigned i = 0; i < arg->reconnect_addresses->len; i++) {
            g_ptr_array_add(m->reconnect_addresses,
                            g_strdup(g_ptr_array_index(arg->reconnect_addresses, i)));
        }
    }
}

struct transport_address *migration_reconnect_listen(struct migration *m)
{
    mutex_lock(&m->lock);
    g_autofree char *uri = g_strdup(m->reconnect_listen);
    mutex_unlock(&m->lock);
    return uri ? transport_parse_uri(uri, NULL) : NULL;
}

GPtrArray *migration_reconnect_addresses(struct migration *m)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)transport_address_free);

    mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->reconnect_addresses->len; i++) {
        g_ptr_array_add(list,
                        transport_parse_uri(g_ptr_array_index(m->reconnect_addresses, i), NULL));
    }
    mutex_unlock(&m->lock);
    return list;
}

bool qmp_migrate_set_parameters(struct vm *vm, const MigrateSetParameters *arg, GError **err)
{
    struct migration *m = vm->migration;

    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const struct parameter *p = &parameters[i];

        if (AT(bool, arg, p->has) && !in_range(p, value_of(p, arg, p->value))) {
            return refuse(p, err);
        }
    }
    uint64_t initial =
        arg->has_cpu_throttle_initial ? arg->cpu_throttle_initial : m->options.cpu_throttle_initial;

    if (arg->has_max_cpu_throttle && arg->max_cpu_throttle < initial) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'max_cpu_throttle' expects %s",
                  "an integer in the range of cpu_throttle_initial to 99");
        return false;
    }
    /* a running migration changes its cache later, when nobody can be told any more */
    if (arg->has_xbzrle_cache_size && !xbzrle_cache_possible(arg->xbzrle_cache_size, err)) {
        return false;
    }
    if (!reconnect_possible(arg, err)) {
        return false;
    }
    mutex_lock(&m->lock);
    set_reconnect(m, arg);
    for (unsigned i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const struct parameter *p = &parameters[i];

        if (AT(bool, arg, p->has)) {
            AT(uint64_t, &m->options, p->option) = value_of(p, arg, p->value);
        }
    }
    if (arg->has_cpu_throttle_initial || arg->has_cpu_throttle_increment ||
        arg->has_cpu_throttle_tailslow) {
        m->options.throttle_ladder = true;
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
        uint64_t value = AT(uint64_t, &vm->migration->options, p->option);

        if (p->size == 1) {
            AT(uint8_t, info, p->q_value) = (uint8_t)value;
        } else {
            AT(uint64_t, info, p->q_value) = value;
        }
    }
    info->reconnect_listen = g_strdup(vm->migration->reconnect_listen);
    info->reconnect_addresses = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < vm->migration->reconnect_addresses->len; i++) {
        g_ptr_array_add(info->reconnect_addresses,
                        g_strdup(g_ptr_array_index(vm->migration->reconnect_addresses, i)));
    }
    return info;
}

static bool postcopy_agrees(struct vm *vm, const bool *caps, GError **err)
{
    if (!caps[MIGRATION_CAPABILITY_POSTCOPY_RAM]) {
        if (caps[MIGRATION_CAPABILITY_POSTCOPY_PREEMPT]) {
            error_set(err, FERRY_ERROR_USER, "Postcopy preempt requires postcopy-ram");
            return false;
        }
        return true;
    }
    if (caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED]) {
        error_set(err, FERRY_ERROR_USER, "Postcopy is not compatible with ignore-shared");
        return false;
    }
    /* the source needs nothing of its host for it */
    return vm->run_state != RUN_STATE_INMIGRATE || arrival_possible(vm, false, err);
}

/* Those that exclude each other or need something. */
static bool caps_agree(struct vm *vm, const bool *caps, GError **err)
{
    if (!postcopy_agrees(vm, caps, err)) {
        return false;
    }
    if (!caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        return true;
    }
    if (caps[MIGRATION_CAPABILITY_AUTO_CONVERGE]) {
        error_set(err, FERRY_ERROR_USER,
                  "dirty-limit conflicts with auto-converge either of then available currently");
        return false;
    }
    if (!kvm_enabled(vm) || !vm->accel->dirty_ring_size) {
        error_set(err, FERRY_ERROR_USER,
                  "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set");
        return false;
    }
    return true;
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
    bool caps[MIGRATION_CAPABILITY__MAX];

    memcpy(caps, m->options.caps, sizeof(caps));
    for (unsigned i = 0; i < arg->capabilities->len; i++) {
        const MigrationCapabilityStatus *c = g_ptr_array_index(arg->capabilities, i);

        caps[c->capability] = c->state;
    }
    if (!caps_agree(vm, caps, err)) {
        return false;
    }
    mutex_lock(&m->lock);
    memcpy(m->options.caps, caps, sizeof(caps));
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
