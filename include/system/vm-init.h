/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making, running and ending a machine: for main() and for unit tests. */
#ifndef SYSTEM_VM_INIT_H
#define SYSTEM_VM_INIT_H

#include "system/vm.h"

/* An empty machine: lock, clock, memory, savevm list; run state prelaunch. Returned with the
 * machine lock held. */
struct vm *vm_new(void);
/* Ends vCPU threads, then frees everything that hangs on the vm. Machine lock held; it is gone
 * afterwards. */
void vm_free(struct vm *vm);

/*
 * Runs the main loop until the machine is to exit; returns the process's exit status. Machine lock
 * held on entry and on return.
 */
int vm_main_loop(struct vm *vm);
/* One turn of the loop; blocks for at most timeout_ms (-1: until something happens). */
void vm_main_loop_once(struct vm *vm, int timeout_ms);
/* Ends the process's main loop with this status, after the current turn. */
void vm_exit(struct vm *vm, int status);

/* Under -accel qtest: the virtual clock stands where it was put; moves it to `ns` and runs the
 * timers that came due, in order. */
void vm_clock_use_manual(struct vm *vm);
void vm_clock_advance_to(struct vm *vm, int64_t ns);
/* The earliest armed timer, -1: none. */
int64_t vm_clock_next_deadline(struct vm *vm);

#endif
