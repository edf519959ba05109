/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An ISA serial port, a 16550A with FIFOs, in front of a chardev. Machine lock held. */
#ifndef HW_CHAR_SERIAL_H
#define HW_CHAR_SERIAL_H

#include <glib.h>

struct chardev;
struct device;
struct vm;

/* Makes the port at I/O port `base`, interrupting on ISA interrupt `irq`; attaches to chr, which
 * outlives it. NULL: err is set. */
struct device *serial_create(struct vm *vm, unsigned base, unsigned irq, struct chardev *chr,
                             GError **err);

#endif
