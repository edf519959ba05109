/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All device sections of a stream: saving them, and loading them in two steps (read and check
 * everything; then put it in). */
#ifndef MIGRATION_VMSTATE_SAVEVM_H
#define MIGRATION_VMSTATE_SAVEVM_H

#include <jansson.h>

#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate.h"

/*
 * Writes a FULL section per entry. desc: a JSON array that gets the vmdescription of each, or NULL.
 * Machine lock held, vCPUs stopped. A device that cannot be saved makes it fail by name.
 */
bool savevm_save(struct savevm *s, struct stream_out *o, json_t *desc, GError **err);

/* fn is called for each entry, in stream order: what can be in a stream. */
void savevm_foreach(struct savevm *s,
                    void (*fn)(const char *idstr, uint32_t instance_id,
                               const struct vmstate *vmstate, void *opaque),
                    void *opaque);

/* What a stream brought and was not put in yet. */
struct savevm_load;
struct savevm_load *savevm_load_new(struct savevm *s);
void savevm_load_free(struct savevm_load *l);

/* Reads the payload of a section (header read, footer not). Migration thread, no lock: the entry
 * list is constant. */
bool savevm_load_section(struct savevm_load *l, struct stream_in *in, const char *idstr,
                         uint32_t instance_id, uint32_t version, GError **err);
/* At the end of the stream: false and *err when it did not bring the state of some device. */
bool savevm_load_complete(struct savevm_load *l, GError **err);
/* Puts everything into the devices, in our own save order. Machine lock held. On failure the
 * machine must not run. */
bool savevm_load_commit(struct savevm_load *l, GError **err);

/* Ids of sections in streams of ours: RAM, then devices. */
#define SECTION_ID_RAM          1u
#define SECTION_ID_FIRST_DEVICE 2u

#endif
