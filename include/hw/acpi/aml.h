/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A writer for AML, the byte code of ACPI tables.
 *
 * AML is a prefix language: an operator is followed by its operands. The writer therefore emits in
 * the order in which the calls are made, straight into the caller's byte array, and every construct
 * that carries its own length (scope, device, method, package, ...) is opened by its function and
 * closed by aml_end(). Opening returns nothing to keep: the innermost open construct is the one
 * aml_end() closes.
 *
 *     aml_device(&aml, "PWRB");
 *         aml_name(&aml, "_HID");
 *         aml_string(&aml, "PNP0C0C");
 *     aml_end(&aml);
 *
 * What is written is fixed by the program, never by guest or peer, so misuse (a bad name, an
 * unbalanced end) is a programming error and asserts. Single-threaded; the array belongs to the
 * caller. Encoding: ACPI specification 6.0, chapter 20 (AML) and 6.4 (resource descriptors).
 */
#ifndef HW_ACPI_AML_H
#define HW_ACPI_AML_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct aml {
    GByteArray *out; /* borrowed from the caller */
    GArray *open;    /* struct aml_frame: constructs whose end is still to come */
};

/* Operators without a length of their own; operands follow as further calls. */
enum aml_op {
    AML_OP_STORE = 0x70,  /* source, target */
    AML_OP_AND = 0x7b,    /* operand, operand, target */
    AML_OP_NOTIFY = 0x86, /* object, value */
};

enum aml_trigger {
    AML_LEVEL,
    AML_EDGE,
};

/* Starts a writer that appends to @out; aml_finish() frees its bookkeeping and checks that nothing
 * is left open. */
void aml_begin(struct aml *aml, GByteArray *out);
void aml_finish(struct aml *aml);

/* Constructs closed by aml_end(). Names are paths ("\\_SB", "^DEV", "A.B"); segments are padded to
 * 4 characters. */
void aml_scope(struct aml *aml, const char *name);
void aml_device(struct aml *aml, const char *name);
void aml_method(struct aml *aml, const char *name, unsigned args, bool serialized);
void aml_if(struct aml *aml); /* the predicate is the first thing written inside */
void aml_package(struct aml *aml, uint8_t elements);
void aml_dword_field(struct aml *aml, const char *region); /* accessed 32 bits at a time */
void aml_resources(struct aml *aml); /* a buffer of resource descriptors, end tag included */
void aml_end(struct aml *aml);

/* Name and region declarations. */
void aml_name(struct aml *aml, const char *name); /* the object follows */
void aml_memory_region(struct aml *aml, const char *name, uint64_t base, uint32_t size);
void aml_field_unit(struct aml *aml, const char *name,
                    uint32_t bits); /* inside aml_dword_field() */

/* Objects and terms. */
void aml_op(struct aml *aml, enum aml_op op);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text); /* ASCII */
void aml_eisa_id(struct aml *aml, const char *id);  /* "PNP0501" */
void aml_reference(struct aml *aml, const char *name);
void aml_local(struct aml *aml, unsigned index); /* 0..7 */
void aml_no_target(struct aml *aml);             /* the result is used in place, not stored */

/* Resource descriptors, inside aml_resources(). */
void aml_resource_io(struct aml *aml, uint16_t base, uint8_t ports);
void aml_resource_irq(struct aml *aml, unsigned irq); /* ISA interrupt 0..15, edge, active high */
void aml_resource_memory32(struct aml *aml, uint32_t base, uint32_t size);
void aml_resource_interrupt(struct aml *aml, enum aml_trigger trigger, uint32_t gsi);

#endif
