/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signals that end the program. The handler only writes who asked into a pipe; the main loop reads
 * it, says so, and asks for a shutdown, so that the end is the same orderly one as after `quit`.
 * The mask is left alone: children inherit nothing unusual.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "system/vm.h"
#include "util/error.h"

static const int signal_numbers[] = { SIGINT, SIGHUP, SIGTERM };

struct signal_note {
    int number;
    pid_t sender; /* 0: the kernel, for instance Ctrl-C */
};

/* Signals belong to the process, and so does this. */
static int pipe_fds[2] = { -1, -1 };
static guint pipe_source;

static void on_signal(int number, siginfo_t *info, void *context G_GNUC_UNUSED)
{
    struct signal_note note = { number, info->si_code <= 0 ? info->si_pid : 0 };
    int saved = errno;
    /* a full pipe means that the main loop has enough to read */
    ssize_t n = write(pipe_fds[1], &note, sizeof(note));

    (void)n;
    errno = saved;
}

static char *process_name(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%ld/cmdline", (long)pid);
    char *name = NULL;

    if (!g_file_get_contents(path, &name, NULL, NULL) || !name[0]) {
        g_free(name);
        return g_strdup("<unknown process>");
    }
    return name; /* arguments follow behind a NUL */
}

static gboolean on_pipe(gint fd, GIOCondition condition G_GNUC_UNUSED, gpointer opaque)
{
    struct vm *vm = opaque;
    struct signal_note note;

    while (read(fd, &note, sizeof(note)) == sizeof(note)) {
        if (note.sender) {
            g_autofree char *name = process_name(note.sender);

            report_error("terminating on signal %d from pid %ld (%s)", note.number,
                         (long)note.sender, name);
        } else {
            report_error("terminating on signal %d", note.number);
        }
        vm_request_shutdown(vm, SHUTDOWN_CAUSE_HOST_SIGNAL);
    }
    return G_SOURCE_CONTINUE;
}

bool signals_install(struct vm *vm, GError **err)
{
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot make a pipe for signals");
        return false;
    }
    pipe_source = g_unix_fd_add(pipe_fds[0], G_IO_IN, on_pipe, vm);
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < G_N_ELEMENTS(signal_numbers); i++) {
        struct sigaction before;

        /* what whoever started us wants ignored (nohup) stays ignored */
        if (sigaction(signal_numbers[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN) {
            continue;
        }
        sigaction(signal_numbers[i], &action, NULL);
    }
    return true;
}

void signals_remove(void)
{
    if (pipe_fds[0] < 0) {
        return;
    }
    /* the orderly end is under way already, and is not to be cut short */
    for (size_t i = 0; i < G_N_ELEMENTS(signal_numbers); i++) {
        struct sigaction before;

        if (sigaction(signal_numbers[i], NULL, &before) == 0 && before.sa_sigaction == on_signal) {
            signal(signal_numbers[i], SIG_IGN);
        }
    }
    g_source_remove(pipe_source);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    pipe_fds[0] = pipe_fds[1] = -1;
}
