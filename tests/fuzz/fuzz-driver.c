/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The program that an input is: register accesses, writes to guest memory, which holds rings and
 * buffers, and what else may happen to a machine. The I/O thread does its work between operations,
 * or in the midst of one, where memory is held back as in post-copy.
 *
 *   u8   opcode in the low half (see run() and more()), device in the high half; then operands
 *
 * Each device has an area of memory: rings of RING entries for its first QUEUES queues, behind them
 * buffers. Opcodes write to registers and to the area, set up a ring or start the device as a good
 * driver does, put a whole request into a ring, notify, wait, stop and start the machine, save and
 * load its devices, load a section that was damaged or is the input's own.
 *
 * A section in an input has its runs of zeroes shortened, since most of one is zero: a byte of 0 is
 * followed by le16 n and stands for n + 1 of them.
 *
 * What is checked: nothing crashes, waits for ever or leaks; devices that broke can be reset; the
 * state of the devices, saved, loads, and saved once more is the same; a section is taken, or
 * refused with a sentence and nothing has changed; no queue has more requests in use than were
 * taken and not given back, and each kind of device its own (struct fuzz_kind).
 *
 * With FERRY_FUZZ_SECTIONS=FOLDER each opcode that saves writes the sections there, as an opcode
 * that loads them (make-virtio-seeds).
 */
#include "fuzz-driver.h"

#include <jansson.h>
#include <string.h>

#include "hw/device.h"
#include "hw/i386/microvm.h"
#include "hw/virtio/virtio-internal.h"
#include "migration/internal.h"
#include "qapi/json.h"
#include "system/vm-init.h"
#include "util/error.h"
#include "util/sync.h"

#define AREAS       UINT64_C(0x100000)
#define AREA        UINT64_C(0x40000) /* per device */
#define QUEUES      6u
#define RING        16u      /* entries */
#define RING_BYTES  0x4000u  /* from one ring to the next */
#define BUFFERS     0x20000u /* in an area */
#define DEVICES_MAX 16u

/* How long the I/O thread waits at most for memory that is held back. */
#define HOLD_US 5000
/* What takes long is not done more often by one input. */
#define SAVES_MAX   4u
#define SECTION_MAX (256u << 10)

struct fuzz_core {
    /* of an input */
    unsigned saves;
    bool loaded; /* a section that is not the machine's own */
    unsigned next_desc[DEVICES_MAX][QUEUES];
    unsigned next_buffer[DEVICES_MAX];
    unsigned dumped;

    GByteArray *pristine; /* all devices at the beginning */
    unsigned sections;

    /* between the threads */
    struct mutex lock;
    struct cond cond;
    bool idle;            /* the I/O thread has come to the end of its work */
    bool hold, held;      /* memory does not come; the I/O thread waits for some */
    unsigned let_through; /* times that it comes all the same */
};

/* ---- reading an input ---- */

uint8_t fuzz_next8(struct fuzz_reader *r)
{
    if (!r->left) {
        return 0;
    }
    r->left--;
    return *r->at++;
}

unsigned fuzz_next16(struct fuzz_reader *r)
{
    unsigned low = fuzz_next8(r);

    return low | (unsigned)fuzz_next8(r) << 8;
}

uint32_t fuzz_next32(struct fuzz_reader *r)
{
    uint32_t low = fuzz_next16(r);

    return low | (uint32_t)fuzz_next16(r) << 16;
}

unsigned fuzz_next_length(struct fuzz_reader *r)
{
    static const int near[8] = { 0, 1, -1, 10, 12, 14, 16, 17 };
    uint8_t code = fuzz_next8(r);

    return code < 0xc0 ? code : (256u << (code & 7)) + (unsigned)near[code >> 3 & 7];
}

/* ---- the machine ---- */

void fuzz_must(bool ok, GError **err)
{
    if (!ok) {
        g_error("%s", (*err)->message);
    }
}

struct virtio_device *fuzz_find(struct vm *vm, const char *class_name, unsigned n)
{
    for (unsigned i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (g_str_equal(dev->class->name, class_name) && n-- == 0) {
            return (struct virtio_device *)dev;
        }
    }
    return NULL;
}

/* Slots are given out from the highest address down. */
static void make_modern(struct vm *vm, unsigned devices_before)
{
    unsigned slots = 0;

    for (unsigned i = vm->devices->len; i-- > 0;) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (g_str_equal(dev->class->name, "virtio-mmio") && slots++ >= devices_before) {
            device_set_property(dev, "force-legacy", "off", NULL);
        }
    }
}

/* fn of each kind that the machine has, once. */
#define FOR_KINDS(d, k)                                                                            \
    for (unsigned i_ = 0; i_ < (d)->count; i_++)                                                   \
        if (is_first_of_kind(d, i_) && (k = (d)->devices[i_].kind))

static bool is_first_of_kind(const struct fuzz_driver *d, unsigned device)
{
    for (unsigned i = 0; i < device; i++) {
        if (d->devices[i].kind == d->devices[device].kind) {
            return false;
        }
    }
    return true;
}

static void add_devices(struct vm *vm, void *opaque)
{
    struct fuzz_driver *d = opaque;
    struct fuzz_machine machine = { .vm = vm }; /* for the kinds, which only look at this */
    const struct fuzz_kind *k;

    d->m = &machine;
    FOR_KINDS(d, k)
    {
        if (k->open) {
            k->open(d);
        }
    }
    make_modern(vm, d->legacy);
    for (unsigned i = 0; i < d->count; i++) {
        g_autofree char *text = g_strdelimit(g_strdup(d->devices[i].options), "'", '"');
        g_autoptr(json_t) options = json_loads(text, 0, NULL);
        GError *err = NULL;

        fuzz_must(device_add(vm, options, &err), &err);
    }
    FOR_KINDS(d, k)
    {
        if (k->plug) {
            k->plug(d);
        }
    }
}

static bool is_modern(const struct fuzz_driver *d, unsigned device)
{
    return device >= d->legacy;
}

static uint64_t base_of(unsigned device)
{
    return FUZZ_SLOT_BASE - FUZZ_SLOT_SIZE * device;
}

static uint64_t area_of(unsigned device)
{
    return AREAS + AREA * device;
}

static void put(struct fuzz_driver *d, uint64_t addr, uint32_t value, unsigned size)
{
    memory_io(d->m->vm->memory, IO_SPACE_MEM, addr, &value, size, true);
}

static uint32_t get(struct fuzz_driver *d, uint64_t addr)
{
    uint32_t value;

    memory_io(d->m->vm->memory, IO_SPACE_MEM, addr, &value, sizeof(value), false);
    return value;
}

static void write_memory(struct fuzz_driver *d, uint64_t addr, const void *data, size_t len)
{
    memory_write(d->m->vm->memory, addr, data, len);
}

/* ---- the I/O thread ---- */

static gboolean on_idle(gpointer opaque)
{
    struct fuzz_core *c = opaque;

    mutex_lock(&c->lock);
    c->idle = true;
    cond_broadcast(&c->cond);
    mutex_unlock(&c->lock);
    return G_SOURCE_REMOVE;
}

void fuzz_driver_rest(struct fuzz_driver *d)
{
    struct fuzz_core *c = d->core;
    struct vm *vm = d->m->vm;
    GSource *source = g_idle_source_new();

    mutex_lock(&c->lock);
    c->idle = false;
    mutex_unlock(&c->lock);
    g_source_set_priority(source, G_PRIORITY_LOW);
    g_source_set_callback(source, on_idle, c, NULL);
    g_source_attach(source, virtio_context(vm));
    vm_unlock(vm);
    mutex_lock(&c->lock);
    while (!c->idle && !(c->held && c->hold && !c->let_through)) {
        cond_wait(&c->cond, &c->lock);
    }
    mutex_unlock(&c->lock);
    vm_lock(vm);
    g_source_destroy(source);
    g_source_unref(source);
}

/* Memory that has not come, for the I/O thread; others find it there. */
static bool gate(void *opaque, struct ram_block *block G_GNUC_UNUSED, uint64_t offset G_GNUC_UNUSED,
                 uint64_t length G_GNUC_UNUSED)
{
    struct fuzz_driver *d = opaque;
    struct fuzz_core *c = d->core;
    struct vm *vm = d->m->vm;
    gint64 end = g_get_monotonic_time() + HOLD_US;

    if (!virtio_on_thread(vm)) {
        return true;
    }
    vm_unlock(vm);
    mutex_lock(&c->lock);
    c->held = true;
    cond_broadcast(&c->cond);
    while (c->hold && !c->let_through && cond_wait_until(&c->cond, &c->lock, end)) {
    }
    c->held = false;
    c->let_through -= c->let_through ? 1 : 0;
    mutex_unlock(&c->lock);
    vm_lock(vm);
    return true;
}

/* kind 0: all memory is there. 1: none is. Else: some comes. */
static void hold(struct fuzz_driver *d, unsigned kind)
{
    struct fuzz_core *c = d->core;

    mutex_lock(&c->lock);
    c->hold = kind && (kind == 1 || c->hold);
    c->let_through = kind > 1 && c->hold ? kind - 1 : 0;
    cond_broadcast(&c->cond);
    mutex_unlock(&c->lock);
    if (kind == 1) {
        memory_set_gate(d->m->vm->memory, gate, d);
    }
    fuzz_driver_rest(d);
    if (!kind) {
        memory_set_gate(d->m->vm->memory, NULL, NULL);
    }
}

/* ---- what a good driver does ---- */

static void set_up(struct fuzz_driver *d, unsigned device, unsigned queue)
{
    uint64_t base = base_of(device), ring = area_of(device) + RING_BYTES * (queue % QUEUES);
    uint64_t avail = ring + 16 * RING, used = (avail + 6 + 2 * RING + 4095) & ~UINT64_C(4095);

    put(d, base + 0x30, queue, 4);
    put(d, base + 0x38, RING, 4);
    if (!is_modern(d, device)) {
        put(d, base + 0x28, 4096, 4);
        put(d, base + 0x3c, 4096, 4);
        put(d, base + 0x40, (uint32_t)(ring / 4096), 4);
        return;
    }
    put(d, base + 0x80, (uint32_t)ring, 4);
    put(d, base + 0x90, (uint32_t)avail, 4);
    put(d, base + 0xa0, (uint32_t)used, 4);
    put(d, base + 0x44, 1, 4);
}

static void start_driver(struct fuzz_driver *d, unsigned device, uint32_t features)
{
    uint64_t base = base_of(device);

    put(d, base + 0x70, 0, 4);
    put(d, base + 0x70, 3, 4);
    put(d, base + 0x24, 0, 4);
    put(d, base + 0x20, features & get(d, base + 0x10), 4);
    put(d, base + 0x24, 1, 4);
    put(d, base + 0x20, is_modern(d, device), 4);
    put(d, base + 0x70, 11, 4);
    put(d, base + 0x70, 15, 4);
}

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static void write_desc(struct fuzz_driver *d, unsigned device, unsigned queue, unsigned index,
                       const struct descriptor *desc)
{
    write_memory(d, area_of(device) + RING_BYTES * (queue % QUEUES) + 16 * (index % RING), desc,
                 sizeof(*desc));
}

static void offer(struct fuzz_driver *d, unsigned device, unsigned queue, uint16_t head)
{
    uint64_t avail = area_of(device) + RING_BYTES * (queue % QUEUES) + 16 * RING;
    uint16_t index;

    memory_read(d->m->vm->memory, avail + 2, &index, 2);
    write_memory(d, avail + 4 + 2 * (index % RING), &head, 2);
    index = (uint16_t)(index + 1);
    write_memory(d, avail + 2, &index, 2);
}

static void notify(struct fuzz_driver *d, unsigned device, unsigned queue)
{
    put(d, base_of(device) + 0x50, queue, 4);
    fuzz_driver_rest(d);
}

static uint64_t take_buffer(struct fuzz_driver *d, unsigned device, unsigned len)
{
    unsigned *next = &d->core->next_buffer[device];
    uint64_t at;

    if (*next + len > AREA - BUFFERS) {
        *next = 0;
    }
    at = area_of(device) + BUFFERS + *next;
    *next += (len + 15) & ~15u;
    return at;
}

/*
 * A request, as good drivers make them: u8 queue, u8 shape (pieces to read in bits 0-2, to write in
 * 3-5, 6: indirect, 7: nobody is told), a length for each; those to read have u8 n and n bytes.
 */
static void request(struct fuzz_driver *d, unsigned device, struct fuzz_reader *r)
{
    unsigned queue = fuzz_next8(r) % QUEUES, shape = fuzz_next8(r);
    unsigned outs = shape & 7, count = outs + (shape >> 3 & 7);
    unsigned *next = &d->core->next_desc[device][queue], head = *next % RING;
    struct descriptor pieces[14];

    for (unsigned i = 0; i < count; i++) {
        struct descriptor *p = &pieces[i];
        unsigned following = shape & 0x40 ? i + 1 : (head + i + 1) % RING;

        p->len = fuzz_next_length(r);
        p->addr = take_buffer(d, device, p->len);
        p->flags = (uint16_t)((i + 1 < count ? 1 : 0) | (i >= outs ? 2 : 0));
        p->next = (uint16_t)(i + 1 < count ? following : 0);
        for (unsigned n = i < outs ? fuzz_next8(r) : 0, k = 0; k < n; k++) {
            uint8_t b = fuzz_next8(r);

            write_memory(d, p->addr + k, &b, 1);
        }
    }
    if (shape & 0x40) {
        struct descriptor table = { .len = count * 16, .flags = 4 };

        table.addr = take_buffer(d, device, table.len);
        write_memory(d, table.addr, pieces, table.len);
        write_desc(d, device, queue, head, &table);
        *next = head + 1;
    } else {
        for (unsigned i = 0; i < count; i++) {
            write_desc(d, device, queue, head + i, &pieces[i]);
        }
        *next = head + count;
    }
    offer(d, device, queue, (uint16_t)head);
    if (!(shape & 0x80)) {
        notify(d, device, queue);
    }
}

/* ---- sections ---- */

static GByteArray *unpack(struct fuzz_reader *r, unsigned len)
{
    GByteArray *bytes = g_byte_array_new();
    struct fuzz_reader part = { r->at, MIN(len, r->left) };

    r->at += part.left;
    r->left -= part.left;
    while (part.left && bytes->len < SECTION_MAX) {
        uint8_t b = fuzz_next8(&part);
        unsigned n = b ? 1 : fuzz_next16(&part) + 1;
        guint at = bytes->len;

        g_byte_array_set_size(bytes, at + n);
        memset(bytes->data + at, b, n);
    }
    return bytes;
}

static GByteArray *pack(const GByteArray *plain)
{
    GByteArray *bytes = g_byte_array_new();

    for (guint i = 0; i < plain->len; i++) {
        guint n = 0;

        while (!plain->data[i] && i + n < plain->len && !plain->data[i + n] && n < 0x10000) {
            n++;
        }
        g_byte_array_append(bytes, plain->data + i, 1);
        if (n) {
            uint8_t more[2] = { (uint8_t)(n - 1), (uint8_t)((n - 1) >> 8) };

            g_byte_array_append(bytes, more, 2);
            i += n - 1;
        }
    }
    return bytes;
}

static void dump_sections(struct fuzz_driver *d)
{
    const char *folder = g_getenv("FERRY_FUZZ_SECTIONS");

    for (unsigned i = 0; folder && i < d->core->sections; i++) {
        uint32_t version;
        g_autoptr(GByteArray) plain = fuzz_machine_section(d->m, i, &version);
        g_autoptr(GByteArray) packed = pack(plain);
        uint8_t head[] = {
            0x0f, 3, (uint8_t)i, 0, (uint8_t)packed->len, (uint8_t)(packed->len >> 8)
        };
        g_autofree char *name = g_strdup_printf("%s/%03u-%u", folder, d->core->dumped++, i);
        GError *err = NULL;

        g_byte_array_prepend(packed, head, sizeof(head));
        fuzz_must(g_file_set_contents(name, (char *)packed->data, (gssize)packed->len, &err), &err);
    }
}

/* Stands still and all memory is there: saving is possible. */
static bool stop_to_save(struct fuzz_driver *d)
{
    if (d->core->saves++ >= SAVES_MAX) {
        return false;
    }
    if (memory_has_gate(d->m->vm->memory)) {
        hold(d, 0);
    }
    vm_stop(d->m->vm, RUN_STATE_PAUSED, NULL);
    return true;
}

static void check_saved(struct fuzz_driver *d)
{
    dump_sections(d);
    fuzz_machine_check_saved(d->m);
}

/* As when the process began. */
static void put_back(struct fuzz_driver *d)
{
    fuzz_machine_reset(d->m);
    d->m->vm->migration->status = MIGRATION_STATUS_NONE;
    fuzz_machine_load_devices(d->m, d->core->pristine);
}

static void load_section(struct fuzz_driver *d, unsigned section, uint32_t version,
                         const GByteArray *bytes)
{
    switch (fuzz_machine_load_section(d->m, section, version, bytes->data, bytes->len)) {
    case FUZZ_LOADED:
        d->core->loaded = true;
        fuzz_machine_check_saved(d->m);
        break;
    case FUZZ_SPENT:
        d->core->loaded = true;
        put_back(d);
        break;
    case FUZZ_REFUSED:
        break;
    }
}

/* u8 section, u8 n, n times: le16 offset, from the end with the highest bit, and u8 value. */
static void patch_section(struct fuzz_driver *d, struct fuzz_reader *r)
{
    unsigned section = fuzz_next8(r) % d->core->sections, n = fuzz_next8(r) % 8;
    g_autoptr(GByteArray) bytes = NULL;
    uint32_t version;

    if (!stop_to_save(d)) {
        return;
    }
    bytes = fuzz_machine_section(d->m, section, &version);
    for (unsigned i = 0; i < n; i++) {
        unsigned offset = fuzz_next16(r), at = (offset & 0x7fff) % bytes->len;

        bytes->data[offset & 0x8000 ? bytes->len - 1 - at : at] = fuzz_next8(r);
    }
    load_section(d, section, version, bytes);
    vm_start(d->m->vm);
}

/* u8 section, u8 version (0: ours), le16 length, as many bytes with their zeroes shortened. */
static void own_section(struct fuzz_driver *d, struct fuzz_reader *r)
{
    unsigned section = fuzz_next8(r) % d->core->sections;
    uint32_t version = fuzz_next8(r);
    g_autoptr(GByteArray) bytes = unpack(r, fuzz_next16(r));

    if (!stop_to_save(d)) {
        return;
    }
    load_section(d, section, version ? version : fuzz_section_version(d->m, section), bytes);
    vm_start(d->m->vm);
}

/* ---- opcodes ---- */

static void more(struct fuzz_driver *d, unsigned device, struct fuzz_reader *r)
{
    switch (fuzz_next8(r) % 6) {
    case 0:
        fuzz_driver_rest(d);
        break;
    case 1:
        request(d, device, r);
        break;
    case 2:
        patch_section(d, r);
        break;
    case 3:
        own_section(d, r);
        break;
    case 4:
        vm_main_loop_once(d->m->vm, 0);
        break;
    default:
        hold(d, fuzz_next8(r) % 8);
    }
}

static void run(struct fuzz_driver *d, struct fuzz_reader *r)
{
    struct vm *vm = d->m->vm;
    uint8_t op = fuzz_next8(r);
    unsigned device = (op >> 4) % d->count;
    uint64_t base = base_of(device), area = area_of(device);

    switch (op & 15) {
    case 0: { /* any access to the registers */
        uint64_t reg = fuzz_next8(r) | (uint64_t)(op >> 7) << 8;
        uint32_t value = fuzz_next32(r);

        put(d, base + reg, value, 1u << (fuzz_next8(r) & 3) % 3);
        break;
    }
    case 1: { /* a register that there is */
        uint64_t reg = 4 * (uint64_t)(fuzz_next8(r) & 0x3f);

        put(d, base + reg, fuzz_next32(r), 4);
        break;
    }
    case 2: { /* bytes of the area */
        uint64_t at = area + fuzz_next32(r) % AREA;
        unsigned n = fuzz_next8(r) % 64;

        for (unsigned i = 0; i < n; i++) {
            uint8_t b = fuzz_next8(r);
            write_memory(d, at + i, &b, 1);
        }
        break;
    }
    case 3: { /* a descriptor */
        uint8_t queue = fuzz_next8(r), index = fuzz_next8(r), where = fuzz_next8(r),
                flags = fuzz_next8(r);
        struct descriptor desc = { .addr = area + BUFFERS + 64 * (uint64_t)where };

        desc.len = fuzz_next8(r);
        desc.flags = flags & 7;
        desc.next = fuzz_next8(r) % (RING + 1);
        if (flags & 0x80) {
            desc.addr = (uint64_t)fuzz_next32(r) << 32;
            desc.addr |= fuzz_next32(r);
            desc.len = fuzz_next32(r);
        }
        write_desc(d, device, queue, index, &desc);
        break;
    }
    case 4: { /* an offer of the next request */
        unsigned queue = fuzz_next8(r);

        offer(d, device, queue, fuzz_next8(r) % (RING + 1));
        break;
    }
    case 5:
        notify(d, device, fuzz_next8(r) % (QUEUES + 1));
        break;
    case 6:
        set_up(d, device, fuzz_next8(r) % QUEUES);
        break;
    case 7:
        start_driver(d, device, fuzz_next32(r));
        break;
    case 8:
        put(d, base + 0x64, 3, 4);
        fuzz_driver_rest(d);
        break;
    case 9:
        for (unsigned i = 0; i < FUZZ_SLOT_SIZE; i += 4) {
            get(d, base + i);
        }
        break;
    case 10:
        vm_stop(vm, RUN_STATE_PAUSED, NULL);
        break;
    case 11:
        vm_start(vm);
        break;
    case 12:
        if (d->devices[device].kind->extra) {
            d->devices[device].kind->extra(d, device, r);
        }
        break;
    case 13:
        vm_clock_advance_to(vm, vm_clock_ns(vm) + fuzz_next32(r));
        break;
    case 14:
        if (stop_to_save(d)) {
            check_saved(d);
            vm_start(vm);
        }
        break;
    default:
        more(d, device, r);
    }
}

/* ---- an input ---- */

static bool counts_are_right(const struct virtqueue *vq)
{
    return !vq->enabled || !vq->used_known || vq->v->broken ||
           (vq->in_use <= vq->num && vq->in_use == (uint16_t)(vq->last_avail - vq->used_index));
}

unsigned fuzz_in_use(struct virtio_device *v)
{
    unsigned n = 0;

    for (unsigned i = 0; i < v->queues->len; i++) {
        n += ((struct virtqueue *)g_ptr_array_index(v->queues, i))->in_use;
    }
    return n;
}

/* Each virtio device of the machine. */
static struct virtio_device *device_at(struct vm *vm, unsigned slot)
{
    for (unsigned i = 0, n = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (dev->class->realize == virtio_device_realize && n++ == slot) {
            return (struct virtio_device *)dev;
        }
    }
    return NULL;
}

static void check_queues(struct fuzz_driver *d)
{
    struct virtio_device *v;

    for (unsigned i = 0; (v = device_at(d->m->vm, i)); i++) {
        for (unsigned k = 0; k < v->queues->len; k++) {
            const struct virtqueue *vq = g_ptr_array_index(v->queues, k);

            if (!counts_are_right(vq)) {
                g_error("%s: queue %u of %u has %u requests in use, between %u and %u",
                        v->dev.class->name, k, vq->num, vq->in_use, vq->used_index, vq->last_avail);
            }
        }
    }
}

static void make_machine(struct fuzz_driver *d)
{
    struct fuzz_core *c = d->core = g_new0(struct fuzz_core, 1);

    g_assert_cmpuint(d->count, <=, DEVICES_MAX);
    mutex_init(&c->lock);
    cond_init(&c->cond);
    d->m = fuzz_machine_new_with(add_devices, d);
    c->sections = fuzz_machine_section_count(d->m);
    c->pristine = fuzz_machine_devices(d->m);
}

static void begin(struct fuzz_driver *d)
{
    struct fuzz_core *c = d->core;
    const struct fuzz_kind *k;

    if (c->loaded) {
        put_back(d);
    }
    c->loaded = false;
    c->saves = 0;
    memset(c->next_desc, 0, sizeof(c->next_desc));
    memset(c->next_buffer, 0, sizeof(c->next_buffer));
    for (unsigned i = 0; i < d->count; i++) {
        put(d, base_of(i) + 0x70, 0, 4);
        g_assert_cmpuint(get(d, base_of(i) + 0x70), ==, 0);
        memset(memory_ram_ptr(d->m->vm->memory, area_of(i), AREA, true), 0, AREA);
    }
    FOR_KINDS(d, k)
    {
        if (k->reset) {
            k->reset(d);
        }
    }
    vm_start(d->m->vm);
}

static void end(struct fuzz_driver *d)
{
    struct vm *vm = d->m->vm;
    const struct fuzz_kind *k;

    if (memory_has_gate(vm->memory)) {
        hold(d, 0);
    }
    fuzz_driver_rest(d);
    if (!d->core->loaded) {
        check_queues(d);
    }
    vm_main_loop_once(vm, 0); /* stops that were asked for */
    vm_start(vm);
    fuzz_driver_rest(d);
    FOR_KINDS(d, k)
    {
        if (k->check && !d->core->loaded && vm_is_running(vm)) {
            k->check(d);
        }
    }
    vm_stop(vm, RUN_STATE_PAUSED, NULL);
}

void fuzz_driver_run(struct fuzz_driver *d, const uint8_t *data, size_t size)
{
    struct fuzz_reader r = { .at = data, .left = size };

    if (!d->m) {
        make_machine(d);
    } else {
        vm_lock(d->m->vm);
    }
    begin(d);
    while (r.left) {
        run(d, &r);
    }
    end(d);
    if (size % 16 == 0) {
        check_saved(d);
    }
    vm_unlock(d->m->vm);
}
