/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes from -blockdev, blockdev-add and -drive. The schema (qapi/block-core.json) says what a
 * -blockdev may hold; -drive is a table of its own, because it mixes what is the node's with what
 * is the device's. What QEMU has and Ferry does not is unknown to both, and so refused by name.
 */
#include <string.h>

#include "internal.h"
#include "qapi/json.h"
#include "qapi/type.h"
#include "system/config.h"
#include "system/keyval.h"
#include "system/vm.h"
#include "util/error.h"

#define NODE_NAME_MAX 31

/* What a node that is made for the one above it takes from that one. */
struct inherited {
    bool child, direct, no_flush, read_only, auto_read_only, force_share, from_drive;
};

static bool check_name(struct block_set *set, const BlockdevOptions *o, bool child, GError **err)
{
    const char *name = o->node_name;
    const struct block_node *other;

    if (!name) {
        if (!child) {
            error_set(err, FERRY_ERROR_USER, "'node-name' must be specified for the root node");
        }
        return child;
    }
    if (!keyval_is_identifier(name)) {
        error_set(err, FERRY_ERROR_USER, "Invalid node-name: '%s'", name);
        return false;
    }
    if (strlen(name) > NODE_NAME_MAX) {
        error_set(err, FERRY_ERROR_USER, "Node name too long");
        return false;
    }
    other = block_find(set, name);
    if (other && other->drive_id && strcmp(other->drive_id, name) == 0) {
        error_set(err, FERRY_ERROR_USER, "node-name=%s is conflicting with a device id", name);
        return false;
    }
    if (other) {
        error_set(err, FERRY_ERROR_USER, "Duplicate nodes with node-name='%s'", name);
        return false;
    }
    return true;
}

static bool check_filename(const char *name, GError **err)
{
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    if (!*name) {
        error_set(err, FERRY_ERROR_USER, "A file name is required");
        return false;
    }
    if (colon && (!slash || colon < slash)) {
        error_set(err, FERRY_ERROR_USER,
                  "Unknown protocol '%.*s'; for a file with a colon in its name write ./%s",
                  (int)(colon - name), name, name);
        return false;
    }
    return true;
}

static bool check_aio(const struct block_node *node, GError **err)
{
    if (node->aio == BLOCKDEV_AIO_OPTIONS_NATIVE && !node->direct) {
        error_set(err, FERRY_ERROR_USER,
                  "aio=native was specified, but it requires cache.direct=on, which was not "
                  "specified.");
        return false;
    }
    return node->aio != BLOCKDEV_AIO_OPTIONS_IO_URING || block_uring_possible(err);
}

static bool open_file(struct block_node *node, const BlockdevOptionsFile *o, bool auto_read_only,
                      GError **err)
{
    node->filename = g_strdup(o->filename);
    node->locking = o->has_locking ? o->locking : ON_OFF_AUTO_AUTO;
    node->aio = o->has_aio ? o->aio : BLOCKDEV_AIO_OPTIONS__MAX; /* what is best */
    if (!check_filename(o->filename, err) || !check_aio(node, err) ||
        !block_file_open(node, auto_read_only, err)) {
        return false;
    }
    if (node->locking == ON_OFF_AUTO_ON && !block_locks_possible(node->fd)) {
        error_set(err, FERRY_ERROR_HOST,
                  "The filesystem of '%s' has no locks of open files, give locking=off",
                  o->filename);
        return false;
    }
    return true;
}

static struct block_node *make_node(struct block_set *set, const BlockdevOptions *o,
                                    const struct inherited *from, GError **err);

static bool open_raw(struct block_node *node, const BlockdevRef *ref, struct inherited *child,
                     GError **err)
{
    struct block_node *file;

    if (ref->type == BLOCKDEV_REF_KIND_DEFINITION) {
        file = make_node(node->set, &ref->u.definition, child, err);
        if (!file) {
            return false;
        }
        file->from_drive = true; /* nobody else can use it, unless it has a name */
    } else {
        file = block_find_node(node->set, ref->u.reference);
        if (!file) {
            error_set(err, FERRY_ERROR_USER, "Cannot find device='' nor node-name='%s'",
                      ref->u.reference);
            return false;
        }
        if (file->parents || file->user) {
            error_set(err, FERRY_ERROR_USER, "Node '%s' is already in use", file->name);
            return false;
        }
    }
    node->file = file;
    file->parents++;
    return true;
}

static bool inherit(bool given, bool value, bool inherited)
{
    return given ? value : inherited;
}

static struct block_node *make_node(struct block_set *set, const BlockdevOptions *o,
                                    const struct inherited *from, GError **err)
{
    const BlockdevCacheOptions none = {}, *cache = o->cache ? o->cache : &none;
    struct inherited child = {
        .child = true,
        .direct = inherit(cache->has_direct, cache->direct, from->direct),
        .no_flush = inherit(cache->has_no_flush, cache->no_flush, from->no_flush),
        .read_only = inherit(o->has_read_only, o->read_only, from->read_only),
        .auto_read_only = inherit(o->has_auto_read_only, o->auto_read_only, from->auto_read_only),
        .force_share = inherit(o->has_force_share, o->force_share, from->force_share),
        .from_drive = from->from_drive,
    };
    struct block_node *node;
    bool ok;

    if (!check_name(set, o, from->child, err)) {
        return NULL;
    }
    if (child.force_share && !child.read_only) {
        error_set(err, FERRY_ERROR_USER, "force-share=on can only be used with read-only images");
        return NULL;
    }
    node = block_node_new(set, o->node_name, err);
    if (!node) {
        return NULL;
    }
    node->driver = o->driver;
    node->direct = child.direct;
    node->no_flush = child.no_flush;
    node->read_only = child.read_only;
    node->force_share = child.force_share;
    node->from_drive = from->from_drive;
    node->werror = BLOCK_ERROR_ENOSPC;
    node->rerror = BLOCK_ERROR_REPORT;
    node->discard = o->has_discard ? o->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP : from->child;
    if (o->driver == BLOCKDEV_DRIVER_RAW) {
        if (!o->has_auto_read_only && !from->child) {
            child.auto_read_only = true; /* whether it can be written shows when it is used */
        }
        ok = open_raw(node, o->u.raw.file, &child, err);
    } else {
        ok = open_file(node, &o->u.file, child.auto_read_only, err);
    }
    if (!ok) {
        block_node_free(node);
        return NULL;
    }
    /* behind what it is made of, as clients see them listed */
    g_ptr_array_remove(set->nodes, node);
    g_ptr_array_add(set->nodes, node);
    return node;
}

/* --- -blockdev --- */

/* {"a.b": "1"} as {"a": {"b": "1"}}; key=value text has no other way to say it. */
static json_t *nest(const json_t *flat, GError **err)
{
    g_autoptr(json_t) top = json_object();
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)flat, key, value)
    {
        g_auto(GStrv) parts = g_strsplit(key, ".", -1);
        json_t *at = top;
        unsigned i = 0;

        for (; parts[i] && parts[i + 1] && json_is_object(at); i++) {
            json_t *below = json_object_get(at, parts[i]);

            if (!below) {
                below = json_object();
                json_object_set_new(at, parts[i], below);
            }
            at = below;
        }
        if (!json_is_object(at) || json_object_get(at, parts[i])) {
            error_set(err, FERRY_ERROR_USER, "Parameters '%s.*' used inconsistently", parts[0]);
            return NULL;
        }
        json_object_set(at, parts[i], value);
    }
    return g_steal_pointer(&top);
}

bool block_open_blockdev(struct block_set *set, const json_t *options, bool is_json, GError **err)
{
    const struct inherited nothing = {};
    void *o = NULL;
    g_autoptr(json_t) nested = is_json ? json_incref((json_t *)options) : nest(options, err);
    bool ok = nested &&
              qapi_read(&qapi_type_blockdev_options, NULL, nested,
                        is_json ? QAPI_READ_JSON : QAPI_READ_KEYVAL, &o, err) &&
              make_node(set, o, &nothing, err);

    qapi_blockdev_options_free(o);
    return ok;
}

bool block_add(struct block_set *set, const BlockdevOptions *options, GError **err)
{
    return make_node(set, options, &(struct inherited){}, err) != NULL;
}

/* --- -drive --- */

enum drive_cache {
    CACHE_WRITEBACK,
    CACHE_NONE,
    CACHE_WRITETHROUGH,
    CACHE_DIRECTSYNC,
    CACHE_UNSAFE
};

struct drive_options {
    char *file, *id, *node_name, *format;
    unsigned cache, aio, werror, rerror, discard;
    bool direct, no_flush, writeback, read_only, auto_read_only, force_share;
    enum on_off_auto locking;
};

#define NAMES(...)                                                                                 \
    .names = (const char *const[])                                                                 \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
#define ROW(key, type, member, ...) KEYVAL_ROW(key, type, struct drive_options, member, __VA_ARGS__)

static const struct keyval_field drive_fields[] = {
    ROW("file", KEYVAL_STRING, file, .help = "the image"),
    ROW("file.filename", KEYVAL_STRING, file, .help = "the same"),
    ROW("id", KEYVAL_STRING, id, .help = "its name, for drive= of a device"),
    ROW("node-name", KEYVAL_STRING, node_name, .help = "name of its node"),
    ROW("format", KEYVAL_STRING, format, .help = "raw"),
    ROW("driver", KEYVAL_STRING, format, .help = "the same"),
    ROW("cache", KEYVAL_ENUM, cache,
        NAMES([CACHE_WRITEBACK] = "writeback", [CACHE_NONE] = "none",
              [CACHE_WRITETHROUGH] = "writethrough", [CACHE_DIRECTSYNC] = "directsync",
              [CACHE_UNSAFE] = "unsafe")),
    ROW("cache.direct", KEYVAL_BOOL, direct),
    ROW("cache.no-flush", KEYVAL_BOOL, no_flush),
    ROW("cache.writeback", KEYVAL_BOOL, writeback),
    ROW("aio", KEYVAL_ENUM, aio, NAMES("threads", "native", "io_uring")),
    ROW("file.aio", KEYVAL_ENUM, aio, NAMES("threads", "native", "io_uring")),
    ROW("readonly", KEYVAL_BOOL, read_only),
    ROW("read-only", KEYVAL_BOOL, read_only),
    ROW("auto-read-only", KEYVAL_BOOL, auto_read_only),
    ROW("force-share", KEYVAL_BOOL, force_share),
    ROW("locking", KEYVAL_ON_OFF_AUTO, locking),
    ROW("file.locking", KEYVAL_ON_OFF_AUTO, locking),
    ROW("discard", KEYVAL_ENUM, discard, NAMES("ignore", "unmap", "off", "on")),
    ROW("werror", KEYVAL_ENUM, werror,
        NAMES([BLOCK_ERROR_REPORT] = "report", [BLOCK_ERROR_IGNORE] = "ignore",
              [BLOCK_ERROR_STOP] = "stop", [BLOCK_ERROR_ENOSPC] = "enospc")),
    ROW("rerror", KEYVAL_ENUM, rerror,
        NAMES([BLOCK_ERROR_REPORT] = "report", [BLOCK_ERROR_IGNORE] = "ignore",
              [BLOCK_ERROR_STOP] = "stop")),
    KEYVAL_FIXED_ROW("if", "make the device with -device virtio-blk-device,drive=ID", "none"),
    KEYVAL_FIXED_ROW("media", "there are no CD-ROM drives", "disk"),
    KEYVAL_FIXED_ROW("snapshot", "run the guest on a copy of the image", "off"),
    KEYVAL_FIXED_ROW("copy-on-read", "images have no backing files", "off"),
    KEYVAL_FIXED_ROW("detect-zeroes", "what the guest writes is not looked at", "off"),
    {},
};

static bool given(const json_t *options, const char *key)
{
    return json_object_get(options, key) != NULL;
}

static bool check_drive(struct block_set *set, struct drive_options *d, GError **err)
{
    const struct block_node *other;

    if (!d->file) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'file' is missing");
        return false;
    }
    if (!d->format) {
        error_set(err, FERRY_ERROR_USER, "The format of an image is not guessed: give format=raw");
        return false;
    }
    if (strcmp(d->format, "raw") != 0) {
        error_set(err, FERRY_ERROR_USER, "Unknown driver '%s': images are raw", d->format);
        return false;
    }
    if (!d->id) {
        d->id = g_strdup_printf("none%u", set->next_name);
    }
    if (!keyval_is_identifier(d->id)) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'id' expects an identifier");
        return false;
    }
    other = block_find(set, d->id);
    if (other) {
        error_set(err, FERRY_ERROR_USER,
                  other->drive_id && strcmp(other->drive_id, d->id) == 0
                      ? "Duplicate ID '%s' for drive"
                      : "Device name '%s' conflicts with an existing node name",
                  d->id);
        return false;
    }
    return true;
}

void block_print_drive_help(void)
{
    keyval_print_help("drive options:", drive_fields);
}

bool block_open_drive(struct block_set *set, const json_t *options, GError **err)
{
    struct drive_options d = {
        .locking = OPT_AUTO, .writeback = true, .auto_read_only = true, .werror = BLOCK_ERROR_ENOSPC
    };
    static const OnOffAuto locking[] = {
        [OPT_OFF] = ON_OFF_AUTO_OFF, [OPT_ON] = ON_OFF_AUTO_ON, [OPT_AUTO] = ON_OFF_AUTO_AUTO
    };
    bool ok = keyval_read(drive_fields, (json_t *)options, &d, err) && check_drive(set, &d, err);
    struct block_node *node;

    if (ok) {
        BlockdevCacheOptions cache = {
            .has_direct = true,
            .direct = inherit(given(options, "cache.direct"), d.direct,
                              d.cache == CACHE_NONE || d.cache == CACHE_DIRECTSYNC),
            .has_no_flush = true,
            .no_flush =
                inherit(given(options, "cache.no-flush"), d.no_flush, d.cache == CACHE_UNSAFE),
        };
        BlockdevRef file = {
            .type = BLOCKDEV_REF_KIND_DEFINITION,
            .u.definition = { .driver = BLOCKDEV_DRIVER_FILE,
                              .u.file = { .filename = d.file,
                                          .has_locking = true,
                                          .locking = locking[d.locking],
                                          .has_aio =
                                              given(options, "aio") || given(options, "file.aio"),
                                          .aio = (BlockdevAioOptions)d.aio } },
        };
        BlockdevOptions raw = {
            .driver = BLOCKDEV_DRIVER_RAW,
            .node_name = d.node_name,
            .has_discard = true,
            .discard =
                d.discard & 1 ? BLOCKDEV_DISCARD_OPTIONS_UNMAP : BLOCKDEV_DISCARD_OPTIONS_IGNORE,
            .cache = &cache,
            .u.raw.file = &file,
        };
        struct inherited from = { .child = true, /* its name is the drive's */
                                  .read_only = d.read_only,
                                  .auto_read_only = d.auto_read_only,
                                  .force_share = d.force_share,
                                  .from_drive = true };

        node = make_node(set, &raw, &from, err);
        ok = node != NULL;
        if (ok) {
            bool wce = d.cache != CACHE_WRITETHROUGH && d.cache != CACHE_DIRECTSYNC;

            node->drive_id = g_steal_pointer(&d.id);
            node->writethrough = !inherit(given(options, "cache.writeback"), d.writeback, wce);
            node->werror = d.werror;
            node->rerror = d.rerror;
        }
    }
    char *strings[] = { d.file, d.id, d.node_name, d.format };

    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++) {
        g_free(strings[i]);
    }
    return ok;
}
