/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking the guest which pages it does not need, while the first round goes through all memory.
 *
 * The order that keeps every write of the guest:
 *
 *   1 all memory is re-armed: what is written from here on is in the dirty log (or ring)
 *   2 the guest is asked
 *   3 it names a page: it does not need what is in it now. It may use the page again at any time,
 *     without telling; such a write comes after 1 and is logged
 *   4 the first round comes to the page, takes it for never touched, and does not read it
 *   5 the sync at the round's end finds what was written since 1, and the next round sends it
 *
 * Nothing may drop the log's entry between 1 and 5: the log is only cleared of what a sync has
 * seen (accel/kvm/dirty-log.c), which in the first round is nothing after 1. So it does not matter
 * whether a hint is late. Later rounds hold only what was written again; nobody asks then.
 *
 * To the stream such a page is like one that was never touched: nothing, or nine bytes. So the
 * destination knows that it has it, also in post-copy and its recovery, and it reads as zero there.
 *
 * The asking ends with the first round, before post-copy begins and before the guest is stopped;
 * the guest hears that it may have its pages back when it runs, here or there.
 */
#include "migration/page-hints.h"

#include "migration/internal.h"
#include "system/vm.h"

void page_hinter_set(struct vm *vm, struct page_hinter *h)
{
    if (vm->migration) {
        vm->migration->hinter = h;
    }
}

void page_hints_begin(struct outgoing *out)
{
    struct migration *m = out->m;
    bool ask;

    vm_lock(out->vm);
    ask = m->hinter && vm_is_running(out->vm);
    vm_unlock(out->vm);
    if (!ask) {
        return;
    }
    ram_save_ask_for_hints(out->ram);
    out->hints_asked = true;
    vm_lock(out->vm);
    m->hinter->start(m->hinter);
    vm_unlock(out->vm);
}

void page_hints_end(struct outgoing *out)
{
    if (!out->hints_asked) {
        return;
    }
    out->hints_asked = false;
    vm_lock(out->vm);
    out->m->hinter->stop(out->m->hinter);
    ram_save_end_hints(out->ram);
    vm_unlock(out->vm);
}
