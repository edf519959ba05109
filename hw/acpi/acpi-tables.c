/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fixed ACPI tables; see include/hw/acpi/acpi-tables.h.
 *
 * Only what a hardware-reduced machine without NUMA or PCI has is written; a field left out is 0,
 * which the specification defines as "not there" for all of them.
 */
#include "hw/acpi/acpi-tables.h"

#include "hw/acpi/loader.h"

#include <string.h>

/* The header that begins every table. */
enum {
    HEADER_LENGTH_FIELD = 4,
    HEADER_CHECKSUM_FIELD = 9,
    HEADER_SIZE = 36,
};

#define OEM_ID           "FERRY "
#define OEM_TABLE_ID     "MICROVM "
#define OEM_REVISION     1
#define CREATOR_ID       "FRRY"
#define CREATOR_REVISION 1

/* FADT of ACPI 6.0: offsets of the fields that are not 0. */
enum {
    FADT_DSDT = 40,
    FADT_BOOT_FLAGS = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REGISTER = 116,
    FADT_RESET_VALUE = 128,
    FADT_X_DSDT = 140,
    FADT_SLEEP_CONTROL = 244,
    FADT_SLEEP_STATUS = 256,
    FADT_HYPERVISOR = 268,
    FADT_SIZE = 276,
    FADT_REVISION = 6,
};

#define HYPERVISOR_ID "FERRY\0\0"

#define FADT_FLAG_CONTROL_METHOD_POWER (1u << 4) /* the power button is a device of the DSDT */
#define FADT_FLAG_CONTROL_METHOD_SLEEP (1u << 5) /* ... and so would be a sleep button */
#define FADT_FLAG_RESET_REGISTER       (1u << 10)
#define FADT_FLAG_HARDWARE_REDUCED     (1u << 20)

/* MADT: structures after its own two fields begin with a type and a length. */
enum {
    MADT_REVISION = 3,
    MADT_LOCAL_APIC = 0,
    MADT_IOAPIC = 1,
    MADT_LOCAL_APIC_NMI = 4,
    MADT_X2APIC = 9,
    MADT_X2APIC_NMI = 10,
};

#define LOCAL_APIC_BASE     0xfee00000u
#define MADT_PCAT_COMPAT    1u
#define MADT_CPU_ENABLED    1u
#define MADT_NMI_LINT       1 /* where a PC's NMI arrives, on every vCPU */
#define MADT_ALL_CPUS       0xffu
#define MADT_ALL_X2APICS    UINT32_MAX
#define MADT_LOCAL_APIC_MAX 254u /* 255 is broadcast: such ids need the x2APIC structure */

/* RSDP, second form. */
enum {
    RSDP_REVISION = 2,
    RSDP_CHECKSUM = 8,
    RSDP_FIRST_FORM_SIZE = 20,
    RSDP_XSDT = 24,
    RSDP_EXTENDED_CHECKSUM = 32,
    RSDP_SIZE = 36,
    RSDP_ALIGNMENT = 16, /* operating systems search at such steps */
};

static void put(GByteArray *array, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i);

        g_byte_array_append(array, &byte, 1);
    }
}

static void put_zeros(GByteArray *array, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        put(array, 0, 1);
    }
}

static void put_text(GByteArray *array, const char *text)
{
    g_byte_array_append(array, (const uint8_t *)text, strlen(text));
}

static void set(GByteArray *array, uint32_t at, uint64_t value, unsigned size)
{
    g_assert(at <= array->len && size <= array->len - at);
    for (unsigned i = 0; i < size; i++) {
        array->data[at + i] = value >> (8 * i);
    }
}

/* A pointer of @size bytes at @at in the table blob to @target in the same blob. */
static void set_pointer(struct acpi_tables *tables, uint32_t at, unsigned size, uint32_t target)
{
    set(tables->blob, at, target, size);
    acpi_loader_add_pointer(tables->loader, ACPI_FILE_TABLES, at, size, ACPI_FILE_TABLES);
}

/* Generic address structure of a register of one byte in memory. */
static void set_register(GByteArray *array, uint32_t at, uint64_t address)
{
    set(array, at, 0, 1);     /* address space: memory */
    set(array, at + 1, 8, 1); /* width in bits */
    set(array, at + 2, 0, 1); /* bit offset */
    set(array, at + 3, 1, 1); /* access size: byte */
    set(array, at + 4, address, 8);
}

uint32_t acpi_table_begin(struct acpi_tables *tables, const char *signature, uint8_t revision)
{
    GByteArray *blob = tables->blob;
    uint32_t table = blob->len;

    g_assert(strlen(signature) == 4);
    put_text(blob, signature);
    put(blob, 0, 4); /* length, set at the end */
    put(blob, revision, 1);
    put(blob, 0, 1); /* checksum, set by the firmware */
    put_text(blob, OEM_ID);
    put_text(blob, OEM_TABLE_ID);
    put(blob, OEM_REVISION, 4);
    put_text(blob, CREATOR_ID);
    put(blob, CREATOR_REVISION, 4);
    g_assert(blob->len - table == HEADER_SIZE);
    return table;
}

void acpi_table_end(struct acpi_tables *tables, uint32_t table)
{
    uint32_t length = tables->blob->len - table;

    set(tables->blob, table + HEADER_LENGTH_FIELD, length, 4);
    acpi_loader_add_checksum(tables->loader, ACPI_FILE_TABLES, table + HEADER_CHECKSUM_FIELD, table,
                             length);
}

uint32_t acpi_fadt_build(struct acpi_tables *tables, const struct acpi_fadt_config *cfg)
{
    GByteArray *blob = tables->blob;
    uint32_t table = acpi_table_begin(tables, "FACP", FADT_REVISION);
    uint32_t flags = FADT_FLAG_CONTROL_METHOD_POWER | FADT_FLAG_CONTROL_METHOD_SLEEP |
                     FADT_FLAG_RESET_REGISTER | FADT_FLAG_HARDWARE_REDUCED;

    put_zeros(blob, FADT_HYPERVISOR - HEADER_SIZE);
    g_byte_array_append(blob, (const uint8_t *)HYPERVISOR_ID, sizeof(HYPERVISOR_ID));
    g_assert(blob->len - table == FADT_SIZE);

    set(blob, table + FADT_BOOT_FLAGS, cfg->boot_flags, 2);
    set(blob, table + FADT_FLAGS, flags, 4);
    set_register(blob, table + FADT_RESET_REGISTER, cfg->reset);
    set(blob, table + FADT_RESET_VALUE, cfg->reset_value, 1);
    set_register(blob, table + FADT_SLEEP_CONTROL, cfg->sleep_control);
    set_register(blob, table + FADT_SLEEP_STATUS, cfg->sleep_status);
    /* both widths, since readers differ in which one they look at */
    set_pointer(tables, table + FADT_DSDT, 4, cfg->dsdt);
    set_pointer(tables, table + FADT_X_DSDT, 8, cfg->dsdt);
    acpi_table_end(tables, table);
    return table;
}

static void madt_cpu(GByteArray *blob, uint32_t uid, uint32_t apic_id)
{
    if (apic_id <= MADT_LOCAL_APIC_MAX && uid < MADT_ALL_CPUS) {
        put(blob, MADT_LOCAL_APIC, 1);
        put(blob, 8, 1);
        put(blob, uid, 1);
        put(blob, apic_id, 1);
        put(blob, MADT_CPU_ENABLED, 4);
    } else {
        put(blob, MADT_X2APIC, 1);
        put(blob, 16, 1);
        put(blob, 0, 2);
        put(blob, apic_id, 4);
        put(blob, MADT_CPU_ENABLED, 4);
        put(blob, uid, 4);
    }
}

static void madt_ioapic(GByteArray *blob, const struct acpi_ioapic_config *cfg)
{
    put(blob, MADT_IOAPIC, 1);
    put(blob, 12, 1);
    put(blob, cfg->id, 1);
    put(blob, 0, 1);
    put(blob, cfg->base, 4);
    put(blob, cfg->first_gsi, 4);
}

static void madt_nmi(GByteArray *blob)
{
    put(blob, MADT_LOCAL_APIC_NMI, 1);
    put(blob, 6, 1);
    put(blob, MADT_ALL_CPUS, 1);
    put(blob, 0, 2); /* polarity and trigger mode as the bus has them */
    put(blob, MADT_NMI_LINT, 1);
}

static void madt_x2apic_nmi(GByteArray *blob)
{
    put(blob, MADT_X2APIC_NMI, 1);
    put(blob, 12, 1);
    put(blob, 0, 2);
    put(blob, MADT_ALL_X2APICS, 4);
    put(blob, MADT_NMI_LINT, 1);
    put(blob, 0, 3);
}

uint32_t acpi_madt_build(struct acpi_tables *tables, const struct acpi_madt_config *cfg)
{
    GByteArray *blob = tables->blob;
    uint32_t table = acpi_table_begin(tables, "APIC", MADT_REVISION);
    bool x2apic = false;

    put(blob, LOCAL_APIC_BASE, 4);
    put(blob, cfg->pic ? MADT_PCAT_COMPAT : 0, 4);
    for (unsigned i = 0; i < cfg->vcpus; i++) {
        uint32_t apic_id = cfg->apic_ids ? cfg->apic_ids[i] : i;

        madt_cpu(blob, i, apic_id);
        x2apic |= apic_id > MADT_LOCAL_APIC_MAX || i >= MADT_ALL_CPUS;
    }
    for (unsigned i = 0; i < cfg->ioapic_count; i++) {
        madt_ioapic(blob, &cfg->ioapics[i]);
    }
    madt_nmi(blob);
    if (x2apic) {
        madt_x2apic_nmi(blob);
    }
    acpi_table_end(tables, table);
    return table;
}

uint32_t acpi_xsdt_build(struct acpi_tables *tables, const uint32_t *listed, unsigned count)
{
    uint32_t table = acpi_table_begin(tables, "XSDT", 1);

    for (unsigned i = 0; i < count; i++) {
        put(tables->blob, 0, 8);
        set_pointer(tables, tables->blob->len - 8, 8, listed[i]);
    }
    acpi_table_end(tables, table);
    return table;
}

void acpi_rsdp_build(struct acpi_tables *tables, GByteArray *rsdp, uint32_t xsdt)
{
    g_assert(rsdp->len == 0);
    put_text(rsdp, "RSD PTR ");
    put(rsdp, 0, 1); /* checksum of the first form */
    put_text(rsdp, OEM_ID);
    put(rsdp, RSDP_REVISION, 1);
    put(rsdp, 0, 4); /* no RSDT */
    put(rsdp, RSDP_SIZE, 4);
    put(rsdp, xsdt, 8);
    put(rsdp, 0, 1); /* checksum of the whole */
    put(rsdp, 0, 3);
    g_assert(rsdp->len == RSDP_SIZE);

    acpi_loader_allocate(tables->loader, ACPI_FILE_RSDP, RSDP_ALIGNMENT, ACPI_LOADER_F_SEGMENT);
    acpi_loader_add_pointer(tables->loader, ACPI_FILE_RSDP, RSDP_XSDT, 8, ACPI_FILE_TABLES);
    acpi_loader_add_checksum(tables->loader, ACPI_FILE_RSDP, RSDP_CHECKSUM, 0,
                             RSDP_FIRST_FORM_SIZE);
    acpi_loader_add_checksum(tables->loader, ACPI_FILE_RSDP, RSDP_EXTENDED_CHECKSUM, 0, RSDP_SIZE);
}
