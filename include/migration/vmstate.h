/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state as tables.
 *
 * A device describes what it saves as a plain C struct, the state, and a table of its fields. One
 * table serves saving, loading, checking, the vmdescription JSON, docs and fuzz dictionaries.
 *
 *   save:  save(dev, state)       fills a zeroed state from the device (and from KVM)
 *          the table writes it
 *   load:  defaults(state)        what the state is when the stream leaves a subsection or an old
 * version's field out the table reads it and checks ranges; check(state) relates fields that a
 * range cannot
 *          ... every other section of the stream is read the same way; only when the whole stream
 * was good ... load(dev, state)       puts it into the device
 *
 * So a bad stream never leaves a half-loaded device. load() may still fail where the host refuses
 * (an MSR); the destination then does not start. Everything on the wire is big-endian; field order
 * is wire order.
 */
#ifndef MIGRATION_VMSTATE_H
#define MIGRATION_VMSTATE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream_in;
struct stream_out;
struct vm;
struct vmstate;

enum vmstate_type {
    VMS_END,
    VMS_BOOL, /* bool, one byte; other than 0 and 1 is refused */
    VMS_U8,
    VMS_U16,
    VMS_U32,
    VMS_U64,
    VMS_I32,
    VMS_I64,
    VMS_TIMER,  /* int64_t ns on the virtual clock, -1 = not armed */
    VMS_BUFFER, /* count bytes as they are */
    VMS_UNUSED, /* count zero bytes, nothing in the state; any content is accepted */
    VMS_STRUCT, /* nested: sub */
};

struct vmstate_field {
    const char *name; /* as QEMU's vmdescription names it */
    enum vmstate_type type;
    size_t offset;  /* in the state */
    unsigned count; /* elements of an array, 0 or 1: one; VMS_BUFFER, VMS_UNUSED: bytes */
    size_t stride;  /* bytes between elements; 0: the type's (or sub's) size */
    const struct vmstate *sub; /* VMS_STRUCT */
    int since;                 /* absent in streams with a lower version_id; 0: always there */
    /*
     * Range: checked on load when min != max. Unsigned types compare unsigned.
     */
    int64_t min, max;
    /* The field must be smaller than this other field of the same state (a position in a FIFO);
     * NULL: none. Names a field. */
    const char *less_than;
};

struct vmstate_subsection {
    const struct vmstate *vmstate;     /* its name begins with the parent's and '/' (QEMU's rule) */
    bool (*needed)(const void *state); /* sent when true */
    void (*received)(void *state);     /* optional: note that it was there */
};

/*
 * For state whose layout depends on what it holds (virtio): one field, written and read by hand.
 * What decode() allocates from a count it has checked first; on failure the state is something that
 * clear() frees. decode() runs without the machine lock and changes nothing but the state.
 */
struct vmstate_custom {
    const char *name, *type; /* in the vmdescription */
    void (*encode)(const void *state, struct stream_out *o);
    bool (*decode)(void *state, int version, struct stream_in *in, GError **err);
    void (*clear)(void *state); /* frees what hangs on it, before the state itself goes */
};

struct vmstate {
    const char *name; /* idstr on the wire; of a subsection or nested struct: its vmsd name */
    int version, min_version;
    size_t size; /* of the state struct; nested ones and subsections share or embed the parent's */
    bool optional;                       /* top level: a stream without it is whole all the same */
    const struct vmstate_field *fields;  /* ends with {} */
    const struct vmstate_custom *custom; /* behind the fields; top level only; NULL: none */
    const struct vmstate_subsection
        *subsections; /* ends with {}; may be NULL. They describe the same state struct. */

    /* Of a top-level vmstate only. All but save and load may be NULL. Machine lock held, vCPUs
     * stopped. */
    bool (*save)(void *opaque, void *state, GError **err);
    bool (*load)(void *opaque, const void *state, int version, GError **err);
    void (*defaults)(void *opaque, void *state);
    bool (*check)(void *opaque, const void *state, GError **err);
};

#define VMS_F(s, n, t, f)                                                                          \
    {                                                                                              \
        .name = n, .type = t, .offset = offsetof(s, f)                                             \
    }
#define VMS_RANGE(s, n, t, f, lo, hi)                                                              \
    {                                                                                              \
        .name = n, .type = t, .offset = offsetof(s, f), .min = lo, .max = hi                       \
    }
#define VMS_ARRAY(s, n, t, f, c)                                                                   \
    {                                                                                              \
        .name = n, .type = t, .offset = offsetof(s, f), .count = c                                 \
    }
#define VMS_BYTES(s, n, f, c)                                                                      \
    {                                                                                              \
        .name = n, .type = VMS_BUFFER, .offset = offsetof(s, f), .count = c                        \
    }
#define VMS_PAD(n, c)                                                                              \
    {                                                                                              \
        .name = n, .type = VMS_UNUSED, .count = c                                                  \
    }
#define VMS_NEST(s, n, f, subvm)                                                                   \
    {                                                                                              \
        .name = n, .type = VMS_STRUCT, .offset = offsetof(s, f), .sub = subvm                      \
    }
#define VMS_NEST_ARRAY(s, n, f, subvm, c, str)                                                     \
    {                                                                                              \
        .name = n, .type = VMS_STRUCT, .offset = offsetof(s, f), .sub = subvm, .count = c,         \
        .stride = str                                                                              \
    }

/* Registered entries, in the order in which they are sent. */
struct savevm;
struct savevm *savevm_new(struct vm *vm);
void savevm_free(struct savevm *s);
/*
 * order: entries are sent by rising order, then in order of registration (the microvm board fixes
 * it: see hw/i386/microvm.c). idstr NULL: vmstate->name. opaque is what save/load get (a struct
 * device * for devices).
 */
void savevm_register(struct savevm *s, const char *idstr, uint32_t instance_id,
                     const struct vmstate *vmstate, void *opaque, unsigned order);
void savevm_unregister(struct savevm *s, void *opaque);
/* Somebody who cannot migrate says why; query-migrate's blocked-reasons. Returns a handle for
 * removal. Refused under -only-migratable. */
bool migration_blocker_add(struct vm *vm, const char *reason, unsigned *handle, GError **err);
void migration_blocker_remove(struct vm *vm, unsigned handle);

#endif
