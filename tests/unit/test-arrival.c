/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that arrives while somebody uses it: a real userfaultfd, and threads that touch pages as
 * vCPUs do, on every kind of memory that a guest may have; huge pages where the host can be made to
 * have some. What a source may get wrong is in test-arrival-records.c.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test-arrival-machine.h"

/* --- threads that touch --- */

struct toucher {
    struct fixture *f;
    struct vcpu *vcpu; /* NULL: a thread of the VMM */
    unsigned seed;
    uint64_t only; /* one page; UINT64_MAX: all of them, in an order of its own */
    GThread *thread;
    atomic_bool go, done;
};

static gpointer touch(gpointer opaque)
{
    struct toucher *t = opaque;

    if (t->vcpu) {
        t->vcpu->thread_id = (int)syscall(SYS_gettid);
    }
    atomic_store(&t->done, true); /* ready */
    while (!atomic_load(&t->go)) {
        g_usleep(100);
    }
    atomic_store(&t->done, false);
    if (t->only != UINT64_MAX) {
        check_page(t->f, t->only);
    } else {
        for (uint64_t i = 0; i < PAGES; i++) {
            uint64_t page = (i * (2 * t->seed + 1) + t->seed * 131) % PAGES;

            check_page(t->f, page);
            if (t->seed % 4 == 0) { /* and use it: word 1 is not looked at */
                uint64_t *p = (uint64_t *)(void *)(t->f->ram->host + page * TARGET_PAGE_SIZE);

                __atomic_fetch_add(&p[1], 1, __ATOMIC_RELAXED);
            }
        }
    }
    atomic_store(&t->done, true);
    return NULL;
}

static void toucher_start(struct toucher *t, struct fixture *f, struct vcpu *vcpu, unsigned seed,
                          uint64_t only)
{
    *t = (struct toucher){ .f = f, .vcpu = vcpu, .seed = seed, .only = only };
    t->thread = g_thread_new("touch", touch, t);
    while (!atomic_load(&t->done)) {
        g_usleep(100);
    }
}

static void toucher_go(struct toucher *t)
{
    atomic_store(&t->go, true);
}

static void toucher_join(struct toucher *t)
{
    g_thread_join(t->thread);
    g_assert_true(atomic_load(&t->done));
}

/* --- threads that bring --- */

struct bringer {
    struct fixture *f;
    GThread *thread;
};

/* Answers requests until one of length 0. */
static gpointer bring_requested(gpointer opaque)
{
    struct bringer *s = opaque;
    struct arrival_reader *r = arrival_reader_new(s->f->a);

    for (;;) {
        struct request q = pop_request(s->f);

        if (!q.length) {
            break;
        }
        arrive(r, q.offset / TARGET_PAGE_SIZE, q.length / TARGET_PAGE_SIZE);
    }
    arrival_reader_free(r);
    return NULL;
}

/* All of the memory in order, in sections of odd lengths. */
static gpointer bring_all(gpointer opaque)
{
    struct bringer *s = opaque;
    struct arrival_reader *r = arrival_reader_new(s->f->a);
    uint64_t per_host = s->f->ram->page_size / TARGET_PAGE_SIZE;

    for (uint64_t i = 0, n; i < PAGES; i += n) {
        n = MIN(PAGES - i, per_host * (1 + i % 37));
        arrive(r, i, n);
    }
    arrival_reader_free(r);
    return NULL;
}

static void wait_until_asked(struct fixture *f, unsigned n)
{
    for (unsigned i = 0; atomic_load(&f->asked) < n; i++) {
        g_assert_cmpuint(i, <, 20000);
        g_usleep(1000);
    }
}

/* --- tests --- */

/* Sixteen vCPUs and two threads of the VMM read and write everything while it comes, on demand from
 * two readers and by itself from a third. */
static void test_everything_at_once(gconstpointer data)
{
    struct toucher touchers[VCPUS + 2];
    struct bringer s;
    struct fixture f;
    GThread *bringers[3];

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        s.f = &f;
        memset(f.ram->host, 0xee, f.ram->used_length); /* what precopy left, and is old */
        discard(&f, 0, PAGES);
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES);
        f.vm->vcpus = f.vcpus;
        f.vm->vcpu_count = VCPUS;
        for (unsigned i = 0; i < VCPUS + 2; i++) {
            toucher_start(&touchers[i], &f, i < VCPUS ? &f.vcpu[i] : NULL, i, UINT64_MAX);
        }
        listen_now(&f);
        for (unsigned i = 0; i < VCPUS + 2; i++) {
            toucher_go(&touchers[i]);
        }
        for (unsigned i = 0; i < 2; i++) {
            bringers[i] = g_thread_new("bring", bring_requested, &s);
        }
        g_usleep(20000);
        bringers[2] = g_thread_new("bring all", bring_all, &s);
        for (unsigned i = 0; i < VCPUS + 2; i++) {
            toucher_join(&touchers[i]);
        }
        g_thread_join(bringers[2]);
        for (unsigned i = 0; i < 2; i++) {
            push_request(&f, 0, 0);
        }
        for (unsigned i = 0; i < 2; i++) {
            g_thread_join(bringers[i]);
        }
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, 0);
        struct arrival_blocktime t;

        arrival_get_blocktime(f.a, &t);
        g_assert_cmpuint(t.requests, ==, atomic_load(&f.asked));
        g_assert_cmpuint(t.requests, <=, f.ram->used_length / f.ram->page_size);
        g_assert_cmpuint(t.vcpus, ==, VCPUS);
        g_assert_cmpuint(t.faults, >=, t.requests);
        g_test_message("faults %" PRIu64 " requests %" PRIu64 " local %" PRIu64
                       " queue %u p50 %" PRIu64 " p99 %" PRIu64,
                       t.faults, t.requests, t.local, t.queue_max, t.p50_us, t.p99_us);
        g_free(t.vcpu_us);
        /* and the threads of seeds 0, 4, ... have each added one everywhere */
        for (uint64_t i = 0; i < PAGES; i++) {
            uint64_t was = source_zero(i) ? 0 : source_word(i) + 1;

            g_assert_cmphex(peek(&f, i, 1), ==, was + 5);
        }
    }
    tear_down(&f);
}

/* What the source did not name is not asked for: what came stays, the rest is zero. */
static void test_only_what_is_missing(gconstpointer data)
{
    struct arrival_blocktime t;
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t host = f.ram->page_size / TARGET_PAGE_SIZE;
        uint64_t came = host, missing = 2 * host, never = 3 * host;

        memset(f.ram->host + came * TARGET_PAGE_SIZE, 'c', f.ram->page_size);
        memset(f.ram->host + missing * TARGET_PAGE_SIZE, 'm', f.ram->page_size);
        discard(&f, missing, host);
        discard(&f, missing, host); /* twice is once */
        listen_now(&f);
        g_assert_cmphex(peek(&f, came, 5), ==, UINT64_C(0x6363636363636363));
        g_assert_cmphex(peek(&f, never, 5), ==, 0);
        f.ram->host[never * TARGET_PAGE_SIZE] = 'x';
        g_assert_cmpuint(atomic_load(&f.asked), ==, 0);
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, host);
        g_assert_true(arrival_is_missing(f.a, f.ram, missing * TARGET_PAGE_SIZE));
        g_assert_true(arrival_is_missing(f.a, f.ram, (missing + host) * TARGET_PAGE_SIZE - 1));
        g_assert_false(arrival_is_missing(f.a, f.ram, came * TARGET_PAGE_SIZE));
        g_assert_false(arrival_is_missing(f.a, f.ram, f.ram->used_length));
        arrival_get_blocktime(f.a, &t);
        g_assert_cmpuint(t.faults, ==, 0);
        g_assert_cmpuint(t.local, >=, 1);
        g_free(t.vcpu_us);

        size_t len;
        g_autofree uint8_t *received = arrival_received(f.a, f.ram, &len);

        g_assert_cmpuint(len, ==, PAGES / 8);
        for (uint64_t i = 0; i < PAGES; i++) {
            g_assert_cmpint(received[i / 8] >> i % 8 & 1, ==, i < missing || i >= missing + host);
        }
        g_autofree uint8_t *rom = arrival_received(f.a, f.rom, &len);

        g_assert_cmpuint(len, ==, 8);
        g_assert_cmpint(rom[0], ==, 3);
        g_assert_cmpint(rom[1], ==, 0);
    }
    tear_down(&f);
}

/* A page may come twice, over two links; the second must not take back what the guest has written.
 */
static void test_twice(gconstpointer data)
{
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t host = f.ram->page_size / TARGET_PAGE_SIZE;
        struct arrival_reader *r, *again;

        discard(&f, 0, PAGES);
        listen_now(&f);
        r = arrival_reader_new(f.a);
        again = arrival_reader_new(f.a);
        arrive(r, 0, 2 * host);
        memset(f.ram->host, 'g', f.ram->page_size);
        arrive(again, 0, 3 * host);
        arrive(r, 0, host);
        g_assert_cmphex(peek(&f, 0, 5), ==, UINT64_C(0x6767676767676767));
        for (uint64_t i = host; i < 3 * host; i++) {
            check_page(&f, i);
        }
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES - 3 * host);
        arrival_reader_free(r);
        arrival_reader_free(again);
    }
    tear_down(&f);
}

/* However many wait for a page, it is asked for once; and once more on a new link. */
static void test_one_request(gconstpointer data)
{
    struct toucher touchers[VCPUS];
    struct arrival_blocktime t;
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        struct arrival_reader *r;

        discard(&f, 0, PAGES);
        f.vm->vcpus = f.vcpus;
        f.vm->vcpu_count = VCPUS;
        for (unsigned i = 0; i < VCPUS; i++) {
            toucher_start(&touchers[i], &f, &f.vcpu[i], i, 9);
        }
        listen_now(&f);
        int64_t began = g_get_monotonic_time();

        for (unsigned i = 0; i < VCPUS; i++) {
            toucher_go(&touchers[i]);
        }
        do { /* those who still wait count */
            g_usleep(1000);
            arrival_get_blocktime(f.a, &t);
            g_free(t.vcpu_us);
        } while (t.all_blocked_us < 20000);
        for (unsigned i = 0; i < VCPUS; i++) {
            g_assert_false(atomic_load(&touchers[i].done));
        }
        g_assert_cmpuint(atomic_load(&f.asked), ==, 1);
        g_assert_cmpuint(t.faults, ==, 0);

        arrival_ask_again(f.a);
        wait_until_asked(&f, 2);
        r = arrival_reader_new(f.a);
        arrive(r, 0, MAX(10, f.ram->page_size / TARGET_PAGE_SIZE));
        for (unsigned i = 0; i < VCPUS; i++) {
            toucher_join(&touchers[i]);
        }
        uint64_t took = (uint64_t)(g_get_monotonic_time() - began);

        arrival_get_blocktime(f.a, &t);
        g_assert_cmpuint(t.requests, ==, 2);
        g_assert_cmpuint(t.faults, ==, VCPUS);
        g_assert_cmpuint(t.p50_us, >=, 20000);
        g_assert_cmpuint(t.p50_us, <=, t.p99_us);
        g_assert_cmpfloat(t.mean_us, >=, 20000);
        g_assert_cmpfloat(t.mean_us, <=, (double)took);
        for (unsigned i = 0; i < VCPUS; i++) {
            g_assert_cmpuint(t.vcpu_us[i], >=, 20000);
            g_assert_cmpuint(t.vcpu_us[i], <=, took);
            g_assert_cmpuint(t.vcpu_us[i], >=, t.all_blocked_us);
        }
        uint64_t sum = 0;

        for (unsigned i = 0; i < ARRIVAL_LATENCY_BUCKETS; i++) {
            sum += t.buckets[i];
            g_assert_true(!t.buckets[i] || i >= 14);
        }
        g_assert_cmpuint(sum, ==, VCPUS);
        g_free(t.vcpu_us);
        arrival_reader_free(r);
    }
    tear_down(&f);
}

/* While the link is down nobody is asked; who needs no missing page goes on; then it comes back. */
static void test_link_down(gconstpointer data)
{
    struct toucher touchers[4];
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t host = f.ram->page_size / TARGET_PAGE_SIZE;
        struct bringer s = { .f = &f };
        struct arrival_blocktime t;

        discard(&f, 0, 3 * host);
        for (unsigned i = 0; i < 4; i++) {
            toucher_start(&touchers[i], &f, NULL, i, i % 3 * host);
        }
        atomic_store(&f.link_down, true);
        listen_now(&f);
        for (unsigned i = 0; i < 3; i++) {
            toucher_go(&touchers[i]);
        }
        g_usleep(50000);
        g_assert_cmphex(peek(&f, 3 * host, 0), ==, 0);
        for (unsigned i = 0; i < 3; i++) {
            g_assert_false(atomic_load(&touchers[i].done));
        }
        arrival_ask_again(f.a); /* a link that breaks at once again */
        g_usleep(20000);
        arrival_get_blocktime(f.a, &t);
        g_assert_cmpuint(t.requests, ==, 0);
        g_assert_cmpuint(t.vcpus, ==, 0);
        g_free(t.vcpu_us);

        atomic_store(&f.link_down, false);
        toucher_go(&touchers[3]); /* a page that was wanted and not asked for */
        wait_until_asked(&f, 1);
        arrival_ask_again(f.a);
        wait_until_asked(&f, 4);
        push_request(&f, 0, 0);
        bring_requested(&s);
        for (unsigned i = 0; i < 4; i++) {
            toucher_join(&touchers[i]);
        }
        arrival_get_blocktime(f.a, &t);
        g_assert_cmpuint(t.requests, ==, 4);
        g_assert_cmpuint(t.faults, ==, 4);
        g_free(t.vcpu_us);
    }
    tear_down(&f);
}

/* A system call that is given guest memory waits in the kernel as KVM does. */
static gpointer write_page(gpointer opaque)
{
    struct fixture *f = opaque;
    uint64_t words[TARGET_PAGE_SIZE / 8];
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(write(fds[1], f->ram->host + 5 * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE), ==,
                    TARGET_PAGE_SIZE);
    g_assert_cmpint(read(fds[0], words, sizeof(words)), ==, sizeof(words));
    close(fds[0]);
    close(fds[1]);
    g_assert_cmphex(words[7], ==, source_word(5) + 7);
    return NULL;
}

static void test_kernel_access(gconstpointer data)
{
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        struct bringer s = { .f = &f };

        discard(&f, 0, PAGES);
        listen_now(&f);
        GThread *writer = g_thread_new("write", write_page, &f);

        wait_until_asked(&f, 1);
        push_request(&f, 0, 0);
        bring_requested(&s);
        g_thread_join(writer);
    }
    tear_down(&f);
}

/* At the end, or when the process ends, nobody is left waiting. */
static void test_stop_lets_go(gconstpointer data)
{
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        struct toucher t;
        struct arrival_blocktime bt;

        discard(&f, 0, PAGES);
        f.vm->vcpus = f.vcpus;
        f.vm->vcpu_count = 1;
        toucher_start(&t, &f, &f.vcpu[0], 0, 3); /* a page of zeroes, as what it will get */
        listen_now(&f);
        toucher_go(&t);
        wait_until_asked(&f, 1);
        g_assert_cmpint(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), ==, 1);
        arrival_stop(f.a);
        toucher_join(&t);
        arrival_stop(f.a);
        g_assert_cmpint(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), ==, 0);
        g_assert_cmphex(peek(&f, PAGES - 1, 0), ==, 0);
        arrival_get_blocktime(f.a, &bt);
        g_assert_cmpuint(bt.requests, ==, 1);
        g_assert_cmpuint(bt.vcpu_us[0], >, 0);
        uint64_t was = bt.vcpu_us[0];

        g_free(bt.vcpu_us);
        arrival_get_blocktime(f.a, &bt);
        g_assert_cmpuint(bt.vcpu_us[0], ==, was);
        g_free(bt.vcpu_us);
    }
    tear_down(&f);
}

static void add(const char *name, void (*fn)(gconstpointer), enum memory_kind kind)
{
    static const char *const kinds[] = {
        "anonymous", "memfd",       "memfd-holes", "memfd-private",
        "shm-file",  "huge-shared", "huge-holes",  "huge-private"
    };
    g_autofree char *path = g_strdup_printf("/arrival/%s/%s", name, kinds[kind]);

    g_test_add_data_func(path, GINT_TO_POINTER(kind), fn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (enum memory_kind kind = ANON; kind <= HUGE_PRIVATE; kind++) {
        add("everything-at-once", test_everything_at_once, kind);
        add("only-what-is-missing", test_only_what_is_missing, kind);
        add("twice", test_twice, kind);
        add("one-request", test_one_request, kind);
        add("link-down", test_link_down, kind);
        add("kernel-access", test_kernel_access, kind);
        add("stop-lets-go", test_stop_lets_go, kind);
    }
    return g_test_run();
}
