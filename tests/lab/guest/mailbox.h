/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page in the guest's memory in which it shows its clock. The outer machine, where that memory is
 * a file, reads it there: no serial port's delay lies between the two clocks.
 */

#ifndef LAB_MAILBOX_H
#define LAB_MAILBOX_H

#include <stdint.h>

#define MAILBOX_MAGIC 0x4c41424d41494c31ULL

struct mailbox {
    uint64_t magic;
    uint64_t real_ns; /* CLOCK_REALTIME, read just before it was written here */
};

#endif
