/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine as a device tree, for firmware and kernels that take one: fw_cfg file "etc/fdt".
 * Format: Devicetree Specification 0.3, chapter 5 (header, memory reservations, structure, strings,
 * all big-endian).
 *
 * The tree is written in one pass, from the root down; nothing here can fail.
 */
#include <string.h>

#include "board.h"

#include "hw/misc/virtio-slot.h"
#include "hw/nvram/fw_cfg.h"

#define FDT_MAGIC           0xd00dfeed
#define FDT_VERSION         17
#define FDT_LAST_COMPATIBLE 16

enum { FDT_BEGIN_NODE = 1, FDT_END_NODE = 2, FDT_PROP = 3, FDT_END = 9 };

#define FIRST_PHANDLE 0x8000 /* phandle of IOAPIC n: the last has the first */

struct fdt_header {
    uint32_t magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap;
    uint32_t version, last_comp_version, boot_cpuid_phys, size_dt_strings, size_dt_struct;
};

struct fdt {
    GByteArray *structure, *strings;
};

static void put_cell(GByteArray *out, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof(value));
}

static void put_padded(GByteArray *out, const void *data, unsigned size)
{
    static const uint8_t zeros[4];

    g_byte_array_append(out, data, size);
    g_byte_array_append(out, zeros, -size % 4);
}

static void begin_node(struct fdt *fdt, const char *name)
{
    put_cell(fdt->structure, FDT_BEGIN_NODE);
    put_padded(fdt->structure, name, (unsigned)strlen(name) + 1);
}

static void begin_node_at(struct fdt *fdt, const char *name, uint64_t address)
{
    g_autofree char *full = g_strdup_printf("%s@%" G_GINT64_MODIFIER "x", name, address);

    begin_node(fdt, full);
}

static void end_node(struct fdt *fdt)
{
    put_cell(fdt->structure, FDT_END_NODE);
}

static void property(struct fdt *fdt, const char *name, const void *data, unsigned size)
{
    put_cell(fdt->structure, FDT_PROP);
    put_cell(fdt->structure, size);
    put_cell(fdt->structure, fdt->strings->len);
    put_padded(fdt->structure, data, size);
    g_byte_array_append(fdt->strings, (const guint8 *)name, (guint)strlen(name) + 1);
}

static void property_string(struct fdt *fdt, const char *name, const char *value)
{
    property(fdt, name, value, (unsigned)strlen(value) + 1);
}

static void property_cells(struct fdt *fdt, const char *name, const uint32_t *cells, unsigned count)
{
    g_autoptr(GByteArray) data = g_byte_array_new();

    for (unsigned i = 0; i < count; i++) {
        put_cell(data, cells[i]);
    }
    property(fdt, name, data->data, data->len);
}

static void property_cell(struct fdt *fdt, const char *name, uint32_t value)
{
    property_cells(fdt, name, &value, 1);
}

static void property_reg(struct fdt *fdt, uint64_t base, uint32_t size)
{
    property_cells(fdt, "reg", (const uint32_t[]){ base >> 32, (uint32_t)base, 0, size }, 4);
}

static uint32_t ioapic_phandle(const struct board *board, unsigned ioapic)
{
    return FIRST_PHANDLE + (board->ioapic2 ? 1 - ioapic : 0);
}

static void property_interrupt(struct fdt *fdt, const struct board *board, unsigned gsi)
{
    property_cell(fdt, "interrupt-parent", ioapic_phandle(board, gsi / MICROVM_IOAPIC_PINS));
    property_cells(fdt, "interrupts", (const uint32_t[]){ gsi % MICROVM_IOAPIC_PINS, 0 }, 2);
}

static void add_ioapic(struct fdt *fdt, const struct board *board, unsigned i, uint64_t base)
{
    g_autofree char *name = g_strdup_printf("ioapic%u", i + 1);

    begin_node_at(fdt, name, base);
    property_string(fdt, "compatible", "intel,ce4100-ioapic");
    property(fdt, "interrupt-controller", NULL, 0);
    property_cell(fdt, "#interrupt-cells", 2);
    property_cell(fdt, "#address-cells", 2);
    property_reg(fdt, base, 0x1000);
    property_cell(fdt, "phandle", ioapic_phandle(board, i));
    property_cell(fdt, "linux,phandle", ioapic_phandle(board, i));
    end_node(fdt);
}

static void add_isa_device(struct fdt *fdt, const struct board *board, const char *name,
                           const char *compatible, unsigned port, unsigned irq)
{
    begin_node_at(fdt, name, port);
    property_string(fdt, "compatible", compatible);
    property_reg(fdt, port, 8);
    property_interrupt(fdt, board, irq);
    end_node(fdt);
}

static void add_slot(struct fdt *fdt, const struct board *board, const struct device *slot)
{
    begin_node_at(fdt, "virtio_mmio", virtio_slot_base(slot));
    property_string(fdt, "compatible", "virtio,mmio");
    property_reg(fdt, virtio_slot_base(slot), MICROVM_VIRTIO_SIZE);
    property(fdt, "dma-coherent", NULL, 0);
    property_interrupt(fdt, board, virtio_slot_gsi(slot));
    end_node(fdt);
}

static void add_tree(struct fdt *fdt, const struct board *board)
{
    begin_node(fdt, "");
    property_string(fdt, "compatible", "linux,microvm");
    property_cell(fdt, "#address-cells", 2);
    property_cell(fdt, "#size-cells", 2);

    begin_node(fdt, "chosen");
    if (board->serial) {
        property_string(fdt, "stdout-path", "/serial@3f8");
    }
    end_node(fdt);

    add_ioapic(fdt, board, 0, MICROVM_IOAPIC_BASE);
    if (board->ioapic2) {
        add_ioapic(fdt, board, 1, MICROVM_IOAPIC2_BASE);
    }
    for (unsigned i = 0; i < board->slot_count; i++) {
        if (!virtio_slot_is_free(board->slots[i])) {
            add_slot(fdt, board, board->slots[i]);
        }
    }
    if (board->serial) {
        add_isa_device(fdt, board, "serial", "ns16550", MICROVM_SERIAL_PORT, MICROVM_SERIAL_IRQ);
    }
    if (board->rtc) {
        add_isa_device(fdt, board, "rtc", "motorola,mc146818", MICROVM_RTC_PORT, MICROVM_RTC_IRQ);
    }
    end_node(fdt);
    put_cell(fdt->structure, FDT_END);
}

void microvm_add_fdt(struct board *board)
{
    struct fdt fdt = { g_byte_array_new(), g_byte_array_new() };
    static const uint64_t no_reservations[2]; /* the list ends with a pair of zeros */
    GByteArray *out = g_byte_array_new();
    g_autoptr(GBytes) bytes = NULL;
    struct fdt_header h;

    add_tree(&fdt, board);
    h = (struct fdt_header){
        .magic = FDT_MAGIC,
        .version = FDT_VERSION,
        .last_comp_version = FDT_LAST_COMPATIBLE,
        .off_mem_rsvmap = sizeof(h),
        .off_dt_struct = sizeof(h) + sizeof(no_reservations),
        .size_dt_struct = fdt.structure->len,
        .size_dt_strings = fdt.strings->len,
    };
    h.off_dt_strings = h.off_dt_struct + h.size_dt_struct;
    h.totalsize = h.off_dt_strings + h.size_dt_strings;

    /* ten cells in the order of the specification */
    for (unsigned i = 0; i < sizeof(h) / sizeof(uint32_t); i++) {
        put_cell(out, ((const uint32_t *)&h)[i]);
    }
    g_byte_array_append(out, (const guint8 *)no_reservations, sizeof(no_reservations));
    g_byte_array_append(out, fdt.structure->data, fdt.structure->len);
    g_byte_array_append(out, fdt.strings->data, fdt.strings->len);
    g_byte_array_unref(fdt.structure);
    g_byte_array_unref(fdt.strings);

    bytes = g_byte_array_free_to_bytes(out);
    fw_cfg_add_file(board->fw_cfg, "etc/fdt", bytes);
}
