/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ACPI tables of the machine microvm, made from a description of it.
 *
 * The three results are the contents of fw_cfg files (names in hw/acpi/loader.h) that live in RAM
 * blocks and travel in the migration stream; the caller pads them to whole pages with
 * acpi_blob_size().
 */
#ifndef HW_ACPI_MICROVM_ACPI_H
#define HW_ACPI_MICROVM_ACPI_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define ACPI_BLOB_STEP         4096
#define ACPI_MICROVM_MAX_SLOTS 64 /* virtio-mmio slots that can be described */

struct acpi_microvm_config {
    unsigned vcpus;
    const uint32_t *apic_ids; /* one per vCPU; NULL: 0, 1, 2, ... */
    unsigned ioapic_count;    /* 1 or 2; their places are fixed */

    bool pic;    /* a pair of 8259 */
    bool rtc;    /* at 0x70, interrupt 8 */
    bool serial; /* COM1 at 0x3f8, interrupt 4 */
    bool fw_cfg; /* at 0x510, DMA included */

    uint64_t ged_base; /* see hw/acpi/ged.h */
    uint32_t ged_gsi;

    /* slot i: registers at base + i * size, level interrupt gsi_base + i */
    unsigned virtio_count;
    uint32_t virtio_base;
    uint32_t virtio_size; /* bytes */
    uint32_t virtio_gsi_base;
    uint64_t virtio_present; /* bit i: slot i has a device; empty slots are not described */
};

/*
 * Appends to three empty arrays of the caller: @tables for ACPI_FILE_TABLES, @loader for
 * ACPI_FILE_LOADER, @rsdp for ACPI_FILE_RSDP. Cannot fail; the configuration is the board's and a
 * nonsensical one asserts. Any thread. The same configuration gives the same bytes.
 */
void acpi_microvm_build(const struct acpi_microvm_config *cfg, GByteArray *tables,
                        GByteArray *loader, GByteArray *rsdp);

/* Bytes of the RAM block for @used bytes of content: at least one step, whole steps. */
static inline uint32_t acpi_blob_size(uint32_t used)
{
    return used ? (used + ACPI_BLOB_STEP - 1) / ACPI_BLOB_STEP * ACPI_BLOB_STEP : ACPI_BLOB_STEP;
}

#endif
