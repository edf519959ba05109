/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The firmware configuration device: what the machine tells its firmware. Items are found by a
 * 16-bit key; items with a name ("files") get their keys, from 0x20 up in order of their names,
 * when the device is sealed. The guest reads through a byte port or by DMA.
 *
 * The board adds items while it builds the machine, seals, and changes nothing afterwards. All
 * with the machine lock held. The interface towards the guest is that of QEMU's fw_cfg_io
 * (documented with QEMU as "QEMU Firmware Configuration (fw_cfg) Device").
 */
#ifndef HW_NVRAM_FW_CFG_H
#define HW_NVRAM_FW_CFG_H

#include <glib.h>
#include <stdint.h>

struct fw_cfg;
struct ram_block;
struct vm;

enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00, /* "QEMU" */
    FW_CFG_ID = 0x01,        /* le32: bit 0 there is a device, bit 1 it has DMA */
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03, /* le64, bytes */
    FW_CFG_NB_CPUS = 0x05,  /* le16 */
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f, /* le16 */
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14, /* with the final NUL */
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH_LOCAL = 0x8000,
    FW_CFG_IRQ0_OVERRIDE = 0x8002, /* le32 1: ISA interrupt 0 is IOAPIC pin 2 */
};
#define FW_CFG_FILE_SLOTS    32
#define FW_CFG_FILE_NAME_MAX 55 /* bytes, without the NUL */

/* Makes and realises the machine's device at port 0x510. NULL: err is set. Owned by the vm. */
struct fw_cfg *fw_cfg_create(struct vm *vm, GError **err);

/* Adds the item of a fixed key; a reference of bytes is taken. A key is added once. */
void fw_cfg_add_bytes(struct fw_cfg *fw, uint16_t key, GBytes *bytes);
void fw_cfg_add_string(struct fw_cfg *fw, uint16_t key, const char *s); /* with its NUL */
void fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value);
void fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value);
void fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value);

/* Adds a file; a reference of bytes is taken. At most FW_CFG_FILE_SLOTS, before sealing. */
void fw_cfg_add_file(struct fw_cfg *fw, const char *name, GBytes *bytes);

/*
 * A file whose content lives in a RAM block, because it travels in the migration stream with its
 * size: the first `size` bytes of the block.
 */
enum fw_cfg_blob {
    FW_CFG_BLOB_ACPI_TABLES,
    FW_CFG_BLOB_TABLE_LOADER,
    FW_CFG_BLOB_RSDP,
    FW_CFG_BLOB_COUNT,
};
void fw_cfg_add_blob(struct fw_cfg *fw, enum fw_cfg_blob which, const char *name,
                     struct ram_block *block, uint64_t size);

/* No item is added after this; files get their keys and the directory is made. */
void fw_cfg_seal(struct fw_cfg *fw);

#endif
