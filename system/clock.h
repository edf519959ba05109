/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to system/: who makes and drives the virtual clock. Machine lock held. */
#ifndef SYSTEM_CLOCK_H
#define SYSTEM_CLOCK_H

#include "system/vm.h"

struct vm_clock *vm_clock_new(struct vm *vm);
void vm_clock_free(struct vm_clock *c);
/* Starts and stops it together with the vCPUs. */
void vm_clock_run(struct vm *vm, bool run);

#endif
