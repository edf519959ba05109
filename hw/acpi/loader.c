/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes the table loader's commands; see include/hw/acpi/loader.h for what they do and their
 * order. */
#include "hw/acpi/loader.h"

#include <string.h>

struct loader_entry {
    uint8_t bytes[ACPI_LOADER_ENTRY_SIZE];
    unsigned used;
};

static void entry_put(struct loader_entry *entry, uint32_t value, unsigned size)
{
    g_assert(entry->used + size <= sizeof(entry->bytes));
    for (unsigned i = 0; i < size; i++) {
        entry->bytes[entry->used++] = value >> (8 * i);
    }
}

static void entry_put_name(struct loader_entry *entry, const char *name)
{
    g_assert(strlen(name) < ACPI_LOADER_NAME_SIZE);
    g_assert(entry->used + ACPI_LOADER_NAME_SIZE <= sizeof(entry->bytes));
    memcpy(entry->bytes + entry->used, name, strlen(name));
    entry->used += ACPI_LOADER_NAME_SIZE;
}

static struct loader_entry entry_new(enum acpi_loader_command command, const char *file)
{
    struct loader_entry entry = { .used = 0 };

    entry_put(&entry, command, 4);
    entry_put_name(&entry, file);
    return entry;
}

static void entry_append(GByteArray *loader, const struct loader_entry *entry)
{
    g_byte_array_append(loader, entry->bytes, sizeof(entry->bytes));
}

void acpi_loader_allocate(GByteArray *loader, const char *file, uint32_t alignment,
                          enum acpi_loader_zone zone)
{
    struct loader_entry entry = entry_new(ACPI_LOADER_ALLOCATE, file);

    g_assert(alignment && (alignment & (alignment - 1)) == 0);
    entry_put(&entry, alignment, 4);
    entry_put(&entry, zone, 1);
    entry_append(loader, &entry);
}

void acpi_loader_add_pointer(GByteArray *loader, const char *file, uint32_t offset, uint8_t size,
                             const char *pointee)
{
    struct loader_entry entry = entry_new(ACPI_LOADER_ADD_POINTER, file);

    g_assert(size == 1 || size == 2 || size == 4 || size == 8);
    entry_put_name(&entry, pointee);
    entry_put(&entry, offset, 4);
    entry_put(&entry, size, 1);
    entry_append(loader, &entry);
}

void acpi_loader_add_checksum(GByteArray *loader, const char *file, uint32_t checksum,
                              uint32_t start, uint32_t length)
{
    struct loader_entry entry = entry_new(ACPI_LOADER_ADD_CHECKSUM, file);

    g_assert(checksum >= start && checksum - start < length);
    entry_put(&entry, checksum, 4);
    entry_put(&entry, start, 4);
    entry_put(&entry, length, 4);
    entry_append(loader, &entry);
}
