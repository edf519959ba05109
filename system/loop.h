/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to system/: the main loop and what it has been asked to do. Machine lock held. */
#ifndef SYSTEM_LOOP_H
#define SYSTEM_LOOP_H

#include "system/vm.h"

struct vm_loop {
    ShutdownCause reset, shutdown; /* NONE: not asked */
    bool stop, powerdown;
    RunState stop_state;
    void (*powerdown_fn)(void *opaque);
    void *powerdown_opaque;
    GArray *poll_fds; /* GPollFD, kept between turns */
    /* Somebody is between looking at the run state and changing it, maybe with the lock dropped. */
    bool changing;
    struct cond changed;
};

struct vm_loop *vm_loop_new(void);
void vm_loop_free(struct vm_loop *loop);
void vm_loop_wake(struct vm *vm);
/* Carries out one request; false: there was none. */
bool vm_handle_requests(struct vm *vm);

#endif
