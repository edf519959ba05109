/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The paravirtual clock; see hw/i386/kvmclock.c. */
#ifndef HW_I386_KVMCLOCK_H
#define HW_I386_KVMCLOCK_H

#include <stdint.h>

struct vm;

/* What x86_clock_adjust() does to kvmclock: the clock, which stands, goes on as if it had stood
 * pause_ns less until now. Nothing without the device. Machine lock held, vCPUs stopped. */
void kvmclock_adjust(struct vm *vm, int64_t pause_ns);

#endif
