/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transport exec: a command whose stdin (outgoing) or stdout (incoming) is the channel.
 *
 * posix_spawn() starts it, since a process with many threads may do next to nothing between fork
 * and exec: own process group (a Ctrl-C at the terminal is not for it, and a kill reaches all of a
 * pipeline), no descriptor but 0, 1 and 2, signals at their defaults.
 *
 * How it ends: channel_finish() closes the stream and waits for the command; its exit status
 * decides. A channel dropped before that leaves the command to a reaper thread, which gives it a
 * moment to see the end of its input, then asks, then kills. After channel_shutdown() it is asked
 * at once.
 */
#include "transport-private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel-private.h"
#include "io/socket.h"
#include "util/error.h"

#define GRACE_MS        2000      /* each, before SIGTERM and before SIGKILL */
#define EXPLAIN_WAIT_MS 300       /* a command that broke the stream exits about now */
#define DRAIN_LIMIT     (1 << 20) /* bytes after the end of the stream before we give up on it */

extern char **environ;

struct command {
    pid_t pid;
    int pidfd;
    bool reaped;
    int status; /* of wait, when reaped */
};

static void command_free(struct command *cmd)
{
    close(cmd->pidfd);
    g_free(cmd);
}

/* Takes the exit status if the command has ended. */
static bool command_reap(struct command *cmd)
{
    pid_t r;

    if (cmd->reaped) {
        return true;
    }
    do {
        r = waitpid(cmd->pid, &cmd->status, WNOHANG);
    } while (r < 0 && errno == EINTR);
    if (r == 0) {
        return false;
    }
    if (r < 0) {
        cmd->status = 0; /* somebody else in the process took it */
    }
    cmd->reaped = true;
    return true;
}

static bool command_reap_within(struct command *cmd, unsigned ms)
{
    return command_reap(cmd) || (socket_wait(cmd->pidfd, POLLIN, -1, ms) > 0 && command_reap(cmd));
}

/* "the command exited with status 3", NULL for success. */
static char *command_failure(const struct command *cmd)
{
    if (WIFSIGNALED(cmd->status)) {
        return g_strdup_printf("the command was killed by signal %d (%s)", WTERMSIG(cmd->status),
                               strsignal(WTERMSIG(cmd->status)));
    }
    if (WIFEXITED(cmd->status) && WEXITSTATUS(cmd->status) != 0) {
        return g_strdup_printf("the command exited with status %d", WEXITSTATUS(cmd->status));
    }
    return NULL;
}

/* Reading has stopped at the end of the stream, but a command that still writes could not exit. */
static bool command_drain(struct channel *ch, GError **err)
{
    g_autofree char *scratch = g_malloc(65536);
    struct iovec iov = { .iov_base = scratch, .iov_len = 65536 };
    size_t total = 0;

    while (channel_read_fd(ch) >= 0) {
        ssize_t n = channel_readv(ch, &iov, 1, err);

        if (n < 0) {
            return false;
        }
        total += n;
        if (n == 0) {
            channel_close_read(ch);
        } else if (total > DRAIN_LIMIT) {
            error_set(err, FERRY_ERROR_PEER,
                      "The command of %s goes on writing after the end of the stream",
                      channel_name(ch));
            return false;
        }
    }
    return true;
}

static bool command_finish(struct channel *ch, void *opaque, GError **err)
{
    struct command *cmd = opaque;
    g_autofree char *failure = NULL;

    if (!command_drain(ch, err)) {
        return false;
    }
    while (!command_reap(cmd)) {
        if (!channel_wait_fd(ch, cmd->pidfd, POLLIN, "the command did not exit", err)) {
            return false;
        }
    }
    failure = command_failure(cmd);
    if (failure) {
        error_set(err, FERRY_ERROR_PEER, "The channel %s failed: %s", channel_name(ch), failure);
        return false;
    }
    return true;
}

static char *command_explain(struct channel *ch G_GNUC_UNUSED, void *opaque)
{
    struct command *cmd = opaque;

    return command_reap_within(cmd, EXPLAIN_WAIT_MS) ? command_failure(cmd) : NULL;
}

static gpointer reaper_thread(gpointer data)
{
    static const int signals[] = { SIGTERM, SIGKILL };
    struct command *cmd = data;

    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        if (command_reap_within(cmd, GRACE_MS)) {
            break;
        }
        /* not yet reaped, so the number cannot belong to anybody else */
        kill(-cmd->pid, signals[i]);
    }
    command_reap_within(cmd, GRACE_MS);
    command_free(cmd);
    return NULL;
}

static void command_destroy(void *opaque, bool was_shut_down)
{
    struct command *cmd = opaque;
    g_autoptr(GThread) thread = NULL;

    if (command_reap(cmd)) {
        command_free(cmd);
        return;
    }
    if (was_shut_down) {
        kill(-cmd->pid, SIGTERM);
    }
    thread = g_thread_try_new("exec-reaper", reaper_thread, cmd, NULL);
    if (!thread) {
        kill(-cmd->pid, SIGKILL);
        command_reap_within(cmd, GRACE_MS);
        command_free(cmd);
    }
}

static const struct channel_ops command_ops = {
    .finish = command_finish,
    .explain = command_explain,
    .destroy = command_destroy,
};

/* `ours` becomes descriptor `target` of the child, /dev/null the other of 0 and 1. 0 or an errno.
 */
static int spawn(char **argv, int ours, int target, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int errnum;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    if (target == STDIN_FILENO) {
        /* dup2 first: /dev/null may take the number that `ours` has */
        posix_spawn_file_actions_adddup2(&actions, ours, STDIN_FILENO);
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    } else {
        posix_spawn_file_actions_adddup2(&actions, ours, STDOUT_FILENO);
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    }
    posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    errnum = posix_spawn(pid, argv[0], &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return errnum;
}

static char *exec_text(const struct transport_address *addr)
{
    g_autofree char *words = NULL;

    if (g_strv_length(addr->argv) == 3 && strcmp(addr->argv[0], "/bin/sh") == 0 &&
        strcmp(addr->argv[1], "-c") == 0) {
        return g_strconcat("exec:", addr->argv[2], NULL);
    }
    words = g_strjoinv(" ", addr->argv);
    return g_strconcat("exec:", words, NULL);
}

static struct channel *exec_start(const struct transport_address *addr, bool writing, GError **err)
{
    g_autofree char *name = exec_text(addr);
    struct channel *ch;
    struct command *cmd;
    int pipe_fds[2], ours, theirs, errnum, pidfd;
    pid_t pid;

    if (!addr->argv || !addr->argv[0]) {
        error_set(err, FERRY_ERROR_USER, "An exec: address needs a command");
        return NULL;
    }
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to create a pipe for %s", name);
        return NULL;
    }
    ours = pipe_fds[writing ? 1 : 0];
    theirs = pipe_fds[writing ? 0 : 1];
    errnum = spawn(addr->argv, theirs, writing ? STDIN_FILENO : STDOUT_FILENO, &pid);
    close(theirs);
    if (errnum) {
        error_set_errno(err, FERRY_ERROR_HOST, errnum, "Failed to start the command '%s'",
                        addr->argv[0]);
        close(ours);
        return NULL;
    }
    pidfd = pidfd_open(pid, 0);
    ch = pidfd < 0 ? NULL : channel_new_fds(name, writing ? -1 : ours, writing ? ours : -1, err);
    if (!ch) {
        if (pidfd < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to watch the command of %s",
                            name);
            close(ours);
        } else {
            close(pidfd);
        }
        kill(-pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        return NULL;
    }
    cmd = g_new0(struct command, 1);
    cmd->pid = pid;
    cmd->pidfd = pidfd;
    channel_set_ops(ch, &command_ops, cmd);
    return ch;
}

static bool exec_parse(struct transport_address *addr, const char *rest, GError **err)
{
    const char *argv[] = { "/bin/sh", "-c", rest, NULL };

    if (!*rest) {
        error_set(err, FERRY_ERROR_USER, "An exec: address needs a command: use exec:COMMAND");
        return false;
    }
    addr->argv = g_strdupv((char **)argv);
    return true;
}

static struct channel *exec_connect(const struct transport_address *addr, int fd G_GNUC_UNUSED,
                                    int cancel_fd G_GNUC_UNUSED, unsigned timeout_ms G_GNUC_UNUSED,
                                    GError **err)
{
    return exec_start(addr, true, err);
}

static bool exec_listen(const struct transport_address *addr, int fd G_GNUC_UNUSED,
                        struct listener *l, GError **err)
{
    l->single = exec_start(addr, false, err);
    return l->single != NULL;
}

const struct transport_ops transport_exec_ops = {
    .scheme = "exec:",
    .parse = exec_parse,
    .text = exec_text,
    .connect = exec_connect,
    .listen = exec_listen,
};
