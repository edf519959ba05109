/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to hw/i386/: the machine's own state and its parts. Machine lock held throughout. */
#ifndef HW_I386_BOARD_H
#define HW_I386_BOARD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "hw/i386/microvm.h"

struct device;
struct fw_cfg;
struct ram_block;
struct vm;
struct vm_config;

struct board {
    struct vm *vm;
    const struct vm_config *cfg;               /* borrowed; outlives the vm */
    bool acpi, ioapic2, pic, pit, rtc, serial; /* autos resolved */
    bool finished;                             /* board_finish() ran */

    struct ram_block *ram, *bios;
    struct ram_block *blobs[3];  /* enum fw_cfg_blob; NULL without ACPI */
    uint64_t below_4g, above_4g; /* bytes of RAM on either side */
    uint64_t bios_alias;         /* start of the firmware below 1 MiB; RAM stops there */

    struct fw_cfg *fw_cfg;
    struct device *ioapic[2]; /* in user space; NULL: in the kernel, or not there */
    struct device *slots[MICROVM_MAX_SLOTS];
    unsigned slot_count, slot_gsi_base;

    GPtrArray *images; /* struct image: what a reset writes to RAM again */
};

/* x86-memory.c: RAM and its maps, the memory the guest is told of */
bool x86_memory_build(struct board *board, GError **err);
void x86_memory_add_e820(struct board *board);

/* x86-firmware.c: finds the firmware and maps it; before x86_memory_build() */
bool x86_firmware_load(struct board *board, GError **err);

/*
 * load-image.c: files, and what goes from them into guest memory. The list is written to memory by
 * images_write() at every reset.
 */
struct image {
    char *name; /* for messages */
    uint64_t gpa;
    GBytes *bytes;
    uint64_t size; /* in memory; zeros behind bytes */
};

/* The whole file, at most max_size bytes. what: "kernel", "initrd"... for messages. */
GBytes *image_read_file(const char *path, const char *what, uint64_t max_size, GError **err);
/* Takes a reference of bytes. Fails when [gpa, gpa+size) is not RAM below 4 GiB, or is taken by
 * another image. */
bool image_add(struct board *board, const char *name, uint64_t gpa, GBytes *bytes, uint64_t size,
               GError **err);
void images_write(struct board *board);
void image_free(struct image *image);

/* load-kernel.c: -kernel, -initrd, -append into fw_cfg and memory. The command line is added last,
 * because devices may add to it. */
bool kernel_load(struct board *board, GError **err);
void kernel_add_cmdline(struct board *board);
/* Where an initrd of this size goes: as high as it may, page aligned. */
bool kernel_place_initrd(struct board *board, uint64_t highest, GError **err);

/* microvm-fdt.c: the device tree, when all slots are filled */
void microvm_add_fdt(struct board *board);

/* load-elf.c: an ELF kernel with a PVH entry point */
bool elf_kernel_is(GBytes *file);
bool elf_kernel_load(struct board *board, GBytes *file, GError **err);

#endif
