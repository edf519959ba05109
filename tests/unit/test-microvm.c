/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The board: memory blocks and their order, what a reset puts back, and kernels, among them many
 * that are broken. A machine is built with the qtest accelerator; what the firmware would see is
 * read through the fw_cfg ports.
 */
#include <elf.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "accel/accel.h"
#include "chardev/chardev.h"
#include "hw/nvram/fw_cfg.h"
#include "system/config.h"
#include "system/memory.h"
#include "system/vm-init.h"
#include "util/error.h"

#define MIB (UINT64_C(1) << 20)

static char *folder, *firmware;

static struct vm_config config_new(void)
{
    return (struct vm_config){
        .machine = (char *)"microvm",
        .pit = OPT_AUTO,
        .pic = OPT_AUTO,
        .rtc = OPT_AUTO,
        .isa_serial = true,
        .acpi = OPT_AUTO,
        .ioapic2 = OPT_AUTO,
        .auto_kernel_cmdline = true,
        .ram_size = 16 * MIB,
        .default_backing = { .type = RAM_ANON,
                             .madvise_merge = -1,
                             .madvise_hugepage = -1,
                             .madvise_dump = -1 },
        .cpus = 2,
        .sockets = 2,
        .dies = 1,
        .cores = 1,
        .threads = 1,
        .bios = firmware,
        .qtest = true,
    };
}

/* NULL: the machine could not be built, and *err says why. */
static struct vm *build(const struct vm_config *cfg, GError **err)
{
    struct vm *vm = vm_new();

    vm->chardevs = chardev_set_new();
    vm->config = cfg;
    vm->accel = accel_qtest_new(vm, err);
    g_assert_nonnull(vm->accel);
    if (!microvm_build(vm, cfg, err)) {
        vm_free(vm);
        return NULL;
    }
    board_reset(vm);
    return vm;
}

static struct vm *build_ok(const struct vm_config *cfg)
{
    GError *err = NULL;
    struct vm *vm = build(cfg, &err);

    g_assert_no_error(err);
    return vm;
}

static void build_fails(const struct vm_config *cfg, const char *message)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(build(cfg, &err));
    g_assert_nonnull(err);
    if (!strstr(err->message, message)) {
        g_error("'%s' is not in '%s'", message, err->message);
    }
}

static uint8_t port_in(struct vm *vm, uint16_t port)
{
    uint8_t v;

    memory_io(vm->memory, IO_SPACE_PORT, port, &v, 1, false);
    return v;
}

static void select_item(struct vm *vm, uint16_t key)
{
    memory_io(vm->memory, IO_SPACE_PORT, 0x510, &key, 2, true);
}

static uint32_t item_u32(struct vm *vm, uint16_t key)
{
    uint32_t v = 0;

    select_item(vm, key);
    for (unsigned i = 0; i < 4; i++) {
        v |= (uint32_t)port_in(vm, 0x511) << 8 * i;
    }
    return v;
}

static char *item_string(struct vm *vm, uint16_t key)
{
    GString *s = g_string_new(NULL);
    char c;

    select_item(vm, key);
    while ((c = (char)port_in(vm, 0x511))) {
        g_string_append_c(s, c);
    }
    return g_string_free(s, false);
}

static char *write_file(const char *name, const void *data, size_t size)
{
    char *path = g_build_filename(folder, name, NULL);

    g_assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
    return path;
}

static void test_blocks(void)
{
    struct vm_config cfg = config_new();
    struct vm *vm = build_ok(&cfg);
    static const struct {
        const char *name;
        uint64_t used, max;
    } want[] = {
        { "microvm.ram", 16 * MIB, 16 * MIB },    { "/rom@etc/acpi/tables", 0x1000, 0x200000 },
        { "pc.bios", 0x10000, 0x10000 },          { "/rom@etc/table-loader", 0x1000, 0x10000 },
        { "/rom@etc/acpi/rsdp", 0x1000, 0x1000 },
    };

    g_assert_cmpuint(ram_block_count(vm->memory), ==, G_N_ELEMENTS(want));
    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        const struct ram_block *b = ram_block_at(vm->memory, i);

        g_assert_cmpstr(b->idstr, ==, want[i].name);
        g_assert_cmphex(b->used_length, ==, want[i].used);
        g_assert_cmphex(b->max_length, ==, want[i].max);
    }
    g_assert_cmphex(ram_block_find(vm->memory, "pc.bios")->gpa, ==, 0xffff0000);
    vm_free(vm);
}

static void test_maps(void)
{
    struct vm_config cfg = config_new();
    struct vm *vm;
    const struct ram_map *maps;
    unsigned count;
    static const struct {
        uint64_t gpa, offset, length;
    } want[] = {
        { 0, 0, 0xf0000 },
        { 0xf0000, 0, 0x10000 },
        { MIB, MIB, 0xbff00000 },
        { 0xffff0000, 0, 0x10000 },
        { UINT64_C(1) << 32, 0xc0000000, 0x40000000 },
    };

    cfg.ram_size = 4096 * MIB;
    vm = build_ok(&cfg);
    maps = memory_ram_maps(vm->memory, &count);
    g_assert_cmpuint(count, ==, G_N_ELEMENTS(want));
    for (unsigned i = 0; i < count; i++) {
        g_assert_cmphex(maps[i].gpa, ==, want[i].gpa);
        g_assert_cmphex(maps[i].offset, ==, want[i].offset);
        g_assert_cmphex(maps[i].length, ==, want[i].length);
        g_assert_false(maps[i].readonly);
    }
    vm_free(vm);
}

/* A reset puts the firmware back, but not over memory that a stream brings. */
static void test_reset(void)
{
    struct vm_config cfg = config_new();
    struct vm *vm = build_ok(&cfg);
    uint32_t mark = 0x12345678, got;

    memory_write(vm->memory, 0xffff0100, &mark, 4);
    memory_read(vm->memory, 0xf0100, &got, 4);
    g_assert_cmphex(got, ==, mark);
    board_reset(vm);
    memory_read(vm->memory, 0xf0100, &got, 4);
    g_assert_cmphex(got, ==, 0xf4f4f4f4);

    memory_write(vm->memory, 0xffff0100, &mark, 4);
    vm_set_run_state(vm, RUN_STATE_INMIGRATE);
    board_reset(vm);
    memory_read(vm->memory, 0xf0100, &got, 4);
    g_assert_cmphex(got, ==, mark);
    vm_free(vm);
}

static void test_firmware_errors(void)
{
    struct vm_config cfg = config_new();
    g_autofree char *odd = write_file("odd", "x", 1);
    g_autofree char *empty = write_file("empty", "", 0);

    cfg.bios = (char *)"no-such-firmware";
    build_fails(&cfg, "Could not load PC BIOS 'no-such-firmware'");
    cfg.bios = odd;
    build_fails(&cfg, "not a multiple of 64 KiB");
    cfg.bios = empty;
    build_fails(&cfg, "not a multiple of 64 KiB");
    cfg.bios = folder;
    build_fails(&cfg, "not a regular file");
}

static void test_options_without_kernel(void)
{
    struct vm_config cfg = config_new();

    cfg.append = (char *)"x";
    build_fails(&cfg, "-append only allowed with -kernel option");
    cfg.append = NULL;
    cfg.initrd = firmware;
    build_fails(&cfg, "-initrd only allowed with -kernel option");
    cfg.kernel = (char *)"/nonexistent/kernel";
    build_fails(&cfg, "Cannot open kernel '/nonexistent/kernel'");
    cfg.kernel = firmware;
    build_fails(&cfg, "neither a Linux bzImage nor an ELF image");
}

/* A small PVH kernel: one segment of code and BSS, one note. */
struct pvh64 {
    Elf64_Ehdr header;
    Elf64_Phdr segments[2];
    struct {
        Elf64_Nhdr header;
        char name[4];
        uint32_t entry;
    } note;
    uint8_t code[64];
};

static struct pvh64 pvh64_new(void)
{
    struct pvh64 k = {
        .header = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, 1 },
                    .e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_version = 1,
                    .e_phoff = offsetof(struct pvh64, segments),
                    .e_ehsize = sizeof(Elf64_Ehdr),
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 2 },
        .segments = { { .p_type = PT_LOAD,
                        .p_offset = offsetof(struct pvh64, code),
                        .p_paddr = 0x200000,
                        .p_filesz = 64,
                        .p_memsz = 0x3000 },
                      { .p_type = PT_NOTE,
                        .p_offset = offsetof(struct pvh64, note),
                        .p_filesz = sizeof(k.note) } },
        .note = { { 4, 4, 18 }, "Xen", 0x200010 },
    };

    memset(k.code, 0xc3, sizeof(k.code));
    return k;
}

static void test_pvh(void)
{
    struct vm_config cfg = config_new();
    struct pvh64 k = pvh64_new();
    g_autofree char *path = write_file("pvh", &k, sizeof(k));
    g_autofree char *line = NULL;
    struct vm *vm;
    uint8_t code[65], junk[65];

    cfg.kernel = path;
    cfg.append = (char *)"one two";
    vm = build_ok(&cfg);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_ENTRY), ==, 0x200010);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_ADDR), ==, 0x200000);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_SIZE), ==, 0x3000);
    g_assert_cmphex(item_u32(vm, FW_CFG_SETUP_SIZE), ==, 8192);
    g_assert_cmphex(item_u32(vm, FW_CFG_SETUP_DATA), ==, 0x464c457f);
    g_assert_cmpuint(item_u32(vm, FW_CFG_CMDLINE_SIZE), ==, 8);
    line = item_string(vm, FW_CFG_CMDLINE_DATA);
    g_assert_cmpstr(line, ==, "one two");

    memset(junk, 0x99, sizeof(junk));
    memory_write(vm->memory, 0x200000, junk, sizeof(junk));
    board_reset(vm);
    memory_read(vm->memory, 0x200000, code, sizeof(code));
    g_assert_cmpmem(code, 64, k.code, 64);
    g_assert_cmphex(code[64], ==, 0);
    vm_free(vm);
}

static void test_pvh32(void)
{
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr segments[2];
        struct {
            Elf32_Nhdr other;
            char other_name[8];
            uint8_t other_data[4];
            Elf32_Nhdr header;
            char name[4];
            uint64_t entry;
        } __attribute__((packed)) note;
        uint8_t code[64];
    } k = {
        .header = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, 1 },
                    .e_machine = EM_386,
                    .e_phoff = sizeof(Elf32_Ehdr),
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 2 },
        /* another note stands before, and the entry has 64 bits */
        .note = { { 5, 3, 1 }, "Linux", { 1, 2, 3 }, { 4, 8, 18 }, "Xen", 0x300020 },
    };
    struct vm_config cfg = config_new();
    g_autofree char *path = NULL;
    struct vm *vm;

    k.segments[0] = (Elf32_Phdr){ .p_type = PT_LOAD,
                                  .p_offset = (Elf32_Off)((char *)k.code - (char *)&k),
                                  .p_paddr = 0x300000,
                                  .p_filesz = 64,
                                  .p_memsz = 64 };
    k.segments[1] = (Elf32_Phdr){ .p_type = PT_NOTE,
                                  .p_offset = (Elf32_Off)((char *)&k.note - (char *)&k),
                                  .p_filesz = sizeof(k.note) };
    path = write_file("pvh32", &k, sizeof(k));
    cfg.kernel = path;
    vm = build_ok(&cfg);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_ENTRY), ==, 0x300020);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_ADDR), ==, 0x300000);
    vm_free(vm);
}

static void broken_pvh(const struct pvh64 *k, size_t size, const char *message)
{
    struct vm_config cfg = config_new();
    g_autofree char *path = write_file("broken", k, size);

    cfg.kernel = path;
    build_fails(&cfg, message);
}

static void test_broken_pvh(void)
{
    const struct pvh64 good = pvh64_new();
    struct pvh64 k = good;

#define BROKEN(change, message)                                                                    \
    k = good;                                                                                      \
    change;                                                                                        \
    broken_pvh(&k, sizeof(k), message)

    BROKEN(k.header.e_ident[EI_DATA] = ELFDATA2MSB, "not little-endian");
    BROKEN(k.header.e_machine = EM_ARM, "another architecture");
    BROKEN(k.header.e_phoff = sizeof(k), "program headers are not in the file");
    BROKEN(k.header.e_phoff = UINT64_MAX, "program headers are not in the file");
    BROKEN(k.header.e_phnum = 0xffff, "program headers are not in the file");
    BROKEN(k.header.e_phnum = 0, "program headers are not in the file");
    BROKEN(k.header.e_phentsize = 1, "program headers are not in the file");
    BROKEN(k.segments[0].p_offset = UINT64_MAX, "a segment is not in the file");
    BROKEN(k.segments[0].p_offset = sizeof(k) - 1, "a segment is not in the file");
    BROKEN(k.segments[0].p_filesz = UINT64_MAX, "a segment is not in the file");
    BROKEN(k.segments[0].p_memsz = 8, "does not fit below 4 GiB");
    BROKEN(k.segments[0].p_memsz = UINT64_MAX, "does not fit below 4 GiB");
    BROKEN(k.segments[0].p_paddr = UINT64_MAX, "does not fit below 4 GiB");
    BROKEN(k.segments[0].p_paddr = 0x80000000, "not free guest memory");
    BROKEN(k.segments[0].p_paddr = 16 * MIB - 64, "not free guest memory");
    BROKEN(k.segments[0].p_paddr = 0xf0000 - 64, "not free guest memory");
    BROKEN(k.segments[0].p_paddr = 0xfffff000, "not free guest memory");
    BROKEN(k.segments[0].p_paddr = 0xf0000, "overlaps with");
    BROKEN(k.segments[0].p_type = PT_NULL, "it has nothing to load");
    BROKEN(k.note.header.n_type = 17, "without PVH ELF Note");
    BROKEN(k.note.header.n_descsz = UINT32_MAX, "without PVH ELF Note");
    BROKEN(k.note.header.n_namesz = UINT32_MAX, "without PVH ELF Note");
    BROKEN(k.note.header.n_descsz = 3, "without PVH ELF Note");
    BROKEN(k.note.name[0] = 'Y', "without PVH ELF Note");
    BROKEN(k.segments[1].p_type = PT_NULL, "without PVH ELF Note");
    BROKEN(k.segments[1].p_filesz = 11, "without PVH ELF Note");
    BROKEN((k.segments[1] = k.segments[0], k.segments[1].p_paddr += 0x1000), "overlaps with");
    k = good;
    for (size_t size = SELFMAG; size < sizeof(Elf64_Ehdr); size++) {
        broken_pvh(&k, size, "is not a usable ELF image");
    }
}

/* Whatever the bytes say, the answer is a machine or a sentence. */
static void test_random_kernels(void)
{
    struct vm_config cfg = config_new();

    for (unsigned i = 0; i < 300; i++) {
        struct pvh64 k = pvh64_new();
        uint8_t *bytes = (uint8_t *)&k;
        g_autofree char *path = NULL;
        g_autoptr(GError) err = NULL;
        struct vm *vm;

        for (int n = g_test_rand_int_range(1, 6); n > 0; n--) {
            int at = g_test_rand_int_range(SELFMAG, sizeof(k));

            bytes[at] = (uint8_t)(g_test_rand_bit() ? 0xff : g_test_rand_int());
        }
        path = write_file("random", &k, sizeof(k));
        cfg.kernel = path;
        vm = build(&cfg, &err);
        if (vm) {
            vm_free(vm);
        } else {
            g_assert_nonnull(err);
        }
    }
}

#define BZ_SETUP 1024

/* The header of a bzImage, protocol 2.15, and 4096 bytes of kernel. */
static GByteArray *bzimage_new(void)
{
    GByteArray *k = g_byte_array_new();

    g_byte_array_set_size(k, BZ_SETUP + 4096);
    memset(k->data, 0, k->len);
    memset(k->data + BZ_SETUP, 0xee, 4096);
    k->data[0x1f1] = 1;
    memcpy(k->data + 0x202, "HdrS\x0f\x02", 6);
    k->data[0x211] = 0x01;
    memcpy(k->data + 0x22c, "\xff\xff\xff\x7f", 4);
    return k;
}

static struct vm *bzimage_build(GByteArray *k, const char *initrd, GError **err)
{
    struct vm_config cfg = config_new();
    g_autofree char *path = write_file("bzimage", k->data, k->len);

    cfg.kernel = path;
    cfg.initrd = (char *)initrd;
    return build(&cfg, err);
}

static void test_bzimage(void)
{
    g_autoptr(GByteArray) k = bzimage_new();
    g_autofree char *initrd = write_file("initrd", k->data, 5000);
    g_autoptr(GError) err = NULL;
    struct vm *vm = bzimage_build(k, initrd, &err);
    uint8_t header[0x230];
    uint32_t v;

    g_assert_no_error(err);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_ADDR), ==, 0x100000);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_SIZE), ==, 4096);
    g_assert_cmphex(item_u32(vm, FW_CFG_KERNEL_DATA), ==, 0xeeeeeeee);
    g_assert_cmphex(item_u32(vm, FW_CFG_SETUP_ADDR), ==, 0x10000);
    g_assert_cmphex(item_u32(vm, FW_CFG_SETUP_SIZE), ==, BZ_SETUP);
    g_assert_cmphex(item_u32(vm, FW_CFG_CMDLINE_ADDR), ==, 0x20000);
    g_assert_cmphex(item_u32(vm, FW_CFG_INITRD_ADDR), ==, 16 * MIB - 0x2000);
    g_assert_cmpuint(item_u32(vm, FW_CFG_INITRD_SIZE), ==, 5000);

    select_item(vm, FW_CFG_SETUP_DATA);
    for (unsigned i = 0; i < sizeof(header); i++) {
        header[i] = port_in(vm, 0x511);
    }
    g_assert_cmphex(header[0x210], ==, 0xb0);
    g_assert_cmphex(header[0x211], ==, 0x81);
    memcpy(&v, header + 0x218, 4);
    g_assert_cmphex(v, ==, 16 * MIB - 0x2000);
    memcpy(&v, header + 0x21c, 4);
    g_assert_cmpuint(v, ==, 5000);
    memcpy(&v, header + 0x228, 4);
    g_assert_cmphex(v, ==, 0x20000);
    vm_free(vm);
}

static void bzimage_fails(GByteArray *k, const char *initrd, const char *message)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(bzimage_build(k, initrd, &err));
    if (!strstr(err->message, message)) {
        g_error("'%s' is not in '%s'", message, err->message);
    }
}

static void test_broken_bzimage(void)
{
    g_autoptr(GByteArray) k = bzimage_new();
    g_autofree uint8_t *big = g_malloc0(17 * MIB);
    g_autofree char *initrd = write_file("initrd", big, 15 * MIB + 1);
    g_autofree char *larger = write_file("larger", big, 17 * MIB);

    bzimage_fails(k, initrd, "Initrd is too large");
    bzimage_fails(k, larger, "more than");
    k->data[0x207] = 1;
    bzimage_fails(k, NULL, "boot protocol 1.15");
    k->data[0x207] = 2;
    k->data[0x211] = 0;
    bzimage_fails(k, NULL, "needs a bzImage");
    k->data[0x211] = 1;
    k->data[0x1f1] = 0xff;
    bzimage_fails(k, NULL, "cut off in its setup code");
    k->data[0x1f1] = 0;
    k->data[0x203] = 'x';
    bzimage_fails(k, NULL, "neither a Linux bzImage nor");
    k->data[0x203] = 'd';
    k->data[0x1f1] = 1;
    for (unsigned size = 0; size < BZ_SETUP; size += 61) {
        g_autoptr(GByteArray) part = g_byte_array_new();
        g_autoptr(GError) err = NULL;

        g_byte_array_append(part, k->data, size);
        g_assert_null(bzimage_build(part, NULL, &err));
        g_assert_nonnull(err);
    }
}

int main(int argc, char **argv)
{
    g_autofree uint8_t *halts = g_malloc(0x10000);
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("ferry-test-XXXXXX", NULL);
    g_assert_nonnull(folder);
    memset(halts, 0xf4, 0x10000);
    firmware = write_file("firmware", halts, 0x10000);

    g_test_add_func("/microvm/blocks", test_blocks);
    g_test_add_func("/microvm/maps", test_maps);
    g_test_add_func("/microvm/reset", test_reset);
    g_test_add_func("/microvm/firmware-errors", test_firmware_errors);
    g_test_add_func("/microvm/options-without-kernel", test_options_without_kernel);
    g_test_add_func("/microvm/pvh", test_pvh);
    g_test_add_func("/microvm/pvh32", test_pvh32);
    g_test_add_func("/microvm/broken-pvh", test_broken_pvh);
    g_test_add_func("/microvm/random-kernels", test_random_kernels);
    g_test_add_func("/microvm/bzimage", test_bzimage);
    g_test_add_func("/microvm/broken-bzimage", test_broken_bzimage);
    status = g_test_run();

    {
        g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *path = g_build_filename(folder, name, NULL);

            g_unlink(path);
        }
    }
    g_rmdir(folder);
    g_free(firmware);
    g_free(folder);
    return status;
}
