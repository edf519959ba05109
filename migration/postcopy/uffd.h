/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userfaultfd: the kernel's way to let this process say what an absent page holds. Thin: one
 * function per request, with what may come back from it handled (short copies, pages that are there
 * already). Any thread, no locks.
 */
#ifndef MIGRATION_POSTCOPY_UFFD_H
#define MIGRATION_POSTCOPY_UFFD_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A fault, as "mig/fault" wants to know it. */
struct uffd_fault {
    uint64_t address; /* of the page */
    int32_t tid;      /* of the thread, 0 when the kernel does not say */
    bool minor;       /* the file has the page, and it is only not mapped */
};

/* UFFD_FEATURE_* that this kernel knows. False and *err (HOST): not permitted here. */
bool uffd_known_features(uint64_t *known, GError **err);
/*
 * Opens a descriptor that also takes faults of the kernel (KVM's, system calls). `need` and `want`
 * are UFFD_FEATURE_* bits; *have, when not NULL, are those of both that are on. -1 and *err (HOST):
 * not permitted here, or a bit of `need` is not known to this kernel.
 */
int uffd_open(uint64_t need, uint64_t want, uint64_t *have, GError **err);
/* From here on who touches an absent page of the range waits. False with errno. */
bool uffd_register(int fd, void *start, uint64_t length, bool minor);
bool uffd_unregister(int fd, void *start, uint64_t length);
/* Up to `max` faults that nobody has looked at; 0: none; -1 with errno. */
int uffd_read(int fd, struct uffd_fault *faults, unsigned max);

/*
 * Put whole pages of page_size in place and wake who waits for them. A page that is there already
 * stays as it is; who waits for it is woken. False with errno: the host cannot (no memory), and an
 * unknown part is in place.
 */
bool uffd_copy(int fd, void *to, const void *from, uint64_t length, uint64_t page_size);
bool uffd_zero(int fd, void *to, uint64_t length, uint64_t page_size); /* not for huge pages */
/* Lets who waits for the range go on, and fault again if it must. */
void uffd_wake(int fd, void *start, uint64_t length);
/* Maps what the file has. */
bool uffd_continue(int fd, void *to, uint64_t length, uint64_t page_size);

#endif
