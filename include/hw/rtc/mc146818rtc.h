/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PC's real-time clock and CMOS memory, MC146818, at I/O port 0x70. Machine lock held. */
#ifndef HW_RTC_MC146818RTC_H
#define HW_RTC_MC146818RTC_H

#include <glib.h>
#include <stdint.h>

struct device;
struct vm;
struct vm_config;

/* Makes the clock with cfg's -rtc options (read now, not kept), interrupting on ISA interrupt
 * `irq`. NULL: err is set. */
struct device *rtc_create(struct vm *vm, const struct vm_config *cfg, unsigned irq, GError **err);
/* What a PC's firmware finds in CMOS about memory; bytes of RAM below and above 4 GiB. */
void rtc_set_memory_size(struct device *rtc, uint64_t below_4g, uint64_t above_4g);

#endif
