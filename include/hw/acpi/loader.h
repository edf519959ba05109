/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table loader script: how tables get their addresses.
 *
 * ACPI tables point at each other with physical addresses, but only the firmware knows where it
 * will put them. So the VMM offers the tables as fw_cfg files and, in a further file, a list of
 * commands: place this file, add the place of that file to the pointer here, compute the checksum
 * there. The firmware runs the list in order.
 *
 * A pointer in a file starts out as an offset into the file it points to; a checksum byte starts
 * out as 0. A checksum command must come after the pointer commands inside its range. Nothing here
 * fails; names, offsets and ranges are the program's own, and a wrong one asserts.
 */
#ifndef HW_ACPI_LOADER_H
#define HW_ACPI_LOADER_H

#include <glib.h>
#include <stdint.h>

/* fw_cfg file names that firmware looks for. */
#define ACPI_FILE_TABLES "etc/acpi/tables"
#define ACPI_FILE_RSDP   "etc/acpi/rsdp"
#define ACPI_FILE_LOADER "etc/table-loader"

/* Layout of one command, little-endian. File names are NUL-terminated, with NULs to the end of
 * their place. */
#define ACPI_LOADER_ENTRY_SIZE 128
#define ACPI_LOADER_NAME_SIZE  56

enum acpi_loader_command {
    ACPI_LOADER_ALLOCATE = 1,     /* file[56], le32 alignment, u8 zone */
    ACPI_LOADER_ADD_POINTER = 2,  /* file[56], pointee[56], le32 offset, u8 size */
    ACPI_LOADER_ADD_CHECKSUM = 3, /* file[56], le32 checksum offset, le32 start, le32 length */
};

enum acpi_loader_zone {
    ACPI_LOADER_HIGH = 1, /* anywhere below 4 GiB */
    ACPI_LOADER_F_SEGMENT =
        2 /* 0xf0000..0xfffff, where an operating system searches for the RSDP */
};

/* Each appends one command to @loader. Offsets and lengths are in bytes from the start of the file.
 */
void acpi_loader_allocate(GByteArray *loader, const char *file, uint32_t alignment,
                          enum acpi_loader_zone zone);
/* @size: width of the pointer, 1, 2, 4 or 8 */
void acpi_loader_add_pointer(GByteArray *loader, const char *file, uint32_t offset, uint8_t size,
                             const char *pointee);
/* Makes the bytes start..start+length-1, among them the one at @checksum, sum up to 0. */
void acpi_loader_add_checksum(GByteArray *loader, const char *file, uint32_t checksum,
                              uint32_t start, uint32_t length);

#endif
