/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See fuzz-machine.h. */
#include "fuzz-machine.h"

#include <dirent.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "accel/accel.h"
#include "chardev/chardev.h"
#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "io/channel-private.h"
#include "migration/announce-wire.h"
#include "migration/check/side.h"
#include "migration/check/wire.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/postcopy/arrival.h"
#include "migration/postcopy/destination.h"
#include "migration/stream/format.h"
#include "migration/vmstate/savevm.h"
#include "system/vm-init.h"
#include "util/error.h"

#define BIOS_SIZE 0x10000

/* --- kvmclock's table, without KVM --- */

static uint8_t clock_bytes[64];

static bool clock_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    memcpy(state, clock_bytes, ((const struct vmstate *)opaque)->size);
    return true;
}

static bool clock_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                       GError **err G_GNUC_UNUSED)
{
    memcpy(clock_bytes, state, ((const struct vmstate *)opaque)->size);
    return true;
}

/* The section that a machine under KVM has and this one has not; only its table is used. */
static void add_kvmclock(struct vm *vm)
{
    static struct vmstate table;
    const struct device_class *class = device_class_find("kvmclock");

    table = *class->vmstate;
    g_assert_cmpuint(table.size, <=, sizeof(clock_bytes));
    table.save = clock_save;
    table.load = clock_load;
    savevm_register(vm->savevm, NULL, 0, &table, &table, SAVEVM_ORDER_KVMCLOCK);
}

/* --- the machine --- */

static void must(bool ok, GError **err)
{
    if (!ok) {
        g_error("%s", (*err)->message);
    }
}

/* glib ends a program that g_error() gives up on with this signal, which libFuzzer does not know.
 */
static void on_trap(int signal G_GNUC_UNUSED)
{
    abort();
}

struct fuzz_machine *fuzz_machine_new(void)
{
    return fuzz_machine_new_with(NULL, NULL);
}

struct fuzz_machine *fuzz_machine_new_with(void (*add)(struct vm *vm, void *opaque), void *opaque)
{
    struct fuzz_machine *m = g_new0(struct fuzz_machine, 1);
    g_autofree uint8_t *rom = g_malloc(BIOS_SIZE);
    GError *err = NULL;

    signal(SIGTRAP, on_trap);
    m->folder = g_dir_make_tmp("ferry-fuzz-XXXXXX", NULL);
    m->firmware = g_build_filename(m->folder, "rom", NULL);
    memset(rom, 0xf4, BIOS_SIZE);
    must(g_file_set_contents(m->firmware, (char *)rom, BIOS_SIZE, &err), &err);
    m->vm = vm_new();
    m->vm->chardevs = chardev_set_new();
    m->cfg = (struct vm_config){
        .machine = (char *)"microvm",
        .pit = OPT_ON,
        .pic = OPT_ON,
        .rtc = add ? OPT_OFF : OPT_ON, /* saving it takes longer than all else */
        .isa_serial = true,
        .acpi = OPT_AUTO,
        .ioapic2 = OPT_AUTO,
        .ram_size = FUZZ_RAM,
        .default_backing = { .type = RAM_ANON,
                             .madvise_merge = -1,
                             .madvise_hugepage = -1,
                             .madvise_dump = -1 },
        .cpus = FUZZ_CPUS,
        .sockets = FUZZ_CPUS,
        .dies = 1,
        .cores = 1,
        .threads = 1,
        .bios = m->firmware,
        .rtc_base = RTC_BASE_DATETIME,
        .rtc_base_seconds = 1000000000,
        .rtc_clock = RTC_CLOCK_VM,
        .qtest = true,
    };
    m->cfg.serials[0] = chardev_open_legacy(m->vm->chardevs, "serial0", "null", &err);
    m->cfg.serial_count = 1;
    m->vm->config = &m->cfg;
    m->vm->accel = accel_qtest_new(m->vm, &err);
    must(migration_init(m->vm, &m->cfg, &err), &err);
    m->vm->migration->partial_memory = true; /* short streams */
    must(microvm_build(m->vm, &m->cfg, &err), &err);
    if (add) {
        add(m->vm, opaque);
    }
    must(m->vm->accel->ops->start(m->vm, &err), &err);
    add_kvmclock(m->vm);
    m->has_virtio = fuzz_machine_section_count(m) > 0;
    vm_set_run_state(m->vm, RUN_STATE_INMIGRATE);
    board_reset(m->vm);
    g_assert_cmpuint(ram_block_count(m->vm->memory), ==, FUZZ_BLOCKS);
    for (unsigned i = 0; i < FUZZ_BLOCKS; i++) {
        m->lengths[i] = ram_block_at(m->vm->memory, i)->used_length;
    }
    return m;
}

void fuzz_machine_free(struct fuzz_machine *m)
{
    vm_free(m->vm);
    g_unlink(m->firmware);
    g_rmdir(m->folder);
    g_free(m->firmware);
    g_free(m->folder);
    g_free(m);
}

void fuzz_machine_reset(struct fuzz_machine *m)
{
    struct vm *vm = m->vm;
    GError *err = NULL;

    if (vm_is_running(vm)) {
        vm_stop(vm, RUN_STATE_PAUSED, NULL);
    }
    vm_set_run_state(vm, RUN_STATE_INMIGRATE);
    for (unsigned i = 0; i < FUZZ_BLOCKS; i++) {
        must(ram_block_resize(vm->memory, ram_block_at(vm->memory, i), m->lengths[i], &err), &err);
    }
    vm_clock_set_ns(vm, 0);
    board_reset(vm);
    memset(clock_bytes, 0, sizeof(clock_bytes));
    vm->migration->status = MIGRATION_STATUS_SETUP;
    vm->migration->loaded_state_set = false;
}

/* --- loading --- */

/* Both ends of a connection on which all has been said that the source will ever say. */
static struct channel *source_said(const void *data, size_t len, int *peer)
{
    int fds[2], room = 1 << 20;
    GError *err = NULL;
    struct channel *ch;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        g_error("socketpair: %s", g_strerror(errno));
    }
    for (int i = 0; i < 2; i++) {
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    }
    for (size_t done = 0; done < len;) {
        /* what does not fit is cut off: also a stream */
        ssize_t n = send(fds[0], (const char *)data + done, MIN(len - done, 32768), MSG_DONTWAIT);

        if (n <= 0) {
            break;
        }
        done += (size_t)n;
    }
    shutdown(fds[0], SHUT_WR);
    *peer = fds[0];
    ch = channel_new_socket("test", fds[1], &err);
    must(ch, &err);
    channel_set_timeout(ch, 1); /* who floods the return path and does not read it is refused */
    return ch;
}

/* One line that an operator can read and QMP can carry. */
static void check_sentence(const char *text)
{
    if (!g_utf8_validate(text, -1, NULL) || !text[0] || g_ascii_islower(text[0]) ||
        strpbrk(text, "\n\r\t") || strlen(text) > 1000) {
        /* QEMU's own texts, which clients know, may begin otherwise */
        if (!g_str_has_prefix(text, "savevm: ") && !g_str_has_prefix(text, "virtio-net: ")) {
            g_error("This is no sentence: '%s'", text);
        }
    }
}

/* --- post-copy --- */

bool fuzz_machine_has_postcopy(struct fuzz_machine *m)
{
    return arrival_possible(m->vm, false, NULL);
}

/* A destination whose link is gone waits for another one, until its process ends. */
struct watch {
    struct incoming *in;
    int peer;
    atomic_bool over;
};

static gpointer watch_thread(gpointer opaque)
{
    struct watch *w = opaque;
    struct migration *m = w->in->m;
    char answers[4096];

    while (!atomic_load(&w->over)) {
        /* who floods the return path would else be waited for */
        while (recv(w->peer, answers, sizeof(answers), MSG_DONTWAIT) > 0) {
        }
        vm_lock(m->vm);
        if (m->status == MIGRATION_STATUS_POSTCOPY_PAUSED ||
            m->status ==
                MIGRATION_STATUS_COMPLETED) { /* to tell the source, another link is made */
            mutex_lock(&m->lock);
            atomic_store(&w->in->cancelled, true);
            cond_broadcast(&m->cond);
            mutex_unlock(&m->lock);
        }
        vm_unlock(m->vm);
        g_usleep(100);
    }
    return NULL;
}

static unsigned entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    while (readdir(dir)) {
        n++;
    }
    closedir(dir);
    return n;
}

/* All but the thread that looks. */
static void check_leftovers(unsigned threads, unsigned descriptors)
{
    for (unsigned i = 0; entries("/proc/self/task") > threads; i++) {
        if (i == 1000) {
            g_error("A thread of post-copy is left over");
        }
        g_usleep(1000); /* joined, but not yet gone */
    }
    if (entries("/proc/self/fd") > descriptors) {
        g_error("A descriptor of post-copy is left over");
    }
}

static bool announces_postcopy(const void *data, size_t len)
{
    static const uint8_t advise[] = { STREAM_COMMAND, 0, STREAM_CMD_POSTCOPY_ADVISE, 0, 16 };

    return memmem(data, len, advise, sizeof(advise));
}

/* The load of an input that announces post-copy; the guest has come: true. */
static bool load_with_postcopy(struct incoming *in, struct channel *ch, int peer, GError **err)
{
    struct watch w = { .in = in, .peer = peer };
    GThread *thread = g_thread_new("watch", watch_thread, &w);
    bool ok = incoming_load(in, ch, err);

    atomic_store(&w.over, true);
    g_thread_join(thread);
    vm_lock(in->vm);
    postcopy_in_abandon(in);
    if (!ok && in->m->status == MIGRATION_STATUS_POSTCOPY_PAUSED) {
        g_clear_error(err);
        in->m->status = MIGRATION_STATUS_COMPLETED;
        ok = true;
    }
    postcopy_in_free(in->postcopy);
    g_clear_pointer(&in->error, g_free);
    vm_unlock(in->vm);
    return ok;
}

bool fuzz_machine_load(struct fuzz_machine *m, const void *data, size_t len, GError **err)
{
    struct incoming in = { .m = m->vm->migration, .vm = m->vm, .wake_fd = -1 };
    bool postcopy = announces_postcopy(data, len);
    unsigned threads = 0, descriptors = 0;
    g_autoptr(GError) error = NULL;
    struct channel *ch;
    bool ok;
    int peer;

    fuzz_machine_reset(m);
    m->vm->migration->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM] = postcopy;
    if (postcopy) {
        threads = entries("/proc/self/task");
        descriptors = entries("/proc/self/fd");
    }
    ch = source_said(data, len, &peer);
    vm_unlock(m->vm);
    ok = postcopy ? load_with_postcopy(&in, ch, peer, &error) : incoming_load(&in, ch, &error);
    vm_lock(m->vm);
    channel_unref(ch);
    close(peer);
    if (postcopy) {
        check_leftovers(threads, descriptors);
    }
    g_assert_true(ok == !error);
    g_assert_true(ok == (m->vm->migration->status == MIGRATION_STATUS_COMPLETED));
    g_assert_true(ok != (m->vm->run_state == RUN_STATE_INMIGRATE));
    if (error) {
        check_sentence(error->message);
        g_propagate_error(err, g_steal_pointer(&error));
    }
    return ok;
}

/* --- after a load --- */

GByteArray *fuzz_machine_devices(struct fuzz_machine *m)
{
    GByteArray *bytes = g_byte_array_new();
    struct stream_out *o = out_new_memory(bytes);
    GError *err = NULL;

    must(savevm_save(m->vm->savevm, o, NULL, &err), &err);
    must(out_flush(o, &err), &err);
    out_free(o);
    return bytes;
}

/* The header of a section; false at the end. */
static bool next_section(struct stream_in *in, size_t end, char name[256], uint32_t *instance,
                         uint32_t *version)
{
    uint32_t id;
    uint8_t type;

    if (in_offset(in) >= end) {
        return false;
    }
    g_assert_true(in_u8(in, &type, NULL) && in_be32(in, &id, NULL) && in_pstr(in, name, NULL) &&
                  in_be32(in, instance, NULL) && in_be32(in, version, NULL));
    return true;
}

static void skip_footer(struct stream_in *in)
{
    uint32_t id;
    uint8_t type;

    g_assert_true(in_u8(in, &type, NULL) && in_be32(in, &id, NULL));
}

void fuzz_machine_load_devices(struct fuzz_machine *m, const GByteArray *bytes)
{
    struct savevm_load *l = savevm_load_new(m->vm->savevm);
    struct stream_in *in = in_new_memory(bytes->data, bytes->len);
    uint32_t instance, version;
    GError *err = NULL;
    char name[256];

    while (next_section(in, bytes->len, name, &instance, &version)) {
        must(savevm_load_section(l, in, name, instance, version, &err), &err);
        skip_footer(in);
    }
    must(savevm_load_complete(l, &err), &err);
    must(savevm_load_commit(l, &err), &err);
    in_free(in);
    savevm_load_free(l);
}

/* --- single sections --- */

static bool is_virtio(const char *name)
{
    return g_str_has_prefix(name, "virtio-mmio@") || g_str_equal(name, "slirp");
}

static void count_section(const char *idstr, uint32_t instance_id G_GNUC_UNUSED,
                          const struct vmstate *vmstate G_GNUC_UNUSED, void *opaque)
{
    *(unsigned *)opaque += is_virtio(idstr);
}

unsigned fuzz_machine_section_count(struct fuzz_machine *m)
{
    unsigned count = 0;

    savevm_foreach(m->vm->savevm, count_section, &count);
    return count;
}

GByteArray *fuzz_machine_section(struct fuzz_machine *m, unsigned section, uint32_t *version)
{
    g_autoptr(GByteArray) all = fuzz_machine_devices(m);
    struct savevm_load *l = savevm_load_new(m->vm->savevm);
    struct stream_in *in = in_new_memory(all->data, all->len);
    GByteArray *bytes = NULL;
    GError *err = NULL;
    uint32_t instance;
    char name[256];

    while (!bytes && next_section(in, all->len, name, &instance, version)) {
        uint64_t start = in_offset(in);

        must(savevm_load_section(l, in, name, instance, *version, &err), &err);
        if (is_virtio(name) && section-- == 0) {
            bytes = g_byte_array_new();
            g_byte_array_append(bytes, all->data + start, (guint)(in_offset(in) - start));
        }
        skip_footer(in);
    }
    in_free(in);
    savevm_load_free(l);
    return bytes;
}

struct version_of {
    unsigned section;
    uint32_t version;
};

static void look_at_version(const char *idstr, uint32_t instance_id G_GNUC_UNUSED,
                            const struct vmstate *vmstate, void *opaque)
{
    struct version_of *of = opaque;

    if (is_virtio(idstr) && of->section-- == 0) {
        of->version = (uint32_t)vmstate->version;
    }
}

uint32_t fuzz_section_version(struct fuzz_machine *m, unsigned section)
{
    struct version_of of = { .section = section };

    savevm_foreach(m->vm->savevm, look_at_version, &of);
    return of.version;
}

/* Reads it as a destination does, up to the footer. */
static bool read_replaced(struct savevm_load *l, const char *name, uint32_t instance,
                          uint32_t version, const void *data, size_t len, GError **err)
{
    struct stream_in *in = in_new_memory(data, len);
    bool ok = savevm_load_section(l, in, name, instance, version, err);

    if (ok && in_offset(in) < len) {
        error_set(err, FERRY_ERROR_PEER, "The section has bytes behind its end");
        ok = false;
    }
    in_free(in);
    return ok;
}

/* Reads everything again, with one section replaced. */
static bool read_all(struct fuzz_machine *m, struct savevm_load *l, const GByteArray *all,
                     unsigned section, uint32_t new_version, const void *data, size_t len,
                     GError **err)
{
    struct stream_in *in = in_new_memory(all->data, all->len);
    uint32_t instance, version;
    struct savevm_load *unused = NULL;
    bool ok = true;
    char name[256];

    while (ok && next_section(in, all->len, name, &instance, &version)) {
        if (is_virtio(name) && section-- == 0) {
            /* what is there is read, too, to come to its end */
            ok = read_replaced(l, name, instance, new_version, data, len, err);
            unused = ok ? savevm_load_new(m->vm->savevm) : NULL;
        }
        if (ok) {
            GError *own = NULL;

            must(savevm_load_section(unused ? unused : l, in, name, instance, version, &own), &own);
            skip_footer(in);
        }
        g_clear_pointer(&unused, savevm_load_free);
    }
    in_free(in);
    return ok;
}

enum fuzz_loaded fuzz_machine_load_section(struct fuzz_machine *m, unsigned section,
                                           uint32_t version, const void *data, size_t len)
{
    g_autoptr(GByteArray) before = fuzz_machine_devices(m), after = NULL;
    struct savevm_load *l = savevm_load_new(m->vm->savevm);
    g_autoptr(GError) err = NULL;
    enum fuzz_loaded result = FUZZ_REFUSED;

    if (read_all(m, l, before, section, version, data, len, &err) &&
        savevm_load_complete(l, &err)) {
        result = savevm_load_commit(l, &err) ? FUZZ_LOADED : FUZZ_SPENT;
    }
    savevm_load_free(l);
    g_assert_true((result == FUZZ_LOADED) == !err);
    if (err) {
        check_sentence(err->message);
    }
    if (result == FUZZ_REFUSED) {
        after = fuzz_machine_devices(m);
        if (before->len != after->len || memcmp(before->data, after->data, after->len) != 0) {
            g_error("A section that was refused has changed something: %s", err->message);
        }
    }
    return result;
}

/* Where registers are: space, first address, count, size of an access. */
static const struct registers {
    enum io_space space;
    uint64_t first;
    unsigned count, size;
} registers[] = {
    { IO_SPACE_PORT, 0x3f8, 8, 1 },                                                /* serial port */
    { IO_SPACE_PORT, 0x70, 2, 1 },                                                 /* RTC */
    { IO_SPACE_PORT, 0x510, 12, 1 },                                               /* fw_cfg */
    { IO_SPACE_PORT, 0x7e, 1, 1 },                                                 /* kvmvapic */
    { IO_SPACE_MEM, 0xfec00000, 0x50, 4 },                                         /* IOAPICs */
    { IO_SPACE_MEM, 0xfec10000, 0x50, 4 }, { IO_SPACE_MEM, 0xfea00000, 0x210, 1 }, /* GED */
};

static void access_all(struct fuzz_machine *m, bool write)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(registers); i++) {
        const struct registers *r = &registers[i];

        for (unsigned k = 0; k < r->count; k += r->size) {
            uint32_t v = 0x5a5a5a5a ^ k;

            memory_io(m->vm->memory, r->space, r->first + k, &v, r->size, write);
        }
    }
}

static bool same(const GByteArray *a, const GByteArray *b)
{
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

void fuzz_machine_check_saved(struct fuzz_machine *m)
{
    g_autoptr(GByteArray) first = NULL, second = NULL;

    first = fuzz_machine_devices(m);
    fuzz_machine_load_devices(m, first);
    second = fuzz_machine_devices(m);
    if (!same(first, second) && m->has_virtio) {
        g_byte_array_unref(first);
        first = g_steal_pointer(&second);
        fuzz_machine_load_devices(m, first);
        second = fuzz_machine_devices(m);
    }
    if (!same(first, second)) {
        unsigned at = 0;

        while (at < MIN(first->len, second->len) && first->data[at] == second->data[at]) {
            at++;
        }
        g_error("A loaded state changes when it is saved and loaded again, at byte %u", at);
    }
}

void fuzz_machine_check_loaded(struct fuzz_machine *m)
{
    int64_t now;

    if (vm_is_running(m->vm)) {
        vm_stop(m->vm, RUN_STATE_PAUSED, NULL);
    }
    fuzz_machine_check_saved(m);
    vm_start(m->vm);
    now = vm_clock_ns(m->vm);
    access_all(m, false);
    for (unsigned i = 1; i <= 10; i++) {
        vm_clock_advance_to(m->vm, now + i * INT64_C(100000000));
        access_all(m, i == 5);
    }
}

/* --- a good stream --- */

static void put_page(struct stream_out *o, const char *block, uint64_t offset, uint8_t byte)
{
    uint8_t page[TARGET_PAGE_SIZE];

    memset(page, byte, sizeof(page));
    out_be64(o, offset | RAM_FLAG_PAGE | (block ? 0 : RAM_FLAG_CONTINUE));
    if (block) {
        out_pstr(o, block);
    }
    out_bytes(o, page, sizeof(page));
}

static void put_zero(struct stream_out *o, uint64_t offset)
{
    out_be64(o, offset | RAM_FLAG_ZERO | RAM_FLAG_CONTINUE);
    out_u8(o, 0);
}

/* xbzrle: one byte of a page that has come before. */
static void put_changes(struct stream_out *o, uint64_t offset)
{
    static const uint8_t record[] = {
        1, 0, 3, 16, 1, 0xbb
    }; /* mark, be16 length, skip, count, byte */

    out_be64(o, offset | RAM_FLAG_XBZRLE | RAM_FLAG_CONTINUE);
    out_bytes(o, record, sizeof(record));
}

static void put_footer(struct stream_out *o)
{
    out_be64(o, RAM_FLAG_EOS);
    out_u8(o, STREAM_FOOTER);
    out_be32(o, SECTION_ID_RAM);
}

static void put_part(struct stream_out *o, uint8_t type)
{
    out_u8(o, type);
    out_be32(o, SECTION_ID_RAM);
}

static void put_ram(struct fuzz_machine *m, struct stream_out *o, unsigned how)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < FUZZ_BLOCKS; i++) {
        total += m->lengths[i];
    }
    out_u8(o, STREAM_SECTION_START);
    out_be32(o, SECTION_ID_RAM);
    out_pstr(o, "ram");
    out_be32(o, 0);
    out_be32(o, RAM_VERSION);
    out_be64(o, total | RAM_FLAG_MEM_SIZE);
    for (unsigned i = 0; i < FUZZ_BLOCKS; i++) {
        out_pstr(o, ram_block_at(m->vm->memory, i)->idstr);
        out_be64(o, m->lengths[i]);
    }
    put_footer(o);
    put_part(o, STREAM_SECTION_PART);
    if (how & FUZZ_STREAM_PAGES) {
        put_page(o, FUZZ_BIOS_ID, BIOS_SIZE - TARGET_PAGE_SIZE, 0xf4);
        put_page(o, FUZZ_RAM_ID, 0x1000, 0xaa);
        put_zero(o, 0x2000);
        put_zero(o, FUZZ_RAM - TARGET_PAGE_SIZE);
        put_changes(o, 0x1000);
    }
    put_footer(o);
    if (!(how & FUZZ_STREAM_POSTCOPY)) {
        put_part(o, STREAM_SECTION_END);
        put_footer(o);
    }
}

static void put_command(struct stream_out *o, uint16_t command, uint16_t len)
{
    out_u8(o, STREAM_COMMAND);
    out_be16(o, command);
    out_be16(o, len);
}

static void put_greeting(struct fuzz_machine *m, struct stream_out *o, unsigned how)
{
    g_autoptr(MigrationSide) side = NULL;
    GError *err = NULL;

    put_command(o, STREAM_CMD_OPEN_RETURN_PATH, 0);
    put_command(o, STREAM_CMD_PING, 4);
    out_be32(o, FERRY_PING_MAGIC);
    put_command(o, STREAM_CMD_FERRY_FEATURES, 8);
    out_be64(o, FERRY_FEATURE_ZEROED | FERRY_FEATURE_COMMIT | FERRY_FEATURE_ADDRESSES |
                    (how & FUZZ_STREAM_CHECK ? FERRY_FEATURE_CHECK : 0));
    if (how & FUZZ_STREAM_CHECK) {
        side = side_describe(m->vm->migration);
        side_describe_host(m->vm->migration, side);
        must(check_send_side(o, side, &err), &err);
    }
}

/* Which IP address a network device has. */
static void put_addresses(struct stream_out *o)
{
    static const uint8_t address[16] = { 192, 0, 2, 7 };

    put_command(o, STREAM_CMD_FERRY_ADDRESSES, ANNOUNCE_ENTRY);
    out_be64(o, UINT64_C(0xfeb02e00));
    out_u8(o, 4);
    out_u8(o, 0);
    out_bytes(o, address, sizeof(address));
}

/* Everything behind the guest's stop, with post-copy. */
static void put_postcopy(struct fuzz_machine *m, struct stream_out *o, unsigned how)
{
    g_autoptr(GByteArray) package = g_byte_array_new();
    struct stream_out *inner = out_new_memory(package);
    GError *err = NULL;

    put_command(o, STREAM_CMD_POSTCOPY_RAM_DISCARD, 2 + sizeof(FUZZ_RAM_ID) + 2 * 16);
    out_u8(o, 0);
    out_pstr(o, FUZZ_RAM_ID);
    out_u8(o, 0);
    out_be64(o, 0x1000);
    out_be64(o, 0x2000);
    out_be64(o, FUZZ_RAM - TARGET_PAGE_SIZE);
    out_be64(o, TARGET_PAGE_SIZE);
    put_command(inner, STREAM_CMD_POSTCOPY_LISTEN, 0);
    if (how & FUZZ_STREAM_COMMIT) {
        put_addresses(inner);
    }
    must(savevm_save(m->vm->savevm, inner, NULL, &err), &err);
    if (!(how & FUZZ_STREAM_COMMIT)) {
        put_command(inner, STREAM_CMD_POSTCOPY_RUN, 0);
    }
    must(out_flush(inner, &err), &err);
    out_free(inner);
    put_command(o, STREAM_CMD_PACKAGED, 4);
    out_be32(o, package->len);
    out_bytes(o, package->data, package->len);
    if (how & FUZZ_STREAM_COMMIT) {
        put_command(o, STREAM_CMD_FERRY_GO, 8);
        out_be64(o, 1000000);
    }
    put_part(o, STREAM_SECTION_PART);
    put_page(o, FUZZ_RAM_ID, 0x1000, 0xcc);
    put_zero(o, 0x2000);
    put_footer(o);
    put_command(o, STREAM_CMD_PING, 4);
    out_be32(o, 1);
    put_part(o, STREAM_SECTION_PART);
    put_page(o, FUZZ_RAM_ID, FUZZ_RAM - TARGET_PAGE_SIZE, 0xdd);
    put_footer(o);
    put_part(o, STREAM_SECTION_END);
    put_footer(o);
    out_u8(o, STREAM_EOF);
}

static void put_advise(struct stream_out *o, unsigned how)
{
    if (!(how & FUZZ_STREAM_COMMIT)) {
        put_command(o, STREAM_CMD_OPEN_RETURN_PATH, 0);
    }
    put_command(o, STREAM_CMD_POSTCOPY_ADVISE, 16);
    out_be64(o, TARGET_PAGE_SIZE);
    out_be64(o, TARGET_PAGE_SIZE);
}

static void port(struct fuzz_machine *m, uint64_t at, uint32_t value, unsigned size)
{
    memory_io(m->vm->memory, IO_SPACE_PORT, at, &value, size, true);
}

/* So that states have parts which they have not after a reset: bytes in the serial port's FIFO, an
 * alarm and periodic interrupts, a file half read. */
static void use_devices(struct fuzz_machine *m)
{
    port(m, 0x3fa, 0x07, 1); /* FIFOs on */
    port(m, 0x3fc, 0x10, 1); /* what is sent comes back */
    for (unsigned i = 0; i < 5; i++) {
        port(m, 0x3f8, 'a' + i, 1);
        vm_clock_advance_to(m->vm, vm_clock_ns(m->vm) + 10000000);
    }
    port(m, 0x70, 0x0b, 1);
    port(m, 0x71, 0x62, 1);
    port(m, 0x510, 0x19, 2); /* the directory of files */
    access_all(m, false);
}

GByteArray *fuzz_machine_stream(struct fuzz_machine *m, unsigned how)
{
    GByteArray *bytes = g_byte_array_new();
    struct stream_out *o = out_new_memory(bytes);
    const char *machine = board_name(m->vm);
    GError *err = NULL;

    out_be32(o, STREAM_MAGIC);
    out_be32(o, STREAM_VERSION);
    out_u8(o, STREAM_CONFIGURATION);
    out_be32(o, (uint32_t)strlen(machine));
    out_bytes(o, machine, strlen(machine));
    if (how & FUZZ_STREAM_COMMIT) {
        put_greeting(m, o, how);
    }
    if (how & FUZZ_STREAM_POSTCOPY) {
        put_advise(o, how);
    }
    put_ram(m, o, how);
    if (how & FUZZ_STREAM_PAGES) {
        use_devices(m);
    }
    m->vm->migration->saved_state = RUN_STATE_RUNNING;
    if (how & FUZZ_STREAM_POSTCOPY) {
        put_postcopy(m, o, how);
        must(out_flush(o, &err), &err);
        out_free(o);
        return bytes;
    }
    if (how & FUZZ_STREAM_COMMIT) {
        put_addresses(o);
    }
    must(savevm_save(m->vm->savevm, o, NULL, &err), &err);
    out_u8(o, STREAM_EOF);
    out_u8(o, STREAM_VMDESCRIPTION);
    out_be32(o, 2);
    out_bytes(o, "{}", 2);
    if (how & FUZZ_STREAM_COMMIT) {
        put_command(o, STREAM_CMD_FERRY_GO, 8);
        out_be64(o, 1000000);
    }
    must(out_flush(o, &err), &err);
    out_free(o);
    return bytes;
}
