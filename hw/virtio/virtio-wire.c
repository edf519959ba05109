/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The section of a virtio-mmio device: what all have in common, then the device's own part (struct
 * virtio_wire), then subsections. Big-endian; the layout is that of QEMU 7.2, measured:
 *
 *   be32 device features selector, be32 driver features selector, be32 guest page shift
 *   u8 status, u8 isr, be16 queue selector, be32 driver features (low half)
 *   be32 length of the configuration space, its bytes (a destination makes its own,
 *   but a device's load() finds those of the stream in v->config)
 *   be32 queues; per queue: be32 size, be32 align, be64 descriptors, be16 last available index
 *   the device's part
 *   virtio/64bit_features   be64 driver features
 *   virtio/virtqueues       where VERSION_1 is offered: 1024 x { be64 available, be64 used }
 *   virtio/ringsize         where a size differs from its default: 1024 x be32 default
 *   virtio/broken           u8 1
 *   virtio/extra_state      version 2 of the registers: in it virtio_mmio/state
 *   virtio/started          u8 1, once the driver is done
 *
 * Loading reads and checks into a struct virtio_state, which needs no lock: only what is constant
 * after realize is looked at (queues, features offered, memory maps). Guest memory is not touched,
 * because it may not have come; the used index is read from it when a queue is first used.
 */
#include <inttypes.h>
#include <string.h>

#include "hw/i386/savevm-order.h"
#include "hw/misc/virtio-slot.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate/table.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"
#include "virtio-mmio.h"

struct queue_state {
    uint32_t num, align, num_default;
    uint64_t desc, avail, used;
    uint16_t last_avail;
    struct virtio_mmio_queue mmio;
};

struct virtio_state {
    struct virtio_device *v;
    uint32_t host_features_sel, guest_features_sel, guest_page_shift;
    uint8_t status, isr;
    uint16_t queue_sel;
    uint64_t features;
    uint8_t config[VIRTIO_CONFIG_MAX]; /* for what only the driver decides */
    bool broken, has_rings, has_mmio;
    uint32_t mmio_features[2];
    unsigned count;
    struct queue_state *queues; /* as many as the device has */
    void *device;               /* the device's part */
};

#define SUB_FEATURES "virtio/64bit_features"
#define SUB_RINGS    "virtio/virtqueues"
#define SUB_SIZES    "virtio/ringsize"
#define SUB_BROKEN   "virtio/broken"
#define SUB_EXTRA    "virtio/extra_state"
#define SUB_MMIO     "virtio_mmio/state"
#define SUB_STARTED  "virtio/started"

/* ---- writing ---- */

static bool is_modern(const struct virtio_device *v)
{
    return v->host_features >> VIRTIO_FEATURE_VERSION_1 & 1;
}

static void put_halves(struct stream_out *o, const uint32_t half[2])
{
    out_be32(o, half[0]);
    out_be32(o, half[1]);
}

static void put_rings(struct virtio_device *v, struct stream_out *o)
{
    vmstate_put_subsection(o, SUB_RINGS, 1);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        const struct virtqueue *vq = virtio_queue(v, i);

        out_be64(o, vq ? vq->avail : 0);
        out_be64(o, vq ? vq->used : 0);
    }
}

static void put_sizes(struct virtio_device *v, struct stream_out *o)
{
    bool differs = false;

    for (unsigned i = 0; i < v->queues_shown; i++) {
        differs = differs || virtio_queue(v, i)->num != virtio_queue(v, i)->num_default;
    }
    if (!differs) {
        return;
    }
    vmstate_put_subsection(o, SUB_SIZES, 1);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        const struct virtqueue *vq = virtio_queue(v, i);

        out_be32(o, vq ? vq->num_default : 0);
    }
}

static void put_mmio(const struct virtio_mmio *m, struct stream_out *o)
{
    vmstate_put_subsection(o, SUB_EXTRA, 1);
    vmstate_put_subsection(o, SUB_MMIO, 1);
    put_halves(o, m->guest_features);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        const struct virtio_mmio_queue *q = &m->queues[i];

        out_be16(o, q->num);
        out_u8(o, q->ready);
        put_halves(o, q->desc);
        put_halves(o, q->avail);
        put_halves(o, q->used);
    }
}

static void encode(const void *state, struct stream_out *o)
{
    struct virtio_device *v = ((const struct virtio_state *)state)->v;
    const struct virtio_class *class = virtio_class_of(v);
    const struct virtio_mmio *m = v->transport;

    out_be32(o, m->host_features_sel);
    out_be32(o, m->guest_features_sel);
    out_be32(o, m->guest_page_shift);
    out_u8(o, v->status);
    out_u8(o, v->isr);
    out_be16(o, m->queue_sel);
    out_be32(o, (uint32_t)v->guest_features);
    if (class->get_config) {
        class->get_config(v, v->config);
    }
    out_be32(o, (uint32_t)v->config_len);
    out_bytes(o, v->config, v->config_len);
    out_be32(o, v->queues_shown);
    for (unsigned i = 0; i < v->queues_shown; i++) {
        const struct virtqueue *vq = virtio_queue(v, i);

        out_be32(o, vq->num);
        out_be32(o, vq->align);
        out_be64(o, vq->desc);
        out_be16(o, vq->last_avail);
    }
    if (class->wire) {
        class->wire->save(v, o);
    }
    vmstate_put_subsection(o, SUB_FEATURES, 1);
    out_be64(o, v->guest_features);
    if (is_modern(v)) {
        put_rings(v, o);
    }
    put_sizes(v, o);
    if (v->broken) {
        vmstate_put_subsection(o, SUB_BROKEN, 1);
        out_u8(o, 1);
    }
    if (!m->legacy) {
        put_mmio(m, o);
    }
    if (v->status & VIRTIO_STATUS_DRIVER_OK) {
        vmstate_put_subsection(o, SUB_STARTED, 1);
        out_u8(o, 1);
    }
}

/* ---- reading ---- */

static bool refuse(GError **err, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool refuse(GError **err, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    error_set(err, FERRY_ERROR_PEER, "The migration stream has a virtio device with %s", text);
    return false;
}

static bool get_transport(struct virtio_state *s, struct stream_in *in, GError **err)
{
    uint32_t features, config_len;

    if (!in_be32(in, &s->host_features_sel, err) || !in_be32(in, &s->guest_features_sel, err) ||
        !in_be32(in, &s->guest_page_shift, err) || !in_u8(in, &s->status, err) ||
        !in_u8(in, &s->isr, err) || !in_be16(in, &s->queue_sel, err) ||
        !in_be32(in, &features, err) || !in_be32(in, &config_len, err)) {
        return false;
    }
    s->features = features;
    if (s->guest_page_shift > 31 || s->queue_sel >= VIRTIO_QUEUE_MAX) {
        return refuse(err, "page shift %u and queue %u selected", s->guest_page_shift,
                      s->queue_sel);
    }
    if (config_len > VIRTIO_CONFIG_MAX) {
        return refuse(err, "a configuration space of %u bytes", config_len);
    }
    return in_bytes(in, s->config, config_len, err);
}

static bool get_queues(struct virtio_state *s, struct stream_in *in, GError **err)
{
    struct virtio_device *v = s->v;
    uint32_t count;

    if (!in_be32(in, &count, err)) {
        return false;
    }
    if (count > v->queues->len) {
        return refuse(err, "%u queues where this one has %u: give both sides the same options",
                      count, v->queues->len);
    }
    s->count = v->queues->len;
    s->queues = g_new0(struct queue_state, s->count);
    for (unsigned i = 0; i < s->count; i++) {
        struct queue_state *q = &s->queues[i];

        q->num = ((struct virtqueue *)g_ptr_array_index(v->queues, i))->num_default;
        q->align = (uint32_t)TARGET_PAGE_SIZE;
    }
    for (unsigned i = 0; i < count; i++) {
        struct queue_state *q = &s->queues[i];

        if (!in_be32(in, &q->num, err) || !in_be32(in, &q->align, err) ||
            !in_be64(in, &q->desc, err) || !in_be16(in, &q->last_avail, err)) {
            return false;
        }
    }
    return true;
}

static bool get_halves(struct stream_in *in, uint32_t half[2], GError **err)
{
    return in_be32(in, &half[0], err) && in_be32(in, &half[1], err);
}

/* The device's part was read by the low half, so that must not become another. */
static bool get_features(struct virtio_state *s, struct stream_in *in, GError **err)
{
    uint64_t low = s->features;

    return in_be64(in, &s->features, err) &&
           ((uint32_t)s->features == low ||
            refuse(err, "features 0x%" PRIx64 " in one place and 0x%" PRIx64 " in another", low,
                   s->features));
}

static bool get_rings(struct virtio_state *s, struct stream_in *in, GError **err)
{
    struct queue_state none;

    s->has_rings = true;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        struct queue_state *q = i < s->count ? &s->queues[i] : &none;

        if (!in_be64(in, &q->avail, err) || !in_be64(in, &q->used, err)) {
            return false;
        }
    }
    return true;
}

static bool get_sizes(struct virtio_state *s, struct stream_in *in, GError **err)
{
    struct queue_state none;

    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        struct queue_state *q = i < s->count ? &s->queues[i] : &none;

        if (!in_be32(in, &q->num_default, err)) {
            return false;
        }
    }
    return true;
}

static bool get_broken(struct virtio_state *s, struct stream_in *in, GError **err)
{
    uint8_t on;

    if (!in_u8(in, &on, err)) {
        return false;
    }
    s->broken = on;
    return on <= 1 || refuse(err, "broken = %u", on);
}

static bool get_started(struct virtio_state *s G_GNUC_UNUSED, struct stream_in *in, GError **err)
{
    uint8_t on;

    return in_u8(in, &on, err) && (on <= 1 || refuse(err, "started = %u", on));
}

static bool get_mmio(struct virtio_state *s, struct stream_in *in, GError **err)
{
    struct queue_state none;

    if (!get_halves(in, s->mmio_features, err)) {
        return false;
    }
    s->has_mmio = true;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        struct virtio_mmio_queue *q = i < s->count ? &s->queues[i].mmio : &none.mmio;

        if (!in_be16(in, &q->num, err) || !in_u8(in, &q->ready, err) ||
            !get_halves(in, q->desc, err) || !get_halves(in, q->avail, err) ||
            !get_halves(in, q->used, err)) {
            return false;
        }
        if (q->ready > 1 || (q->num & (q->num - 1)) || q->num > VIRTIO_QUEUE_SIZE_MAX) {
            return refuse(err, "queue %u of %u entries, ready = %u", i, q->num, q->ready);
        }
    }
    return true;
}

/* Header of a subsection that must follow. */
static bool enter(struct stream_in *in, const char *name, GError **err)
{
    char have[256];
    uint32_t version;

    if (!vmstate_peek_subsection(name, in, have) || strcmp(have, name) != 0) {
        return refuse(err, "no '%s' where it must be", name);
    }
    return in_skip(in, 2 + strlen(name), err) && in_be32(in, &version, err) &&
           (version == 1 || refuse(err, "version %u of '%s'", version, name));
}

static bool get_extra(struct virtio_state *s, struct stream_in *in, GError **err)
{
    if (s->v->transport->legacy) {
        return refuse(err, "the registers of version 2: give both sides the same "
                           "virtio-mmio.force-legacy");
    }
    return enter(in, SUB_MMIO, err) && get_mmio(s, in, err);
}

static const struct {
    const char *name;
    bool (*get)(struct virtio_state *s, struct stream_in *in, GError **err);
} subsections[] = {
    { SUB_FEATURES, get_features }, { SUB_RINGS, get_rings }, { SUB_SIZES, get_sizes },
    { SUB_BROKEN, get_broken },     { SUB_EXTRA, get_extra }, { SUB_STARTED, get_started },
};

static bool get_subsections(struct virtio_state *s, struct stream_in *in, GError **err)
{
    char name[256];
    unsigned seen = 0;

    while (vmstate_peek_subsection("virtio/", in, name)) {
        unsigned i = 0;

        while (i < G_N_ELEMENTS(subsections) && strcmp(subsections[i].name, name) != 0) {
            i++;
        }
        if (i == G_N_ELEMENTS(subsections)) {
            error_set(err, FERRY_ERROR_PEER, "The migration stream has the unknown subsection '%s'",
                      name);
            return false;
        }
        if (seen >> i & 1) {
            error_set(err, FERRY_ERROR_PEER, "The migration stream has the subsection '%s' twice",
                      name);
            return false;
        }
        seen |= 1u << i;
        if (!enter(in, name, err) || !subsections[i].get(s, in, err)) {
            return false;
        }
    }
    return true;
}

/* ---- what must fit together ---- */

static bool is_ram(struct virtio_device *v, uint64_t gpa, uint64_t len, bool write)
{
    uint64_t n = len;

    return memory_ram_span(v->dev.vm->memory, gpa, &n, write) && n == len;
}

static bool check_queue(struct virtio_state *s, unsigned i, GError **err)
{
    struct queue_state *q = &s->queues[i];
    const char *wrong;

    q->num_default = q->num_default ? q->num_default : q->num;
    if (!q->num || (q->num & (q->num - 1)) || (q->num_default & (q->num_default - 1)) ||
        MAX(q->num, q->num_default) > VIRTIO_QUEUE_SIZE_MAX) {
        return refuse(err, "queue %u of %u entries, %u by default", i, q->num, q->num_default);
    }
    if (!q->align || (q->align & (q->align - 1))) {
        return refuse(err, "queue %u aligned to %u", i, q->align);
    }
    if (!s->v->transport->legacy && !q->mmio.ready) {
        q->desc = q->avail = q->used = 0; /* not in use, whatever it was */
        q->last_avail = 0;
    }
    if (!q->desc) {
        return !q->last_avail ||
               refuse(err, "queue %u without a ring at index %u", i, q->last_avail);
    }
    if (!s->has_rings) {
        struct virtqueue legacy = { .num = q->num, .align = q->align };

        virtqueue_set_legacy_ring(&legacy, q->desc);
        q->avail = legacy.avail;
        q->used = legacy.used;
    }
    wrong = virtqueue_check_layout(q->num, q->desc, q->avail, q->used);
    if (!wrong && (!is_ram(s->v, q->desc, UINT64_C(16) * q->num, false) ||
                   !is_ram(s->v, q->avail, 6 + UINT64_C(2) * q->num, false) ||
                   !is_ram(s->v, q->used, 6 + UINT64_C(8) * q->num, true))) {
        wrong = "a part of it is not in memory";
    }
    return !wrong || refuse(err, "queue %u that cannot be: %s", i, wrong);
}

static bool check(struct virtio_state *s, GError **err)
{
    struct virtio_device *v = s->v;

    if (s->features & ~v->host_features) {
        error_set(err, FERRY_ERROR_PEER,
                  "Features 0x%" PRIx64 " unsupported. Allowed features: 0x%" PRIx64
                  ": give both sides the same device options",
                  s->features, v->host_features);
        return false;
    }
    if (s->has_rings != is_modern(v) || s->has_mmio == v->transport->legacy) {
        return refuse(err, "registers of another version: give both sides the same "
                           "virtio-mmio.force-legacy");
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (!check_queue(s, i, err)) {
            return false;
        }
    }
    return true;
}

static bool decode(void *state, int version, struct stream_in *in, GError **err)
{
    struct virtio_state *s = state;
    const struct virtio_wire *wire = virtio_class_of(s->v)->wire;

    if (!get_transport(s, in, err) || !get_queues(s, in, err)) {
        return false;
    }
    if (wire) {
        s->device = g_malloc0(MAX(wire->state_size, 1));
        if (!wire->parse(s->v, s->device, s->features, version, in, err)) {
            return false;
        }
    }
    return get_subsections(s, in, err) && check(s, err);
}

static void clear(void *state)
{
    struct virtio_state *s = state;
    const struct virtio_wire *wire = virtio_class_of(s->v)->wire;

    if (s->device && wire->clear) {
        wire->clear(s->device);
    }
    g_free(s->device);
    g_free(s->queues);
}

/* ---- putting it in ---- */

static bool load(void *opaque, const void *state, int version G_GNUC_UNUSED, GError **err)
{
    struct virtio_device *v = opaque;
    const struct virtio_state *s = state;
    struct virtio_mmio *m = v->transport;
    const struct virtio_wire *wire = virtio_class_of(v)->wire;

    virtio_reset(v, false);
    m->host_features_sel = s->host_features_sel ? 1 : 0;
    m->guest_features_sel = s->guest_features_sel ? 1 : 0;
    m->guest_page_shift = s->guest_page_shift;
    m->queue_sel = s->queue_sel;
    memcpy(m->guest_features, s->mmio_features, sizeof(m->guest_features));
    m->accepted = !m->legacy && (s->status & VIRTIO_STATUS_FEATURES_OK);
    v->isr = s->isr;
    v->status = s->status;
    virtio_set_features(v, s->features);
    for (unsigned i = 0; i < s->count; i++) {
        const struct queue_state *q = &s->queues[i];
        struct virtqueue *vq = g_ptr_array_index(v->queues, i);

        vq->num = q->num;
        vq->num_default = q->num_default;
        vq->align = q->align;
        vq->desc = q->desc;
        vq->avail = q->avail;
        vq->used = q->used;
        vq->last_avail = q->last_avail;
        m->queues[i] = q->mmio;
        if (q->desc) {
            virtqueue_enable(vq);
            vq->used_known = false;
        }
    }
    v->broken = s->broken;
    memcpy(v->config, s->config, sizeof(v->config));
    if (virtio_class_of(v)->set_status) {
        virtio_class_of(v)->set_status(v, v->status);
    }
    return !wire || !wire->load || wire->load(v, s->device, err);
}

static bool save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    ((struct virtio_state *)state)->v = opaque; /* all is written from the device */
    return true;
}

static void defaults(void *opaque, void *state)
{
    ((struct virtio_state *)state)->v = opaque;
}

static const struct vmstate_custom virtio_custom = {
    .name = "virtio",
    .type = "virtio",
    .encode = encode,
    .decode = decode,
    .clear = clear,
};

char *virtio_section_name(const struct virtio_device *v)
{
    return g_strdup_printf("virtio-mmio@%016" PRIx64 "/%s", virtio_slot_base(v->slot),
                           virtio_class_of(v)->wire_name);
}

void virtio_wire_register(struct virtio_device *v)
{
    static const struct vmstate_field none[] = { {} };
    const struct virtio_class *class = virtio_class_of(v);
    g_autofree char *idstr = virtio_section_name(v);

    v->vmstate = (struct vmstate){
        .name = class->wire_name,
        .version = class->version,
        .min_version = class->version,
        .size = sizeof(struct virtio_state),
        .fields = none,
        .custom = &virtio_custom,
        .save = save,
        .load = load,
        .defaults = defaults,
    };
    savevm_register(v->dev.vm->savevm, idstr, 0, &v->vmstate, v, SAVEVM_ORDER_VIRTIO);
}
