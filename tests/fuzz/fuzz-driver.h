/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest's virtio drivers, good and bad, as a program that the fuzzer writes; fuzz-driver.c says
 * what its opcodes are. A target is a machine: its devices, each of a kind. A kind is what lies
 * behind a device (a disk, a network, ports), with operations of its own.
 */
#ifndef TESTS_FUZZ_DRIVER_H
#define TESTS_FUZZ_DRIVER_H

#include "fuzz-machine.h"

#define FUZZ_SLOT_BASE UINT64_C(0xfeb02e00) /* of the first device, the others downwards */
#define FUZZ_SLOT_SIZE UINT64_C(0x200)

struct fuzz_driver;

/* What is left of an input. Behind its end all is zero. */
struct fuzz_reader {
    const uint8_t *at;
    size_t left;
};
uint8_t fuzz_next8(struct fuzz_reader *r);
unsigned fuzz_next16(struct fuzz_reader *r);
uint32_t fuzz_next32(struct fuzz_reader *r);
/* A length: small ones as they are, large ones near powers of two. */
unsigned fuzz_next_length(struct fuzz_reader *r);

/* All with the machine lock held; any may be NULL. */
struct fuzz_kind {
    /* Before there are devices: what they are on. */
    void (*open)(struct fuzz_driver *d);
    /* When they are there. */
    void (*plug)(struct fuzz_driver *d);
    /* As it was at the beginning; devices have been reset. */
    void (*reset)(struct fuzz_driver *d);
    /* Opcode 12. device: its number. */
    void (*extra)(struct fuzz_driver *d, unsigned device, struct fuzz_reader *r);
    /* The machine runs and has nothing to do: aborts where something was lost or is left over. Not
     * called after a section was loaded, since then it is the stream that has lost it. */
    void (*check)(struct fuzz_driver *d);
};

struct fuzz_device {
    const char *options; /* JSON, with ' for " */
    const struct fuzz_kind *kind;
};

struct fuzz_driver {
    const struct fuzz_device *devices; /* those on legacy registers first */
    unsigned count, legacy;
    struct fuzz_machine *m;
    struct fuzz_core *core; /* fuzz-driver.c */
};

/* One input. Makes the machine at the first. */
void fuzz_driver_run(struct fuzz_driver *d, const uint8_t *data, size_t size);

/* Lets the I/O thread do all that it can without waiting for anybody. */
void fuzz_driver_rest(struct fuzz_driver *d);
/* Aborts with the text of an error. */
void fuzz_must(bool ok, GError **err);
/* The machine's n-th device of this class and the ones after it; NULL: no more. */
struct virtio_device;
struct virtio_device *fuzz_find(struct vm *vm, const char *class_name, unsigned n);
/* Requests that the device has taken and not given back, over all queues. */
unsigned fuzz_in_use(struct virtio_device *v);

extern const struct fuzz_kind fuzz_disk, fuzz_nic, fuzz_ports, fuzz_balloon;

#endif
