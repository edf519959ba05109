/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -kernel, -initrd and -append: handed to the firmware through fw_cfg, which starts the kernel.
 *
 * A Linux bzImage stays in fw_cfg, in two pieces: the real-mode setup code, its header filled in as
 * a boot loader does (Linux, Documentation/arch/x86/boot.rst), and the rest; the firmware copies
 * both to where fw_cfg says. An ELF kernel goes to memory at once (load-elf.c). The initrd stays in
 * fw_cfg too; only its place is decided here.
 *
 * Files are the operator's but not trusted: offsets are checked against their length.
 */
#include <inttypes.h>
#include <string.h>

#include "board.h"

#include "hw/misc/virtio-slot.h"
#include "hw/nvram/fw_cfg.h"
#include "system/config.h"
#include "system/memory.h"
#include "util/error.h"

#define KERNEL_MAX UINT64_C(0xbff00000) /* what fits between 1 MiB and 3 GiB */

/* Where things go on this machine. */
#define SETUP_ADDR   0x10000
#define CMDLINE_ADDR 0x20000
#define CMDLINE_MAX  0x10000 /* bytes, with the NUL */
#define KERNEL_ADDR  0x100000

/* The setup header: offsets in the file. */
#define HDR_SETUP_SECTS  0x1f1 /* u8, sectors of setup code besides the first; 0 means 4 */
#define HDR_MAGIC        0x202
#define HDR_VERSION      0x206 /* u16 */
#define HDR_LOADER_TYPE  0x210 /* u8 */
#define HDR_LOAD_FLAGS   0x211 /* u8 */
#define HDR_RAMDISK      0x218 /* u32 address, u32 size */
#define HDR_HEAP_END     0x224 /* u16 */
#define HDR_CMDLINE      0x228 /* u32 */
#define HDR_INITRD_MAX   0x22c /* u32, highest address of an initrd's last byte */
#define HDR_XLOADFLAGS   0x236 /* u16 */
#define HDR_END          0x264
#define LOADER_TYPE_QEMU 0xb0
#define LOADED_HIGH      0x01
#define CAN_USE_HEAP     0x80
#define XLF_ABOVE_4G     0x02
#define SECTOR           512

/* Protocol versions and what they brought. */
#define PROTOCOL_CMDLINE_32 0x202
#define PROTOCOL_INITRD_MAX 0x203
#define PROTOCOL_XLOADFLAGS 0x20c
#define OLD_INITRD_MAX      0x37ffffff

static uint32_t get_le(const uint8_t *p, unsigned bytes)
{
    uint32_t v = 0;

    memcpy(&v, p, bytes);
    return GUINT32_FROM_LE(v);
}

static void put_le(uint8_t *p, unsigned bytes, uint32_t v)
{
    v = GUINT32_TO_LE(v);
    memcpy(p, &v, bytes);
}

/* Decides where an initrd of `size` bytes goes: as high as it may, page aligned. */
static bool initrd_address(struct board *board, uint64_t size, uint64_t highest, uint32_t *address,
                           GError **err)
{
    uint64_t end = MIN(highest, board->below_4g - 1);
    uint64_t start;

    if (size >= end || (start = (end - size) & TARGET_PAGE_MASK) < KERNEL_ADDR) {
        error_set(err, FERRY_ERROR_USER,
                  "Initrd is too large, cannot support it. (max: %" PRIu64 ", need %" PRIu64 ")",
                  end, size);
        return false;
    }
    *address = (uint32_t)start;
    return true;
}

/* Adds the initrd, if there is one, to fw_cfg. */
static bool add_initrd(struct board *board, uint64_t highest, uint32_t *address, uint32_t *size,
                       GError **err)
{
    g_autoptr(GBytes) initrd = NULL;

    *address = *size = 0;
    if (!board->cfg->initrd) {
        return true;
    }
    initrd = image_read_file(board->cfg->initrd, "initrd", board->below_4g, err);
    if (!initrd) {
        return false;
    }
    if (!initrd_address(board, g_bytes_get_size(initrd), highest, address, err)) {
        return false;
    }
    *size = (uint32_t)g_bytes_get_size(initrd);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_INITRD_ADDR, *address);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_INITRD_SIZE, *size);
    fw_cfg_add_bytes(board->fw_cfg, FW_CFG_INITRD_DATA, initrd);
    return true;
}

bool kernel_place_initrd(struct board *board, uint64_t highest, GError **err)
{
    uint32_t address, size;

    return add_initrd(board, highest, &address, &size, err);
}

static bool bzimage_load(struct board *board, GBytes *file, GError **err)
{
    const char *name = board->cfg->kernel;
    size_t size, setup_size;
    const uint8_t *data = g_bytes_get_data(file, &size);
    g_autofree uint8_t *setup = NULL;
    g_autoptr(GBytes) setup_bytes = NULL, kernel_bytes = NULL;
    uint32_t version, initrd, initrd_size;
    uint64_t initrd_max;

    if (size < HDR_END || memcmp(data + HDR_MAGIC, "HdrS", 4) != 0) {
        error_set(err, FERRY_ERROR_USER,
                  "The kernel '%s' is neither a Linux bzImage nor an ELF image with a PVH entry "
                  "point",
                  name);
        return false;
    }
    version = get_le(data + HDR_VERSION, 2);
    if (version < PROTOCOL_CMDLINE_32 || !(data[HDR_LOAD_FLAGS] & LOADED_HIGH)) {
        error_set(err, FERRY_ERROR_USER,
                  "The kernel '%s' has boot protocol %u.%02u or is a zImage; Ferry needs a bzImage "
                  "with protocol 2.02 or later",
                  name, version >> 8, version & 0xff);
        return false;
    }
    setup_size = ((data[HDR_SETUP_SECTS] ? data[HDR_SETUP_SECTS] : 4) + 1u) * SECTOR;
    if (setup_size >= size) {
        error_set(err, FERRY_ERROR_USER, "The kernel '%s' is cut off in its setup code", name);
        return false;
    }
    if (size - setup_size > board->below_4g - KERNEL_ADDR) {
        error_set(err, FERRY_ERROR_USER,
                  "The kernel '%s' does not fit into the guest's memory; give the guest more",
                  name);
        return false;
    }
    initrd_max = OLD_INITRD_MAX;
    if (version >= PROTOCOL_XLOADFLAGS && (get_le(data + HDR_XLOADFLAGS, 2) & XLF_ABOVE_4G)) {
        initrd_max = UINT32_MAX;
    } else if (version >= PROTOCOL_INITRD_MAX) {
        initrd_max = get_le(data + HDR_INITRD_MAX, 4);
    }
    if (!add_initrd(board, initrd_max, &initrd, &initrd_size, err)) {
        return false;
    }

    setup = g_memdup2(data, MAX(setup_size, HDR_END));
    setup[HDR_LOADER_TYPE] = LOADER_TYPE_QEMU;
    setup[HDR_LOAD_FLAGS] |= CAN_USE_HEAP;
    put_le(setup + HDR_HEAP_END, 2, CMDLINE_ADDR - SETUP_ADDR - SECTOR);
    put_le(setup + HDR_CMDLINE, 4, CMDLINE_ADDR);
    if (initrd_size) {
        put_le(setup + HDR_RAMDISK, 4, initrd);
        put_le(setup + HDR_RAMDISK + 4, 4, initrd_size);
    }
    setup_bytes = g_bytes_new_take(g_steal_pointer(&setup), setup_size);
    kernel_bytes = g_bytes_new_from_bytes(file, setup_size, size - setup_size);

    fw_cfg_add_u32(board->fw_cfg, FW_CFG_KERNEL_ADDR, KERNEL_ADDR);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_KERNEL_SIZE, (uint32_t)(size - setup_size));
    fw_cfg_add_bytes(board->fw_cfg, FW_CFG_KERNEL_DATA, kernel_bytes);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_SETUP_ADDR, SETUP_ADDR);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_SETUP_SIZE, (uint32_t)setup_size);
    fw_cfg_add_bytes(board->fw_cfg, FW_CFG_SETUP_DATA, setup_bytes);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_CMDLINE_ADDR, CMDLINE_ADDR);
    return true;
}

bool kernel_load(struct board *board, GError **err)
{
    const struct vm_config *cfg = board->cfg;
    g_autoptr(GBytes) file = NULL;

    if (!cfg->kernel) {
        if (cfg->initrd || cfg->append) {
            error_set(err, FERRY_ERROR_USER, "%s only allowed with -kernel option",
                      cfg->append ? "-append" : "-initrd");
            return false;
        }
        return true;
    }
    if (cfg->append && strlen(cfg->append) >= CMDLINE_MAX) {
        error_set(err, FERRY_ERROR_USER,
                  "The kernel command line of -append is longer than %u bytes", CMDLINE_MAX - 1);
        return false;
    }
    file = image_read_file(cfg->kernel, "kernel", KERNEL_MAX, err);
    if (!file) {
        return false;
    }
    return elf_kernel_is(file) ? elf_kernel_load(board, file, err) : bzimage_load(board, file, err);
}

void kernel_add_cmdline(struct board *board)
{
    const struct vm_config *cfg = board->cfg;
    g_autoptr(GString) line = g_string_new(cfg->append);

    if (!cfg->kernel) {
        return;
    }
    /* without ACPI a guest knows of virtio devices from its command line only */
    for (unsigned i = board->slot_count; !board->acpi && cfg->auto_kernel_cmdline && i > 0; i--) {
        const struct device *slot = board->slots[i - 1];

        if (!virtio_slot_is_free(slot)) {
            g_string_append_printf(line, " virtio_mmio.device=%u@0x%" PRIx64 ":%u",
                                   MICROVM_VIRTIO_SIZE, virtio_slot_base(slot),
                                   virtio_slot_gsi(slot));
        }
    }
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_CMDLINE_SIZE, (uint32_t)line->len + 1);
    fw_cfg_add_string(board->fw_cfg, FW_CFG_CMDLINE_DATA, line->str);
}
