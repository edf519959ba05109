/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-blk: a disk (VIRTIO 1.1, 5.2). This file has its properties, its configuration space, its
 * life and its state; virtio-blk-request.c has the requests.
 *
 * What the guest has written is safe when it was flushed, as long as the write cache is on; with
 * the cache off (writethrough, or by the guest's wish) each write is on stable storage before it is
 * done. What a guest that moves has set is in the configuration space on the wire.
 */
#include "virtio-blk.h"

#include <inttypes.h>
#include <string.h>

#include "hw/misc/virtio-slot.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "system/config.h"
#include "system/vm.h"
#include "util/error.h"

#define BLOCK_SIZE_MAX (2u << 20)
#define GRANULARITY    UINT32_MAX /* not given */
#define NUM_QUEUES     UINT16_MAX /* not given */
#define SEG_MAX_FIXED  126

/* Offsets in the configuration space. */
#define CONFIG_CAPACITY     0
#define CONFIG_SEG_MAX      12
#define CONFIG_GEOMETRY     16
#define CONFIG_BLK_SIZE     20
#define CONFIG_TOPOLOGY     24
#define CONFIG_WCE          32
#define CONFIG_NUM_QUEUES   34
#define CONFIG_DISCARD      36
#define CONFIG_WRITE_ZEROES 48
#define CONFIG_BYTES        57

static struct virtio_blk *blk_of(struct virtio_device *v)
{
    return (struct virtio_blk *)v;
}

/* --- configuration space --- */

static void put16(uint8_t *at, uint16_t v)
{
    memcpy(at, &v, sizeof(v)); /* x86 */
}

static void put32(uint8_t *at, uint32_t v)
{
    memcpy(at, &v, sizeof(v));
}

static void put64(uint8_t *at, uint64_t v)
{
    memcpy(at, &v, sizeof(v));
}

/* Cylinders of 16 heads and 63 sectors, as disks of old had them. */
static uint16_t cylinders(uint64_t sectors)
{
    return (uint16_t)CLAMP(sectors / (16 * 63), 2, 16383);
}

static void blk_get_config(struct virtio_device *v, uint8_t *config)
{
    const struct virtio_blk *b = blk_of(v);
    uint64_t sectors = block_length(b->node) / BLK_SECTOR;
    uint32_t granularity =
        b->discard_granularity == GRANULARITY ? b->logical_block_size : b->discard_granularity;

    memset(config, 0, v->config_len);
    put64(config + CONFIG_CAPACITY, sectors);
    put32(config + CONFIG_SEG_MAX, b->seg_max_adjust ? b->queue_size - 2u : SEG_MAX_FIXED);
    put16(config + CONFIG_GEOMETRY, cylinders(sectors));
    config[CONFIG_GEOMETRY + 2] = 16;
    config[CONFIG_GEOMETRY + 3] = (uint8_t)(63 & ~(b->logical_block_size / BLK_SECTOR - 1));
    put32(config + CONFIG_BLK_SIZE, b->logical_block_size);
    config[CONFIG_TOPOLOGY] =
        (uint8_t)__builtin_ctz(b->physical_block_size / b->logical_block_size);
    put16(config + CONFIG_TOPOLOGY + 2, (uint16_t)(b->min_io_size / b->logical_block_size));
    put32(config + CONFIG_TOPOLOGY + 4, b->opt_io_size / b->logical_block_size);
    config[CONFIG_WCE] = b->wce;
    put16(config + CONFIG_NUM_QUEUES, b->num_queues);
    if (b->discard) {
        put32(config + CONFIG_DISCARD, b->max_discard_sectors);
        put32(config + CONFIG_DISCARD + 4, 1);
        put32(config + CONFIG_DISCARD + 8, granularity / BLK_SECTOR);
    }
    if (b->write_zeroes) {
        put32(config + CONFIG_WRITE_ZEROES, b->max_write_zeroes_sectors);
        put32(config + CONFIG_WRITE_ZEROES + 4, 1);
        config[CONFIG_WRITE_ZEROES + 8] = 1;
    }
}

static bool initial_wce(const struct virtio_blk *b)
{
    return b->write_cache == OPT_AUTO ? block_write_cache(b->node) : b->write_cache == OPT_ON;
}

static void blk_set_config(struct virtio_device *v, const uint8_t *config)
{
    struct virtio_blk *b = blk_of(v);

    if (b->config_wce) {
        b->wce = config[CONFIG_WCE];
    }
}

/* A driver that does not know the switch sends flushes where it knows them. */
static void blk_set_status(struct virtio_device *v, uint8_t status)
{
    if ((status & VIRTIO_STATUS_DRIVER_OK) && !virtio_has(v, BLK_FEATURE_CONFIG_WCE)) {
        blk_of(v)->wce = virtio_has(v, BLK_FEATURE_FLUSH);
    }
}

/* --- life --- */

static void free_waiting(struct virtio_blk *b)
{
    struct blk_request *r;

    while ((r = blk_list_take(&b->waiting))) {
        if (r != b->held) {
            blk_request_free(r);
        }
    }
}

/* Requests write to the guest's memory until they are done, so there is no end to this wait. */
static void wait_until_idle(struct virtio_blk *b)
{
    GError *err = NULL;

    while (!block_drain(b->node, &err)) {
        report_warning("%s", err->message);
        g_clear_error(&err);
    }
}

static void blk_reset(struct virtio_device *v)
{
    struct virtio_blk *b = blk_of(v);

    wait_until_idle(b);
    free_waiting(b);
    b->notify = 0;
    b->wce = initial_wce(b);
}

static void blk_run_state(struct virtio_device *v, bool running)
{
    if (running) {
        blk_of(v)->io_status = BLOCK_DEVICE_IO_STATUS_OK;
    }
}

/* Who takes the disk away asks again, and fails. */
static void blk_drain(struct virtio_device *v)
{
    struct virtio_blk *b = blk_of(v);
    GError *err = NULL;

    if (!block_drain(b->node, &err)) {
        report_warning("%s", err->message);
        g_error_free(err);
    }
    blk_notify(b);
}

static const char *blk_place(void *opaque)
{
    return blk_of(opaque)->place;
}

static void blk_resized(void *opaque)
{
    virtio_notify_config(opaque);
}

static const char *blk_qdev(void *opaque)
{
    const struct virtio_device *v = opaque;

    return v->dev.id ? v->dev.id : v->dev.path;
}

static BlockDeviceIoStatus blk_io_status(void *opaque)
{
    return blk_of(opaque)->io_status;
}

static bool blk_write_cache(void *opaque)
{
    return blk_of(opaque)->wce;
}

static void blk_settled(void *opaque)
{
    blk_notify(opaque);
}

static const struct block_user_ops user_ops = {
    .place = blk_place,
    .resized = blk_resized,
    .qdev = blk_qdev,
    .io_status = blk_io_status,
    .write_cache = blk_write_cache,
    .settled = blk_settled,
};

/* --- realize --- */

static bool read_action(const char *name, const char *text, enum block_error_action from_drive,
                        enum block_error_action *action, GError **err)
{
    static const char *const names[] = {
        [BLOCK_ERROR_REPORT] = "report",
        [BLOCK_ERROR_IGNORE] = "ignore",
        [BLOCK_ERROR_STOP] = "stop",
        [BLOCK_ERROR_ENOSPC] = "enospc",
    };

    *action = from_drive;
    if (!text || strcmp(text, "auto") == 0) {
        return true;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(text, names[i]) == 0 && (i != BLOCK_ERROR_ENOSPC || name[0] == 'w')) {
            *action = i;
            return true;
        }
    }
    error_set(err, FERRY_ERROR_USER, "Parameter '%s' does not accept value '%s'", name, text);
    return false;
}

static bool check_block_size(const char *name, uint32_t *size, uint32_t otherwise, GError **err)
{
    if (!*size) {
        *size = otherwise;
    }
    if (*size < BLK_SECTOR || *size > BLOCK_SIZE_MAX || (*size & (*size - 1))) {
        error_set(err, FERRY_ERROR_USER,
                  "Property virtio-blk-device.%s doesn't take value %u (minimum: 512, maximum: "
                  "2097152), it must be a power of 2",
                  name, *size);
        return false;
    }
    return true;
}

static bool check_properties(struct virtio_blk *b, GError **err)
{
    if (!check_block_size("logical_block_size", &b->logical_block_size, BLK_SECTOR, err) ||
        !check_block_size("physical_block_size", &b->physical_block_size, b->logical_block_size,
                          err)) {
        return false;
    }
    if (b->logical_block_size > b->physical_block_size) {
        error_set(err, FERRY_ERROR_USER, "logical_block_size > physical_block_size not supported");
        return false;
    }
    if (b->min_io_size % b->logical_block_size || b->opt_io_size % b->logical_block_size ||
        b->min_io_size / b->logical_block_size > UINT16_MAX) {
        error_set(err, FERRY_ERROR_USER,
                  "min_io_size and opt_io_size must be multiples of logical_block_size");
        return false;
    }
    if (b->discard_granularity != GRANULARITY && b->discard_granularity % b->logical_block_size) {
        error_set(err, FERRY_ERROR_USER,
                  "discard_granularity must be a multiple of logical_block_size");
        return false;
    }
    if (b->num_queues == NUM_QUEUES) {
        b->num_queues = 1;
    }
    if (!b->num_queues || b->num_queues > VIRTIO_QUEUE_MAX) {
        error_set(err, FERRY_ERROR_USER, "num-queues property must be larger than 0 and at most %u",
                  VIRTIO_QUEUE_MAX);
        return false;
    }
    if (b->queue_size <= 2 || b->queue_size > VIRTIO_QUEUE_SIZE_MAX ||
        (b->queue_size & (b->queue_size - 1))) {
        error_set(err, FERRY_ERROR_USER,
                  "invalid queue-size property (%u), must be a power of 2, greater than 2 and no "
                  "larger than %u",
                  b->queue_size, VIRTIO_QUEUE_SIZE_MAX);
        return false;
    }
    if (b->scsi) {
        error_set(err, FERRY_ERROR_USER, "SCSI requests are not passed on, scsi=on is not offered");
        return false;
    }
    return true;
}

static bool find_drive(struct virtio_blk *b, GError **err)
{
    if (!b->drive) {
        error_set(err, FERRY_ERROR_USER, "drive property not set");
        return false;
    }
    b->node = block_find(b->vdev.dev.vm->blocks, b->drive);
    if (!b->node) {
        error_set(err, FERRY_ERROR_USER, "Property 'virtio-blk-device.drive' can't find value '%s'",
                  b->drive);
        return false;
    }
    if (block_alignment(b->node) > b->logical_block_size) {
        error_set(err, FERRY_ERROR_USER,
                  "Drive '%s' is used with O_DIRECT and takes only requests of %u bytes: give "
                  "logical_block_size=%u, or a cache mode without O_DIRECT",
                  b->drive, block_alignment(b->node), block_alignment(b->node));
        return false;
    }
    return true;
}

static void offer_features(struct virtio_blk *b)
{
    struct virtio_device *v = &b->vdev;
    const struct {
        unsigned bit;
        bool offered;
    } features[] = {
        { BLK_FEATURE_SEG_MAX, true },
        { BLK_FEATURE_GEOMETRY, true },
        { BLK_FEATURE_TOPOLOGY, true },
        { BLK_FEATURE_BLK_SIZE, true },
        { BLK_FEATURE_RO, b->read_only },
        /* QEMU offers it to legacy drivers, and refuses the requests too */
        { BLK_FEATURE_SCSI, !(v->host_features >> VIRTIO_FEATURE_VERSION_1 & 1) },
        { BLK_FEATURE_FLUSH, b->wce || b->config_wce },
        { BLK_FEATURE_CONFIG_WCE, b->config_wce },
        { BLK_FEATURE_MQ, b->num_queues > 1 },
        { BLK_FEATURE_DISCARD, b->discard },
        { BLK_FEATURE_WRITE_ZEROES, b->write_zeroes },
    };

    v->host_features &= ~(UINT64_C(1) << VIRTIO_FEATURE_ANY_LAYOUT);
    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        v->host_features |= (uint64_t)features[i].offered << features[i].bit;
    }
}

static bool blk_realize(struct virtio_device *v, GError **err)
{
    struct virtio_blk *b = blk_of(v);

    blk_list_init(&b->waiting);
    if (!check_properties(b, err) || !find_drive(b, err) ||
        !read_action("werror", b->werror_text, block_on_error(b->node, true), &b->werror, err) ||
        !read_action("rerror", b->rerror_text, block_on_error(b->node, false), &b->rerror, err)) {
        return false;
    }
    b->read_only = block_is_read_only(b->node);
    if (!block_attach(b->node, &user_ops, b, b->read_only, b->share_rw, err)) {
        return false;
    }
    b->place = g_strdup_printf("virtio-mmio@%016" PRIx64 "/virtio-blk", virtio_slot_base(v->slot));
    b->wce = initial_wce(b);
    offer_features(b);
    /* it ends behind what is offered */
    v->config_len = b->write_zeroes ? CONFIG_BYTES
                    : b->discard    ? CONFIG_WRITE_ZEROES
                                    : CONFIG_DISCARD;
    for (unsigned i = 0; i < b->num_queues; i++) {
        virtqueue_want_poll(virtio_add_queue(v, b->queue_size, blk_handle_queue));
    }
    return true;
}

static void blk_describe(struct virtio_device *v,
                         void (*add)(void *opaque, const char *name, const char *value),
                         void *opaque)
{
    const struct virtio_blk *b = blk_of(v);
    g_autofree char *queues = g_strdup_printf("%u", b->num_queues);
    g_autofree char *size = g_strdup_printf("%u", b->logical_block_size);

    add(opaque, "num-queues", queues);
    add(opaque, "logical_block_size", size);
}

static void blk_unrealize(struct virtio_device *v)
{
    struct virtio_blk *b = blk_of(v);

    block_detach(b->node);
    free_waiting(b);
    g_free(b->place);
}

/* --- the wire: u8 1, be32 queue where there are several, the request; ... u8 0 --- */

struct blk_state {
    GPtrArray *requests; /* struct virtqueue_saved * */
    GArray *queues;      /* uint32_t, of each */
};

static void blk_save(struct virtio_device *v, struct stream_out *out)
{
    const struct virtio_blk *b = blk_of(v);

    for (const struct blk_request *r = b->waiting.first; r; r = r->next) {
        if (virtqueue_element_is_stale(&r->elem)) {
            continue;
        }
        out_u8(out, 1);
        if (b->num_queues > 1) {
            out_be32(out, virtqueue_index(r->elem.vq));
        }
        virtqueue_element_save(&r->elem, out);
    }
    out_u8(out, 0);
}

static bool blk_parse(struct virtio_device *v, void *opaque, uint64_t features G_GNUC_UNUSED,
                      int version G_GNUC_UNUSED, struct stream_in *in, GError **err)
{
    const struct virtio_blk *b = blk_of(v);
    struct blk_state *state = opaque;
    uint8_t more;

    state->requests = g_ptr_array_new_with_free_func(g_free);
    state->queues = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    for (;;) {
        struct virtqueue_saved *saved;
        uint32_t queue = 0;

        if (!in_u8(in, &more, err)) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (more != 1 || state->requests->len == b->num_queues * (unsigned)VIRTIO_QUEUE_SIZE_MAX) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has more requests in flight for a disk than its queues "
                      "hold");
            return false;
        }
        if (b->num_queues > 1 && !in_be32(in, &queue, err)) {
            return false;
        }
        if (queue >= b->num_queues) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has a request in flight for queue %u of a disk with %u",
                      queue, b->num_queues);
            return false;
        }
        saved = virtqueue_element_parse(in, err);
        if (!saved) {
            return false;
        }
        g_ptr_array_add(state->requests, saved);
        g_array_append_val(state->queues, queue);
    }
}

/* They are looked at when the machine runs: the handler of every ready queue is called then. */
static bool blk_load(struct virtio_device *v, const void *opaque, GError **err)
{
    const struct blk_state *state = opaque;
    struct virtio_blk *b = blk_of(v);
    uint64_t capacity;

    for (unsigned i = 0; i < state->requests->len; i++) {
        unsigned queue = g_array_index(state->queues, uint32_t, i);
        struct virtqueue_element *e = virtqueue_element_load(g_ptr_array_index(v->queues, queue),
                                                             g_ptr_array_index(state->requests, i),
                                                             sizeof(struct blk_request), err);

        if (!e) {
            return false;
        }
        ((struct blk_request *)(void *)e)->b = b;
        blk_list_add(&b->waiting, (struct blk_request *)(void *)e);
    }
    /* a QEMU whose driver has not looked at the space for a while sends zeroes */
    memcpy(&capacity, v->config + CONFIG_CAPACITY, sizeof(capacity));
    if (virtio_has(v, BLK_FEATURE_CONFIG_WCE) && capacity) {
        b->wce = v->config[CONFIG_WCE];
    }
    /* no more than a word: it may have been shrunk for good, and nobody have looked since */
    if (capacity > block_length(b->node) / BLK_SECTOR) {
        report_warning(
            "The guest knows %" PRIu64 " sectors of disk '%s', but '%s' has only %" PRIu64
            ": give the destination the image that the source has",
            capacity, block_name(b->node), block_path(b->node), block_length(b->node) / BLK_SECTOR);
    }
    return true;
}

static void blk_clear(void *opaque)
{
    struct blk_state *state = opaque;

    g_clear_pointer(&state->requests, g_ptr_array_unref);
    g_clear_pointer(&state->queues, g_array_unref);
}

static const struct virtio_wire blk_wire = {
    .state_size = sizeof(struct blk_state),
    .save = blk_save,
    .parse = blk_parse,
    .load = blk_load,
    .clear = blk_clear,
};

/* --- the class --- */

#define PROP(n, t, m, d, h)                                                                        \
    {                                                                                              \
        .name = n, .type = PROPERTY_##t, .offset = offsetof(struct virtio_blk, m), .def = d,       \
        .help = h                                                                                  \
    }

static const struct property blk_properties[] = {
    PROP("drive", STRING, drive, 0, "id of a -drive, or node-name of a -blockdev"),
    PROP("serial", STRING, serial, 0, "what the guest sees as serial number, up to 20 characters"),
    PROP("num-queues", UINT16, num_queues, NUM_QUEUES, "queues (default: 1)"),
    PROP("queue-size", UINT16, queue_size, 256, "entries of each"),
    PROP("logical_block_size", UINT32, logical_block_size, 0, "bytes (default: 512)"),
    PROP("physical_block_size", UINT32, physical_block_size, 0, "bytes (default: the same)"),
    PROP("min_io_size", UINT32, min_io_size, 0, "bytes"),
    PROP("opt_io_size", UINT32, opt_io_size, 0, "bytes"),
    PROP("discard_granularity", UINT32, discard_granularity, GRANULARITY, "bytes"),
    PROP("max-discard-sectors", UINT32, max_discard_sectors, 4194303, "in one request"),
    PROP("max-write-zeroes-sectors", UINT32, max_write_zeroes_sectors, 4194303, "in one request"),
    PROP("share-rw", BOOL, share_rw, 0, "others may write to the image as well"),
    PROP("write-cache", ON_OFF_AUTO, write_cache, OPT_AUTO, "as the drive's cache mode says"),
    PROP("config-wce", BOOL, config_wce, 1, "the guest may switch the write cache"),
    PROP("discard", BOOL, discard, 1, "offer discard"),
    PROP("write-zeroes", BOOL, write_zeroes, 1, "offer to write zeroes"),
    PROP("seg-max-adjust", BOOL, seg_max_adjust, 1, "segments follow queue-size"),
    PROP("werror", STRING, werror_text, 0, "report, ignore, stop, enospc, auto: as the drive says"),
    PROP("rerror", STRING, rerror_text, 0, "report, ignore, stop, auto: as the drive says"),
    PROP("bootindex", UINT32, boot_index, UINT32_MAX, "without effect, kernels boot the machine"),
    PROP("scsi", BOOL, scsi, 0, "only off"),
    VIRTIO_PROPERTIES,
    {},
};

static const struct virtio_class blk_class = {
    .device = { VIRTIO_DEVICE_LIFE, .name = "virtio-blk-device", .description = "disk",
                .size = sizeof(struct virtio_blk), .properties = blk_properties },
    .device_id = 2,
    .wire_name = "virtio-blk",
    .version = 2,
    .realize = blk_realize,
    .unrealize = blk_unrealize,
    .get_config = blk_get_config,
    .set_config = blk_set_config,
    .set_status = blk_set_status,
    .reset = blk_reset,
    .run_state = blk_run_state,
    .drain = blk_drain,
    .describe = blk_describe,
    .wire = &blk_wire,
};
VIRTIO_CLASS(blk_class);
