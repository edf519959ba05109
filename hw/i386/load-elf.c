/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF kernels with a PVH entry point: 32 or 64 bit x86, the entry in a Xen note (type 18). Segments
 * go to their physical addresses; the firmware finds the entry point in fw_cfg and enters the
 * kernel by the PVH boot protocol.
 *
 * The file is not trusted: every offset, count and size in it is checked against the file's length
 * before use, every address against guest memory by image_add(). Failure names the file.
 */
#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "board.h"

#include "hw/nvram/fw_cfg.h"
#include "system/config.h"
#include "util/error.h"

#define XEN_NOTE_NAME         "Xen"
#define XEN_NOTE_PHYS32_ENTRY 18
/* What the firmware reads of the file to see what kind it is; QEMU's length. */
#define HEADER_SIZE 8192
/* Program headers beyond this are not a kernel. */
#define MAX_SEGMENTS 128

struct elf_view {
    const char *name; /* the file's, for messages */
    const uint8_t *data;
    uint64_t size;
    bool is64;
    uint64_t phoff;
    unsigned phnum;
};

/* True when [offset, offset+length) lies in the file. */
static bool in_file(const struct elf_view *elf, uint64_t offset, uint64_t length)
{
    return offset <= elf->size && length <= elf->size - offset;
}

static bool malformed(const struct elf_view *elf, const char *what, GError **err)
{
    error_set(err, FERRY_ERROR_USER, "The kernel '%s' is not a usable ELF image: %s", elf->name,
              what);
    return false;
}

bool elf_kernel_is(GBytes *file)
{
    size_t size;
    const uint8_t *data = g_bytes_get_data(file, &size);

    return size >= SELFMAG && memcmp(data, ELFMAG, SELFMAG) == 0;
}

static bool elf_open(struct elf_view *elf, GError **err)
{
    unsigned entry_size;

    if (!in_file(elf, 0, EI_NIDENT) || elf->data[EI_DATA] != ELFDATA2LSB) {
        return malformed(elf, "it is not little-endian", err);
    }
    elf->is64 = elf->data[EI_CLASS] == ELFCLASS64;
    if (elf->is64) {
        Elf64_Ehdr h;

        if (!in_file(elf, 0, sizeof(h))) {
            return malformed(elf, "its header is cut off", err);
        }
        memcpy(&h, elf->data, sizeof(h));
        if (h.e_machine != EM_X86_64) {
            return malformed(elf, "it is for another architecture", err);
        }
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        entry_size = h.e_phentsize == sizeof(Elf64_Phdr) ? sizeof(Elf64_Phdr) : 0;
    } else {
        Elf32_Ehdr h;

        if (elf->data[EI_CLASS] != ELFCLASS32 || !in_file(elf, 0, sizeof(h))) {
            return malformed(elf, "its header is cut off", err);
        }
        memcpy(&h, elf->data, sizeof(h));
        if (h.e_machine != EM_386 && h.e_machine != EM_X86_64) {
            return malformed(elf, "it is for another architecture", err);
        }
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        entry_size = h.e_phentsize == sizeof(Elf32_Phdr) ? sizeof(Elf32_Phdr) : 0;
    }
    if (!entry_size || elf->phnum == 0 || elf->phnum > MAX_SEGMENTS ||
        !in_file(elf, elf->phoff, (uint64_t)elf->phnum * entry_size)) {
        return malformed(elf, "its program headers are not in the file", err);
    }
    return true;
}

/* Program header i in the 64-bit form. */
static Elf64_Phdr elf_segment(const struct elf_view *elf, unsigned i)
{
    Elf64_Phdr p;

    if (elf->is64) {
        memcpy(&p, elf->data + elf->phoff + i * sizeof(p), sizeof(p));
    } else {
        Elf32_Phdr q;

        memcpy(&q, elf->data + elf->phoff + i * sizeof(q), sizeof(q));
        p = (Elf64_Phdr){
            .p_type = q.p_type,
            .p_offset = q.p_offset,
            .p_paddr = q.p_paddr,
            .p_filesz = q.p_filesz,
            .p_memsz = q.p_memsz,
            .p_align = q.p_align,
        };
    }
    return p;
}

/* The PVH entry point in the notes [data, data+size), if it is there. */
static bool find_entry(const uint8_t *data, uint64_t size, uint64_t align, uint32_t *entry)
{
    uint64_t at = 0;

    align = align == 8 ? 8 : 4;
    while (size - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        uint64_t name, desc, next;

        memcpy(&note, data + at, sizeof(note));
        name = at + sizeof(note);
        /* lengths are 32 bits wide, so these sums cannot wrap */
        desc = (name + note.n_namesz + align - 1) / align * align;
        next = (desc + note.n_descsz + align - 1) / align * align;
        if (desc + note.n_descsz > size) {
            return false;
        }
        if (note.n_type == XEN_NOTE_PHYS32_ENTRY && note.n_namesz == sizeof(XEN_NOTE_NAME) &&
            memcmp(data + name, XEN_NOTE_NAME, sizeof(XEN_NOTE_NAME)) == 0) {
            uint64_t value = 0;

            if (note.n_descsz != 4 && note.n_descsz != 8) {
                return false;
            }
            memcpy(&value, data + desc, note.n_descsz);
            *entry = (uint32_t)value;
            return value <= UINT32_MAX;
        }
        if (next > size) {
            return false;
        }
        at = next;
    }
    return false;
}

bool elf_kernel_load(struct board *board, GBytes *file, GError **err)
{
    struct elf_view elf = { .name = board->cfg->kernel };
    g_autofree uint8_t *header = g_malloc0(HEADER_SIZE);
    g_autoptr(GBytes) setup = NULL;
    uint64_t low = UINT64_MAX, high = 0;
    uint32_t entry = 0;
    bool has_entry = false;
    size_t size;

    elf.data = g_bytes_get_data(file, &size);
    elf.size = size;
    if (!elf_open(&elf, err)) {
        return false;
    }
    for (unsigned i = 0; i < elf.phnum; i++) {
        Elf64_Phdr p = elf_segment(&elf, i);
        g_autoptr(GBytes) content = NULL;

        if (p.p_type != PT_LOAD && p.p_type != PT_NOTE) {
            continue;
        }
        if (!in_file(&elf, p.p_offset, p.p_filesz)) {
            return malformed(&elf, "a segment is not in the file", err);
        }
        if (p.p_type == PT_NOTE) {
            has_entry =
                has_entry || find_entry(elf.data + p.p_offset, p.p_filesz, p.p_align, &entry);
            continue;
        }
        if (p.p_memsz < p.p_filesz || p.p_paddr > UINT32_MAX || p.p_memsz > UINT32_MAX) {
            return malformed(&elf, "a segment does not fit below 4 GiB", err);
        }
        if (p.p_memsz == 0) {
            continue;
        }
        content = g_bytes_new_from_bytes(file, p.p_offset, p.p_filesz);
        if (!image_add(board, elf.name, p.p_paddr, content, p.p_memsz, err)) {
            return false;
        }
        low = MIN(low, p.p_paddr);
        high = MAX(high, p.p_paddr + p.p_memsz);
    }
    if (!has_entry) {
        error_set(err, FERRY_ERROR_USER,
                  "Error loading uncompressed kernel without PVH ELF Note: '%s'; use a bzImage, or "
                  "build the kernel with CONFIG_PVH",
                  elf.name);
        return false;
    }
    if (high == 0) {
        return malformed(&elf, "it has nothing to load", err);
    }
    memcpy(header, elf.data, MIN(elf.size, HEADER_SIZE));
    setup = g_bytes_new_take(g_steal_pointer(&header), HEADER_SIZE);

    fw_cfg_add_u32(board->fw_cfg, FW_CFG_KERNEL_ENTRY, entry);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_KERNEL_ADDR, (uint32_t)low);
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_KERNEL_SIZE, (uint32_t)(high - low));
    fw_cfg_add_u32(board->fw_cfg, FW_CFG_SETUP_SIZE, HEADER_SIZE);
    fw_cfg_add_bytes(board->fw_cfg, FW_CFG_SETUP_DATA, setup);
    return kernel_place_initrd(board, UINT32_MAX, err);
}
