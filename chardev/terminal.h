/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mode of the terminal that the process was started from. Private to chardev/.
 */
#ifndef CHARDEV_TERMINAL_H
#define CHARDEV_TERMINAL_H

#include <stdbool.h>

/*
 * Raw mode on fd, if that is a terminal: bytes pass as they are, nothing is echoed; with `signals`
 * the keys for interrupt, quit and suspend still act. The mode found is put back by
 * terminal_restore(), at exit() and when a signal ends the process. One terminal at a time.
 */
void terminal_make_raw(int fd, bool signals);
void terminal_restore(void);

#endif
