/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks for people: `info block` and `info blockstats` of human-monitor-command. They print what
 * query-block, query-named-block-nodes and query-blockstats return, in QEMU's lines, which scripts
 * read. Main loop thread, machine lock held.
 */
#include <inttypes.h>
#include <string.h>

#include "block/block.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"

/* 1536 is "1.5 KiB". */
static char *size_text(int64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    unsigned unit = 0;

    for (; value >= 1000 && unit + 1 < G_N_ELEMENTS(units); unit++) {
        value /= 1024;
    }
    return g_strdup_printf("%.3g %s", value, units[unit]);
}

static void print_image(GString *out, const ImageInfo *image)
{
    g_autofree char *virtual_size = size_text(image->virtual_size);
    g_autofree char *actual_size = size_text(image->actual_size);

    g_string_append_printf(out,
                           "\r\nImages:\r\nimage: %s\r\nfile format: %s\r\n"
                           "virtual size: %s (%" PRId64 " bytes)\r\n",
                           image->filename, image->format, virtual_size, image->virtual_size);
    if (image->has_actual_size) {
        g_string_append_printf(out, "disk size: %s\r\n", actual_size);
    }
}

/* info: NULL for a node that is printed by itself. */
static void print_disk(GString *out, const BlockInfo *info, const BlockDeviceInfo *inserted,
                       bool verbose)
{
    if (out->len) {
        g_string_append(out, "\r\n");
    }
    if (info && *info->device) {
        g_string_append_printf(out, "%s (%s)", info->device, inserted->node_name);
    } else {
        g_string_append(out, inserted->node_name);
    }
    g_string_append_printf(out, ": %s (%s%s)\r\n", inserted->file, inserted->drv,
                           inserted->ro ? ", read-only" : "");
    if (info && info->qdev) {
        g_string_append_printf(out, "    Attached to:      %s\r\n", info->qdev);
    }
    if (info && info->has_io_status && info->io_status != BLOCK_DEVICE_IO_STATUS_OK) {
        g_string_append_printf(out, "    I/O status:       %s\r\n",
                               qapi_block_device_io_status_str(info->io_status));
    }
    if (info && info->removable) {
        g_string_append(out, "    Removable device: not locked, tray closed\r\n");
    }
    g_string_append_printf(out, "    Cache mode:       %s%s%s\r\n",
                           inserted->cache->writeback ? "writeback" : "writethrough",
                           inserted->cache->direct ? ", direct" : "",
                           inserted->cache->no_flush ? ", ignore flushes" : "");
    if (verbose) {
        print_image(out, inserted->image);
    }
}

/* False: no disk has the wanted name, which may be a node's. */
static bool print_disks(struct vm *vm, const char *wanted, bool verbose, GString *out)
{
    g_autoptr(GPtrArray) list = qmp_query_block(vm, NULL);
    bool any = !wanted;

    for (unsigned i = 0; i < list->len; i++) {
        const BlockInfo *info = g_ptr_array_index(list, i);

        if (!wanted || strcmp(wanted, info->device) == 0) {
            print_disk(out, info, info->inserted, verbose);
            any = true;
        }
    }
    return any;
}

static void print_nodes(struct vm *vm, const char *wanted, bool verbose, GString *out)
{
    struct qmp_query_named_block_nodes_arg all = {};
    g_autoptr(GPtrArray) list = qmp_query_named_block_nodes(vm, &all, NULL);

    for (unsigned i = 0; i < list->len; i++) {
        const BlockDeviceInfo *node = g_ptr_array_index(list, i);

        if (!wanted || strcmp(wanted, node->node_name) == 0) {
            print_disk(out, NULL, node, verbose);
        }
    }
}

void block_describe(struct vm *vm, const char *arg, GString *out)
{
    g_auto(GStrv) words = g_strsplit_set(arg ? arg : "", " \t", -1);
    bool nodes = false, verbose = false;
    const char *wanted = NULL;

    for (unsigned i = 0; words[i]; i++) {
        if (strcmp(words[i], "-n") == 0) {
            nodes = true;
        } else if (strcmp(words[i], "-v") == 0) {
            verbose = true;
        } else if (words[i][0] == '-') {
            g_string_append_printf(out,
                                   "block: unsupported option %s\r\n"
                                   "Try \"help info block\" for more information\r\n",
                                   words[i]);
            return;
        } else if (*words[i] && wanted) {
            g_string_append(out, "block: extraneous characters at the end of line\r\n"
                                 "Try \"help info block\" for more information\r\n");
            return;
        } else if (*words[i]) {
            wanted = words[i];
        }
    }
    if (nodes || !print_disks(vm, wanted, verbose, out)) {
        print_nodes(vm, wanted, verbose, out);
    }
}

void block_describe_stats(struct vm *vm, GString *out)
{
    struct qmp_query_blockstats_arg disks = {};
    g_autoptr(GPtrArray) list = qmp_query_blockstats(vm, &disks, NULL);

    for (unsigned i = 0; i < list->len; i++) {
        const BlockStats *disk = g_ptr_array_index(list, i);
        const BlockDeviceStats *s = disk->stats;
        const struct {
            const char *name;
            int64_t value;
        } figures[] = {
            { "rd_bytes", s->rd_bytes },
            { "wr_bytes", s->wr_bytes },
            { "rd_operations", s->rd_operations },
            { "wr_operations", s->wr_operations },
            { "flush_operations", s->flush_operations },
            { "wr_total_time_ns", s->wr_total_time_ns },
            { "rd_total_time_ns", s->rd_total_time_ns },
            { "flush_total_time_ns", s->flush_total_time_ns },
            { "rd_merged", s->rd_merged },
            { "wr_merged", s->wr_merged },
            { "idle_time_ns", s->idle_time_ns },
        };

        g_string_append_printf(out, "%s:", disk->device);
        for (unsigned n = 0; n < G_N_ELEMENTS(figures); n++) {
            g_string_append_printf(out, " %s=%" PRId64, figures[n].name, figures[n].value);
        }
        g_string_append(out, "\r\n");
    }
}
