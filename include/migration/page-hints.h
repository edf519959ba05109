/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that the guest does not need: a device that can ask the guest for it (virtio-balloon)
 * tells migration so, migration tells it when. What the guest answers goes to
 * ram_block_not_needed(). Machine lock held for all of it.
 */
#ifndef MIGRATION_PAGE_HINTS_H
#define MIGRATION_PAGE_HINTS_H

struct vm;

struct page_hinter {
    /* From now on answers count; what the guest said before does not. */
    void (*start)(struct page_hinter *h);
    /* No more: the guest may have its pages back. */
    void (*stop)(struct page_hinter *h);
};

/* The machine's one; NULL takes it away. Not while it has been started. */
void page_hinter_set(struct vm *vm, struct page_hinter *h);

#endif
