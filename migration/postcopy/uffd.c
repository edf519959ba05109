/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See migration/postcopy/uffd.h; the interface is the kernel's (userfaultfd(2),
 * ioctl_userfaultfd(2)). */
#include "migration/postcopy/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "system/memory.h"
#include "util/error.h"

/* Linux 6.1; the headers of older systems do not have it. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define READ_MAX 128u

static int open_any(GError **err)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), why = errno;

    if (fd < 0 && (why == EPERM || why == ENOSYS)) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        if (device >= 0) {
            fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
            close(device);
        }
    }
    if (fd < 0 && why == EPERM) {
        error_set(err, FERRY_ERROR_HOST,
                  "Post-copy needs userfaultfd, which this host does not permit to this process: "
                  "make /dev/userfaultfd accessible to its user, or set the sysctl "
                  "vm.unprivileged_userfaultfd to 1");
    } else if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, why,
                        "Post-copy needs userfaultfd, which this host does not offer");
    }
    return fd;
}

/* For tests: FERRY_UFFD_HIDE has features that are not used, as on an older kernel. */
static uint64_t hidden_features(void)
{
    const char *hide = g_getenv("FERRY_UFFD_HIDE");

    return hide ? g_ascii_strtoull(hide, NULL, 0) : 0;
}

/* What the kernel knows; a descriptor answers this once. */
bool uffd_known_features(uint64_t *known, GError **err)
{
    struct uffdio_api api = { .api = UFFD_API };
    int fd = open_any(err);
    bool ok;

    if (fd < 0) {
        return false;
    }
    ok = ioctl(fd, UFFDIO_API, &api) == 0;
    if (!ok) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Post-copy needs userfaultfd in a version that this host does not offer");
    }
    *known = api.features & ~hidden_features();
    close(fd);
    return ok;
}

int uffd_open(uint64_t need, uint64_t want, uint64_t *have, GError **err)
{
    struct uffdio_api api = { .api = UFFD_API };
    uint64_t known;
    int fd;

    if (!uffd_known_features(&known, err)) {
        return -1;
    }
    if (need & ~known) {
        error_set(err, FERRY_ERROR_HOST,
                  "Post-copy needs a newer kernel for this kind of memory (userfaultfd lacks the "
                  "features 0x%" PRIx64 "): use a memory-backend-ram without share=on",
                  need & ~known);
        return -1;
    }
    api.features = need | (want & known);
    fd = open_any(err);
    if (fd < 0) {
        return -1;
    }
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot set up userfaultfd");
        close(fd);
        return -1;
    }
    if (have) {
        *have = need | (want & known);
    }
    return fd;
}

static uint64_t address(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

bool uffd_register(int fd, void *start, uint64_t length, bool minor)
{
    struct uffdio_register r = {
        .range = { .start = address(start), .len = length },
        .mode = UFFDIO_REGISTER_MODE_MISSING | (minor ? UFFDIO_REGISTER_MODE_MINOR : 0),
    };

    return ioctl(fd, UFFDIO_REGISTER, &r) == 0;
}

bool uffd_unregister(int fd, void *start, uint64_t length)
{
    struct uffdio_range r = { .start = address(start), .len = length };

    return ioctl(fd, UFFDIO_UNREGISTER, &r) == 0;
}

int uffd_read(int fd, struct uffd_fault *faults, unsigned max)
{
    struct uffd_msg msgs[READ_MAX];
    ssize_t got;
    int n = 0;

    do {
        got = read(fd, msgs, MIN(max, READ_MAX) * sizeof(msgs[0]));
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == EAGAIN ? 0 : -1;
    }
    for (unsigned i = 0; i < (size_t)got / sizeof(msgs[0]); i++) {
        if (msgs[i].event == UFFD_EVENT_PAGEFAULT) { /* no other was asked for */
            faults[n++] = (struct uffd_fault){
                .address = msgs[i].arg.pagefault.address,
                .tid = (int32_t)msgs[i].arg.pagefault.feat.ptid,
                .minor = msgs[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR,
            };
        }
    }
    return n;
}

void uffd_wake(int fd, void *start, uint64_t length)
{
    struct uffdio_range r = { .start = address(start), .len = length };

    (void)ioctl(fd, UFFDIO_WAKE, &r); /* only fails for a range that is not registered */
}

/*
 * After a request for a range that begins at `at`: how far it has come, or that a page is there
 * already. `result` is the request's own: bytes, or a negative errno. 0: it cannot go on; errno.
 */
static uint64_t went_on(int fd, void *at, int64_t result, uint64_t page_size)
{
    int why = errno;

    if (result > 0) {
        return (uint64_t)result;
    }
    if (why == EEXIST) {
        unsigned char there = 1;

        /* of a huge page the kernel also says so when it has none left to give */
        if (page_size > TARGET_PAGE_SIZE && mincore(at, TARGET_PAGE_SIZE, &there) == 0 &&
            !(there & 1)) {
            errno = ENOMEM;
            return 0;
        }
        uffd_wake(fd, at, page_size);
        return page_size;
    }
    errno = why;
    return 0;
}

/* One request of the kernel for a range: all of it was done, or what it says it has done. */
typedef int64_t request(int fd, uint64_t to, uint64_t from, uint64_t length);

static int64_t request_copy(int fd, uint64_t to, uint64_t from, uint64_t length)
{
    struct uffdio_copy c = { .dst = to, .src = from, .len = length };

    return ioctl(fd, UFFDIO_COPY, &c) == 0 ? (int64_t)length : c.copy;
}

static int64_t request_zero(int fd, uint64_t to, uint64_t from, uint64_t length)
{
    struct uffdio_zeropage z = { .range = { .start = to, .len = length } };

    (void)from;
    return ioctl(fd, UFFDIO_ZEROPAGE, &z) == 0 ? (int64_t)length : z.zeropage;
}

static int64_t request_continue(int fd, uint64_t to, uint64_t from, uint64_t length)
{
    struct uffdio_continue c = { .range = { .start = to, .len = length } };

    (void)from;
    return ioctl(fd, UFFDIO_CONTINUE, &c) == 0 ? (int64_t)length : c.mapped;
}

/* The whole range, however often the kernel stops in the middle. False: errno. */
static bool place(int fd, void *to, const void *from, uint64_t length, uint64_t page_size,
                  request *one)
{
    uint64_t done = 0;

    while (done < length) {
        uint8_t *at = (uint8_t *)to + done;
        int64_t result = one(fd, address(at), address(from) + done, length - done);
        uint64_t step = went_on(fd, at, result, page_size);

        if (!step && errno == EAGAIN) {
            sched_yield(); /* somebody is changing this process's mappings */
        } else if (!step) {
            return false;
        }
        done += step;
    }
    return true;
}

bool uffd_copy(int fd, void *to, const void *from, uint64_t length, uint64_t page_size)
{
    return place(fd, to, from, length, page_size, request_copy);
}

bool uffd_zero(int fd, void *to, uint64_t length, uint64_t page_size)
{
    return place(fd, to, NULL, length, page_size, request_zero);
}

bool uffd_continue(int fd, void *to, uint64_t length, uint64_t page_size)
{
    return place(fd, to, NULL, length, page_size, request_continue);
}
