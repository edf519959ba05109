/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dirty-limit, see dirty-limit.h. */
#include "migration/converge/dirty-limit.h"

#include "accel/accel.h"
#include "accel/kvm.h"
#include "migration/internal.h"
#include "system/throttle.h"
#include "system/vm.h"

/* Rounds in a row that left more than throttle-trigger-threshold. */
#define ROUNDS 2

void dirty_limit_begin(struct outgoing *out)
{
    out->converge.slept_ns = g_new0(uint64_t, out->vm->vcpu_count);
    out->converge.dirtied = g_new0(uint64_t, out->vm->vcpu_count);
    for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
        out->converge.slept_ns[i] = vcpu_limit_slept_ns(out->vm, i);
        out->converge.dirtied[i] = kvm_vcpu_dirtied(out->vm->vcpus[i]);
    }
}

/* The two figures of query-migrate. */
static void account(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;
    struct vm *vm = out->vm;
    uint64_t slept = 0, dirtied = 0, full_us = 0;

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        uint64_t s = vcpu_limit_slept_ns(vm, i), d = kvm_vcpu_dirtied(vm->vcpus[i]);

        slept = MAX(slept, s - c->slept_ns[i]);
        dirtied += d - c->dirtied[i];
        c->slept_ns[i] = s;
        c->dirtied[i] = d;
    }
    if (dirtied) {
        full_us = (uint64_t)((double)vm->accel->dirty_ring_size * vm->vcpu_count *
                             (double)round->duration_ns / 1e3 / (double)dirtied);
    }
    mutex_lock(&out->m->lock);
    c->limit_slept_us = slept / 1000;
    c->ring_full_us = full_us;
    mutex_unlock(&out->m->lock);
}

void dirty_limit_round(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;
    struct migration_options now;

    account(out, round);
    migration_options_get(out->m, &now);
    if (!c->limiting) {
        uint64_t sent = round->bytes / TARGET_PAGE_SIZE;
        bool high = round->dirtied_pages * 100 > sent * now.throttle_trigger_threshold;

        c->high_rounds = high ? c->high_rounds + 1 : 0;
        if (c->high_rounds < ROUNDS || !kvm_dirty_use(out->vm, KVM_DIRTY_LIMIT, NULL)) {
            return;
        }
        c->limiting = true;
        history_decide(out, MIGRATION_ACTION_THROTTLE, (int64_t)now.vcpu_dirty_limit,
                       "The guest writes faster than the link carries: vCPUs may write "
                       "vcpu-dirty-limit MiB a second");
    }
    for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
        vcpu_limit_set(out->vm, i, now.vcpu_dirty_limit << (20 - TARGET_PAGE_BITS));
    }
}

void dirty_limit_end(struct outgoing *out)
{
    struct converge *c = &out->converge;

    if (c->limiting) {
        c->limiting = false;
        for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
            vcpu_limit_set(out->vm, i, 0);
        }
        kvm_dirty_unuse(out->vm, KVM_DIRTY_LIMIT);
    }
    g_clear_pointer(&c->slept_ns, g_free);
    g_clear_pointer(&c->dirtied, g_free);
}
