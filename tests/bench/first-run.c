/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loaded with LD_PRELOAD into a VMM: writes the monotonic time of the first KVM_RUN, in ns and as
 * text, into the file that FIRST_RUN names. Both programs call ioctl() of the C library, so both
 * are measured at the same place and at the same cost.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_flag seen = ATOMIC_FLAG_INIT;

static void note(void)
{
    const char *path = getenv("FIRST_RUN");
    struct timespec now;
    char text[32];
    int fd;

    clock_gettime(CLOCK_MONOTONIC, &now);
    fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        int len = snprintf(text, sizeof(text), "%lld%09ld\n", (long long)now.tv_sec, now.tv_nsec);

        if (write(fd, text, (size_t)len) != len) {
            unlink(path); /* nothing is better than half a number */
        }
        close(fd);
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (!real) {
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    }
    if (request == KVM_RUN && !atomic_flag_test_and_set(&seen)) {
        note();
    }
    return real(fd, request, arg);
}
