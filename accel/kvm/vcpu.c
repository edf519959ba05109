/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vCPU threads: starting, stopping, kicking, and work done on them.
 *
 * A thread is parked (waits on its condition, machine lock) or in its run loop (no lock, except
 * while an exit reaches a device). One that rests because it is throttled (pace.c) is parked too,
 * with a deadline. Between KVM_RUN calls nothing is pending in the kernel half: an
 * exit that was handled is completed by entering KVM_RUN once more with immediate_exit set, so a
 * parked vCPU's state is always consistent.
 *
 * Leaving the guest: whoever wants it sets immediate_exit and sends SIGUSR1. The thread clears
 * immediate_exit only under the machine lock right before it looks at what is asked of it, so no
 * request is lost between the look and KVM_RUN.
 *
 * Lock order: machine lock, then exit_lock. kvm_pause() waits with the machine lock dropped
 * (through the condition), because a vCPU may need it to finish its exit.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm-internal.h"
#include "util/error.h"

#define FLUSH_TIMEOUT  (30 * G_TIME_SPAN_SECOND)
#define FLUSH_RETRY    (10 * G_TIME_SPAN_MILLISECOND)
#define ENTRY_POLL_US  50
#define ENTRY_TRY_US   (100 * 1000) /* for vCPU threads to get a CPU of the host's */
#define ENTRY_PAUSE_MS 1000

struct vcpu_work {
    void (*fn)(struct vcpu *vcpu, void *opaque);
    void *opaque;
    bool wait; /* somebody waits and frees it */
    bool done;
};

static void set_immediate_exit(struct kvm_vcpu *v, uint8_t value)
{
    __atomic_store_n(&v->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* Interrupts KVM_RUN. Who kicks has set immediate_exit, except for the timer of the thread's own
 * pace. */
static void on_kick(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if (info->si_code == SI_TIMER) {
        set_immediate_exit(info->si_value.sival_ptr, 1);
    }
}

static void kick(struct kvm_vcpu *v)
{
    set_immediate_exit(v, 1);
    if (v->thread_started) {
        pthread_kill(v->pthread, KVM_KICK_SIGNAL);
    }
}

void kvm_kick_vcpu(struct vcpu *vcpu)
{
    kick(vcpu->accel_data);
}

void kvm_kick_all(struct vm *vm)
{
    struct kvm *kvm = kvm_of(vm);

    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        kick(&kvm->vcpus[i]);
        /* one that rests: without the lock it may be missed, and then sleeps to the end of its rest
         */
        cond_signal(&kvm->vcpus[i].wake);
    }
}

static void run_work(struct kvm_vcpu *v)
{
    struct vcpu_work *w;

    while ((w = g_queue_pop_head(&v->work))) {
        w->fn(v->vcpu, w->opaque);
        if (w->wait) {
            w->done = true;
            cond_broadcast(&v->kvm->parked_cond);
        } else {
            g_free(w);
        }
    }
}

void kvm_run_on_vcpu(struct vcpu *vcpu, void (*fn)(struct vcpu *vcpu, void *opaque), void *opaque,
                     bool wait)
{
    struct kvm_vcpu *v = vcpu->accel_data;

    if (!v->thread_started || pthread_equal(pthread_self(), v->pthread)) {
        fn(vcpu, opaque);
        return;
    }
    struct vcpu_work *w = g_new(struct vcpu_work, 1);

    *w = (struct vcpu_work){ .fn = fn, .opaque = opaque, .wait = wait };
    g_queue_push_tail(&v->work, w);
    cond_signal(&v->wake);
    kick(v);
    if (wait) {
        while (!w->done) {
            cond_wait(&v->kvm->parked_cond, &v->kvm->vm->lock);
        }
        g_free(w);
    }
}

/* Notes how the first KVM_RUN since a resume ended. It failed only where the guest certainly did
 * not get to an instruction: memory that the host cannot bring may be missing after many. */
static void note_entry(struct kvm_vcpu *v, int rc, int errnum)
{
    if (atomic_load(&v->entry) == ENTRY_TRIED) {
        bool failed =
            rc < 0 ? errnum != EINTR && errnum != EAGAIN && errnum != EFAULT && errnum != EHWPOISON
                   : v->run->exit_reason == KVM_EXIT_FAIL_ENTRY;

        atomic_store(&v->entry, failed ? ENTRY_FAILED : ENTRY_MADE);
    }
}

static int kvm_run(struct kvm_vcpu *v)
{
    if (v->fail_run) {
        v->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
        v->run->fail_entry.hardware_entry_failure_reason = 0;
        return 0;
    }
    return ioctl(v->fd, KVM_RUN, 0l);
}

/* One KVM_RUN. False: look at the requests. */
static bool run_once(struct kvm_vcpu *v)
{
    int rc, errnum;

    if (atomic_load(&v->entry) == ENTRY_OPEN) {
        atomic_store(&v->entry, ENTRY_TRIED);
    }
    atomic_fetch_add(&v->run_seq, 1);
    rc = kvm_run(v);
    errnum = errno;
    atomic_fetch_add(&v->run_seq, 1);
    note_entry(v, rc, errnum);
    if (atomic_load(&v->kvm->exit_waiters)) {
        mutex_lock(&v->kvm->exit_lock);
        cond_broadcast(&v->kvm->exit_cond);
        mutex_unlock(&v->kvm->exit_lock);
    }
    if (rc < 0) {
        if (errnum != EINTR && errnum != EAGAIN) {
            kvm_run_failed(v, errnum);
        }
        return false;
    }
    return kvm_handle_exit(v);
}

static void park(struct kvm_vcpu *v)
{
    if (!v->parked) {
        v->parked = true;
        cond_broadcast(&v->kvm->parked_cond);
    }
}

static gpointer vcpu_thread(gpointer opaque)
{
    struct kvm_vcpu *v = opaque;
    struct kvm *kvm = v->kvm;
    struct vm *vm = kvm->vm;
    sigset_t set;

    /* signals for the process belong to the main thread */
    sigfillset(&set);
    sigdelset(&set, KVM_KICK_SIGNAL);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &set, NULL);

    vm_lock(vm);
    v->vcpu->thread_id = (int)syscall(SYS_gettid);
    v->pthread = pthread_self();
    v->thread_started = true;
    v->parked = true;
    cond_broadcast(&kvm->parked_cond);
    while (!v->quit) {
        run_work(v);
        if (v->quit) {
            break;
        }
        /* somebody asked the main loop for a reset or a stop: the guest must not run past it */
        if (!kvm->running || v->held || vm_request_pending(vm) || vm->exiting) {
            park(v);
            cond_wait(&v->wake, &vm->lock);
            continue;
        }
        if (kvm_pace_resting(v)) {
            park(v);
            cond_wait_until(&v->wake, &vm->lock, v->rest_until_ns / 1000 + 1);
            continue;
        }
        v->parked = false;
        set_immediate_exit(v, 0);
        vm_unlock(vm);
        kvm_pace_enter(v);
        while (run_once(v)) {
        }
        kvm_pace_leave(v);
        vm_lock(vm);
    }
    kvm_pace_free(v);
    v->parked = true;
    cond_broadcast(&kvm->parked_cond);
    vm_unlock(vm);
    return NULL;
}

/* One that is not parked, NULL: all are. */
static const struct kvm_vcpu *find_busy(const struct kvm *kvm)
{
    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        if (!kvm->vcpus[i].parked) {
            return &kvm->vcpus[i];
        }
    }
    return NULL;
}

bool kvm_pause(struct vm *vm, unsigned timeout_ms, GError **err)
{
    struct kvm *kvm = kvm_of(vm);
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    const struct kvm_vcpu *busy;
    bool ran = kvm->running, late = false;

    /* the lock is dropped in the wait, so a resume may come between: this pause wins */
    for (;;) {
        bool was = kvm->running;

        kvm->running = false;
        busy = find_busy(kvm);
        if (!busy || late) {
            break;
        }
        for (unsigned i = 0; was && i < kvm->vcpu_count; i++) {
            kick(&kvm->vcpus[i]);
        }
        if (timeout_ms) {
            late = !cond_wait_until(&kvm->parked_cond, &vm->lock, end);
        } else {
            cond_wait(&kvm->parked_cond, &vm->lock);
        }
    }
    if (!busy) {
        return true;
    }
    error_set(err, FERRY_ERROR_HOST,
              "vCPU %u has not left the guest for %g s: the host may be unable to bring a page of "
              "its memory",
              busy->vcpu->index, timeout_ms / 1000.0);
    if (ran) {
        kvm_resume(vm);
    }
    return false;
}

void kvm_resume(struct vm *vm)
{
    struct kvm *kvm = kvm_of(vm);

    kvm->running = true;
    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        kvm->vcpus[i].held = false;
        atomic_store(&kvm->vcpus[i].entry, ENTRY_OPEN);
        cond_signal(&kvm->vcpus[i].wake);
    }
}

/* How many vCPUs are as far as that. */
static unsigned count_entries(struct kvm *kvm, int entry)
{
    unsigned n = 0;

    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        n += (int)atomic_load(&kvm->vcpus[i].entry) == entry;
    }
    return n;
}

/* One could not get in. Whether another one did, or is inside; it is stopped too, as the machine is
 * about to be. */
static bool any_other_entered(struct kvm *kvm)
{
    bool did;

    vm_lock(kvm->vm);
    did = !kvm_pause(kvm->vm, ENTRY_PAUSE_MS, NULL) || count_entries(kvm, ENTRY_MADE) ||
          count_entries(kvm, ENTRY_TRIED);
    vm_unlock(kvm->vm);
    return did;
}

bool kvm_entered(struct vm *vm, unsigned timeout_us, GError **err)
{
    struct kvm *kvm = kvm_of(vm);
    gint64 now = g_get_monotonic_time(), end = now + ENTRY_TRY_US, tried = 0;

    for (; now < end && !count_entries(kvm, ENTRY_MADE); now = g_get_monotonic_time()) {
        if (count_entries(kvm, ENTRY_FAILED)) {
            if (any_other_entered(kvm)) {
                return true;
            }
            error_set(err, FERRY_ERROR_HOST,
                      "This host's KVM cannot enter the guest: the processor or KVM refuses the "
                      "state of a vCPU");
            return false;
        }
        if (!tried && !count_entries(kvm, ENTRY_OPEN)) {
            tried = now;
            end = now + timeout_us;
        }
        g_usleep(ENTRY_POLL_US);
    }
    return true;
}

bool kvm_vcpus_flush(struct kvm *kvm, GError **err)
{
    gint64 deadline = g_get_monotonic_time() + FLUSH_TIMEOUT;
    g_autofree unsigned *seq = g_new(unsigned, kvm->vcpu_count + 1);
    bool ok = true;

    atomic_fetch_add(&kvm->exit_waiters, 1);
    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        seq[i] = atomic_load(&kvm->vcpus[i].run_seq);
        if (seq[i] & 1) {
            kick(&kvm->vcpus[i]);
        }
    }
    mutex_lock(&kvm->exit_lock);
    for (unsigned i = 0; ok && i < kvm->vcpu_count; i++) {
        struct kvm_vcpu *v = &kvm->vcpus[i];

        while (ok && seq[i] & 1 && atomic_load(&v->run_seq) == seq[i]) {
            gint64 now = g_get_monotonic_time();

            if (!cond_wait_until(&kvm->exit_cond, &kvm->exit_lock, now + FLUSH_RETRY)) {
                kick(v); /* it cleared immediate_exit just after our kick: once more */
            }
            if (now > deadline) {
                error_set(err, FERRY_ERROR_HOST,
                          "vCPU %u did not leave the guest within 30 seconds, so its dirty pages "
                          "are not known",
                          i);
                ok = false;
            }
        }
    }
    mutex_unlock(&kvm->exit_lock);
    atomic_fetch_sub(&kvm->exit_waiters, 1);
    return ok;
}

static bool vcpu_create(struct kvm *kvm, unsigned i, GError **err)
{
    struct kvm_vcpu *v = &kvm->vcpus[i];
    const char *fails = g_getenv("FERRY_FAIL_RUN");
    g_autofree char *name = g_strdup_printf("CPU %u/KVM", i);
    void *run;

    *v = (struct kvm_vcpu){ .vcpu = kvm->vm->vcpus[i], .kvm = kvm, .fd = -1 };
    v->fail_run = fails && (!strcmp(fails, "all") || strtoul(fails, NULL, 10) == i);
    g_queue_init(&v->work);
    cond_init(&v->wake);
    v->parked = true;
    kvm->vcpu_count = i + 1;
    v->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (long)i);
    if (v->fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "KVM cannot create vCPU %u", i);
        return false;
    }
    run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "KVM does not share the state of vCPU %u", i);
        return false;
    }
    v->run = run;
    v->vcpu->accel_data = v;
    if (kvm->ring_entries && !kvm_ring_map(v, err)) {
        return false;
    }
    v->vcpu->thread = g_thread_try_new(name, vcpu_thread, v, err);
    if (!v->vcpu->thread) {
        g_prefix_error(err, "Cannot start the thread of vCPU %u: ", i);
        return false;
    }
    while (!v->thread_started) {
        cond_wait(&kvm->parked_cond, &kvm->vm->lock);
    }
    return true;
}

bool kvm_vcpus_create(struct kvm *kvm, GError **err)
{
    struct sigaction sa = { .sa_sigaction = on_kick, .sa_flags = SA_SIGINFO };
    unsigned count = kvm->vm->vcpu_count;
    int max = kvm_check_extension(kvm->vm, KVM_CAP_MAX_VCPUS);

    if (max && count > (unsigned)max) {
        error_set(err, FERRY_ERROR_HOST, "KVM runs at most %d vCPUs, the machine has %u", max,
                  count);
        return false;
    }
    sigaction(KVM_KICK_SIGNAL, &sa, NULL);
    kvm->vcpus = g_new0(struct kvm_vcpu, count);
    for (unsigned i = 0; i < count; i++) {
        if (!vcpu_create(kvm, i, err)) {
            return false;
        }
    }
    return true;
}

void kvm_vcpus_destroy(struct kvm *kvm)
{
    struct vm *vm = kvm->vm;

    if (!kvm->vcpus) {
        return;
    }
    kvm_pause(vm, 0, NULL);
    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        struct kvm_vcpu *v = &kvm->vcpus[i];

        v->quit = true;
        cond_signal(&v->wake);
        if (v->vcpu->thread) {
            vm_unlock(vm);
            g_thread_join(v->vcpu->thread);
            vm_lock(vm);
            v->vcpu->thread = NULL;
        }
        g_assert(g_queue_is_empty(&v->work));
        if (v->ring) {
            kvm_ring_unmap(v);
        }
        if (v->run) {
            munmap(v->run, kvm->run_size);
        }
        if (v->fd >= 0) {
            close(v->fd);
        }
        cond_clear(&v->wake);
        v->vcpu->accel_data = NULL;
    }
    g_clear_pointer(&kvm->vcpus, g_free);
    kvm->vcpu_count = 0;
}
