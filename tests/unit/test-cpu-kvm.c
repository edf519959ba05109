/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The KVM accelerator on a bare machine of its own: dirty log and ring to the page, registers there
 * and back, stopping, kicking and work on vCPUs, what ends a guest, clocks. Skipped without
 * /dev/kvm.
 *
 * The guest is a few bytes of real-mode code that works through a list of segments: for each it
 * adds one to the first word of the segment; then it says so on a port.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "accel/accel.h"
#include "accel/kvm.h"
#include "hw/device.h"
#include "system/config.h"
#include "system/memory.h"
#include "system/vm-init.h"
#include "target/i386/cpu-internal.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"
#include "util/error.h"

#define RAM_SIZE  0x80000u /* low memory, block "ram" */
#define CODE      0x1000u
#define SPIN      0x1100u
#define FAULT     0x1200u
#define LIST      0x2000u
#define DONE_PORT 0xf4
#define ODD_GPA   0x83000u /* block "odd" from its page 5 */
#define ODD_GPA2  0x99000u /* block "odd" from its page 3 */
#define ODD_PAGES 16u
#define ROM_GPA   0xc0000u

static const uint8_t writer[] = {
    0xbe, 0x00,      0x20,             /* mov si, LIST */
    0xad,                              /* next: lodsw */
    0x85, 0xc0,                        /* test ax, ax */
    0x74, 0x09,                        /* jz done */
    0x8e, 0xc0,                        /* mov es, ax */
    0x26, 0xff,      0x06, 0x00, 0x00, /* inc word [es:0] */
    0xeb, 0xf2,                        /* jmp next */
    0xe7, DONE_PORT,                   /* done: out DONE_PORT, ax */
    0xf4,                              /* hlt */
    0xeb, 0xfd,                        /* jmp $-1 */
};
static const uint8_t spinner[] = { 0x40, 0xeb, 0xfd }; /* inc ax; jmp $-1 */
static const uint8_t faulter[] = { 0x0f, 0x0b };       /* ud2 */

struct machine {
    struct vm *vm;
    struct ram_block *ram, *odd, *rom;
    struct x86_cpu *cpu;
    struct vm_config cfg;
    unsigned done;
    atomic_bool hold; /* the vCPU that says it is done is held up */
    atomic_bool held;
};

static void done_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct machine *m = opaque;

    (void)offset;
    (void)value;
    (void)size;
    vm_unlock(m->vm);
    for (atomic_store(&m->held, true); atomic_load(&m->hold);) {
        g_usleep(1000);
    }
    vm_lock(m->vm);
    m->done++;
}
static const struct io_ops done_ops = { .write = done_write };

static bool have_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        g_test_skip("no /dev/kvm");
        return false;
    }
    close(fd);
    return true;
}

static struct ram_block *block(struct machine *m, const char *name, uint64_t size)
{
    static const struct ram_backing anon = {
        .type = RAM_ANON, .madvise_merge = -1, .madvise_hugepage = -1, .madvise_dump = -1
    };
    GError *err = NULL;
    struct ram_block *b = ram_block_new(m->vm->memory, name, size, 0, &anon, &err);

    g_assert_no_error(err);
    return b;
}

static void map(struct machine *m, struct ram_block *b, uint64_t offset, uint64_t length,
                uint64_t gpa, bool readonly)
{
    GError *err = NULL;

    memory_map_ram(m->vm->memory, b, offset, length, gpa, readonly, &err);
    g_assert_no_error(err);
}

/* NULL: this host's KVM cannot do that (skipped). */
static struct machine *machine_new(unsigned cpus, uint32_t ring)
{
    struct machine *m = g_new0(struct machine, 1);
    GError *err = NULL;

    m->cfg = (struct vm_config){ .cpu = (char *)"max", .cpus = cpus, .sockets = cpus };
    m->vm = vm_new();
    m->vm->accel = accel_kvm_new(m->vm, ring, &err);
    if (!m->vm->accel) {
        g_test_skip(err->message);
        g_error_free(err);
        vm_free(m->vm);
        g_free(m);
        return NULL;
    }
    m->ram = block(m, "ram", RAM_SIZE);
    m->odd = block(m, "odd", ODD_PAGES * TARGET_PAGE_SIZE);
    m->rom = block(m, "rom", 0x4000);
    map(m, m->ram, 0, RAM_SIZE, 0, false);
    map(m, m->odd, 5 * TARGET_PAGE_SIZE, 8 * TARGET_PAGE_SIZE, ODD_GPA, false);
    map(m, m->odd, 3 * TARGET_PAGE_SIZE, 13 * TARGET_PAGE_SIZE, ODD_GPA2, false);
    map(m, m->rom, 0, 0x4000, ROM_GPA, true);
    memory_add_io(m->vm->memory, IO_SPACE_PORT, DONE_PORT, 2, &done_ops, m, "done");
    memcpy(m->ram->host + CODE, writer, sizeof(writer));
    memcpy(m->ram->host + SPIN, spinner, sizeof(spinner));
    memcpy(m->ram->host + FAULT, faulter, sizeof(faulter));
    g_assert_true(x86_cpus_new(m->vm, &m->cfg, &err));
    g_assert_no_error(err);
    m->cpu = x86_cpu_of(m->vm->vcpus[0]);
    g_assert_true(m->vm->accel->ops->start(m->vm, &err));
    g_assert_no_error(err);
    return m;
}

static void machine_free(struct machine *m)
{
    m->vm->accel->ops->stop(m->vm);
    x86_cpus_free(m->vm);
    vm_free(m->vm);
    g_free(m);
}

/* The first vCPU begins at CS:IP 0:ip, after a reset. */
static void begin_at(struct machine *m, uint32_t ip)
{
    m->vm->accel->ops->reset(m->vm);
    m->cpu->state.eip = ip;
    m->cpu->state.segs[SEG_CS].base = m->cpu->state.segs[SEG_CS].selector = 0;
}

/* Lets other threads have the machine lock for a moment. */
static void breathe(struct machine *m)
{
    vm_unlock(m->vm);
    g_usleep(1000);
    vm_lock(m->vm);
}

/* The guest adds one to the first word of each of these pages. */
static void guest_writes(struct machine *m, const uint32_t *gpas)
{
    unsigned n = 0, want = m->done + 1;

    for (; gpas[n]; n++) {
        uint16_t segment = (uint16_t)(gpas[n] >> 4);

        memcpy(m->ram->host + LIST + 2 * n, &segment, 2);
    }
    memset(m->ram->host + LIST + 2 * n, 0, 2);
    begin_at(m, CODE);
    m->vm->accel->ops->resume(m->vm);
    for (unsigned i = 0; m->done < want; i++) {
        g_assert_cmpuint(i, <, 10000);
        breathe(m);
    }
    m->vm->accel->ops->pause(m->vm, 0, NULL);
}

static void sync_block(struct machine *m, struct ram_block *b, unsigned long *bitmap)
{
    struct dirty_set set;
    GError *err = NULL;

    dirty_set_init(&set, ram_block_pages(b));
    m->vm->accel->ops->dirty_sync(m->vm, b, &set, &err);
    g_assert_no_error(err);
    for (uint64_t w = 0; w < BITMAP_WORDS(ram_block_pages(b)); w++) {
        bitmap[w] |= set.words[w];
    }
    dirty_set_clear(&set);
}

/* Exactly these pages of the block are dirty; takes them. */
static void assert_dirty(struct machine *m, struct ram_block *b, const int *pages)
{
    g_autofree unsigned long *bitmap = bitmap_new(ram_block_pages(b));
    g_autofree unsigned long *want = bitmap_new(ram_block_pages(b));

    sync_block(m, b, bitmap);
    for (unsigned i = 0; pages[i] >= 0; i++) {
        bitmap_set(want, (uint64_t)pages[i]);
    }
    for (unsigned i = 0; i < ram_block_pages(b); i++) {
        if (bitmap_test(bitmap, i) != bitmap_test(want, i)) {
            g_error("page %u of %s is %s", i, b->idstr,
                    bitmap_test(want, i) ? "not dirty" : "dirty");
        }
    }
}

static void clear(struct machine *m, struct ram_block *b, uint64_t first, uint64_t pages)
{
    m->vm->accel->ops->dirty_clear(m->vm, b, first, pages);
}

#define PAGES(...)                                                                                 \
    (const int[])                                                                                  \
    {                                                                                              \
        __VA_ARGS__, -1                                                                            \
    }
#define NONE                                                                                       \
    (const int[])                                                                                  \
    {                                                                                              \
        -1                                                                                         \
    }
#define GPAS(...)                                                                                  \
    (const uint32_t[])                                                                             \
    {                                                                                              \
        __VA_ARGS__, 0                                                                             \
    }

static void dirty_start(struct machine *m)
{
    g_autofree unsigned long *a = bitmap_new(ram_block_pages(m->ram));
    GError *err = NULL;

    g_assert_true(m->vm->accel->ops->dirty_start(m->vm, &err));
    g_assert_no_error(err);
    /* pages may count as dirty from the start */
    sync_block(m, m->ram, a);
    sync_block(m, m->odd, a);
    clear(m, m->ram, 0, ram_block_pages(m->ram));
    clear(m, m->odd, 0, ram_block_pages(m->odd));
    assert_dirty(m, m->ram, NONE);
    assert_dirty(m, m->odd, NONE);
}

/* The same of both backends. */
static void check_tracking(struct machine *m)
{
    dirty_start(m);
    guest_writes(m, GPAS(0x3000, 0x7f000, 0x40000, 0x41000));
    assert_dirty(m, m->ram, PAGES(0x3, 0x40, 0x41, 0x7f));
    clear(m, m->ram, 0, 128);
    assert_dirty(m, m->ram, NONE);

    /* again after it was armed again, and the neighbours in the same word of bits */
    guest_writes(m, GPAS(0x40000, 0x42000));
    assert_dirty(m, m->ram, PAGES(0x40, 0x42));
    clear(m, m->ram, 0x40, 64);
    assert_dirty(m, m->ram, NONE);

    /* two maps of one block, both at odd places: page = offset of the map + place in it */
    guest_writes(m, GPAS(ODD_GPA, ODD_GPA + 0x7000, ODD_GPA2 + 0xc000, ODD_GPA2 + 0x3000));
    assert_dirty(m, m->odd, PAGES(5, 6, 12, 15));
    clear(m, m->odd, 0, ODD_PAGES);
    assert_dirty(m, m->odd, NONE);
    assert_dirty(m, m->ram, NONE);

    /* a read-only map takes no writes */
    guest_writes(m, GPAS(ROM_GPA));
    g_assert_cmpuint(m->rom->host[0], ==, 0);
    assert_dirty(m, m->ram, NONE);

    /* off and on again */
    m->vm->accel->ops->dirty_stop(m->vm);
    guest_writes(m, GPAS(0x5000));
    dirty_start(m);
    guest_writes(m, GPAS(0x6000));
    assert_dirty(m, m->ram, PAGES(6));
    m->vm->accel->ops->dirty_stop(m->vm);
}

static void test_dirty_log(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;

    if (m) {
        check_tracking(m);
        machine_free(m);
    }
}

static void test_dirty_ring(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 1024) : NULL;

    if (m) {
        check_tracking(m);
        g_assert_cmpuint(kvm_dirty_ring_harvested(m->vm), >=, 11);
        machine_free(m);
    }
}

/* A page dirtied between the sync and the clear of its range is not lost. */
static void test_clear_keeps_unseen(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;

    if (!m) {
        return;
    }
    dirty_start(m);
    guest_writes(m, GPAS(0x10000, 0x20000));
    assert_dirty(m, m->ram, PAGES(0x10, 0x20));
    guest_writes(m, GPAS(0x11000, 0x50000)); /* nobody has seen these */
    clear(m, m->ram, 0, 128);
    assert_dirty(m, m->ram, PAGES(0x11, 0x50));
    /* a clear of part of a word leaves the rest */
    clear(m, m->ram, 0x11, 1);
    guest_writes(m, GPAS(0x11000));
    assert_dirty(m, m->ram, PAGES(0x11, 0x50));
    clear(m, m->ram, 0x51, 47);
    clear(m, m->ram, 0, 0x11);
    assert_dirty(m, m->ram, PAGES(0x11, 0x50));
    machine_free(m);
}

static gpointer writer_thread(gpointer opaque)
{
    struct machine *m = opaque;
    g_autofree unsigned long *bitmap = bitmap_new(ram_block_pages(m->ram));

    for (unsigned i = 0; i < 200; i++) {
        sync_block(m, m->ram, bitmap);
        clear(m, m->ram, 0, 128);
    }
    return NULL;
}

/* Syncing while the guest runs and the machine is stopped and started. */
static void check_concurrent(uint32_t ring)
{
    struct machine *m = have_kvm() ? machine_new(2, ring) : NULL;
    GThread *thread;

    if (!m) {
        return;
    }
    dirty_start(m);
    begin_at(m, SPIN);
    m->vm->accel->ops->resume(m->vm);
    thread = g_thread_new("sync", writer_thread, m);
    for (unsigned i = 0; i < 50; i++) {
        m->vm->accel->ops->pause(m->vm, 0, NULL);
        breathe(m);
        m->vm->accel->ops->resume(m->vm);
        breathe(m);
    }
    vm_unlock(m->vm);
    g_thread_join(thread);
    vm_lock(m->vm);
    m->vm->accel->ops->pause(m->vm, 0, NULL);
    machine_free(m);
}

static void test_concurrent_log(void)
{
    check_concurrent(0);
}

static void test_concurrent_ring(void)
{
    check_concurrent(1024);
}

static void on_vcpu(struct vcpu *vcpu, void *opaque)
{
    g_assert_true(vcpu->thread == g_thread_self());
    ++*(unsigned *)opaque;
}

static uint64_t guest_ax(struct machine *m)
{
    struct kvm_regs regs;

    g_assert_cmpint(kvm_vcpu_ioctl(&m->cpu->vcpu, KVM_GET_REGS, &regs), >=, 0);
    return regs.rax;
}

static void test_run_stop(void)
{
    struct machine *m = have_kvm() ? machine_new(2, 0) : NULL;
    unsigned count = 0;

    if (!m) {
        return;
    }
    begin_at(m, SPIN);
    for (unsigned i = 0; i < 100; i++) {
        m->vm->accel->ops->resume(m->vm);
        if (i % 3 == 0) {
            breathe(m);
        }
        if (i % 5 == 0) {
            kvm_run_on_vcpu(m->vm->vcpus[i % 2], on_vcpu, &count, true);
            kvm_run_on_vcpu(m->vm->vcpus[i % 2], on_vcpu, &count, false);
        }
        m->vm->accel->ops->pause(m->vm, 0, NULL);
        if (i % 10 == 0) {
            uint64_t ax = guest_ax(m);

            breathe(m);
            g_assert_cmpuint(guest_ax(m), ==, ax); /* it stands */
            kvm_run_on_vcpu(m->vm->vcpus[1], on_vcpu, &count, true);
        }
    }
    for (unsigned i = 0; count < 50 && i < 1000; i++) {
        breathe(m);
    }
    g_assert_cmpuint(count, ==, 50);
    machine_free(m);
}

/* A vCPU that the host holds up does not hold up who wants to stop it for ever. */
static void test_stuck(void)
{
    struct machine *m = have_kvm() ? machine_new(2, 0) : NULL;
    g_autoptr(GError) err = NULL;
    gint64 begun;

    if (!m) {
        return;
    }
    memset(m->ram->host + LIST, 0, 2);
    begin_at(m, CODE);
    atomic_store(&m->hold, true);
    m->vm->accel->ops->resume(m->vm);
    while (!atomic_load(&m->held)) {
        breathe(m);
    }
    begun = g_get_monotonic_time();
    g_assert_false(m->vm->accel->ops->pause(m->vm, 100, &err));
    g_assert_cmpint(g_get_monotonic_time() - begun, <, 20 * G_TIME_SPAN_SECOND);
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_assert_true(g_str_has_prefix(err->message, "vCPU 0 has not left the guest for 0.1 s"));
    /* it goes on as if nothing had been asked, and can be stopped when nothing holds it up */
    atomic_store(&m->hold, false);
    while (!m->done) {
        breathe(m);
    }
    g_assert_true(m->vm->accel->ops->pause(m->vm, 10000, NULL));
    machine_free(m);
}

/* A triple fault asks for a reset, and the vCPU does not run on until that was done. */
static void test_triple_fault(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;

    if (!m) {
        return;
    }
    begin_at(m, FAULT);
    /* protected mode (here even a KVM that emulates looks at the limit), and no room for a handler
     */
    m->cpu->state.cr0 |= 1;
    m->cpu->state.segs[SEG_CS].flags |= SEG_DB | SEG_G;
    m->cpu->state.segs[SEG_CS].limit = 0xffffffff;
    m->cpu->state.idt.limit = 0;
    m->vm->accel->ops->resume(m->vm);
    for (unsigned i = 0; i < 5000 && !vm_request_pending(m->vm); i++) {
        breathe(m);
    }
    g_assert_true(vm_request_pending(m->vm));
    m->vm->accel->ops->pause(m->vm, 0, NULL);
    machine_free(m);
}

static void fill(void *p, size_t n, uint8_t seed)
{
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)p)[i] = (uint8_t)(seed + 7 * i);
    }
}

#define SAME(f) g_assert_cmpmem(&got->f, sizeof(got->f), &s->f, sizeof(s->f))

/* What is put into KVM comes out again. */
static void test_registers(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;
    g_autofree struct cpu_state *got = g_new0(struct cpu_state, 1);
    GError *err = NULL;
    struct cpu_state *s;

    if (!m) {
        return;
    }
    begin_at(m, SPIN);
    s = &m->cpu->state;
    fill(s->regs, sizeof(s->regs), 3);
    s->eip = 0x1234;
    s->eflags = 0x246;
    for (unsigned i = 0; i < 6; i++) {
        s->segs[i].selector = 0x100 * (i + 1);
        s->segs[i].base = 0x1000 * (i + 1);
    }
    s->gdt.base = 0x5000;
    s->gdt.limit = 0x7f;
    s->idt.limit = 0x3ff;
    s->cr2 = 0x1122334455;
    s->dr[0] = 0x1000;
    s->dr[3] = 0x2000;
    s->fpuc = 0x27f;
    s->fpus = 0x3000;
    s->fptag = 0xc0;
    s->fpop = 0x1d9;
    s->fpip = 0x123456;
    s->fpdp = 0x654321;
    for (unsigned i = 0; i < 8; i++) {
        s->fpregs[i] = (struct cpu_fpreg){ UINT64_C(0x8000000000000000) + i, 0x3fff };
    }
    for (unsigned i = 0; i < 16; i++) {
        s->vregs[i].q[0] = UINT64_C(0x1111111111111111) * i;
        s->vregs[i].q[1] = ~s->vregs[i].q[0];
    }
    s->mxcsr = 0x1fa0;
    s->pat = UINT64_C(0x0606060606060606);
    s->sysenter_cs = 8;
    s->sysenter_esp = 0x7000;
    s->star = UINT64_C(0x0018000800000000);
    s->lstar = 0xffffffff81000000;
    s->fmask = 0x700;
    s->kernelgsbase = 0xffff888000000000;
    s->mtrr_fixed[4] = UINT64_C(0x0505050505050505);
    s->mtrr_var[2] = (struct cpu_mtrr_var){ 0x80000000, 0xfffff80000800 };
    s->mtrr_deftype = 0xc06;
    s->mce_banks[6] = 0x1234;
    s->nmi_pending = 1;
    s->hflags2 |= HF2_NMI_MASKED;
    g_assert_true(kvm_parts_put(m->vm, &err));
    g_assert_no_error(err);
    g_assert_true(cpu_kvm_get(m->cpu, got, &err));
    g_assert_no_error(err);
    SAME(regs);
    SAME(eip);
    SAME(eflags);
    for (unsigned i = 0; i < 6; i++) {
        SAME(segs[i].selector);
        SAME(segs[i].base);
        SAME(segs[i].limit);
        SAME(segs[i].flags);
    }
    SAME(gdt.base);
    SAME(gdt.limit);
    SAME(idt.limit);
    SAME(cr0);
    SAME(cr2);
    SAME(dr[0]);
    SAME(dr[3]);
    SAME(dr[6]);
    SAME(dr[7]);
    SAME(fpuc);
    SAME(fpus);
    SAME(fptag);
    SAME(fpop);
    SAME(fpip);
    SAME(fpdp);
    SAME(mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        SAME(fpregs[i].mantissa);
        SAME(fpregs[i].exponent);
    }
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmpmem(got->vregs[i].q, 16, s->vregs[i].q, 16);
    }
    SAME(pat);
    SAME(sysenter_cs);
    SAME(sysenter_esp);
    SAME(star);
    SAME(lstar);
    SAME(fmask);
    SAME(kernelgsbase);
    SAME(mtrr_fixed);
    SAME(mtrr_var[2].base);
    g_assert_cmphex(got->mtrr_var[2].mask & 0xffffffffffff, ==,
                    s->mtrr_var[2].mask & 0xffffffffffff);
    SAME(mtrr_deftype);
    SAME(mce_banks);
    SAME(mcg_cap);
    SAME(nmi_pending);
    SAME(hflags2);
    SAME(mp_state);
    SAME(poll_control_msr);
    machine_free(m);
}

static bool host_xfeature(const struct x86_cpus *all, unsigned bit)
{
    for (unsigned i = 0; i < all->host_cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &all->host_cpuid->entries[i];

        if (e->function == 0xd && e->index == 0) {
            return e->eax >> bit & 1;
        }
    }
    return false;
}

/* What is wider than SSE: it is in KVM's area even where the guest has no XSAVE. */
static void test_vectors(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;
    g_autofree struct cpu_state *got = g_new0(struct cpu_state, 1);
    unsigned width = 2;
    GError *err = NULL;
    struct cpu_state *s;

    if (!m) {
        return;
    }
    begin_at(m, SPIN);
    s = &m->cpu->state;
    if (host_xfeature(m->cpu->all, 2)) {
        width = 4;
    }
    if (host_xfeature(m->cpu->all, 6)) {
        width = 8;
    }
    for (unsigned i = 0; i < (width == 8 ? 32 : 16); i++) {
        fill(s->vregs[i].q, width * 8, (uint8_t)i);
    }
    if (width == 8) {
        fill(s->opmask, sizeof(s->opmask), 77);
    }
    if (host_xfeature(m->cpu->all, 9)) {
        s->pkru = 0x55555554;
    }
    if (!kvm_parts_put(m->vm, &err)) {
        /* a host may show components that it gives to no guest */
        g_test_skip(err->message);
        g_clear_error(&err);
    } else {
        g_assert_true(cpu_kvm_get(m->cpu, got, &err));
        g_assert_no_error(err);
        g_assert_cmpmem(got->vregs, sizeof(got->vregs), s->vregs, sizeof(s->vregs));
        SAME(opmask);
        SAME(pkru);
        g_test_message("tested %u bits", width * 64);
    }
    machine_free(m);
}

/* The APIC's timer goes on from where it was, and one that had fired does not fire again. */
static void test_apic_timer(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;
    struct apic_state got;
    GError *err = NULL;

    if (!m) {
        return;
    }
    begin_at(m, SPIN);
    struct apic_state *a = &m->cpu->apic;

    a->spurious_vec = 0x1ff;
    a->lvt[0] = 0x20030; /* periodic, vector 0x30 */
    a->divide_conf = 3;  /* by 16 */
    a->count_shift = 4;
    a->initial_count = 100000000;
    a->initial_count_load_time = vm_clock_ns(m->vm) - 400000000;
    a->irr[3] = 0x10;
    a->log_dest = 1;
    g_assert_true(kvm_parts_put(m->vm, &err));
    g_assert_no_error(err);
    g_assert_true(apic_get(m->cpu, &got, &err));
    g_assert_cmphex(got.lvt[0], ==, a->lvt[0]);
    g_assert_cmphex(got.irr[3], ==, 0x10);
    g_assert_cmphex(got.log_dest, ==, 1);
    g_assert_cmphex(got.spurious_vec, ==, 0x1ff);
    g_assert_cmpuint(got.initial_count, ==, 100000000);
    g_assert_cmpint(got.count_shift, ==, 4);
    g_assert_cmpint(ABS(got.initial_count_load_time - a->initial_count_load_time), <, 100000000);

    m->vm->accel->ops->reset(m->vm);
    a->spurious_vec = 0x1ff;
    a->lvt[0] = 0x31; /* one shot, long over */
    a->initial_count = 1000;
    a->initial_count_load_time = vm_clock_ns(m->vm) - 400000000;
    g_assert_true(kvm_parts_put(m->vm, &err));
    breathe(m);
    g_assert_true(apic_get(m->cpu, &got, &err));
    g_assert_cmphex(got.irr[1], ==, 0);
    g_assert_cmpuint(got.initial_count, ==, 1000);
    machine_free(m);
}

/* What this host does not have is an error that names it. */
static void test_refused_state(void)
{
    struct machine *m = have_kvm() ? machine_new(1, 0) : NULL;
    GError *err = NULL;

    if (!m) {
        return;
    }
    begin_at(m, SPIN);
    m->cpu->state.cr4 = UINT64_C(1) << 31;
    g_assert_false(kvm_parts_put(m->vm, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_clear_error(&err);
    if (!cpu_host_has_msr(m->cpu->all, 0x6e1)) {
        begin_at(m, SPIN);
        m->cpu->state.pkrs = 5;
        g_assert_false(kvm_parts_put(m->vm, &err));
        g_assert_nonnull(strstr(err->message, "MSR 0x6e1 (IA32_PKRS)"));
        g_clear_error(&err);
    }
    begin_at(m, SPIN);
    g_assert_true(kvm_parts_put(m->vm, &err));
    machine_free(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpu-kvm/dirty-log", test_dirty_log);
    g_test_add_func("/cpu-kvm/dirty-ring", test_dirty_ring);
    g_test_add_func("/cpu-kvm/clear-keeps-unseen", test_clear_keeps_unseen);
    g_test_add_func("/cpu-kvm/concurrent-log", test_concurrent_log);
    g_test_add_func("/cpu-kvm/concurrent-ring", test_concurrent_ring);
    g_test_add_func("/cpu-kvm/run-stop", test_run_stop);
    g_test_add_func("/cpu-kvm/stuck", test_stuck);
    g_test_add_func("/cpu-kvm/triple-fault", test_triple_fault);
    g_test_add_func("/cpu-kvm/registers", test_registers);
    g_test_add_func("/cpu-kvm/vectors", test_vectors);
    g_test_add_func("/cpu-kvm/apic-timer", test_apic_timer);
    g_test_add_func("/cpu-kvm/refused-state", test_refused_state);
    return g_test_run();
}
