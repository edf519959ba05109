/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small microvm in this process, for inputs by the thousand: whole loads of a migration stream
 * (migration/destination.c, without thread and listener) and a machine behind a QMP server. Nothing
 * runs in it (-accel qtest, the clock stands still, the RTC's too), so that the same input does the
 * same each time. It is put back to its beginning instead of being built anew.
 */
#ifndef TESTS_FUZZ_MACHINE_H
#define TESTS_FUZZ_MACHINE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "system/config.h"
#include "system/vm.h"

#define FUZZ_RAM     (UINT64_C(16) << 20) /* as the captured streams of tests/stream/fixtures */
#define FUZZ_CPUS    2u
#define FUZZ_BLOCKS  5u
#define FUZZ_RAM_ID  "microvm.ram"
#define FUZZ_BIOS_ID "pc.bios"

struct fuzz_machine {
    struct vm *vm; /* its lock is held, but for fuzz_machine_load() */
    struct vm_config cfg;
    char *folder, *firmware;
    bool has_virtio;
    uint64_t lengths[FUZZ_BLOCKS]; /* used_length of the blocks at the beginning */
};

struct fuzz_machine *fuzz_machine_new(void);
/* The same, with what add() puts into it when the board is built. */
struct fuzz_machine *fuzz_machine_new_with(void (*add)(struct vm *vm, void *opaque), void *opaque);
void fuzz_machine_free(struct fuzz_machine *m);

/* A destination that waits for its stream. */
void fuzz_machine_reset(struct fuzz_machine *m);

/* Whether this host lets a guest come in post-copy: else what announces it is refused. */
bool fuzz_machine_has_postcopy(struct fuzz_machine *m);

/*
 * Puts the machine back and loads a stream, as a destination does that a source has connected to.
 * The guest "runs" afterwards (or is in the state that the stream says), or *err is set. Aborts
 * where a refusal is not one sentence for an operator. An input that announces post-copy
 * (POSTCOPY_ADVISE) finds it enabled; if the guest came and its memory did not, there is no other
 * link: what is missing is zero. Aborts where a thread or a descriptor is left over.
 */
bool fuzz_machine_load(struct fuzz_machine *m, const void *data, size_t len, GError **err);

/* Sections of all devices, as the machine is. g_byte_array_unref() */
GByteArray *fuzz_machine_devices(struct fuzz_machine *m);
/* Puts such sections in. The machine stands still. */
void fuzz_machine_load_devices(struct fuzz_machine *m, const GByteArray *bytes);

/*
 * After a load that was not refused. The state must be one that a valid stream could carry: saved,
 * it loads again, and saved once more it is the same. And devices must work on it whatever it is:
 * their registers are read and written and their timers run.
 */
void fuzz_machine_check_loaded(struct fuzz_machine *m);
/* The first of that, on a machine that stands still. What a device lets go when it is loaded
 * (somebody asks for free pages, a frame waits) may be gone after the first time. */
void fuzz_machine_check_saved(struct fuzz_machine *m);

/* Sections of virtio devices and their back ends, in the order of the stream. */
unsigned fuzz_machine_section_count(struct fuzz_machine *m);
/* The bytes of one as it is now; version is what its header says. g_byte_array_unref() */
GByteArray *fuzz_machine_section(struct fuzz_machine *m, unsigned section, uint32_t *version);
uint32_t fuzz_section_version(struct fuzz_machine *m, unsigned section);
/*
 * On a machine that stands still: loads its own state with one section replaced. REFUSED: aborts
 * unless it is refused with a sentence and nothing has changed. SPENT: refused when all had been
 * read; a destination would be given up, and this machine must be put back.
 */
enum fuzz_loaded { FUZZ_LOADED, FUZZ_REFUSED, FUZZ_SPENT };
enum fuzz_loaded fuzz_machine_load_section(struct fuzz_machine *m, unsigned section,
                                           uint32_t version, const void *data, size_t len);

/* What fuzz_machine_stream() writes. */
enum {
    FUZZ_STREAM_COMMIT = 1, /* return path, Ferry's features, GO at the end */
    FUZZ_STREAM_PAGES = 2,  /* a few pages of memory, devices in use */
    FUZZ_STREAM_CHECK = 4,  /* with COMMIT: asks first whether the guest fits */
    FUZZ_STREAM_ALL = 7,
    FUZZ_STREAM_POSTCOPY = 8, /* most of PAGES' pages come after the guest */
};
/* A good stream from a machine like this one. g_byte_array_unref() */
GByteArray *fuzz_machine_stream(struct fuzz_machine *m, unsigned how);

#endif
