/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disk images below the device: transfers by io_uring and by threads, with and without O_DIRECT,
 * locks, and the hand-over of a disk between two machines of this process (locks are of open files,
 * so one process is as good as two).
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "block/block.h"
#include "block/engine.h"
#include "qapi/json.h"
#include "system/vm-init.h"
#include "util/error.h"

#define MIB (1u << 20)

/* A machine with a thread that serves its completions. */
struct machine {
    struct vm *vm;
    GMainContext *context;
    atomic_bool stop;
    GThread *thread;
};

static GMainContext *test_context; /* of the machine that is made */

static GMainContext *context_of(struct vm *vm G_GNUC_UNUSED)
{
    return test_context;
}

static gpointer serve(gpointer opaque)
{
    struct machine *m = opaque;

    while (!atomic_load(&m->stop)) {
        g_main_context_iteration(m->context, TRUE);
    }
    return NULL;
}

static void machine_begin(struct machine *m, bool active, bool thread)
{
    m->vm = vm_new();
    m->context = test_context = g_main_context_new();
    m->vm->blocks = block_set_new(m->vm, context_of, active);
    atomic_init(&m->stop, false);
    m->thread = thread ? g_thread_new("virtio", serve, m) : NULL;
}

static void machine_end(struct machine *m)
{
    if (m->thread) {
        atomic_store(&m->stop, true);
        g_main_context_wakeup(m->context);
        vm_unlock(m->vm);
        g_thread_join(m->thread);
        vm_lock(m->vm);
    }
    block_set_free(m->vm->blocks);
    m->vm->blocks = NULL;
    g_main_context_unref(m->context);
    vm_free(m->vm);
}

static const struct block_user_ops user_ops = {};

static struct block_node *use(struct machine *m, const char *path, const char *more, GError **err)
{
    static unsigned number;
    g_autofree char *text = g_strdup_printf("{\"driver\": \"file\", \"filename\": \"%s\", "
                                            "\"node-name\": \"n%u\"%s}",
                                            path, ++number, more);
    g_autofree char *name = g_strdup_printf("n%u", number);
    g_autoptr(json_t) options = json_loads(text, 0, NULL);
    struct block_node *node;

    g_assert_nonnull(options);
    if (!block_open_blockdev(m->vm->blocks, options, true, err)) {
        return NULL;
    }
    node = block_find(m->vm->blocks, name);
    return block_attach(node, &user_ops, NULL, block_is_read_only(node), false, err) ? node : NULL;
}

static char *image(uint64_t length)
{
    g_autoptr(GError) err = NULL;
    char *path;
    int fd = g_file_open_tmp("ferry-block-XXXXXX", &path, &err);

    g_assert_no_error(err);
    g_assert_cmpint(ftruncate(fd, (off_t)length), ==, 0);
    close(fd);
    return path;
}

static void drop(char *path)
{
    unlink(path);
    g_free(path);
}

struct wait {
    struct block_request req; /* first */
    unsigned *left;
    int ret;
    bool done;
};

static void done(struct block_request *req, int ret)
{
    struct wait *w = (struct wait *)req;

    g_assert_false(w->done);
    w->done = true;
    w->ret = ret;
    if (w->left) {
        --*w->left;
    }
}

static int run(struct block_node *node, enum block_op op, uint64_t offset, uint64_t bytes,
               const struct iovec *iov, unsigned count, bool flag)
{
    struct wait w = { .req = { .op = op,
                               .offset = offset,
                               .bytes = bytes,
                               .iov = iov,
                               .iov_count = count,
                               .fua = flag && op == BLOCK_WRITE,
                               .unmap = flag && op == BLOCK_WRITE_ZEROES,
                               .done = done } };

    block_submit(node, &w.req);
    g_assert_false(w.done); /* never from inside */
    g_assert_true(block_drain(node, NULL));
    g_assert_true(w.done);
    return w.ret;
}

static int run_buffer(struct block_node *node, enum block_op op, uint64_t offset, void *buffer,
                      size_t length)
{
    struct iovec iov = { buffer, length };

    return run(node, op, offset, length, &iov, 1, true);
}

static void fill(char *at, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++) {
        at[i] = (char)((i * 7 + i / 251 + seed) & 0xff);
    }
}

static bool all_zero(const char *at, size_t length)
{
    return length == 0 || (at[0] == 0 && memcmp(at, at + 1, length - 1) == 0);
}

struct mode {
    const char *options;
    bool threads, served, direct;
};

/* Some image filesystems have no O_DIRECT. */
static bool skip_direct(const struct mode *mode, const char *path)
{
    int fd = mode->direct ? open(path, O_RDONLY | O_DIRECT | O_CLOEXEC) : -2;

    if (fd == -1) {
        g_test_skip("No O_DIRECT here");
        return true;
    }
    if (fd >= 0) {
        close(fd);
    }
    return false;
}

static void test_transfer(const void *opaque)
{
    const struct mode *mode = opaque;
    g_autoptr(GError) err = NULL;
    char *path = image(4 * MIB), *a = g_malloc(MIB + 4096), *b = g_malloc(MIB + 4096);
    struct machine m;
    struct block_node *node;
    char *at = (char *)(((uintptr_t)a + 4095) & ~UINT64_C(4095));

    if (skip_direct(mode, path)) {
        drop(path);
        return;
    }
    machine_begin(&m, true, mode->served);
    node = use(&m, path, mode->options, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(block_length(node), ==, 4 * MIB);

    fill(at, MIB, 1);
    g_assert_cmpint(run_buffer(node, BLOCK_WRITE, 4096, at, MIB), ==, 0);
    /* to an address that no alignment has */
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 4096, b + 3, MIB), ==, 0);
    g_assert_cmpmem(at, MIB, b + 3, MIB);
    g_assert_cmpint(run_buffer(node, BLOCK_WRITE, 2 * MIB, b + 3, MIB), ==, 0);
    memset(at, 0, MIB);
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 2 * MIB, at, MIB), ==, 0);
    g_assert_cmpmem(at, MIB, b + 3, MIB);
    g_assert_cmpint(run(node, BLOCK_FLUSH, 0, 0, NULL, 0, false), ==, 0);

    /* more pieces than a system call takes, uneven ones */
    struct iovec pieces[2048];
    for (unsigned i = 0; i < 2048; i++) {
        pieces[i].iov_base = b + i * 512 + (i & 1);
        pieces[i].iov_len = i & 1 ? 510 : 514;
        pieces[i].iov_base = b + (i / 2) * 1024 + (i & 1 ? 514 : 0);
    }
    memset(b, 0, MIB);
    g_assert_cmpint(run(node, BLOCK_READ, 4096, MIB, pieces, 2048, false), ==, 0);
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 4096, at, MIB), ==, 0);
    g_assert_cmpmem(b, MIB, at, MIB);

    g_assert_cmpint(run(node, BLOCK_WRITE_ZEROES, 8192, 65536, NULL, 0, false), ==, 0);
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 8192, at, 65536), ==, 0);
    g_assert_true(all_zero(at, 65536));
    g_assert_cmpint(run(node, BLOCK_WRITE_ZEROES, 2 * MIB, 65536, NULL, 0, true), ==, 0);
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 2 * MIB, at, 131072), ==, 0);
    g_assert_true(all_zero(at, 65536));
    g_assert_false(all_zero(at + 65536, 65536));
    g_assert_cmpint(run(node, BLOCK_DISCARD, 0, 4 * MIB, NULL, 0, false), ==, 0);

    /* outside */
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 4 * MIB, at, 4096), ==, -EIO);
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 4 * MIB - 4096, at, 8192), ==, -EIO);
    g_assert_cmpint(run_buffer(node, BLOCK_WRITE, UINT64_MAX - 511, at, 4096), ==, -EIO);
    g_assert_cmpint(run(node, BLOCK_WRITE_ZEROES, 4096, UINT64_MAX - 4095, NULL, 0, false), ==,
                    -EIO);

    block_detach(node);
    machine_end(&m);
    drop(path);
    g_free(a);
    g_free(b);
}

/* More at once than the ring has entries, each byte checked. */
static void test_many(const void *opaque)
{
    const struct mode *mode = opaque;
    enum { COUNT = 1500 };
    g_autoptr(GError) err = NULL;
    char *path = image(COUNT * 4096), *buffers = NULL;
    struct wait *w = g_new0(struct wait, COUNT);
    struct iovec *iov = g_new(struct iovec, COUNT);
    struct machine m;
    struct block_node *node;

    if (skip_direct(mode, path)) {
        drop(path);
        return;
    }
    g_assert_cmpint(posix_memalign((void **)&buffers, 4096, COUNT * 4096), ==, 0);
    machine_begin(&m, true, mode->served);
    node = use(&m, path, mode->options, &err);
    g_assert_no_error(err);
    for (unsigned pass = 0; pass < 2; pass++) {
        unsigned left = COUNT;

        if (pass) {
            memset(buffers, 0, COUNT * 4096);
        }
        block_plug(node);
        for (unsigned i = 0; i < COUNT; i++) {
            iov[i] = (struct iovec){ buffers + i * 4096, 4096 };
            w[i] = (struct wait){ .req = { .op = pass ? BLOCK_READ : BLOCK_WRITE,
                                           .offset = (uint64_t)i * 4096,
                                           .bytes = 4096,
                                           .iov = &iov[i],
                                           .iov_count = 1,
                                           .done = done },
                                  .left = &left };
            if (!pass) {
                fill(iov[i].iov_base, 4096, i);
            }
            block_submit(node, &w[i].req);
        }
        block_unplug(node);
        g_assert_true(block_drain_all(m.vm, NULL));
        g_assert_cmpuint(left, ==, 0);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        char want[4096];

        fill(want, sizeof(want), i);
        g_assert_cmpint(w[i].ret, ==, 0);
        g_assert_cmpmem(iov[i].iov_base, 4096, want, 4096);
    }
    block_detach(node);
    machine_end(&m);
    drop(path);
    free(buffers);
    g_free(w);
    g_free(iov);
}

/* A file that ends within a sector, and one that somebody cuts short. */
static void test_short(const void *opaque)
{
    const struct mode *mode = opaque;
    g_autoptr(GError) err = NULL;
    char *path = image(1000), buffer[2048];
    struct machine m;
    struct block_node *node;

    machine_begin(&m, true, mode->served);
    node = use(&m, path, mode->options, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(block_length(node), ==, 1024);
    fill(buffer, 1024, 3);
    g_assert_cmpint(run_buffer(node, BLOCK_WRITE, 0, buffer, 512), ==, 0);
    memset(buffer, 0xff, sizeof(buffer));
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 512, buffer, 512), ==, 0);
    g_assert_true(all_zero(buffer, 512));
    g_assert_cmpint(truncate(path, 100), ==, 0);
    memset(buffer, 0xff, sizeof(buffer));
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 0, buffer, 1024), ==, 0);
    g_assert_true(all_zero(buffer + 100, 924));
    g_assert_false(all_zero(buffer, 100));
    block_detach(node);
    machine_end(&m);
    drop(path);
}

static void test_read_only(void)
{
    g_autoptr(GError) err = NULL;
    char *path = image(MIB), buffer[512] = "";
    struct machine m;
    struct block_node *node;

    machine_begin(&m, true, true);
    node = use(&m, path, ", \"read-only\": true", &err);
    g_assert_no_error(err);
    g_assert_true(block_is_read_only(node));
    g_assert_cmpint(run_buffer(node, BLOCK_READ, 0, buffer, 512), ==, 0);
    g_assert_cmpint(run_buffer(node, BLOCK_WRITE, 0, buffer, 512), ==, -EPERM);
    g_assert_cmpint(run(node, BLOCK_DISCARD, 0, 512, NULL, 0, false), ==, -EPERM);
    g_assert_cmpint(run(node, BLOCK_FLUSH, 0, 0, NULL, 0, false), ==, 0);
    block_detach(node);
    g_assert_false(block_attach(node, &user_ops, NULL, false, false, &err));
    g_assert_cmpstr(err->message, ==, "Block node is read-only");
    machine_end(&m);
    drop(path);
}

static void assert_locked(struct machine *m, const char *path, const char *more, const char *kind)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *want = g_strdup_printf(
        "Failed to get %s lock: Is another process using the image [%s]?", kind, path);

    g_assert_null(use(m, path, more, &err));
    g_assert_cmpstr(err->message, ==, want);
}

static void test_locks(void)
{
    g_autoptr(GError) err = NULL;
    char *path = image(MIB);
    struct machine m;
    struct block_node *first, *second;
    const char *read_only = ", \"read-only\": true";

    machine_begin(&m, true, false);
    first = use(&m, path, "", &err);
    g_assert_no_error(err);
    assert_locked(&m, path, "", "\"write\"");
    assert_locked(&m, path, read_only, "shared \"write\"");
    second = use(&m, path, ", \"locking\": \"off\"", &err);
    g_assert_no_error(err);
    block_detach(second);
    second = use(&m, path, ", \"read-only\": true, \"force-share\": true", &err);
    g_assert_no_error(err);
    block_detach(second);
    block_detach(first);

    first = use(&m, path, read_only, &err);
    g_assert_no_error(err);
    second = use(&m, path, read_only, &err);
    g_assert_no_error(err);
    assert_locked(&m, path, "", "\"write\"");
    block_detach(first);
    block_detach(second);
    first = use(&m, path, "", &err);
    g_assert_no_error(err);
    block_detach(first);
    machine_end(&m);
    drop(path);
}

static int64_t dirty_image_length;

static void resized(void *opaque)
{
    dirty_image_length = (int64_t)block_length(*(struct block_node **)opaque);
}

/* A disk goes from one machine to another and comes back. */
static void test_handover(void)
{
    static const struct block_user_ops ops = { .resized = resized };
    g_autoptr(GError) err = NULL;
    char *path = image(MIB), buffer[512];
    struct machine a, b;
    struct block_node *here, *there;

    machine_begin(&a, true, true);
    here = use(&a, path, "", &err);
    g_assert_no_error(err);
    vm_unlock(a.vm);
    machine_begin(&b, false, true);
    there = use(&b, path, "", &err); /* without a lock: it waits for the guest */
    g_assert_no_error(err);
    block_detach(there);
    g_assert_true(block_attach(there, &ops, &there, false, false, &err));
    g_assert_false(block_is_active(b.vm));
    g_assert_cmpint(run_buffer(there, BLOCK_READ, 0, buffer, 512), ==, -EPERM);
    g_assert_false(block_activate_all(b.vm, &err)); /* too early */
    g_assert_nonnull(strstr(err->message, "Failed to get \"write\" lock"));
    g_clear_error(&err);
    vm_unlock(b.vm);

    vm_lock(a.vm);
    fill(buffer, sizeof(buffer), 9);
    g_assert_cmpint(run_buffer(here, BLOCK_WRITE, 0, buffer, 512), ==, 0);
    g_assert_true(block_inactivate_all(a.vm, &err));
    g_assert_no_error(err);
    g_assert_cmpint(run_buffer(here, BLOCK_WRITE, 0, buffer, 512), ==, -EPERM);
    g_assert_cmpint(truncate(path, 2 * MIB), ==, 0);
    vm_unlock(a.vm);

    vm_lock(b.vm);
    g_assert_true(block_activate_all(b.vm, &err));
    g_assert_no_error(err);
    g_assert_cmpint(dirty_image_length, ==, 2 * MIB);
    memset(buffer, 0, sizeof(buffer));
    g_assert_cmpint(run_buffer(there, BLOCK_READ, 0, buffer, 512), ==, 0);
    g_assert_false(all_zero(buffer, 512));
    vm_unlock(b.vm);

    vm_lock(a.vm);
    g_assert_false(block_activate_all(a.vm, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    vm_unlock(a.vm);
    vm_lock(b.vm);
    g_assert_true(block_inactivate_all(b.vm, &err));
    vm_unlock(b.vm);
    vm_lock(a.vm);
    g_assert_true(block_activate_all(a.vm, &err));
    g_assert_no_error(err);
    g_assert_cmpint(run_buffer(here, BLOCK_WRITE, 0, buffer, 512), ==, 0);
    block_detach(here);
    machine_end(&a);
    vm_lock(b.vm);
    block_detach(there);
    machine_end(&b);
    drop(path);
}

int main(int argc, char **argv)
{
    static const struct mode modes[] = {
        { ", \"aio\": \"threads\", \"discard\": \"unmap\"", true, true, false },
        { ", \"aio\": \"io_uring\", \"discard\": \"unmap\"", false, true, false },
        { ", \"aio\": \"io_uring\"", false, false, false },
        { ", \"aio\": \"threads\", \"cache\": {\"direct\": true}", true, false, true },
        { ", \"aio\": \"native\", \"discard\": \"unmap\", \"cache\": {\"direct\": true}", false,
          true, true },
    };
    bool uring = block_uring_possible(NULL);

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        const char *kind = modes[i].threads ? "threads" : "io_uring";

        if (!modes[i].threads && !uring) {
            continue; /* this host does not allow it */
        }
        g_autofree char *transfer = g_strdup_printf("/block/transfer/%s/%u", kind, i);
        g_autofree char *many = g_strdup_printf("/block/many/%s/%u", kind, i);
        g_autofree char *cut = g_strdup_printf("/block/short/%s/%u", kind, i);

        g_test_add_data_func(transfer, &modes[i], test_transfer);
        g_test_add_data_func(many, &modes[i], test_many);
        if (!modes[i].direct) {
            g_test_add_data_func(cut, &modes[i], test_short);
        }
    }
    g_test_add_func("/block/read-only", test_read_only);
    g_test_add_func("/block/locks", test_locks);
    g_test_add_func("/block/handover", test_handover);
    return g_test_run();
}
