/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ACPI tables of the machine microvm; see include/hw/acpi/microvm-acpi.h.
 *
 * The machine is hardware reduced: no power management timer, no SCI, no GPE. Power off, reset and
 * the power button go through the GED. There are no interrupt overrides, because ISA interrupt n is
 * global interrupt n, edge-triggered and active high, which is what an operating system assumes
 * when nothing is said.
 *
 * Two things depend on the order below. Linux numbers virtio devices as it meets them, and the
 * board fills slots from the last one down, so describing slots from the last one down makes the
 * first device of the command line the first one of its kind in the guest. And the loader runs its
 * commands in order: files are placed before anything points into them.
 */
#include "hw/acpi/microvm-acpi.h"

#include "hw/acpi/acpi-tables.h"
#include "hw/acpi/aml.h"
#include "hw/acpi/ged.h"
#include "hw/acpi/loader.h"

#define DSDT_REVISION    2 /* from 2 on, integers have 64 bits */
#define TABLES_ALIGNMENT 64

#define IOAPIC_BASE   0xfec00000u
#define IOAPIC_STRIDE 0x10000u
#define IOAPIC_PINS   24
#define IOAPIC_MAX    2

#define FW_CFG_PORT  0x510
#define FW_CFG_PORTS 12
#define SERIAL_PORT  0x3f8
#define SERIAL_PORTS 8
#define SERIAL_IRQ   4
#define RTC_PORT     0x70
#define RTC_PORTS    2
#define RTC_IRQ      8

#define STA_PRESENT_HIDDEN   0x0b /* present, decoding, working; not for the user to see */
#define NOTIFY_BUTTON_PUSHED 0x80

static void dsdt_fw_cfg(struct aml *aml)
{
    aml_device(aml, "FWCF");
    aml_name(aml, "_HID");
    aml_string(aml, "QEMU0002"); /* the id by which guests know this interface */
    aml_name(aml, "_STA");
    aml_integer(aml, STA_PRESENT_HIDDEN);
    aml_name(aml, "_CRS");
    aml_resources(aml);
    aml_resource_io(aml, FW_CFG_PORT, FW_CFG_PORTS);
    aml_end(aml);
    aml_end(aml);
}

static void dsdt_isa_device(struct aml *aml, const char *name, const char *eisa_id, uint16_t port,
                            uint8_t ports, unsigned irq)
{
    aml_device(aml, name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, eisa_id);
    aml_name(aml, "_UID");
    aml_integer(aml, 1);
    aml_name(aml, "_CRS");
    aml_resources(aml);
    aml_resource_io(aml, port, ports);
    aml_resource_irq(aml, irq);
    aml_end(aml);
    aml_end(aml);
}

/*
 * The operating system calls _EVT when the GED's interrupt arrives. One read fetches and clears all
 * events, so the value is kept in a local variable and tested bit by bit.
 */
static void dsdt_ged(struct aml *aml, uint64_t base, uint32_t gsi)
{
    aml_device(aml, "GED");
    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0013");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    aml_resources(aml);
    aml_resource_interrupt(aml, AML_EDGE, gsi);
    aml_end(aml);

    aml_memory_region(aml, "EREG", base + GED_EVENTS, GED_EVENTS_SIZE);
    aml_dword_field(aml, "EREG");
    aml_field_unit(aml, "EVTS", 8 * GED_EVENTS_SIZE);
    aml_end(aml);

    aml_method(aml, "_EVT", 1, true);
    aml_op(aml, AML_OP_STORE);
    aml_reference(aml, "EVTS");
    aml_local(aml, 0);
    aml_if(aml);
    aml_op(aml, AML_OP_AND);
    aml_local(aml, 0);
    aml_integer(aml, GED_EVENT_POWER_BUTTON);
    aml_no_target(aml);
    aml_op(aml, AML_OP_NOTIFY);
    aml_reference(aml, "PWRB");
    aml_integer(aml, NOTIFY_BUTTON_PUSHED);
    aml_end(aml);
    aml_end(aml);
    aml_end(aml);
}

static void dsdt_power_button(struct aml *aml)
{
    aml_device(aml, "PWRB");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0C0C");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_end(aml);
}

static void dsdt_virtio_slot(struct aml *aml, const struct acpi_microvm_config *cfg, unsigned slot)
{
    char name[8];

    g_snprintf(name, sizeof(name), "VR%02u", slot);
    aml_device(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "LNRO0005");
    aml_name(aml, "_UID");
    aml_integer(aml, slot);
    aml_name(aml, "_CCA"); /* DMA is cache coherent */
    aml_integer(aml, 1);
    aml_name(aml, "_CRS");
    aml_resources(aml);
    aml_resource_memory32(aml, cfg->virtio_base + slot * cfg->virtio_size, cfg->virtio_size);
    aml_resource_interrupt(aml, AML_LEVEL, cfg->virtio_gsi_base + slot);
    aml_end(aml);
    aml_end(aml);
}

/* The values that enter S5: the first goes to the sleep control register, the rest is unused. */
static void dsdt_power_off(struct aml *aml)
{
    aml_name(aml, "_S5");
    aml_package(aml, 4);
    aml_integer(aml, GED_SLEEP_TYPE_S5);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml);
}

static uint32_t dsdt_build(struct acpi_tables *tables, const struct acpi_microvm_config *cfg)
{
    struct aml aml;
    uint32_t table = acpi_table_begin(tables, "DSDT", DSDT_REVISION);

    aml_begin(&aml, tables->blob);
    aml_scope(&aml, "\\_SB");
    if (cfg->fw_cfg) {
        dsdt_fw_cfg(&aml);
    }
    if (cfg->serial) {
        dsdt_isa_device(&aml, "COM1", "PNP0501", SERIAL_PORT, SERIAL_PORTS, SERIAL_IRQ);
    }
    if (cfg->rtc) {
        dsdt_isa_device(&aml, "RTC", "PNP0B00", RTC_PORT, RTC_PORTS, RTC_IRQ);
    }
    dsdt_ged(&aml, cfg->ged_base, cfg->ged_gsi);
    dsdt_power_button(&aml);
    for (unsigned slot = cfg->virtio_count; slot-- > 0;) {
        if (cfg->virtio_present >> slot & 1) {
            dsdt_virtio_slot(&aml, cfg, slot);
        }
    }
    aml_end(&aml);
    dsdt_power_off(&aml);
    aml_finish(&aml);
    acpi_table_end(tables, table);
    return table;
}

static uint32_t microvm_madt(struct acpi_tables *tables, const struct acpi_microvm_config *cfg)
{
    struct acpi_ioapic_config ioapics[IOAPIC_MAX];
    struct acpi_madt_config madt = {
        .vcpus = cfg->vcpus,
        .apic_ids = cfg->apic_ids,
        .ioapics = ioapics,
        .ioapic_count = cfg->ioapic_count,
        .pic = cfg->pic,
    };

    for (unsigned i = 0; i < cfg->ioapic_count; i++) {
        ioapics[i] = (struct acpi_ioapic_config){
            .id = i,
            .base = IOAPIC_BASE + i * IOAPIC_STRIDE,
            .first_gsi = i * IOAPIC_PINS,
        };
    }
    return acpi_madt_build(tables, &madt);
}

void acpi_microvm_build(const struct acpi_microvm_config *cfg, GByteArray *tables,
                        GByteArray *loader, GByteArray *rsdp)
{
    struct acpi_tables set = { .blob = tables, .loader = loader };
    struct acpi_fadt_config fadt = {
        .boot_flags = ACPI_FADT_VGA_NOT_PRESENT | (cfg->rtc ? 0 : ACPI_FADT_RTC_NOT_PRESENT),
        .sleep_control = cfg->ged_base + GED_SLEEP_CONTROL,
        .sleep_status = cfg->ged_base + GED_SLEEP_STATUS,
        .reset = cfg->ged_base + GED_RESET,
        .reset_value = GED_RESET_VALUE,
    };
    uint32_t listed[2];

    g_assert(tables->len == 0 && loader->len == 0);
    g_assert(cfg->vcpus >= 1);
    g_assert(cfg->ioapic_count >= 1 && cfg->ioapic_count <= IOAPIC_MAX);
    g_assert(cfg->virtio_count <= ACPI_MICROVM_MAX_SLOTS);

    acpi_loader_allocate(loader, ACPI_FILE_TABLES, TABLES_ALIGNMENT, ACPI_LOADER_HIGH);
    fadt.dsdt = dsdt_build(&set, cfg);
    listed[0] = acpi_fadt_build(&set, &fadt);
    listed[1] = microvm_madt(&set, cfg);
    acpi_rsdp_build(&set, rsdp, acpi_xsdt_build(&set, listed, G_N_ELEMENTS(listed)));
}
