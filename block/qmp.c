/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP commands about disks. Main loop thread, machine lock held. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"

static struct block_node *node_at(struct vm *vm, unsigned i)
{
    return vm->blocks && i < vm->blocks->nodes->len ? g_ptr_array_index(vm->blocks->nodes, i)
                                                    : NULL;
}

static ImageInfo *image_info(const struct block_node *node)
{
    const struct block_node *leaf = block_leaf_const(node);
    ImageInfo *info = g_new0(ImageInfo, 1);
    struct stat st;

    info->filename = g_strdup(leaf->filename);
    info->format = g_strdup(qapi_blockdev_driver_str(node->driver));
    info->virtual_size = (int64_t)leaf->length;
    info->has_dirty_flag = true;
    if (fstat(leaf->fd, &st) == 0) {
        info->has_actual_size = true;
        info->actual_size = (int64_t)st.st_blocks * 512;
    }
    return info;
}

/* cache: the write cache is the device's, a node has none to switch off */
static BlockDeviceInfo *device_info(const struct block_node *node, bool cache)
{
    BlockDeviceInfo *info = g_new0(BlockDeviceInfo, 1);

    info->file = g_strdup(block_leaf_const(node)->filename);
    info->node_name = g_strdup(node->name);
    info->ro = block_is_read_only(node);
    info->drv = g_strdup(qapi_blockdev_driver_str(node->driver));
    info->image = image_info(node);
    info->cache = g_new0(BlockdevCacheInfo, 1);
    info->cache->writeback = cache;
    info->cache->direct = node->direct;
    info->cache->no_flush = node->no_flush;
    return info;
}

static char *qdev_of(const struct block_node *node)
{
    return node->user && node->user->qdev ? g_strdup(node->user->qdev(node->opaque)) : NULL;
}

GPtrArray *qmp_query_block(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_list_new(&qapi_type_block_info);
    struct block_node *node;

    for (unsigned i = 0; (node = node_at(vm, i)); i++) {
        if (!node->user && !node->drive_id) {
            continue;
        }
        BlockInfo *info = g_new0(BlockInfo, 1);

        info->device = g_strdup(block_drive_id(node));
        info->qdev = qdev_of(node);
        info->type = g_strdup("unknown");
        info->removable = !node->user;
        info->inserted = device_info(node, node->user && node->user->write_cache
                                               ? node->user->write_cache(node->opaque)
                                               : block_write_cache(node));
        if (node->user) {
            info->has_io_status = true;
            info->io_status = node->user->io_status ? node->user->io_status(node->opaque)
                                                    : BLOCK_DEVICE_IO_STATUS_OK;
        }
        g_ptr_array_add(list, info);
    }
    return list;
}

GPtrArray *
qmp_query_named_block_nodes(struct vm *vm,
                            const struct qmp_query_named_block_nodes_arg *arg G_GNUC_UNUSED,
                            GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_list_new(&qapi_type_block_device_info);

    for (unsigned i = vm->blocks ? vm->blocks->nodes->len : 0; i; i--) { /* the newest first */
        g_ptr_array_add(list, device_info(node_at(vm, i - 1), true));
    }
    return list;
}

static BlockDeviceStats *device_stats(const struct block_node *node, bool of_node)
{
    BlockDeviceStats *s = g_new0(BlockDeviceStats, 1);
    const struct block_counters *read = &node->counters[BLOCK_READ],
                                *write = &node->counters[BLOCK_WRITE],
                                *zero = &node->counters[BLOCK_WRITE_ZEROES],
                                *flush = &node->counters[BLOCK_FLUSH],
                                *unmap = &node->counters[BLOCK_DISCARD];

    s->rd_bytes = (int64_t)read->bytes;
    s->wr_bytes = (int64_t)(write->bytes + zero->bytes);
    s->unmap_bytes = (int64_t)unmap->bytes;
    s->rd_operations = (int64_t)read->ops;
    s->wr_operations = (int64_t)(write->ops + zero->ops);
    s->flush_operations = (int64_t)flush->ops;
    s->unmap_operations = (int64_t)unmap->ops;
    s->rd_total_time_ns = read->time_ns;
    s->wr_total_time_ns = write->time_ns + zero->time_ns;
    s->flush_total_time_ns = flush->time_ns;
    s->unmap_total_time_ns = unmap->time_ns;
    s->wr_highest_offset = (int64_t)node->highest_write;
    if (node->last_access_ns && !of_node) {
        s->has_idle_time_ns = true;
        s->idle_time_ns = monotonic_ns() - node->last_access_ns;
    }
    s->failed_rd_operations = (int64_t)read->failed;
    s->failed_wr_operations = (int64_t)(write->failed + zero->failed);
    s->failed_flush_operations = (int64_t)flush->failed;
    s->failed_unmap_operations = (int64_t)unmap->failed;
    s->invalid_rd_operations = (int64_t)read->invalid;
    s->invalid_wr_operations = (int64_t)(write->invalid + zero->invalid);
    s->invalid_unmap_operations = (int64_t)unmap->invalid;
    s->account_failed = s->account_invalid = node->user != NULL;
    s->timed_stats = qapi_list_new(&qapi_type_block_device_timed_stats);
    return s;
}

static BlockStatsSpecific *specific_stats(const struct block_node *node,
                                          const struct block_node *counted)
{
    const struct block_counters *unmap = &counted->counters[BLOCK_DISCARD];
    BlockStatsSpecific *s;
    BlockStatsSpecificFile *file;

    if (node->file) {
        return NULL;
    }
    s = g_new0(BlockStatsSpecific, 1);
    s->driver = node->driver;
    file = s->driver == BLOCKDEV_DRIVER_FILE ? &s->u.file : &s->u.host_device;
    if (block_discards(counted)) {
        file->discard_nb_ok = unmap->ops;
        file->discard_nb_failed = unmap->failed;
        file->discard_bytes_ok = unmap->bytes;
    }
    return s;
}

/* Requests are counted once, where they come in: what is below has done the same. */
static BlockStats *stats(const struct block_node *node, const struct block_node *counted,
                         bool of_node)
{
    BlockStats *s = g_new0(BlockStats, 1);

    s->node_name = g_strdup(node->name);
    s->stats = device_stats(counted, of_node);
    s->driver_specific = specific_stats(node, counted);
    if (!of_node) {
        s->device = g_strdup(block_drive_id(node));
        s->qdev = qdev_of(node);
    }
    if (node->file) {
        s->parent = stats(node->file, counted, true);
    }
    return s;
}

GPtrArray *qmp_query_blockstats(struct vm *vm, const struct qmp_query_blockstats_arg *arg,
                                GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_list_new(&qapi_type_block_stats);
    bool nodes = arg->has_query_nodes && arg->query_nodes;
    struct block_node *node;

    for (unsigned i = 0; (node = node_at(vm, i)); i++) {
        if (nodes || node->user || node->drive_id) {
            g_ptr_array_add(list, stats(node, node, nodes));
        }
    }
    return list;
}

bool qmp_blockdev_add(struct vm *vm, const BlockdevOptions *arg, GError **err)
{
    if (!vm->blocks) {
        error_set(err, FERRY_ERROR_USER, "This machine can have no disks");
        return false;
    }
    return block_add(vm->blocks, arg, err);
}

bool qmp_blockdev_del(struct vm *vm, const struct qmp_blockdev_del_arg *arg, GError **err)
{
    struct block_node *node = vm->blocks ? block_find_node(vm->blocks, arg->node_name) : NULL;

    if (!node) {
        error_set(err, FERRY_ERROR_USER, "Failed to find node with node-name='%s'", arg->node_name);
        return false;
    }
    if (node->drive_id) {
        error_set(err, FERRY_ERROR_USER, "Node %s is not owned by the monitor", arg->node_name);
        return false;
    }
    if (node->user || node->parents) {
        error_set(err, FERRY_ERROR_USER, "Block device %s is in use", arg->node_name);
        return false;
    }
    block_node_free(node);
    return true;
}

/* --- block_resize --- */

static struct block_node *find(struct vm *vm, const char *device, const char *node_name,
                               GError **err)
{
    struct block_node *node = NULL;

    if (device && node_name) {
        error_set(err, FERRY_ERROR_USER, "Parameters 'device' and 'node-name' exclude each other");
        return NULL;
    }
    if (device) {
        node = block_find(vm->blocks, device);
        node = node && node->drive_id && strcmp(node->drive_id, device) == 0 ? node : NULL;
    } else if (node_name && vm->blocks) {
        node = block_find_node(vm->blocks, node_name);
    }
    if (!node) {
        error_set(err, FERRY_ERROR_USER, "Cannot find device='%s' nor node-name='%s'",
                  device ? device : "", node_name ? node_name : "");
    }
    return node;
}

/* The one above that a device uses, if any. */
static struct block_node *user_of(struct vm *vm, struct block_node *node)
{
    struct block_node *n;

    for (unsigned i = 0; (n = node_at(vm, i)); i++) {
        if (n->user && block_leaf(n) == block_leaf(node)) {
            return n;
        }
    }
    return NULL;
}

static bool set_length(struct block_node *leaf, uint64_t size, GError **err)
{
    int64_t length;

    if (leaf->is_device) {
        length = block_file_length(leaf);
        if (length >= 0 && (uint64_t)length < size) {
            error_set(err, FERRY_ERROR_USER, "Cannot grow device files");
            return false;
        }
    } else if (ftruncate(leaf->fd, (off_t)size) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to resize the file '%s'",
                        leaf->filename);
        return false;
    } else {
        length = block_file_length(leaf);
    }
    if (length < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, (int)-length, "Could not get the size of '%s'",
                        leaf->filename);
        return false;
    }
    leaf->length = (uint64_t)length;
    return true;
}

bool qmp_block_resize(struct vm *vm, const struct qmp_block_resize_arg *arg, GError **err)
{
    struct block_node *node = find(vm, arg->device, arg->node_name, err);
    struct block_node *leaf, *user;

    if (!node) {
        return false;
    }
    leaf = block_leaf(node);
    user = user_of(vm, node);
    if (arg->size < 0) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'size' expects a >0 size");
        return false;
    }
    if (!vm->blocks->active) {
        error_set(err, FERRY_ERROR_USER, "Disk '%s' is another machine's until the guest runs here",
                  block_name(node));
        return false;
    }
    if (block_is_read_only(node) || leaf->not_writable) {
        error_set(err, FERRY_ERROR_USER, "Block node is read-only");
        return false;
    }
    if (!leaf->is_device && leaf->io_align > BLOCK_SECTOR && (uint64_t)arg->size % leaf->io_align) {
        error_set(err, FERRY_ERROR_USER,
                  "With cache.direct=on the size of '%s' must be a multiple "
                  "of %u",
                  leaf->filename, leaf->io_align);
        return false;
    }
    /* requests were checked against the old length */
    if (!block_drain_all(vm, err) || !set_length(leaf, (uint64_t)arg->size, err)) {
        return false;
    }
    if (user && user->user->resized) {
        user->user->resized(user->opaque);
    }
    return true;
}
