/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The firmware: which file, where it is found, and its memory.
 *
 * -bios FILE names it; else it is bios-microvm.bin, or qboot.rom on a machine without ACPI, as
 * QEMU chooses. It is looked for as a path (only -bios), then in the -L folder, then in Ferry's own
 * data folder and in QEMU's. Debian's share/seabios is not searched on purpose: its
 * bios-microvm.bin has another length, and a peer refuses a pc.bios block of another length.
 *
 * The block ends at 4 GiB and its last 128 KiB at most show below 1 MiB. Guests may write to it, as
 * on QEMU's microvm (qboot puts the ACPI root pointer there); a reset puts the file's bytes back.
 */
#include <string.h>

#include "board.h"

#include "system/config.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"

#define BIOS_STEP      UINT64_C(0x10000)
#define BIOS_MAX       (UINT64_C(16) << 20)
#define BIOS_ALIAS_MAX UINT64_C(0x20000)
#define LOW_MEMORY_END (UINT64_C(1) << 20)
#define END_OF_4G      (UINT64_C(1) << 32)

static const char *const data_folders[] = {
    FERRY_DATADIR "/ferry",
    FERRY_DATADIR "/qemu",
    "/usr/share/qemu",
};

static char *firmware_find(const struct vm_config *cfg, const char *name)
{
    g_autofree char *path = NULL;

    if (cfg->bios && g_file_test(name, G_FILE_TEST_EXISTS)) {
        return g_strdup(name);
    }
    if (cfg->bios_dir) {
        path = g_build_filename(cfg->bios_dir, name, NULL);
        if (g_file_test(path, G_FILE_TEST_EXISTS)) {
            return g_steal_pointer(&path);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(data_folders); i++) {
        g_free(path);
        path = g_build_filename(data_folders[i], name, NULL);
        if (g_file_test(path, G_FILE_TEST_EXISTS)) {
            return g_steal_pointer(&path);
        }
    }
    return NULL;
}

bool x86_firmware_load(struct board *board, GError **err)
{
    const struct vm_config *cfg = board->cfg;
    struct memory *mem = board->vm->memory;
    const char *name = cfg->bios ? cfg->bios : board->acpi ? "bios-microvm.bin" : "qboot.rom";
    g_autofree char *path = firmware_find(cfg, name);
    g_autoptr(GBytes) bytes = NULL;
    struct ram_backing backing = {
        .type = RAM_ANON, .madvise_merge = -1, .madvise_hugepage = -1, .madvise_dump = -1
    };
    uint64_t size, alias;

    if (!path) {
        error_set(err, FERRY_ERROR_USER,
                  "Could not load PC BIOS '%s': it is in none of the firmware folders; install "
                  "Debian's qemu-system-data, or name its folder with -L",
                  name);
        return false;
    }
    bytes = image_read_file(path, "firmware", BIOS_MAX, err);
    if (!bytes) {
        return false;
    }
    size = g_bytes_get_size(bytes);
    if (size == 0 || size % BIOS_STEP) {
        error_set(err, FERRY_ERROR_USER,
                  "Could not load PC BIOS '%s': its size, %" G_GUINT64_FORMAT
                  " bytes, is not a multiple of 64 KiB",
                  path, size);
        return false;
    }
    board->bios = ram_block_new(mem, "pc.bios", size, 0, &backing, err);
    if (!board->bios) {
        return false;
    }
    alias = MIN(size, BIOS_ALIAS_MAX);
    board->bios_alias = LOW_MEMORY_END - alias;
    /* the address at the top first: it is the one a stream gives for the block */
    return memory_map_ram(mem, board->bios, 0, size, END_OF_4G - size, false, err) &&
           memory_map_ram(mem, board->bios, size - alias, alias, board->bios_alias, false, err) &&
           image_add(board, path, END_OF_4G - size, bytes, size, err);
}
