/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI: the AML writer against known encodings; the tables of microvm through a firmware's eyes (a
 * small interpreter of the loader's commands places the files and patches them, then everything is
 * found and checked by following pointers from the RSDP); and, where iasl is installed, a round
 * trip of the DSDT through disassembler and compiler, which must give the same bytes.
 */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "hw/acpi/acpi-tables.h"
#include "hw/acpi/aml.h"
#include "hw/acpi/ged.h"
#include "hw/acpi/loader.h"
#include "hw/acpi/microvm-acpi.h"

static uint64_t get(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

static uint8_t sum(const uint8_t *bytes, size_t count)
{
    uint8_t total = 0;

    for (size_t i = 0; i < count; i++) {
        total += bytes[i];
    }
    return total;
}

/* The AML writer */

#define ASSERT_BYTES(array, ...)                                                                   \
    do {                                                                                           \
        const uint8_t expected[] = { __VA_ARGS__ };                                                \
        g_assert_cmpmem((array)->data, (array)->len, expected, sizeof(expected));                  \
        g_byte_array_set_size(array, 0);                                                           \
    } while (0)

static void test_aml_integer(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct aml aml;

    aml_begin(&aml, out);
    aml_integer(&aml, 0);
    ASSERT_BYTES(out, 0x00);
    aml_integer(&aml, 1);
    ASSERT_BYTES(out, 0x01);
    aml_integer(&aml, 2);
    ASSERT_BYTES(out, 0x0a, 0x02);
    aml_integer(&aml, 0xff);
    ASSERT_BYTES(out, 0x0a, 0xff);
    aml_integer(&aml, 0x100);
    ASSERT_BYTES(out, 0x0b, 0x00, 0x01);
    aml_integer(&aml, 0x10000);
    ASSERT_BYTES(out, 0x0c, 0x00, 0x00, 0x01, 0x00);
    aml_integer(&aml, UINT32_MAX);
    ASSERT_BYTES(out, 0x0c, 0xff, 0xff, 0xff, 0xff);
    aml_integer(&aml, UINT64_C(0x0123456789abcdef));
    ASSERT_BYTES(out, 0x0e, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01);
    aml_finish(&aml);
}

static void test_aml_names(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct aml aml;

    aml_begin(&aml, out);
    aml_reference(&aml, "GED");
    ASSERT_BYTES(out, 'G', 'E', 'D', '_');
    aml_reference(&aml, "\\");
    ASSERT_BYTES(out, '\\', 0x00);
    aml_reference(&aml, "^^A1");
    ASSERT_BYTES(out, '^', '^', 'A', '1', '_', '_');
    aml_reference(&aml, "\\_SB.GED");
    ASSERT_BYTES(out, '\\', 0x2e, '_', 'S', 'B', '_', 'G', 'E', 'D', '_');
    aml_reference(&aml, "A.B.CCCC");
    ASSERT_BYTES(out, 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', 'C', 'C', 'C');
    aml_eisa_id(&aml, "PNP0501");
    ASSERT_BYTES(out, 0x0c, 0x41, 0xd0, 0x05, 0x01);
    aml_eisa_id(&aml, "PNP0C0C");
    ASSERT_BYTES(out, 0x0c, 0x41, 0xd0, 0x0c, 0x0c);
    aml_string(&aml, "ok");
    ASSERT_BYTES(out, 0x0d, 'o', 'k', 0x00);
    aml_finish(&aml);
}

/* A scope named "S___" with @body integers of one byte; checks its length prefix. */
static void check_package_length(unsigned body, unsigned prefix_size)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct aml aml;
    unsigned more, total;

    aml_begin(&aml, out);
    aml_scope(&aml, "S");
    for (unsigned i = 0; i < body; i++) {
        aml_integer(&aml, 0);
    }
    aml_end(&aml);
    aml_finish(&aml);

    g_assert_cmpuint(out->data[0], ==, 0x10);
    more = out->data[1] >> 6;
    g_assert_cmpuint(1 + more, ==, prefix_size);
    total = more ? out->data[1] & 0xf : out->data[1] & 0x3f;
    for (unsigned i = 0; i < more; i++) {
        total |= (unsigned)out->data[2 + i] << (4 + 8 * i);
    }
    g_assert_cmpuint(total, ==, out->len - 1);
    g_assert_cmpmem(out->data + 1 + prefix_size, 4, "S___", 4);
    g_assert_cmpuint(out->len, ==, 1 + prefix_size + 4 + body);
}

static void test_aml_lengths(void)
{
    check_package_length(0, 1);
    check_package_length(58, 1); /* 1 + 4 + 58 = 63 */
    check_package_length(59, 2);
    check_package_length(4089, 2); /* 2 + 4 + 4089 = 4095 */
    check_package_length(4090, 3);
    check_package_length((1u << 20) - 8, 3);
    check_package_length((1u << 20) - 7, 4);
}

static void test_aml_nesting(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct aml aml;

    /* what is already in the array stays where it is */
    g_byte_array_append(out, (const uint8_t *)"head", 4);
    aml_begin(&aml, out);
    aml_device(&aml, "D");
    aml_method(&aml, "M", 1, true);
    aml_if(&aml);
    aml_local(&aml, 0);
    aml_end(&aml);
    aml_end(&aml);
    aml_name(&aml, "P");
    aml_package(&aml, 1);
    aml_integer(&aml, 5);
    aml_end(&aml);
    aml_end(&aml);
    aml_finish(&aml);
    ASSERT_BYTES(out, 'h', 'e', 'a', 'd', /* Device D */ 0x5b, 0x82, 0x19, 'D', '_', '_', '_',
                 /* Method M */ 0x14, 0x09, 'M', '_', '_', '_', 0x09, /* If Local0 */ 0xa0, 0x02,
                 0x60, /* Name P */ 0x08, 'P', '_', '_', '_', /* Package */ 0x12, 0x04, 0x01, 0x0a,
                 0x05);
}

static void test_aml_resources(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct aml aml;

    aml_begin(&aml, out);
    aml_resources(&aml);
    aml_resource_io(&aml, 0x3f8, 8);
    aml_resource_irq(&aml, 4);
    aml_end(&aml);
    ASSERT_BYTES(out, 0x11, 0x10, 0x0a, 0x0d, 0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08, 0x22,
                 0x10, 0x00, 0x79, 0x00);
    aml_resources(&aml);
    aml_resource_memory32(&aml, 0xfeb02e00, 0x200);
    aml_resource_interrupt(&aml, AML_LEVEL, 47);
    aml_resource_interrupt(&aml, AML_EDGE, 9);
    aml_end(&aml);
    ASSERT_BYTES(out, 0x11, 0x23, 0x0a, 0x20, 0x86, 0x09, 0x00, 0x01, 0x00, 0x2e, 0xb0, 0xfe, 0x00,
                 0x02, 0x00, 0x00, 0x89, 0x06, 0x00, 0x01, 0x01, 0x2f, 0x00, 0x00, 0x00, 0x89, 0x06,
                 0x00, 0x03, 0x01, 0x09, 0x00, 0x00, 0x00, 0x79, 0x00);
    aml_finish(&aml);
}

/* The loader's commands */

static void test_loader_layout(void)
{
    g_autoptr(GByteArray) loader = g_byte_array_new();
    const uint8_t *entry;

    acpi_loader_allocate(loader, "a", 0x40, ACPI_LOADER_F_SEGMENT);
    acpi_loader_add_pointer(loader, "a", 0x11223344, 8, "bc");
    acpi_loader_add_checksum(loader, "a", 9, 8, 0x100);
    g_assert_cmpuint(loader->len, ==, 3 * 128);

    entry = loader->data;
    g_assert_cmpuint(get(entry, 4), ==, 1);
    g_assert_cmpstr((const char *)entry + 4, ==, "a");
    g_assert_cmpuint(get(entry + 60, 4), ==, 0x40);
    g_assert_cmpuint(entry[64], ==, 2);

    entry += 128;
    g_assert_cmpuint(get(entry, 4), ==, 2);
    g_assert_cmpstr((const char *)entry + 4, ==, "a");
    g_assert_cmpstr((const char *)entry + 60, ==, "bc");
    g_assert_cmpuint(get(entry + 116, 4), ==, 0x11223344);
    g_assert_cmpuint(entry[120], ==, 8);

    entry += 128;
    g_assert_cmpuint(get(entry, 4), ==, 3);
    g_assert_cmpuint(get(entry + 60, 4), ==, 9);
    g_assert_cmpuint(get(entry + 64, 4), ==, 8);
    g_assert_cmpuint(get(entry + 68, 4), ==, 0x100);
    for (unsigned i = 72; i < 128; i++) {
        g_assert_cmpuint(entry[i], ==, 0);
    }
}

/* The tables of microvm, placed by a simulated firmware */

struct placed_file {
    const char *name;
    GByteArray *bytes; /* owned */
    uint64_t address;  /* 0: not placed yet */
};

struct firmware {
    struct placed_file files[2];
    GByteArray *loader;
};

static struct placed_file *firmware_file(struct firmware *fw, const uint8_t *name)
{
    g_assert_nonnull(memchr(name, 0, ACPI_LOADER_NAME_SIZE));
    for (unsigned i = 0; i < G_N_ELEMENTS(fw->files); i++) {
        if (strcmp(fw->files[i].name, (const char *)name) == 0) {
            return &fw->files[i];
        }
    }
    g_assert_not_reached();
}

static void firmware_allocate(struct firmware *fw, const uint8_t *args, uint64_t *high)
{
    struct placed_file *file = firmware_file(fw, args);
    uint32_t alignment = get(args + 56, 4);

    g_assert_cmpuint(file->address, ==, 0);
    if (args[60] == ACPI_LOADER_F_SEGMENT) {
        file->address = 0xf1230;
    } else {
        g_assert_cmpuint(args[60], ==, ACPI_LOADER_HIGH);
        file->address = *high;
        *high += file->bytes->len;
    }
    g_assert_cmpuint(alignment, !=, 0);
    g_assert_cmpuint(file->address % alignment, ==, 0);
}

static void firmware_add_pointer(struct firmware *fw, const uint8_t *args)
{
    struct placed_file *file = firmware_file(fw, args);
    struct placed_file *pointee = firmware_file(fw, args + 56);
    uint32_t offset = get(args + 112, 4);
    uint8_t size = args[116];
    uint64_t value;

    g_assert_cmpuint(pointee->address, !=, 0);
    g_assert_cmpuint((uint64_t)offset + size, <=, file->bytes->len);
    value = get(file->bytes->data + offset, size);
    g_assert_cmpuint(value, <, pointee->bytes->len);
    value += pointee->address;
    for (unsigned i = 0; i < size; i++) {
        file->bytes->data[offset + i] = value >> (8 * i);
    }
}

static void firmware_add_checksum(struct firmware *fw, const uint8_t *args)
{
    struct placed_file *file = firmware_file(fw, args);
    uint32_t checksum = get(args + 56, 4);
    uint32_t start = get(args + 60, 4);
    uint32_t length = get(args + 64, 4);

    g_assert_cmpuint((uint64_t)start + length, <=, file->bytes->len);
    g_assert_cmpuint(checksum, <, file->bytes->len);
    g_assert_cmpuint(file->bytes->data[checksum], ==, 0);
    file->bytes->data[checksum] -= sum(file->bytes->data + start, length);
}

static void firmware_run(struct firmware *fw, const struct acpi_microvm_config *cfg)
{
    uint64_t high = 0x7ffd0c0;

    fw->files[0] = (struct placed_file){ ACPI_FILE_TABLES, g_byte_array_new(), 0 };
    fw->files[1] = (struct placed_file){ ACPI_FILE_RSDP, g_byte_array_new(), 0 };
    fw->loader = g_byte_array_new();
    acpi_microvm_build(cfg, fw->files[0].bytes, fw->loader, fw->files[1].bytes);

    g_assert_cmpuint(fw->loader->len % ACPI_LOADER_ENTRY_SIZE, ==, 0);
    for (guint i = 0; i < fw->loader->len; i += ACPI_LOADER_ENTRY_SIZE) {
        const uint8_t *entry = fw->loader->data + i;

        switch (get(entry, 4)) {
        case ACPI_LOADER_ALLOCATE:
            firmware_allocate(fw, entry + 4, &high);
            break;
        case ACPI_LOADER_ADD_POINTER:
            firmware_add_pointer(fw, entry + 4);
            break;
        case ACPI_LOADER_ADD_CHECKSUM:
            firmware_add_checksum(fw, entry + 4);
            break;
        default:
            g_assert_not_reached();
        }
    }
}

static void firmware_free(struct firmware *fw)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(fw->files); i++) {
        g_byte_array_free(fw->files[i].bytes, true);
    }
    g_byte_array_free(fw->loader, true);
}

/* The table at a physical address, its header and checksum proved good. */
static const uint8_t *find_table(const struct firmware *fw, uint64_t address, const char *signature,
                                 uint32_t *length)
{
    const struct placed_file *file = &fw->files[0];
    const uint8_t *table;

    g_assert_cmpuint(address, >=, file->address);
    g_assert_cmpuint(address + 36, <=, file->address + file->bytes->len);
    table = file->bytes->data + (address - file->address);
    *length = get(table + 4, 4);
    g_assert_cmpuint(*length, >=, 36);
    g_assert_cmpuint(address + *length, <=, file->address + file->bytes->len);
    g_assert_cmpmem(table, 4, signature, 4);
    g_assert_cmpmem(table + 10, 6, "FERRY ", 6);
    g_assert_cmpuint(sum(table, *length), ==, 0);
    return table;
}

static const uint8_t *find_listed(const struct firmware *fw, unsigned index, const char *signature,
                                  uint32_t *length)
{
    const uint8_t *rsdp = fw->files[1].bytes->data;
    const uint8_t *xsdt;

    g_assert_cmpuint(fw->files[1].bytes->len, ==, 36);
    g_assert_cmpmem(rsdp, 8, "RSD PTR ", 8);
    g_assert_cmpuint(rsdp[15], ==, 2);
    g_assert_cmpuint(sum(rsdp, 20), ==, 0);
    g_assert_cmpuint(sum(rsdp, 36), ==, 0);
    xsdt = find_table(fw, get(rsdp + 24, 8), "XSDT", length);
    g_assert_cmpuint(36 + 8 * (index + 1), <=, *length);
    return find_table(fw, get(xsdt + 36 + 8 * index, 8), signature, length);
}

static const uint8_t *find_dsdt(const struct firmware *fw, uint32_t *length)
{
    const uint8_t *fadt = find_listed(fw, 0, "FACP", length);

    g_assert_cmpuint(get(fadt + 40, 4), ==, get(fadt + 140, 8));
    return find_table(fw, get(fadt + 140, 8), "DSDT", length);
}

static struct acpi_microvm_config full_config(void)
{
    return (struct acpi_microvm_config){
        .vcpus = 1,
        .ioapic_count = 2,
        .pic = true,
        .rtc = true,
        .serial = true,
        .fw_cfg = true,
        .ged_base = 0xfea00000,
        .ged_gsi = 9,
        .virtio_count = 24,
        .virtio_base = 0xfeb00000,
        .virtio_size = 0x200,
        .virtio_gsi_base = 24,
        .virtio_present = 0xf80000,
    };
}

static void test_fadt(void)
{
    struct acpi_microvm_config cfg = full_config();
    struct firmware fw;
    const uint8_t *fadt;
    uint32_t length;

    firmware_run(&fw, &cfg);
    fadt = find_listed(&fw, 0, "FACP", &length);
    g_assert_cmpuint(length, ==, 276);
    g_assert_cmpuint(get(fadt + 109, 2), ==, 0x0004);
    g_assert_cmpuint(get(fadt + 112, 4), ==, 0x00100430);
    /* one byte wide registers in memory */
    g_assert_cmpuint(get(fadt + 116, 4), ==, 0x01000800);
    g_assert_cmpuint(get(fadt + 120, 8), ==, 0xfea00202);
    g_assert_cmpuint(fadt[128], ==, 0x42);
    g_assert_cmpuint(get(fadt + 244, 4), ==, 0x01000800);
    g_assert_cmpuint(get(fadt + 248, 8), ==, 0xfea00200);
    g_assert_cmpuint(get(fadt + 256, 4), ==, 0x01000800);
    g_assert_cmpuint(get(fadt + 260, 8), ==, 0xfea00201);
    firmware_free(&fw);

    cfg.rtc = false;
    firmware_run(&fw, &cfg);
    fadt = find_listed(&fw, 0, "FACP", &length);
    g_assert_cmpuint(get(fadt + 109, 2), ==, 0x0024);
    firmware_free(&fw);
}

static void test_madt(void)
{
    static const uint32_t apic_ids[] = { 0, 1, 2, 4, 254, 255 };
    static const uint8_t expected[] = {
        0,  8,  0,    0,    1,    0,    0,    0, /* vCPUs: uid, APIC id, enabled */
        0,  8,  1,    1,    1,    0,    0,    0, /* */
        0,  8,  2,    2,    1,    0,    0,    0, /* */
        0,  8,  3,    4,    1,    0,    0,    0, /* */
        0,  8,  4,    0xfe, 1,    0,    0,    0, /* */
        9,  16, 0,    0,    0xff, 0,    0,    0,    1,  0, 0, 0, 5, 0, 0, 0, /* id 255: as x2APIC */
        1,  12, 0,    0,    0,    0,    0xc0, 0xfe, 0,  0, 0, 0,             /* I/O APICs */
        1,  12, 1,    0,    0,    0,    0xc1, 0xfe, 24, 0, 0, 0,             /* */
        4,  6,  0xff, 0,    0,    1, /* NMI on LINT1 of all, both forms */
        10, 12, 0,    0,    0xff, 0xff, 0xff, 0xff, 1,  0, 0, 0,
    };
    struct acpi_microvm_config cfg = full_config();
    struct firmware fw;
    const uint8_t *madt;
    uint32_t length;

    cfg.vcpus = G_N_ELEMENTS(apic_ids);
    cfg.apic_ids = apic_ids;
    firmware_run(&fw, &cfg);
    madt = find_listed(&fw, 1, "APIC", &length);
    g_assert_cmpuint(get(madt + 36, 4), ==, 0xfee00000);
    g_assert_cmpuint(get(madt + 40, 4), ==, 1);
    g_assert_cmpmem(madt + 44, length - 44, expected, sizeof(expected));
    firmware_free(&fw);

    /* the small machine: ids count up, one I/O APIC, no 8259 */
    cfg = full_config();
    cfg.vcpus = 16;
    cfg.ioapic_count = 1;
    cfg.pic = false;
    firmware_run(&fw, &cfg);
    madt = find_listed(&fw, 1, "APIC", &length);
    g_assert_cmpuint(length, ==, 44 + 16 * 8 + 12 + 6);
    g_assert_cmpuint(get(madt + 40, 4), ==, 0);
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmpuint(get(madt + 44 + 8 * i, 4), ==, 0x0800 + (i << 16) + (i << 24));
        g_assert_cmpuint(get(madt + 48 + 8 * i, 4), ==, 1);
    }
    firmware_free(&fw);
}

static bool contains(const uint8_t *bytes, uint32_t length, const char *text)
{
    return memmem(bytes, length, text, strlen(text)) != NULL;
}

static void test_dsdt_devices(void)
{
    struct acpi_microvm_config cfg = full_config();
    struct firmware fw;
    const uint8_t *dsdt, *first, *second;
    uint32_t length;

    firmware_run(&fw, &cfg);
    dsdt = find_dsdt(&fw, &length);
    g_assert_cmpuint(dsdt[8], ==, 2);
    g_assert_true(contains(dsdt, length, "FWCF"));
    g_assert_true(contains(dsdt, length, "COM1"));
    g_assert_true(contains(dsdt, length, "RTC_"));
    g_assert_true(contains(dsdt, length, "ACPI0013"));
    g_assert_true(contains(dsdt, length, "PWRB"));
    g_assert_true(contains(dsdt, length, "_S5_"));
    g_assert_true(contains(dsdt, length, "VR19"));
    g_assert_false(contains(dsdt, length, "VR18"));
    /* last slot first, so that guests number devices in command line order */
    first = memmem(dsdt, length, "VR23", 4);
    second = memmem(dsdt, length, "VR22", 4);
    g_assert_nonnull(first);
    g_assert_true(first < second);
    firmware_free(&fw);

    cfg.fw_cfg = cfg.rtc = cfg.serial = false;
    cfg.virtio_present = UINT64_MAX; /* bits past the last slot mean nothing */
    cfg.virtio_count = 8;
    firmware_run(&fw, &cfg);
    dsdt = find_dsdt(&fw, &length);
    g_assert_false(contains(dsdt, length, "FWCF"));
    g_assert_false(contains(dsdt, length, "COM1"));
    g_assert_false(contains(dsdt, length, "RTC_"));
    g_assert_true(contains(dsdt, length, "VR00"));
    g_assert_true(contains(dsdt, length, "VR07"));
    g_assert_false(contains(dsdt, length, "VR08"));
    firmware_free(&fw);
}

/* One step of RAM block for every machine there can be, so both ends of a migration agree. */
static void test_size(void)
{
    struct acpi_microvm_config cfg = full_config();

    cfg.virtio_present = 0xffffff;
    for (cfg.vcpus = 1; cfg.vcpus <= 16; cfg.vcpus++) {
        g_autoptr(GByteArray) tables = g_byte_array_new();
        g_autoptr(GByteArray) loader = g_byte_array_new();
        g_autoptr(GByteArray) rsdp = g_byte_array_new();
        g_autoptr(GByteArray) again = g_byte_array_new();
        g_autoptr(GByteArray) again_loader = g_byte_array_new();
        g_autoptr(GByteArray) again_rsdp = g_byte_array_new();

        acpi_microvm_build(&cfg, tables, loader, rsdp);
        g_assert_cmpuint(acpi_blob_size(tables->len), ==, ACPI_BLOB_STEP);
        g_assert_cmpuint(acpi_blob_size(loader->len), ==, ACPI_BLOB_STEP);
        g_assert_cmpuint(acpi_blob_size(rsdp->len), ==, ACPI_BLOB_STEP);

        acpi_microvm_build(&cfg, again, again_loader, again_rsdp);
        g_assert_cmpmem(tables->data, tables->len, again->data, again->len);
        g_assert_cmpmem(loader->data, loader->len, again_loader->data, again_loader->len);
        g_assert_cmpmem(rsdp->data, rsdp->len, again_rsdp->data, again_rsdp->len);
    }
    g_assert_cmpuint(acpi_blob_size(0), ==, 4096);
    g_assert_cmpuint(acpi_blob_size(4096), ==, 4096);
    g_assert_cmpuint(acpi_blob_size(4097), ==, 8192);
}

/* Runs iasl in @dir; its output is shown when it fails or warns of an error. */
static void run_iasl(const char *dir, const char *const args[])
{
    g_autofree char *out = NULL;
    g_autofree char *errors = NULL;
    g_autoptr(GError) err = NULL;
    int status = 0;
    bool ok = g_spawn_sync(dir, (char **)args, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &errors,
                           &status, &err);

    g_assert_no_error(err);
    g_assert_true(ok);
    if (status != 0 || strstr(errors, "ncorrect") || strstr(errors, "rror")) {
        g_printerr("%s%s", out, errors);
        g_assert_not_reached();
    }
}

static void check_with_iasl(const char *dir, const struct firmware *fw)
{
    static const char *const disassemble[] = { "iasl", "-p", "dsdt", "-d", "dsdt.aml", NULL };
    static const char *const compile[] = { "iasl", "-oa", "-p", "again", "dsdt.dsl", NULL };
    static const char *const decode_facp[] = { "iasl", "-p", "facp", "-d", "facp.aml", NULL };
    static const char *const decode_apic[] = { "iasl", "-p", "apic", "-d", "apic.aml", NULL };
    uint32_t length;
    const struct {
        const char *name;
        const uint8_t *bytes;
    } tables[] = {
        { "dsdt.aml", find_dsdt(fw, &length) },
        { "facp.aml", find_listed(fw, 0, "FACP", &length) },
        { "apic.aml", find_listed(fw, 1, "APIC", &length) },
    };
    g_autofree char *again_name = g_build_filename(dir, "again.aml", NULL);
    g_autofree char *again = NULL;
    gsize again_length;

    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++) {
        g_autofree char *name = g_build_filename(dir, tables[i].name, NULL);

        g_assert_true(g_file_set_contents(name, (const char *)tables[i].bytes,
                                          get(tables[i].bytes + 4, 4), NULL));
    }
    run_iasl(dir, disassemble);
    run_iasl(dir, compile);
    run_iasl(dir, decode_facp);
    run_iasl(dir, decode_apic);

    /* past the header, which names the compiler, the bytes are the same */
    g_assert_true(g_file_get_contents(again_name, &again, &again_length, NULL));
    g_assert_cmpuint(again_length, >, 36);
    g_assert_cmpmem(again + 36, again_length - 36, tables[0].bytes + 36,
                    get(tables[0].bytes + 4, 4) - 36);
}

static void test_iasl(void)
{
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *dir = NULL;

    if (!iasl) {
        g_test_skip("iasl is not installed (package acpica-tools)");
        return;
    }
    dir = g_dir_make_tmp("ferry-acpi-XXXXXX", NULL);
    g_assert_nonnull(dir);
    for (unsigned variant = 0; variant < 4; variant++) {
        struct acpi_microvm_config cfg = full_config();
        struct firmware fw;

        cfg.virtio_present = variant & 1 ? 0xffffff : 0;
        if (variant & 2) {
            cfg.rtc = cfg.serial = cfg.fw_cfg = false;
            cfg.vcpus = 300;
        }
        firmware_run(&fw, &cfg);
        check_with_iasl(dir, &fw);
        firmware_free(&fw);
    }

    g_autoptr(GDir) listing = g_dir_open(dir, 0, NULL);
    const char *entry;

    while ((entry = g_dir_read_name(listing))) {
        g_autofree char *path = g_build_filename(dir, entry, NULL);

        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/acpi/aml/integer", test_aml_integer);
    g_test_add_func("/acpi/aml/names", test_aml_names);
    g_test_add_func("/acpi/aml/lengths", test_aml_lengths);
    g_test_add_func("/acpi/aml/nesting", test_aml_nesting);
    g_test_add_func("/acpi/aml/resources", test_aml_resources);
    g_test_add_func("/acpi/loader/layout", test_loader_layout);
    g_test_add_func("/acpi/microvm/fadt", test_fadt);
    g_test_add_func("/acpi/microvm/madt", test_madt);
    g_test_add_func("/acpi/microvm/dsdt", test_dsdt_devices);
    g_test_add_func("/acpi/microvm/size", test_size);
    g_test_add_func("/acpi/microvm/iasl", test_iasl);
    return g_test_run();
}
