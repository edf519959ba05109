/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw mode, and getting out of it again whatever happens.
 *
 * A terminal left in raw mode is unusable for the person at it, so it is put back at exit() and by
 * a handler of the signals that end a process. Handlers are installed only where the action is the
 * default; a signal that the program handles itself leads to exit() sooner or later. The handler
 * uses async-signal-safe calls only and then lets the signal do what it would have done.
 *
 * The state is static because the terminal belongs to the process, and a signal handler gets no
 * argument.
 */
#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <glib.h>

static struct {
    volatile sig_atomic_t raw;
    bool exit_hook;
    int fd;
    struct termios found;
    struct termios wanted;
} terminal;

static const int ending_signals[] = {
    SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT,
};

/* In the background the kernel answers tcsetattr() with SIGTTOU, which would stop us. */
static void set_mode(const struct termios *mode)
{
    sigset_t ttou, old;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    tcsetattr(terminal.fd, TCSANOW, mode);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void terminal_restore(void)
{
    if (terminal.raw) {
        terminal.raw = 0;
        set_mode(&terminal.found);
    }
}

static void on_ending_signal(int sig)
{
    int saved = errno;

    terminal_restore();
    errno = saved;
    /* SA_RESETHAND: this time it ends the process */
    raise(sig);
}

/* After a stop the shell has set its own mode. */
static void on_continue(int sig G_GNUC_UNUSED)
{
    int saved = errno;

    if (terminal.raw && tcgetpgrp(terminal.fd) == getpgrp()) {
        set_mode(&terminal.wanted);
    }
    errno = saved;
}

static void handle_default(int sig, void (*handler)(int), int flags)
{
    struct sigaction sa;

    if (sigaction(sig, NULL, &sa) < 0 || (sa.sa_flags & SA_SIGINFO) || sa.sa_handler != SIG_DFL) {
        return;
    }
    sa.sa_handler = handler;
    sa.sa_flags = flags;
    sigemptyset(&sa.sa_mask);
    sigaction(sig, &sa, NULL);
}

void terminal_make_raw(int fd, bool signals)
{
    if (terminal.raw || tcgetattr(fd, &terminal.found) < 0) {
        return;
    }
    terminal.fd = fd;
    terminal.wanted = terminal.found;
    cfmakeraw(&terminal.wanted);
    /* what the guest sends gets its carriage returns, as people expect of a console */
    terminal.wanted.c_oflag |= OPOST;
    if (signals) {
        terminal.wanted.c_lflag |= ISIG;
    }
    if (!terminal.exit_hook) {
        terminal.exit_hook = true;
        atexit(terminal_restore);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ending_signals); i++) {
        handle_default(ending_signals[i], on_ending_signal, SA_RESETHAND | SA_NODEFER);
    }
    handle_default(SIGCONT, on_continue, SA_RESTART);
    terminal.raw = 1;
    set_mode(&terminal.wanted);
}
