/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The dirty ring (accel/kvm/dirty-ring.c) over a KVM that is played: it breaks off resets, as Linux
 * does where a signal is pending, and keeps account of what is armed. */
#include <errno.h>
#include <glib.h>
#include <signal.h>

#include "../../accel/kvm/kvm-internal.h"
#include "util/bitmap.h"

#define ENTRIES 1024u
#define PAGES   4096u

static struct {
    struct kvm kvm;
    struct vm vm;
    struct kvm_slot slot;
    struct kvm_vcpu vcpu;
    struct vcpu front;
    struct kvm_dirty_gfn ring[ENTRIES];
    bool armed[PAGES];
    uint64_t pushed, reset;
    unsigned break_after; /* entries; what it broke off at is freed but not armed */
    unsigned times;       /* how often */
    bool deaf;            /* never resets anything */
    bool signal_open;     /* a reset came with signals not blocked */
} f;

static void start(void)
{
    memset(&f, 0, sizeof(f));
    f.kvm.ring_entries = ENTRIES;
    f.kvm.slots = &f.slot;
    f.kvm.slot_count = 1;
    f.kvm.vcpus = &f.vcpu;
    f.kvm.vcpu_count = 1;
    f.kvm.vm = &f.vm;
    f.vm.accel = &f.kvm.accel;
    f.slot.pages = PAGES;
    f.slot.bits = bitmap_new(PAGES);
    f.vcpu.kvm = &f.kvm;
    f.vcpu.vcpu = &f.front;
    f.vcpu.ring = f.ring;
    mutex_init(&f.kvm.dirty_lock);
    memset(f.armed, true, sizeof(f.armed));
}

static void stop(void)
{
    mutex_clear(&f.kvm.dirty_lock);
    g_free(f.slot.bits);
    g_free(f.slot.unsure);
}

/* The guest writes to a page; false: the ring is full. */
static bool write_page(uint64_t page)
{
    struct kvm_dirty_gfn *e = &f.ring[f.pushed % ENTRIES];

    if (f.armed[page]) {
        if (f.pushed - f.reset == ENTRIES) {
            return false;
        }
        e->slot = 0;
        e->offset = page;
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
        f.armed[page] = false;
        f.pushed++;
    }
    return true;
}

int kvm_vm_ioctl(struct vm *vm, unsigned long request, void *arg)
{
    sigset_t now;
    unsigned n = 0;

    (void)arg;
    g_assert_true(vm == &f.vm);
    g_assert_cmpuint(request, ==, KVM_RESET_DIRTY_RINGS);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    f.signal_open |= !sigismember(&now, KVM_KICK_SIGNAL);
    for (; !f.deaf && f.reset < f.pushed; f.reset++, n++) {
        struct kvm_dirty_gfn *e = &f.ring[f.reset % ENTRIES];

        if (!(e->flags & KVM_DIRTY_GFN_F_RESET)) {
            break;
        }
        if (f.times && n == f.break_after) {
            f.times--;
            break;
        }
        e->flags = 0;
        f.armed[e->offset] = !f.times || n + 64 < f.break_after;
    }
    return (int)n;
}

int kvm_check(struct kvm *kvm, int cap)
{
    (void)kvm;
    return cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL ? 65536 * 16 : 0;
}

int kvm_enable(struct kvm *kvm, uint32_t cap, uint64_t arg)
{
    (void)kvm;
    (void)cap;
    (void)arg;
    return -EINVAL;
}

static bool reported(uint64_t page)
{
    return bitmap_test(f.slot.bits, page) || (f.slot.unsure && bitmap_test(f.slot.unsure, page));
}

/* Every page that is not armed is reported, each time. */
static void check_nothing_missed(void)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        g_assert_true(f.armed[page] || reported(page));
    }
}

static void test_plain(void)
{
    start();
    for (unsigned round = 0; round < 5; round++) {
        for (uint64_t page = round; page < 900; page += 3) {
            g_assert_true(write_page(page));
        }
        g_assert_true(kvm_ring_harvest(&f.kvm));
        for (uint64_t page = round; page < 900; page += 3) {
            g_assert_true(reported(page) && f.armed[page]);
        }
        memset(f.slot.bits, 0, PAGES / 8); /* migration has them */
    }
    g_assert_null(f.slot.unsure);
    g_assert_false(f.signal_open);
    stop();
}

static void test_full(void)
{
    start();
    for (uint64_t page = 0; page < ENTRIES; page++) {
        g_assert_true(write_page(page));
    }
    g_assert_false(write_page(ENTRIES));
    kvm_ring_full(&f.vcpu);
    g_assert_true(write_page(ENTRIES));
    g_assert_cmpuint(f.kvm.ring_full, ==, 1);
    g_assert_cmpuint(f.kvm.ring_harvested, ==, ENTRIES);
    g_assert_false(f.signal_open);
    stop();
}

/* Whether the vCPU or a sync resets: what was taken is armed, or counts as dirty for good. */
static void test_broken_off(void)
{
    static const unsigned after[] = { 0, 1, 63, 64, 65, 500, ENTRIES - 1 };

    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(after); i++) {
        start();
        for (uint64_t page = 0; page < ENTRIES; page++) {
            g_assert_true(write_page(page * 3));
        }
        f.break_after = after[i / 2];
        f.times = 1 + i % 3;
        if (i % 2) {
            kvm_ring_full(&f.vcpu);
        } else {
            g_assert_true(kvm_ring_harvest(&f.kvm));
        }
        g_assert_cmpuint(f.kvm.ring_unarmed, ==, 0);
        memset(f.slot.bits, 0, PAGES / 8);
        check_nothing_missed();
        /* and there is nothing left over that only the next reset would arm */
        g_assert_cmpuint(f.reset, ==, f.pushed);
        for (uint64_t page = 0; page < PAGES; page++) {
            while (!write_page(page)) {
                kvm_ring_full(&f.vcpu);
            }
        }
        g_assert_true(kvm_ring_harvest(&f.kvm));
        for (uint64_t page = 0; page < PAGES; page++) {
            g_assert_true(reported(page));
        }
        stop();
    }
}

static void test_never_reset(void)
{
    start();
    g_assert_true(write_page(7));
    f.deaf = true;
    g_assert_false(kvm_ring_harvest(&f.kvm));
    g_assert_false(kvm_ring_harvest(&f.kvm)); /* also when nothing new was taken */
    f.deaf = false;
    g_assert_true(kvm_ring_harvest(&f.kvm));
    g_assert_true(f.armed[7]);
    stop();
}

/* A slot or a page that is not there. */
static void test_nonsense(void)
{
    start();
    for (unsigned i = 0; i < 3; i++) {
        f.ring[i] = (struct kvm_dirty_gfn){ .flags = KVM_DIRTY_GFN_F_DIRTY,
                                            .slot = i ? i * 65535 : 0,
                                            .offset = i ? 0 : UINT64_MAX };
    }
    f.deaf = true;
    kvm_ring_harvest(&f.kvm);
    g_assert_cmpuint(f.kvm.ring_harvested, ==, 3);
    g_assert_cmpuint(bitmap_next_set(f.slot.bits, PAGES, 0), ==, PAGES);
    stop();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dirty-ring/plain", test_plain);
    g_test_add_func("/dirty-ring/full", test_full);
    g_test_add_func("/dirty-ring/broken-off", test_broken_off);
    g_test_add_func("/dirty-ring/never-reset", test_never_reset);
    g_test_add_func("/dirty-ring/nonsense", test_nonsense);
    return g_test_run();
}
