/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor under a guest's stall in post-copy: a process touches pages of which another process
 * has the content, and nothing else happens.
 *
 *   fault-floor private|shared|huge FAULTS
 *
 * One thread touches FAULTS pages of new memory in random order and times each touch. A second one
 * takes the fault from userfaultfd, sends a request of eight bytes over a UNIX socket, reads a
 * record's head and the page into a buffer, and places it with UFFDIO_COPY, which wakes the first.
 * The other process answers requests, page data by reference. No background stream is in the way
 * and nobody looks anything up. "huge" has pages of 2 MiB, which must be reserved.
 *
 * Host pages for the memory are touched and given back first. Prints one JSON object; any failure
 * ends all with status 1.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define SMALL_BYTES 4096u
#define HUGE_BYTES  (2u << 20)
#define FAULTS_MAX  1000000u

static const struct kind {
    const char *name;
    int flags;
    uint32_t page;
} kinds[] = {
    { "private", MAP_PRIVATE | MAP_ANONYMOUS, SMALL_BYTES },
    { "shared", MAP_SHARED | MAP_ANONYMOUS, SMALL_BYTES },
    { "huge", MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, HUGE_BYTES },
};

struct floor {
    const struct kind *kind;
    uint64_t pages;
    uint8_t *memory; /* faults are answered here */
    uint8_t *buffer; /* one page */
    int uffd, sock;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint8_t *map(const struct kind *kind, uint64_t pages, int more)
{
    uint8_t *p = mmap(NULL, pages * kind->page, PROT_READ | PROT_WRITE, kind->flags | more, -1, 0);

    if (p == MAP_FAILED) {
        err(1, "Cannot map %" PRIu64 " pages of %u bytes", pages, kind->page);
    }
    return p;
}

static void transfer(int fd, struct iovec *iov, int count, int out)
{
    while (count) {
        ssize_t n = out ? writev(fd, iov, count) : readv(fd, iov, count);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errx(1, "The connection broke: %s", n ? strerror(errno) : "closed");
        }
        while (count && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
}

/* The other process. */
static void answer(int sock, const struct kind *kind, uint64_t pages)
{
    uint8_t *memory =
        map(&(struct kind){ "", MAP_PRIVATE | MAP_ANONYMOUS, kind->page }, pages, MAP_POPULATE);
    uint64_t page;

    for (uint64_t i = 0; i < pages; i++) {
        memory[i * kind->page] = (uint8_t)(i % 251 + 1);
    }
    page = 0;
    transfer(sock, &(struct iovec){ &page, sizeof(page) }, 1, 1); /* ready */
    for (;;) {
        transfer(sock, &(struct iovec){ &page, sizeof(page) }, 1, 0);
        if (page >= pages) {
            _exit(0);
        }
        struct iovec iov[] = { { &page, sizeof(page) },
                               { memory + page * kind->page, kind->page } };

        transfer(sock, iov, 2, 1);
    }
}

static void *serve(void *opaque)
{
    const struct floor *f = opaque;
    struct uffd_msg msg;

    for (uint64_t i = 0; i < f->pages; i++) {
        if (read(f->uffd, &msg, sizeof(msg)) != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT) {
            err(1, "Cannot read a fault");
        }
        uint64_t page = (msg.arg.pagefault.address - (uintptr_t)f->memory) / f->kind->page, got;

        transfer(f->sock, &(struct iovec){ &page, sizeof(page) }, 1, 1);
        struct iovec iov[] = { { &got, sizeof(got) }, { f->buffer, f->kind->page } };

        transfer(f->sock, iov, 2, 0);
        struct uffdio_copy copy = {
            .dst = (uintptr_t)f->memory + page * f->kind->page,
            .src = (uintptr_t)f->buffer,
            .len = f->kind->page,
        };

        if (got != page || ioctl(f->uffd, UFFDIO_COPY, &copy)) {
            err(1, "Cannot place page %" PRIu64, page);
        }
    }
    return NULL;
}

static void watch(struct floor *f)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register reg = {
        .range = { (uintptr_t)f->memory, f->pages * f->kind->page },
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    f->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (f->uffd < 0 || ioctl(f->uffd, UFFDIO_API, &api) || ioctl(f->uffd, UFFDIO_REGISTER, &reg)) {
        err(1, "Cannot use userfaultfd");
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    struct floor f = { 0 };
    int fds[2];

    for (size_t i = 0; argc == 3 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!strcmp(argv[1], kinds[i].name)) {
            f.kind = &kinds[i];
        }
    }
    f.pages = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (!f.kind || !f.pages || f.pages > FAULTS_MAX) {
        errx(2, "usage: fault-floor private|shared|huge FAULTS");
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        err(1, "Cannot make a pair of sockets");
    }
    pid_t child = fork();

    if (child < 0) {
        err(1, "Cannot make the second process");
    }
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        answer(fds[1], f.kind, f.pages);
    }
    close(fds[1]);
    f.sock = fds[0];

    uint64_t *took = calloc(f.pages, sizeof(*took)), *order = calloc(f.pages, sizeof(*order)), word;
    pthread_t thread;

    f.buffer =
        map(&(struct kind){ "", MAP_PRIVATE | MAP_ANONYMOUS, f.kind->page }, 1, MAP_POPULATE);
    if (!took || !order) {
        err(1, "No memory");
    }
    for (uint64_t i = 0; i < f.pages; i++) {
        uint64_t j = (uint64_t)random() % (i + 1);

        order[i] = order[j];
        order[j] = i;
    }
    transfer(f.sock, &(struct iovec){ &word, sizeof(word) }, 1, 0);
    munmap(map(f.kind, f.pages, MAP_POPULATE), f.pages * f.kind->page);
    f.memory = map(f.kind, f.pages, 0);
    watch(&f);
    if (pthread_create(&thread, NULL, serve, &f)) {
        errx(1, "Cannot make the thread that answers faults");
    }
    for (uint64_t i = 0; i < f.pages; i++) {
        uint64_t begun = now_ns();
        uint8_t is = ((volatile uint8_t *)f.memory)[order[i] * f.kind->page];

        took[i] = now_ns() - begun;
        if (is != order[i] % 251 + 1) {
            errx(1, "Page %" PRIu64 " arrived wrong", order[i]);
        }
    }
    pthread_join(thread, NULL);
    word = UINT64_MAX;
    transfer(f.sock, &(struct iovec){ &word, sizeof(word) }, 1, 1);
    waitpid(child, NULL, 0);
    qsort(took, f.pages, sizeof(*took), compare);
    printf("{\"stalls\": %" PRIu64 ", \"stall_p50_us\": %.2f, \"stall_p99_us\": %.2f, "
           "\"stall_max_us\": %.2f}\n",
           f.pages, (double)took[f.pages / 2] / 1e3, (double)took[f.pages * 99 / 100] / 1e3,
           (double)took[f.pages - 1] / 1e3);
    free(took);
    free(order);
    return 0;
}
