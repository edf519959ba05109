/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fixed ACPI tables: headers, FADT, MADT, XSDT, RSDP.
 *
 * Tables are appended to one blob and known by their offset in it. Every pointer and checksum is
 * left to the firmware by commands on the side (see hw/acpi/loader.h). The order is: DSDT, then the
 * FADT that names it, the other tables, the XSDT that lists them, the RSDP that names the XSDT.
 *
 * Single-threaded; the arrays belong to the caller; nothing here fails. Layouts: ACPI specification
 * 6.0, chapter 5.2.
 */
#ifndef HW_ACPI_ACPI_TABLES_H
#define HW_ACPI_ACPI_TABLES_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct acpi_tables {
    GByteArray *blob;   /* file ACPI_FILE_TABLES */
    GByteArray *loader; /* file ACPI_FILE_LOADER */
};

/* Bits of the FADT's boot flags. */
#define ACPI_FADT_VGA_NOT_PRESENT 0x0004
#define ACPI_FADT_RTC_NOT_PRESENT 0x0020

/* What a FADT says of a hardware-reduced machine. Registers are one byte wide, in memory. */
struct acpi_fadt_config {
    uint32_t dsdt; /* offset in the blob */
    uint16_t boot_flags;
    uint64_t sleep_control;
    uint64_t sleep_status;
    uint64_t reset;
    uint8_t reset_value; /* what to write to the reset register */
};

struct acpi_ioapic_config {
    uint8_t id;
    uint32_t base;      /* guest-physical address */
    uint32_t first_gsi; /* the global interrupt number of its pin 0 */
};

struct acpi_madt_config {
    unsigned vcpus;
    const uint32_t *apic_ids; /* one per vCPU; NULL: 0, 1, 2, ... */
    const struct acpi_ioapic_config *ioapics;
    unsigned ioapic_count;
    bool pic; /* the machine also has a pair of 8259 */
};

/*
 * A table of any kind is what is appended to the blob between these two. begin writes the header
 * and returns the table's offset; end sets its length and orders its checksum.
 */
uint32_t acpi_table_begin(struct acpi_tables *tables, const char *signature, uint8_t revision);
void acpi_table_end(struct acpi_tables *tables, uint32_t table);

/* Each appends one table and returns its offset. */
uint32_t acpi_fadt_build(struct acpi_tables *tables, const struct acpi_fadt_config *cfg);
uint32_t acpi_madt_build(struct acpi_tables *tables, const struct acpi_madt_config *cfg);
uint32_t acpi_xsdt_build(struct acpi_tables *tables, const uint32_t *listed, unsigned count);

/* Appends the root pointer to @rsdp, the file ACPI_FILE_RSDP, which must be empty. */
void acpi_rsdp_build(struct acpi_tables *tables, GByteArray *rsdp, uint32_t xsdt);

#endif
