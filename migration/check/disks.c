/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison of disks. Storage is shared: both sides have opened the same bytes. Whether it is
 * the same file can be told where both sides run on one host; between hosts only what makes it
 * impossible shows. That a disk's device is missing is found among the devices.
 *
 * What one host's page cache holds of a file the other host does not see: between hosts a disk that
 * is written wants O_DIRECT (cache=none), unless it lies in a filesystem that keeps the caches of
 * its hosts alike, which is not known here. So that is a warning.
 */
#include "migration/check/disks.h"

#include <inttypes.h>
#include <string.h>

#define OBSTACLE(subject, ...)                                                                     \
    finding_obstacle(findings, MIGRATION_FINDING_KIND_DISK, subject, __VA_ARGS__)
#define WARNING(subject, ...)                                                                      \
    finding_warning(findings, MIGRATION_FINDING_KIND_DISK, subject, __VA_ARGS__)

static const MigrationSideDisk *disk_find(const MigrationSide *side, const char *device)
{
    for (unsigned i = 0; side->disks && i < side->disks->len; i++) {
        const MigrationSideDisk *d = g_ptr_array_index(side->disks, i);

        if (g_str_equal(d->device, device)) {
            return d;
        }
    }
    return NULL;
}

static void compare_files(const MigrationSideDisk *s, const MigrationSideDisk *d,
                          GPtrArray *findings)
{
    if (s->file_device == d->file_device && s->file_inode == d->file_inode) {
        return;
    }
    /* several devices may lead to one store */
    if (!s->file_inode && !d->file_inode && !d->read_only) {
        WARNING(s->name,
                "Disk '%s' is the block device '%s' on the source and '%s' on the destination of "
                "the same host: make sure that both lead to the same storage",
                s->name, s->path, d->path);
        return;
    }
    /* a copy of what nobody writes is as good */
    if (s->file_device == d->file_device && !d->read_only) {
        OBSTACLE(
            s->name,
            "Disk '%s' is '%s' on the source and '%s', another file, on the destination of the "
            "same host: give both sides the same image",
            s->name, s->path, d->path);
    } else if (!d->read_only) {
        WARNING(s->name,
                "Disk '%s' is '%s' on the source and '%s' on the destination of the same host, in "
                "another filesystem: make sure that it is the same image",
                s->name, s->path, d->path);
    }
}

static void compare_between_hosts(const MigrationSideDisk *s, const MigrationSideDisk *d,
                                  GPtrArray *findings)
{
    const MigrationSideDisk *alone = s->host_alone ? s : d;

    if (d->read_only) {
        return;
    }
    if (alone->host_alone) {
        WARNING(
            s->name,
            "Disk '%s' is '%s' in a filesystem of the %s's host alone, and disks do not travel: "
            "put it on storage that both hosts share",
            s->name, alone->path, alone == s ? "source" : "destination");
    } else if (!s->direct || !d->direct) {
        WARNING(s->name,
                "Disk '%s' goes through the page cache of the %s's host, which the other host does "
                "not see: use cache=none on both sides, unless its filesystem keeps them alike",
                s->name, s->direct ? "destination" : "source");
    }
}

static void compare_disk(const MigrationSideDisk *s, const MigrationSideDisk *d, bool same_host,
                         GPtrArray *findings)
{
    if (s->size != d->size) {
        OBSTACLE(s->name,
                 "Disk '%s' has %" PRIu64 " bytes on the source and %" PRIu64
                 " on the destination: give both sides the same image",
                 s->name, s->size, d->size);
    }
    if (s->read_only != d->read_only) {
        OBSTACLE(
            s->name,
            "Disk '%s' is %s on the source and %s on the destination: give both sides the same "
            "readonly=",
            s->name, s->read_only ? "only read" : "written",
            d->read_only ? "only read" : "written");
    }
    if (s->deleted || d->deleted) {
        WARNING(s->name,
                "The file '%s' of disk '%s' has been deleted while the %s has it open: it is gone "
                "when the machines are",
                s->deleted ? s->path : d->path, s->name, s->deleted ? "source" : "destination");
    }
    if (same_host) {
        compare_files(s, d, findings);
    } else {
        compare_between_hosts(s, d, findings);
    }
}

void disks_compare(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    bool same_host = s->host->boot && d->host->boot && !strcmp(s->host->boot, d->host->boot);

    for (unsigned i = 0; s->disks && i < s->disks->len; i++) {
        const MigrationSideDisk *disk = g_ptr_array_index(s->disks, i);
        const MigrationSideDisk *own = disk_find(d, disk->device);

        if (own) {
            compare_disk(disk, own, same_host, findings);
        }
    }
}
