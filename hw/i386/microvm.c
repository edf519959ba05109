/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine type microvm: a PC without PCI. What it has and where is in
 * include/hw/i386/microvm.h; its parts are built here, in this order: firmware and RAM (the maps
 * are constant from then on), fw_cfg, vCPUs, interrupt controllers, the other devices, the
 * kernel.
 *
 * Some things wait for the first reset, because -device may still fill virtio slots after
 * microvm_build(): the ACPI tables, the device tree and the kernel's command line, and with them
 * the sealing of fw_cfg. The first reset comes before the guest runs and before a stream comes in.
 *
 * Failure of microvm_build() leaves parts behind, which board_free() and vm_free() take away.
 */
#include <inttypes.h>
#include <string.h>

#include "board.h"

#include "accel/accel.h"
#include "hw/acpi/ged.h"
#include "hw/acpi/loader.h"
#include "hw/acpi/microvm-acpi.h"
#include "hw/char/serial.h"
#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "hw/intc/ioapic.h"
#include "hw/misc/virtio-slot.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/rtc/mc146818rtc.h"
#include "system/config.h"
#include "system/vm.h"
#include "target/i386/cpu.h"
#include "util/error.h"

/* Blocks of the ACPI blobs: they may grow to these lengths. With the lengths the order of the
 * blocks in a stream is fixed as well (largest first), so they are QEMU's. */
static const struct {
    const char *block, *file;
    uint64_t max;
} blob_table[FW_CFG_BLOB_COUNT] = {
    [FW_CFG_BLOB_ACPI_TABLES] = { "/rom@etc/acpi/tables", ACPI_FILE_TABLES, 0x200000 },
    [FW_CFG_BLOB_TABLE_LOADER] = { "/rom@etc/table-loader", ACPI_FILE_LOADER, 0x10000 },
    [FW_CFG_BLOB_RSDP] = { "/rom@etc/acpi/rsdp", ACPI_FILE_RSDP, 0x1000 },
};

static bool accel_is_kvm(const struct vm *vm)
{
    return g_str_equal(vm->accel->ops->name, "kvm");
}

static void resolve_autos(struct board *board)
{
    const struct vm_config *cfg = board->cfg;
    bool kvm = accel_is_kvm(board->vm);

    board->acpi = cfg->acpi != OPT_OFF;
    board->ioapic2 = board->acpi && cfg->ioapic2 != OPT_OFF;
    board->pic = cfg->pic != OPT_OFF;
    board->pit = cfg->pit != OPT_OFF;
    /* with kvmclock a guest needs no RTC to learn the time */
    board->rtc = cfg->rtc == OPT_ON || (cfg->rtc == OPT_AUTO && !kvm);
    board->serial = cfg->isa_serial && cfg->serial_count > 0 && cfg->serials[0];
}

/* Makes a device whose class another folder registers. */
static bool add_device(struct board *board, const char *class_name, uint32_t instance,
                       unsigned order, GError **err)
{
    const struct device_class *class = device_class_find(class_name);
    struct device *dev;

    if (!class) {
        error_set(err, FERRY_ERROR_USER, "Device '%s' is not built into this program", class_name);
        return false;
    }
    dev = device_new(board->vm, class, NULL, err);
    if (!dev) {
        return false;
    }
    dev->instance_id = instance;
    dev->savevm_order = order;
    return device_realize(dev, err);
}

static bool build_interrupt_controllers(struct board *board, GError **err)
{
    struct vm *vm = board->vm;

    if (board->pic && (!add_device(board, "kvm-i8259", 0, SAVEVM_ORDER_PIC, err) ||
                       !add_device(board, "kvm-i8259", 1, SAVEVM_ORDER_PIC, err))) {
        return false;
    }
    if (accel_is_kvm(vm)) {
        if (!add_device(board, "kvm-ioapic", 0, SAVEVM_ORDER_IOAPIC, err)) {
            return false;
        }
    } else {
        board->ioapic[0] = ioapic_create(vm, MICROVM_IOAPIC_BASE, 0, err);
        if (!board->ioapic[0]) {
            return false;
        }
    }
    if (board->ioapic2) {
        board->ioapic[1] = ioapic_create(vm, MICROVM_IOAPIC2_BASE, 1, err);
        return board->ioapic[1] != NULL;
    }
    return true;
}

static bool build_slots(struct board *board, GError **err)
{
    board->slot_count = board->ioapic2 ? 24 : 8;
    board->slot_gsi_base = board->ioapic2 ? MICROVM_IOAPIC_PINS : board->acpi ? 16 : 5;
    for (unsigned i = 0; i < board->slot_count; i++) {
        board->slots[i] =
            virtio_slot_create(board->vm, MICROVM_VIRTIO_BASE + i * MICROVM_VIRTIO_SIZE,
                               board->slot_gsi_base + i, err);
        if (!board->slots[i]) {
            return false;
        }
    }
    return true;
}

static bool build_devices(struct board *board, GError **err)
{
    struct vm *vm = board->vm;

    if (accel_is_kvm(vm) && !add_device(board, "kvmclock", 0, SAVEVM_ORDER_KVMCLOCK, err)) {
        return false;
    }
    if (board->acpi && !ged_create(vm, MICROVM_GED_BASE, MICROVM_GED_IRQ, err)) {
        return false;
    }
    if (board->pit && !add_device(board, "kvm-pit", 0, SAVEVM_ORDER_PIT, err)) {
        return false;
    }
    if (board->rtc) {
        struct device *rtc = rtc_create(vm, board->cfg, MICROVM_RTC_IRQ, err);

        if (!rtc) {
            return false;
        }
        rtc_set_memory_size(rtc, board->below_4g, board->above_4g);
    }
    if (board->serial &&
        !serial_create(vm, MICROVM_SERIAL_PORT, MICROVM_SERIAL_IRQ, board->cfg->serials[0], err)) {
        return false;
    }
    return build_slots(board, err);
}

static bool build_blob(struct board *board, enum fw_cfg_blob which, GError **err)
{
    struct ram_backing backing = {
        .type = RAM_ANON, .madvise_merge = -1, .madvise_hugepage = -1, .madvise_dump = -1
    };

    board->blobs[which] = ram_block_new(board->vm->memory, blob_table[which].block, ACPI_BLOB_STEP,
                                        blob_table[which].max, &backing, err);
    return board->blobs[which] != NULL;
}

/* Blocks of equal length are sent in order of creation: pc.bios stands before the loader. */
static bool build_memory(struct board *board, GError **err)
{
    if (!x86_firmware_load(board, err) || !x86_memory_build(board, err)) {
        return false;
    }
    for (int i = 0; board->acpi && i < FW_CFG_BLOB_COUNT; i++) {
        if (!build_blob(board, (enum fw_cfg_blob)i, err)) {
            return false;
        }
    }
    return true;
}

static bool build_fw_cfg(struct board *board, GError **err)
{
    struct vm *vm = board->vm;
    const struct vm_config *cfg = board->cfg;
    static const uint8_t no_wait[4] = { 0xff, 0xff, 0xff, 0xff };
    g_autoptr(GBytes) empty = g_bytes_new_static("", 0);
    g_autoptr(GBytes) fail_wait = g_bytes_new_static(no_wait, sizeof(no_wait));
    struct fw_cfg *fw = fw_cfg_create(vm, err);

    if (!fw) {
        return false;
    }
    board->fw_cfg = fw;
    fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, cfg->ram_size);
    fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, (uint16_t)cfg->cpus);
    fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, (uint16_t)cfg->cpus);
    fw_cfg_add_u32(fw, FW_CFG_IRQ0_OVERRIDE, 1);
    if (vm->uuid_set) {
        g_autoptr(GBytes) uuid = g_bytes_new(vm->uuid, sizeof(vm->uuid));

        fw_cfg_add_bytes(fw, FW_CFG_UUID, uuid);
    }
    fw_cfg_add_file(fw, "bios-geometry", empty);
    fw_cfg_add_file(fw, "bootorder", empty);
    fw_cfg_add_file(fw, "etc/boot-fail-wait", fail_wait);
    x86_memory_add_e820(board);
    return true;
}

static bool fill_blob(struct board *board, enum fw_cfg_blob which, const GByteArray *content,
                      GError **err)
{
    struct ram_block *block = board->blobs[which];

    if (!ram_block_resize(board->vm->memory, block, acpi_blob_size(content->len), err)) {
        return false;
    }
    memcpy(block->host, content->data, content->len);
    ram_block_mark_dirty(block, 0, content->len);
    fw_cfg_add_blob(board->fw_cfg, which, blob_table[which].file, block, content->len);
    return true;
}

static bool build_acpi(struct board *board, GError **err)
{
    struct acpi_microvm_config cfg = {
        .vcpus = board->cfg->cpus,
        .ioapic_count = board->ioapic2 ? 2 : 1,
        .pic = board->pic,
        .rtc = board->rtc,
        .serial = board->serial,
        .fw_cfg = true,
        .ged_base = MICROVM_GED_BASE,
        .ged_gsi = MICROVM_GED_IRQ,
        .virtio_count = board->slot_count,
        .virtio_base = MICROVM_VIRTIO_BASE,
        .virtio_size = MICROVM_VIRTIO_SIZE,
        .virtio_gsi_base = board->slot_gsi_base,
    };
    g_autoptr(GByteArray) tables = g_byte_array_new();
    g_autoptr(GByteArray) loader = g_byte_array_new();
    g_autoptr(GByteArray) rsdp = g_byte_array_new();

    for (unsigned i = 0; i < board->slot_count; i++) {
        cfg.virtio_present |= (uint64_t)!virtio_slot_is_free(board->slots[i]) << i;
    }
    acpi_microvm_build(&cfg, tables, loader, rsdp);
    return fill_blob(board, FW_CFG_BLOB_ACPI_TABLES, tables, err) &&
           fill_blob(board, FW_CFG_BLOB_TABLE_LOADER, loader, err) &&
           fill_blob(board, FW_CFG_BLOB_RSDP, rsdp, err);
}

/* What depends on the devices that -device added. */
static void board_finish(struct board *board)
{
    g_autoptr(GError) err = NULL;

    board->finished = true;
    kernel_add_cmdline(board);
    if (board->acpi && !build_acpi(board, &err)) {
        /* growing a few pages of reserved address space: only a host without memory refuses */
        g_error("ACPI tables: %s", err->message);
    }
    microvm_add_fdt(board);
    fw_cfg_seal(board->fw_cfg);
}

bool microvm_build(struct vm *vm, const struct vm_config *cfg, GError **err)
{
    struct board *board = g_new0(struct board, 1);

    board->vm = vm;
    board->cfg = cfg;
    board->images = g_ptr_array_new_with_free_func((GDestroyNotify)image_free);
    vm->board = board;
    resolve_autos(board);

    if (cfg->kernel_irqchip == IRQCHIP_SPLIT && accel_is_kvm(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "kernel-irqchip=split is not supported; leave it out or say kernel-irqchip=on "
                  "(the guest and the migration stream see no difference)");
        return false;
    }
    return build_memory(board, err) && build_fw_cfg(board, err) && x86_cpus_new(vm, cfg, err) &&
           build_interrupt_controllers(board, err) && build_devices(board, err) &&
           kernel_load(board, err);
}

struct device *microvm_claim_slot(struct vm *vm, GError **err)
{
    struct board *board = vm->board;

    for (unsigned i = board->slot_count; i > 0; i--) {
        if (virtio_slot_is_free(board->slots[i - 1])) {
            return board->slots[i - 1];
        }
    }
    error_set(err, FERRY_ERROR_USER,
              "No virtio-mmio slot is free: machine 'microvm' has %u with these options",
              board->slot_count);
    return NULL;
}

static int compare_reset_order(gconstpointer a, gconstpointer b)
{
    const struct device *const *da = a, *const *db = b;
    unsigned oa = (*da)->class->reset_order, ob = (*db)->class->reset_order;

    return oa < ob ? -1 : oa > ob;
}

void board_reset(struct vm *vm)
{
    struct board *board = vm->board;
    g_autoptr(GPtrArray) devices = g_ptr_array_new();

    if (!board) {
        return; /* machine 'none' */
    }
    if (!board->finished) {
        board_finish(board);
    }
    for (unsigned i = 0; i < vm->devices->len; i++) {
        g_ptr_array_add(devices, g_ptr_array_index(vm->devices, i));
    }
    g_ptr_array_sort(devices, compare_reset_order); /* stable: order of realisation within */
    for (unsigned i = 0; i < devices->len; i++) {
        struct device *dev = g_ptr_array_index(devices, i);

        if (dev->class->reset) {
            dev->class->reset(dev);
        }
    }
    /* memory that a stream brings must not be written over */
    if (vm->run_state != RUN_STATE_INMIGRATE) {
        images_write(board);
    }
}

void board_free(struct vm *vm)
{
    struct board *board = vm->board;

    if (!board) {
        return;
    }
    vm->board = NULL;
    g_ptr_array_free(board->images, TRUE);
    g_free(board);
}

void board_options(const struct vm *vm,
                   void (*fn)(void *opaque, const char *name, const char *value), void *opaque)
{
    const struct board *board = vm->board;

    if (!board) {
        return;
    }
    const struct {
        const char *name;
        bool on;
    } options[] = { { "acpi", board->acpi }, { "ioapic2", board->ioapic2 },
                    { "pic", board->pic },   { "pit", board->pit },
                    { "rtc", board->rtc },   { "isa-serial", board->serial } };

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        fn(opaque, options[i].name, options[i].on ? "on" : "off");
    }
}

const char *board_name(const struct vm *vm G_GNUC_UNUSED)
{
    return "microvm";
}
