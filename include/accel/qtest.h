/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What -accel qtest remembers for tests. All with the machine lock held. */
#ifndef ACCEL_QTEST_H
#define ACCEL_QTEST_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

bool qtest_enabled(const struct vm *vm);
/* The level a GSI (0-23) was last set to. */
bool qtest_irq_level(struct vm *vm, unsigned gsi);
/* fn is called at each change of a GSI's level; NULL: nobody. */
void qtest_irq_watch(struct vm *vm, void (*fn)(void *opaque, unsigned gsi, bool level),
                     void *opaque);
/* How many MSIs were sent, and the last one. */
uint64_t qtest_last_msi(struct vm *vm, uint64_t *address, uint32_t *data);

#endif
