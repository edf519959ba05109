/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * This side in words and numbers: what a stream from here would name, and what one that comes here
 * would have to find. Nothing is judged here.
 *
 * How much memory the host already holds for the guest is an estimate that costs nothing: for
 * memory in files what the file system says, for the rest what the process holds. Walking the page
 * tables of a large guest would take longer than all the rest of a check.
 */
#include "migration/check/side.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "accel/accel.h"
#include "block/block.h"
#include "hw/misc/virtio-slot.h"
#include "hw/virtio/virtio.h"
#include "migration/check/host.h"
#include "migration/internal.h"
#include "migration/vmstate/savevm.h"
#include "system/config.h"
#include "system/vm.h"
#include "target/i386/cpu.h"

static void add_setting(void *list, const char *name, const char *value)
{
    MigrationSideSetting *s = g_new0(MigrationSideSetting, 1);

    s->name = g_strdup(name);
    s->value = g_strdup(value);
    g_ptr_array_add(list, s);
}

static void add_device(const char *idstr, uint32_t instance_id, const struct vmstate *vmstate,
                       void *list)
{
    MigrationSideDevice *d = g_new0(MigrationSideDevice, 1);

    d->name = g_strdup(idstr);
    d->instance = instance_id;
    d->version = (uint32_t)vmstate->version;
    d->min_version = (uint32_t)vmstate->min_version;
    d->optional = vmstate->optional;
    g_ptr_array_add(list, d);
}

static GPtrArray *describe_blocks(struct vm *vm)
{
    GPtrArray *list = qapi_migration_side_block_list_new();

    for (unsigned i = 0; i < ram_block_count(vm->memory); i++) {
        const struct ram_block *b = ram_block_at(vm->memory, i);
        MigrationSideBlock *s;

        if (!b->migratable) {
            continue;
        }
        s = g_new0(MigrationSideBlock, 1);
        s->name = g_strdup(b->idstr);
        s->size = b->used_length;
        s->max_size = b->max_length;
        s->page_size = b->page_size;
        s->shared = b->shared;
        s->address = b->gpa;
        g_ptr_array_add(list, s);
    }
    return list;
}

static void add_disk(const struct block_facts *facts, void *list)
{
    MigrationSideDisk *d = g_new0(MigrationSideDisk, 1);

    d->device = g_strdup(facts->place);
    d->name = g_strdup(facts->name);
    d->path = g_strdup(facts->path);
    d->size = facts->length;
    d->read_only = facts->read_only;
    d->direct = facts->direct;
    d->no_flush = facts->no_flush;
    d->file_device = facts->device;
    d->file_inode = facts->inode;
    d->host_alone = facts->host_alone;
    d->deleted = facts->deleted;
    g_ptr_array_add(list, d);
}

static void add_virtio(struct virtio_device *v, void *list)
{
    const struct virtio_class *class = virtio_class_of(v);
    MigrationSideVirtio *s = g_new0(MigrationSideVirtio, 1);

    s->device = virtio_section_name(v);
    s->name = g_strdup(v->dev.id ? v->dev.id : class->device.name);
    s->offered = v->host_features;
    s->accepted = v->guest_features;
    s->started = v->status & VIRTIO_STATUS_DRIVER_OK;
    s->queues = v->queues->len;
    s->settings = qapi_migration_side_setting_list_new();
    add_setting(s->settings, "force-legacy", virtio_slot_legacy(v->slot) ? "on" : "off");
    if (class->describe) {
        class->describe(v, add_setting, s->settings);
    }
    g_ptr_array_add(list, s);
}

static GPtrArray *describe_capabilities(const struct migration *m)
{
    GPtrArray *list = qapi_migration_side_setting_list_new();

    for (int i = 0; i < MIGRATION_CAPABILITY__MAX; i++) {
        add_setting(list, qapi_migration_capability_str((MigrationCapability)i),
                    m->options.caps[i] ? "on" : "off");
    }
    return list;
}

static char *uuid_text(const uint8_t u[16])
{
    return g_strdup_printf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                           u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
                           u[12], u[13], u[14], u[15]);
}

MigrationSide *side_describe(struct migration *m)
{
    struct vm *vm = m->vm;
    const struct vm_config *c = m->cfg;
    MigrationSide *side = g_new0(MigrationSide, 1);

    side->program = g_strdup("ferry " FERRY_VERSION);
    side->machine = g_strdup(board_name(vm));
    side->accelerator = g_strdup(vm->accel->ops->name);
    side->options = qapi_migration_side_setting_list_new();
    board_options(vm, add_setting, side->options);
    side->vcpus = vm->vcpu_count;
    side->topology = g_strdup_printf("sockets=%u,dies=%u,cores=%u,threads=%u", c->sockets, c->dies,
                                     c->cores, c->threads);
    side->uuid = uuid_text(vm->uuid);
    side->blocks = describe_blocks(vm);
    side->cpu = x86_cpu_describe(vm);
    side->devices = qapi_migration_side_device_list_new();
    savevm_foreach(vm->savevm, add_device, side->devices);
    side->capabilities = describe_capabilities(m);
    side->disks = qapi_migration_side_disk_list_new();
    block_foreach_disk(vm, add_disk, side->disks);
    side->virtio = qapi_migration_side_virtio_list_new();
    virtio_foreach(vm, add_virtio, side->virtio);
    side->blockers = migration_blocker_reasons(m);
    return side;
}

/* Memory of a file: what the file system holds of it, and what it could still give. */
static uint64_t describe_file(const struct ram_block *b, MigrationSideBlock *s)
{
    struct statvfs fs;
    struct stat st;

    if (fstat(b->fd, &st) < 0) {
        return 0;
    }
    /* a file system without a size of its own (that of memfd) has no limit */
    if (fstatvfs(b->fd, &fs) == 0 && fs.f_blocks) {
        s->has_room = true;
        s->room = (uint64_t)fs.f_bavail * fs.f_frsize;
    }
    return MIN((uint64_t)st.st_blocks * 512, b->used_length);
}

void side_describe_host(struct migration *m, MigrationSide *side)
{
    uint64_t anonymous = 0;

    side->host = host_describe();
    for (unsigned i = 0; i < side->blocks->len; i++) {
        MigrationSideBlock *s = g_ptr_array_index(side->blocks, i);
        const struct ram_block *b = ram_block_find(m->vm->memory, s->name);

        if (!b) {
            continue; /* cannot be: blocks do not go away */
        }
        if (b->page_size > TARGET_PAGE_SIZE) {
            side->populated += s->size; /* huge pages are set aside when they are mapped */
        } else if (b->fd >= 0) {
            side->populated += describe_file(b, s);
        } else {
            anonymous += s->size;
        }
    }
    side->populated += MIN(host_own_anonymous_bytes(), anonymous);
}

const char *side_setting(const GPtrArray *settings, const char *name)
{
    for (unsigned i = 0; i < settings->len; i++) {
        const MigrationSideSetting *s = g_ptr_array_index(settings, i);

        if (g_str_equal(s->name, name)) {
            return s->value;
        }
    }
    return NULL;
}

bool side_has_capability(const MigrationSide *side, const char *name)
{
    const char *value = side_setting(side->capabilities, name);

    return value && g_str_equal(value, "on");
}
