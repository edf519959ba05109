/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The firmware configuration device; see include/hw/nvram/fw_cfg.h.
 *
 *   0x510  16-bit write: select an item, offset 0
 *   0x511  byte read (at 0x510 as well): the next byte of the item; zeros past its end and for
 *          items that are not there. Writes are ignored.
 *   0x514  big-endian guest address of a DMA command: high half, then low half, which starts it.
 *          Reads give "QEMU CFG".
 *
 * A DMA command is { be32 control; be32 length; be64 address } in guest RAM; control is overwritten
 * with 0 or DMA_ERROR when it is done. The guest is hostile: the command and what it points at are
 * reached through memory_ram_ptr() only, page by page, so that neither a length nor an address can
 * leave RAM or reach another device's registers. A bad command sets DMA_ERROR, nothing else.
 *
 * In the stream: the selected item, the offset and the DMA address; and the sizes of the ACPI
 * blobs, whose content is in RAM blocks. A destination takes the source's sizes, so firmware that
 * reads them after the move sees one consistent set.
 */
#include <string.h>

#include "hw/nvram/fw_cfg.h"

#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"

#define FW_CFG_PORT     0x510
#define FW_CFG_DMA_PORT 0x514

#define KEY_MASK     0x3fff /* without the write channel bit and the architecture bit */
#define KEY_ITEMS    (FW_CFG_FILE_FIRST + FW_CFG_FILE_SLOTS)
#define KEY_INVALID  0xffff
#define ID_TRADITION 1
#define ID_DMA       2

enum {
    DMA_ERROR = 0x01,
    DMA_READ = 0x02,
    DMA_SKIP = 0x04,
    DMA_SELECT = 0x08,
    DMA_WRITE = 0x10,
};

static const char dma_signature[8] = "QEMU CFG";

struct fw_cfg_item {
    GBytes *bytes;           /* content, or NULL */
    struct ram_block *block; /* content, or NULL */
    uint64_t size;           /* bytes of content */
};

struct fw_cfg_file {
    char name[FW_CFG_FILE_NAME_MAX + 1];
    struct fw_cfg_item item; /* moves to its key when sealed */
    uint16_t key;
    int blob; /* enum fw_cfg_blob, or -1 */
};

/* What is saved, in the shape the wire has. */
struct fw_cfg_state {
    uint16_t cur_entry;
    uint32_t cur_offset;
    uint64_t dma_addr;
    uint64_t blob_size[FW_CFG_BLOB_COUNT];
    bool has_blobs;
};

struct fw_cfg {
    struct device dev;
    struct fw_cfg_item items[2][KEY_ITEMS]; /* generic, architecture-local */
    GArray *files;                          /* struct fw_cfg_file, sorted by name when sealed */
    bool has_blobs, sealed;
    uint16_t selected; /* key, or KEY_INVALID */
    uint32_t offset;
    uint64_t dma_addr;
};

static struct fw_cfg_item *item_of_key(struct fw_cfg *fw, uint16_t key)
{
    unsigned n = key & KEY_MASK;

    if (key == KEY_INVALID || n >= KEY_ITEMS) {
        return NULL;
    }
    return &fw->items[key & FW_CFG_ARCH_LOCAL ? 1 : 0][n];
}

static void item_clear(struct fw_cfg_item *item)
{
    g_clear_pointer(&item->bytes, g_bytes_unref);
    *item = (struct fw_cfg_item){ 0 };
}

/* The content and how much of it there is; NULL and 0 for an item that is not there. */
static const uint8_t *item_data(const struct fw_cfg_item *item, uint64_t *size)
{
    *size = 0;
    if (!item) {
        return NULL;
    }
    if (item->block) {
        /* the block may have shrunk below the size when a stream resized it */
        *size = MIN(item->size, item->block->used_length);
        return item->block->host;
    }
    if (item->bytes) {
        *size = item->size;
        return g_bytes_get_data(item->bytes, NULL);
    }
    return NULL;
}

static void item_set(struct fw_cfg *fw, uint16_t key, const struct fw_cfg_item *value)
{
    struct fw_cfg_item *item = item_of_key(fw, key);

    g_assert(item && !item->bytes && !item->block);
    *item = *value;
}

void fw_cfg_add_bytes(struct fw_cfg *fw, uint16_t key, GBytes *bytes)
{
    item_set(fw, key,
             &(struct fw_cfg_item){ .bytes = g_bytes_ref(bytes), .size = g_bytes_get_size(bytes) });
}

static void add_copy(struct fw_cfg *fw, uint16_t key, const void *data, size_t size)
{
    g_autoptr(GBytes) bytes = g_bytes_new(data, size);

    fw_cfg_add_bytes(fw, key, bytes);
}

void fw_cfg_add_string(struct fw_cfg *fw, uint16_t key, const char *s)
{
    add_copy(fw, key, s, strlen(s) + 1);
}

void fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value)
{
    value = GUINT16_TO_LE(value);
    add_copy(fw, key, &value, sizeof(value));
}

void fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    add_copy(fw, key, &value, sizeof(value));
}

void fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    add_copy(fw, key, &value, sizeof(value));
}

static void add_file(struct fw_cfg *fw, const char *name, const struct fw_cfg_item *item, int blob)
{
    struct fw_cfg_file file = { .item = *item, .blob = blob };

    g_assert(!fw->sealed && fw->files->len < FW_CFG_FILE_SLOTS);
    g_assert(g_strlcpy(file.name, name, sizeof(file.name)) < sizeof(file.name));
    g_array_append_val(fw->files, file);
}

void fw_cfg_add_file(struct fw_cfg *fw, const char *name, GBytes *bytes)
{
    add_file(fw, name,
             &(struct fw_cfg_item){ .bytes = g_bytes_ref(bytes), .size = g_bytes_get_size(bytes) },
             -1);
}

void fw_cfg_add_blob(struct fw_cfg *fw, enum fw_cfg_blob which, const char *name,
                     struct ram_block *block, uint64_t size)
{
    fw->has_blobs = true;
    add_file(fw, name, &(struct fw_cfg_item){ .block = block, .size = size }, (int)which);
}

/* The directory: be32 count, then { be32 size; be16 key; be16 0; char name[56] } per file. */
static void make_directory(struct fw_cfg *fw)
{
    struct fw_cfg_item *dir = item_of_key(fw, FW_CFG_FILE_DIR);
    GByteArray *out = g_byte_array_new();
    uint32_t count = GUINT32_TO_BE(fw->files->len);

    g_byte_array_append(out, (const guint8 *)&count, sizeof(count));
    for (unsigned i = 0; i < fw->files->len; i++) {
        const struct fw_cfg_file *file = &g_array_index(fw->files, struct fw_cfg_file, i);
        uint32_t size = GUINT32_TO_BE((uint32_t)item_of_key(fw, file->key)->size);
        uint16_t key[2] = { GUINT16_TO_BE(file->key), 0 };

        g_byte_array_append(out, (const guint8 *)&size, sizeof(size));
        g_byte_array_append(out, (const guint8 *)key, sizeof(key));
        g_byte_array_append(out, (const guint8 *)file->name, sizeof(file->name));
    }
    item_clear(dir);
    dir->size = out->len;
    dir->bytes = g_byte_array_free_to_bytes(out);
}

static int compare_files(gconstpointer a, gconstpointer b)
{
    const struct fw_cfg_file *fa = a, *fb = b;

    return strcmp(fa->name, fb->name);
}

void fw_cfg_seal(struct fw_cfg *fw)
{
    g_assert(!fw->sealed);
    fw->sealed = true;
    g_array_sort(fw->files, compare_files);
    for (unsigned i = 0; i < fw->files->len; i++) {
        struct fw_cfg_file *file = &g_array_index(fw->files, struct fw_cfg_file, i);

        file->key = (uint16_t)(FW_CFG_FILE_FIRST + i);
        item_set(fw, file->key, &file->item);
    }
    make_directory(fw);
}

static void select_key(struct fw_cfg *fw, uint16_t key)
{
    fw->selected = (key & KEY_MASK) < KEY_ITEMS ? key : KEY_INVALID;
    fw->offset = 0;
}

static uint64_t port_read(void *opaque, uint64_t offset G_GNUC_UNUSED, unsigned size)
{
    struct fw_cfg *fw = opaque;
    uint64_t length;
    const uint8_t *data;

    if (size != 1) {
        return 0;
    }
    data = item_data(item_of_key(fw, fw->selected), &length);
    return fw->offset < length ? data[fw->offset++] : 0;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == 0 && size == 2) {
        select_key(opaque, (uint16_t)value);
    }
}

static const struct io_ops port_ops = { .read = port_read, .write = port_write, .max_size = 2 };

/* Puts `length` bytes (from NULL: zeros) at a guest address; false when part of it is not RAM. */
static bool dma_to_guest(struct fw_cfg *fw, uint64_t gpa, const uint8_t *from, uint64_t length)
{
    struct memory *mem = fw->dev.vm->memory;

    while (length) {
        uint64_t n = MIN(length, TARGET_PAGE_SIZE - (gpa & ~TARGET_PAGE_MASK));
        uint8_t *to = memory_ram_ptr(mem, gpa, n, true);

        if (!to) {
            return false;
        }
        if (from) {
            memcpy(to, from, n);
            from += n;
        } else {
            memset(to, 0, n);
        }
        /* marked dirty again: the page may have been taken for sending before it was written */
        (void)memory_ram_ptr(mem, gpa, n, true);
        gpa += n;
        length -= n;
    }
    return true;
}

static bool dma_from_guest(struct fw_cfg *fw, uint64_t gpa, uint8_t *to, uint64_t length)
{
    struct memory *mem = fw->dev.vm->memory;

    while (length) {
        uint64_t n = MIN(length, TARGET_PAGE_SIZE - (gpa & ~TARGET_PAGE_MASK));
        const uint8_t *from = memory_ram_ptr(mem, gpa, n, false);

        if (!from) {
            return false;
        }
        memcpy(to, from, n);
        gpa += n;
        to += n;
        length -= n;
    }
    return true;
}

/* Carries out a command on the selected item; false: error. */
static bool dma_transfer(struct fw_cfg *fw, uint32_t control, uint32_t length, uint64_t gpa)
{
    uint64_t size;
    const uint8_t *data = item_data(item_of_key(fw, fw->selected), &size);
    uint64_t left = fw->offset < size ? size - fw->offset : 0;
    uint64_t n = MIN(length, left);

    /* the offset moves also where the transfer fails */
    if (control & DMA_READ) {
        data = n ? data + fw->offset : NULL;
        fw->offset += (uint32_t)n;
        return dma_to_guest(fw, gpa, data, n) && dma_to_guest(fw, gpa + n, NULL, length - n);
    }
    if (control & DMA_WRITE) {
        fw->offset += (uint32_t)n;
        return length == 0; /* no item of this machine is writable */
    }
    if (control & DMA_SKIP) {
        fw->offset += (uint32_t)n;
    }
    return true;
}

static void dma_run(struct fw_cfg *fw)
{
    uint64_t at = fw->dma_addr;
    struct {
        uint32_t control, length;
        uint64_t address;
    } command;
    uint32_t result = GUINT32_TO_BE(DMA_ERROR);

    fw->dma_addr = 0;
    if (dma_from_guest(fw, at, (uint8_t *)&command, sizeof(command))) {
        uint32_t control = GUINT32_FROM_BE(command.control);

        if (control & DMA_SELECT) {
            select_key(fw, (uint16_t)(control >> 16));
        }
        if (dma_transfer(fw, control, GUINT32_FROM_BE(command.length),
                         GUINT64_FROM_BE(command.address))) {
            result = 0;
        }
    }
    (void)dma_to_guest(fw, at, (const uint8_t *)&result, sizeof(result));
}

static uint64_t dma_port_read(void *opaque G_GNUC_UNUSED, uint64_t offset, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, dma_signature + offset, size);
    return v;
}

static void dma_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *fw = opaque;

    if (size == 8 && offset == 0) {
        fw->dma_addr = GUINT64_FROM_BE(value);
        dma_run(fw);
    } else if (size == 4 && offset == 0) {
        fw->dma_addr = (uint64_t)GUINT32_FROM_BE((uint32_t)value) << 32;
    } else if (size == 4 && offset == 4) {
        fw->dma_addr |= GUINT32_FROM_BE((uint32_t)value);
        dma_run(fw);
    }
}

static const struct io_ops dma_ops = {
    .read = dma_port_read,
    .write = dma_port_write,
    .max_size = 8,
};

static bool fw_cfg_realize(struct device *dev, GError **err G_GNUC_UNUSED)
{
    struct fw_cfg *fw = (struct fw_cfg *)dev;
    struct memory *mem = dev->vm->memory;

    fw->files = g_array_new(FALSE, TRUE, sizeof(struct fw_cfg_file));
    add_copy(fw, FW_CFG_SIGNATURE, dma_signature, 4);
    fw_cfg_add_u32(fw, FW_CFG_ID, ID_TRADITION | ID_DMA);
    memory_add_io(mem, IO_SPACE_PORT, FW_CFG_PORT, 2, &port_ops, fw, "fwcfg");
    memory_add_io(mem, IO_SPACE_PORT, FW_CFG_DMA_PORT, sizeof(dma_signature), &dma_ops, fw,
                  "fwcfg.dma");
    return true;
}

static void fw_cfg_unrealize(struct device *dev)
{
    struct fw_cfg *fw = (struct fw_cfg *)dev;

    for (unsigned i = 0; !fw->sealed && i < fw->files->len; i++) {
        item_clear(&g_array_index(fw->files, struct fw_cfg_file, i).item);
    }
    for (unsigned i = 0; i < KEY_ITEMS; i++) {
        item_clear(&fw->items[0][i]);
        item_clear(&fw->items[1][i]);
    }
    g_array_free(fw->files, TRUE);
}

static void fw_cfg_reset(struct device *dev)
{
    struct fw_cfg *fw = (struct fw_cfg *)dev;

    select_key(fw, 0);
    fw->dma_addr = 0;
}

static struct fw_cfg_item *blob_item(struct fw_cfg *fw, int blob)
{
    for (unsigned i = 0; i < fw->files->len; i++) {
        const struct fw_cfg_file *file = &g_array_index(fw->files, struct fw_cfg_file, i);

        if (file->blob == blob) {
            return item_of_key(fw, file->key);
        }
    }
    return NULL;
}

static void fw_cfg_defaults(void *opaque, void *state)
{
    struct fw_cfg *fw = opaque;
    struct fw_cfg_state *s = state;

    for (int i = 0; i < FW_CFG_BLOB_COUNT; i++) {
        const struct fw_cfg_item *item = blob_item(fw, i);

        s->blob_size[i] = item ? item->size : 0;
    }
}

static bool fw_cfg_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    struct fw_cfg *fw = opaque;
    struct fw_cfg_state *s = state;

    fw_cfg_defaults(opaque, state);
    s->cur_entry = fw->selected;
    s->cur_offset = fw->offset;
    s->dma_addr = fw->dma_addr;
    s->has_blobs = fw->has_blobs;
    return true;
}

static bool fw_cfg_check(void *opaque, const void *state, GError **err)
{
    struct fw_cfg *fw = opaque;
    const struct fw_cfg_state *s = state;

    if (s->has_blobs && !fw->has_blobs) {
        error_set(err, FERRY_ERROR_PEER,
                  "The stream has ACPI tables but this machine has acpi=off; start both sides with "
                  "the same machine options");
        return false;
    }
    for (int i = 0; i < FW_CFG_BLOB_COUNT; i++) {
        const struct fw_cfg_item *item = blob_item(fw, i);

        if (item && s->blob_size[i] > item->block->max_length) {
            error_set(err, FERRY_ERROR_PEER,
                      "The size of the ACPI blob '%s' in the stream, %" G_GUINT64_FORMAT
                      " bytes, is larger than its memory",
                      item->block->idstr, s->blob_size[i]);
            return false;
        }
    }
    return true;
}

static bool fw_cfg_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                        GError **err G_GNUC_UNUSED)
{
    struct fw_cfg *fw = opaque;
    const struct fw_cfg_state *s = state;

    select_key(fw, s->cur_entry);
    fw->offset = s->cur_offset;
    fw->dma_addr = s->dma_addr;
    for (int i = 0; i < FW_CFG_BLOB_COUNT; i++) {
        struct fw_cfg_item *item = blob_item(fw, i);

        if (item) {
            item->size = s->blob_size[i];
        }
    }
    make_directory(fw);
    return true;
}

static bool dma_needed(const void *state G_GNUC_UNUSED)
{
    return true; /* the device always has DMA */
}

static bool blobs_needed(const void *state)
{
    return ((const struct fw_cfg_state *)state)->has_blobs;
}

static void blobs_received(void *state)
{
    ((struct fw_cfg_state *)state)->has_blobs = true;
}

static const struct vmstate fw_cfg_dma_vmstate = {
    .name = "fw_cfg/dma",
    .version = 0, /* QEMU's never got a number */
    .min_version = 0,
    .size = sizeof(struct fw_cfg_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct fw_cfg_state, "dma_addr", VMS_U64, dma_addr),
            {},
        },
};

static const struct vmstate fw_cfg_acpi_mr_vmstate = {
    .name = "fw_cfg/acpi_mr",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct fw_cfg_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct fw_cfg_state, "table_mr_size", VMS_U64,
                  blob_size[FW_CFG_BLOB_ACPI_TABLES]),
            VMS_F(struct fw_cfg_state, "linker_mr_size", VMS_U64,
                  blob_size[FW_CFG_BLOB_TABLE_LOADER]),
            VMS_F(struct fw_cfg_state, "rsdp_mr_size", VMS_U64, blob_size[FW_CFG_BLOB_RSDP]),
            {},
        },
};

static const struct vmstate fw_cfg_vmstate = {
    .name = "fw_cfg",
    .version = 2,
    .min_version = 2,
    .size = sizeof(struct fw_cfg_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct fw_cfg_state, "cur_entry", VMS_U16, cur_entry),
            VMS_F(struct fw_cfg_state, "cur_offset[1]", VMS_U32, cur_offset),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &fw_cfg_dma_vmstate, .needed = dma_needed },
            { .vmstate = &fw_cfg_acpi_mr_vmstate,
              .needed = blobs_needed,
              .received = blobs_received },
            {},
        },
    .save = fw_cfg_save,
    .load = fw_cfg_load,
    .defaults = fw_cfg_defaults,
    .check = fw_cfg_check,
};

static const struct device_class fw_cfg_class = {
    .name = "fw_cfg_io",
    .description = "Firmware configuration",
    .size = sizeof(struct fw_cfg),
    .realize = fw_cfg_realize,
    .unrealize = fw_cfg_unrealize,
    .reset = fw_cfg_reset,
    .vmstate = &fw_cfg_vmstate,
};
DEVICE_CLASS(fw_cfg_class);

struct fw_cfg *fw_cfg_create(struct vm *vm, GError **err)
{
    struct device *dev = device_new(vm, &fw_cfg_class, NULL, err);

    if (!dev) {
        return NULL;
    }
    dev->savevm_order = SAVEVM_ORDER_FW_CFG;
    return device_realize(dev, err) ? (struct fw_cfg *)dev : NULL;
}
