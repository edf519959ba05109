/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qtest server: a test drives memory, ports, clock and interrupt lines of the machine over a
 * character device. docs/developer.md says how tests use it. Machine lock held throughout.
 */
#ifndef SYSTEM_QTEST_H
#define SYSTEM_QTEST_H

#include <glib.h>
#include <stdbool.h>

struct chardev;
struct vm;

/*
 * Serves qtest on a chardev (borrowed, must exist until qtest_free()) and sets vm->qtest. `log` is
 * a file that records the dialogue; NULL and "none": there is no such file. Call it after the
 * machine is built, because a client may speak at once. HOST error when the log cannot be opened,
 * USER when the chardev is in use.
 */
bool qtest_start(struct vm *vm, struct chardev *chr, const char *log, GError **err);
/* Ends it; nothing happens when vm->qtest is NULL. The chardev must still exist. */
void qtest_free(struct vm *vm);

/* An interrupt line of the machine was set (vm_irq_set(); only when vm->qtest is set). */
void qtest_irq_changed(struct vm *vm, unsigned gsi, bool level);

#endif
