/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -daemonize and -pidfile.
 *
 * The parent learns by one byte through a pipe that the child is ready; when the pipe closes
 * without it, the child has failed and has said why on the terminal, which it still shares. The pid
 * file is created by the child, because a lock of the parent would end with the parent.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

static int ready_fd = -1; /* in the child: writing end of the pipe */

static struct {
    int fd;
    char *path;
    dev_t dev;
    ino_t ino;
} pidfile = { .fd = -1 };

/* In the parent: never returns. */
static void wait_for_child(int fd)
{
    char byte;
    ssize_t n;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    _exit(n == 1 ? 0 : 1);
}

bool daemonize_begin(GError **err)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot make a pipe for -daemonize");
        return false;
    }
    pid = fork();
    if (pid < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot fork for -daemonize");
        close(fds[0]);
        close(fds[1]);
        return false;
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    ready_fd = fds[1];
    setsid();
    umask(027);
    return true;
}

bool daemonize_ready(GError **err)
{
    int null;
    ssize_t n;

    if (ready_fd < 0) {
        return true;
    }
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || chdir("/") < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot leave the terminal for -daemonize");
        return false;
    }
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    if (null > STDERR_FILENO) {
        close(null);
    }
    do {
        n = write(ready_fd, "", 1);
    } while (n < 0 && errno == EINTR);
    close(ready_fd);
    ready_fd = -1;
    return true;
}

static bool pidfile_fail(int fd, const char *what, const char *path, GError **err)
{
    error_set_errno(err, FERRY_ERROR_HOST, errno, "cannot create PID file: %s '%s'", what, path);
    if (fd >= 0) {
        close(fd);
    }
    return false;
}

/* Opens and locks the file; again when its holder removed it in between. */
static int pidfile_lock(const char *path, struct stat *st, GError **err)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    for (;;) {
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        struct stat now;

        if (fd < 0) {
            pidfile_fail(-1, "Could not create", path, err);
            return -1;
        }
        if (fcntl(fd, F_SETLK, &lock) < 0 || fstat(fd, st) < 0) {
            pidfile_fail(fd, "Cannot lock", path, err);
            return -1;
        }
        if (stat(path, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino) {
            return fd;
        }
        close(fd);
    }
}

bool pidfile_create(const char *path, GError **err)
{
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    struct stat st;
    int fd = pidfile_lock(path, &st, err);

    if (fd < 0) {
        return false;
    }
    if (ftruncate(fd, 0) < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        return pidfile_fail(fd, "Cannot write", path, err);
    }
    pidfile.fd = fd;
    /* the working directory changes when the process goes into the background */
    pidfile.path = g_canonicalize_filename(path, NULL);
    pidfile.dev = st.st_dev;
    pidfile.ino = st.st_ino;
    return true;
}

void pidfile_remove(void)
{
    struct stat st;

    if (pidfile.fd < 0) {
        return;
    }
    if (stat(pidfile.path, &st) == 0 && st.st_dev == pidfile.dev && st.st_ino == pidfile.ino) {
        unlink(pidfile.path);
    }
    close(pidfile.fd);
    pidfile.fd = -1;
    g_clear_pointer(&pidfile.path, g_free);
}
