/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Walking a vmstate table over a state: to the stream, from the stream, into the vmdescription. No
 * locks, no devices: only tables and bytes. */
#ifndef MIGRATION_VMSTATE_TABLE_H
#define MIGRATION_VMSTATE_TABLE_H

#include <jansson.h>

#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate.h"

/*
 * Writes the fields and the needed subsections of state. Where desc is not NULL, adds "fields" and
 * "subsections" to that JSON object as QEMU's vmdescription has them.
 */
void vmstate_encode(const struct vmstate *vms, const void *state, struct stream_out *o,
                    json_t *desc);

/*
 * The name of a subsection that follows, if one does: the byte 0x05 and a name that begins with
 * `prefix`. Nothing is consumed; anything else belongs to whoever reads on.
 */
bool vmstate_peek_subsection(const char *prefix, struct stream_in *in, char name[256]);
/* Its byte, name and version. */
void vmstate_put_subsection(struct stream_out *o, const char *name, uint32_t version);

/*
 * Reads into state, which the caller filled with defaults; checks version, ranges and relations.
 * path is for messages ("serial"). After an error the state's content is undefined.
 */
bool vmstate_decode(const struct vmstate *vms, void *state, int version, struct stream_in *in,
                    const char *path, GError **err);

#endif
