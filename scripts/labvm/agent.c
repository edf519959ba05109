/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs inside the lab's outer machine and does there what the host says over a virtio-serial port:
 * start processes, connect to UNIX sockets, read and write files. Linked statically, so that it
 * needs nothing else in the initramfs. The other end is link.py, which has the same numbers.
 *
 * Both directions carry frames: struct frame, then `length` bytes. A channel is a number that the
 * host chooses when it opens one (RUN, CONNECT, READ, WRITE); it lives until END was sent for it,
 * and END is the last frame of a channel. Each frame to the host has the time of day at which its
 * content was read here, so that the host can compare clocks without the port's delay.
 *
 * One thread, one poll() loop. Bytes for a process or socket that does not take them are kept in
 * memory; bytes for the host are written at once, since its reader never stops. Each RUN and
 * CONNECT has a deadline: a process group that is still there is killed. When the port fails
 * nothing can be reported any more, and the program ends; init then powers the machine off.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MAX_CHANNELS 128
#define CHUNK        65536
#define MAX_FRAME    (1u << 20)

struct frame {
    uint32_t length;
    uint32_t channel;
    uint32_t type;
    uint32_t value; /* its meaning depends on the type */
    uint64_t time;  /* CLOCK_REALTIME in ns, to the host only */
};

enum {
    /* from the host */
    F_RUN =
        1, /* value: flags; payload: u32 deadline in ms, u32 argc, argv and environment strings */
    F_CONNECT, /* value: deadline in ms; payload: path; tried until it works */
    F_READ,    /* payload: path */
    F_WRITE,   /* value: mode; payload: path */
    F_DATA,    /* for stdin, the socket or the file */
    F_EOF,     /* no more of it */
    F_SIGNAL,  /* value: signal, to the process group; other channels are closed */
    F_RESIZE,  /* value: rows << 16 | columns of the terminal */
    /* to the host */
    F_HELLO = 32, /* value: version of all this */
    F_OPEN,       /* value: pid, or 0 */
    F_OUT,        /* stdout, or what the socket or file gave */
    F_ERR,        /* stderr */
    F_END,        /* value: exit status, 128 + signal, or END_*; payload: reason */
};

enum {
    VERSION = 1,
    RUN_PTY = 1, /* on a terminal of its own */
    END_TIMEOUT = 1000,
    END_ERROR = 1001,
};

enum kind { FREE, PROCESS, SOCKET, FILE_OUT, FILE_IN };

struct channel {
    enum kind kind;
    uint32_t id;
    int in;         /* takes F_DATA, -1 when closed */
    int out, err;   /* give F_OUT and F_ERR, -1 when at their end */
    pid_t pid;      /* 0 when it has been waited for */
    int status;     /* of the process */
    int64_t end_ns; /* deadline on CLOCK_MONOTONIC, 0 for none */
    bool timed_out;
    bool eof;            /* close `in` once `pending` is empty */
    uint8_t *pending;    /* for `in` */
    size_t pending_size; /* bytes in it */
    char *path;          /* of a socket that is not there yet */
};

static struct channel channels[MAX_CHANNELS];
static int port = -1;

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void write_port(const void *data, size_t size)
{
    const uint8_t *p = data;

    while (size) {
        ssize_t n = write(port, p, size);

        if (n < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){ .fd = port, .events = POLLOUT }, 1, 1000);
        } else if (n < 0 && errno != EINTR) {
            fprintf(stderr, "agent: cannot write to the port: %s\n", strerror(errno));
            exit(1);
        } else if (n > 0) {
            p += n;
            size -= n;
        }
    }
}

/* Sends header and payload in one write, which is one request to the port. */
static void send_frame(uint32_t type, uint32_t id, uint32_t value, const void *data, size_t size)
{
    static uint8_t buffer[sizeof(struct frame) + CHUNK];
    struct frame frame = {
        .length = size, .channel = id, .type = type, .value = value, .time = now_ns(CLOCK_REALTIME)
    };

    memcpy(buffer, &frame, sizeof(frame));
    if (size) {
        memcpy(buffer + sizeof(frame), data, size);
    }
    write_port(buffer, sizeof(frame) + size);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void send_end(uint32_t id, uint32_t value, const char *reason)
{
    send_frame(F_END, id, value, reason, strlen(reason));
}

/* Closes what it has and forgets it; a process must be gone. */
static void channel_end(struct channel *c, uint32_t value, const char *reason)
{
    if (c->in >= 0 && c->in == c->out) {
        c->in = -1;
    }
    close_fd(&c->in);
    close_fd(&c->out);
    close_fd(&c->err);
    free(c->pending);
    free(c->path);
    send_end(c->id, value, reason);
    memset(c, 0, sizeof(*c));
}

static struct channel *channel_find(uint32_t id)
{
    for (int i = 0; i < MAX_CHANNELS; i++) {
        if (channels[i].kind != FREE && channels[i].id == id) {
            return &channels[i];
        }
    }
    return NULL;
}

static struct channel *channel_new(uint32_t id, enum kind kind)
{
    for (int i = 0; i < MAX_CHANNELS; i++) {
        struct channel *c = &channels[i];

        if (c->kind == FREE) {
            *c = (struct channel){ .kind = kind, .id = id, .in = -1, .out = -1, .err = -1 };
            return c;
        }
    }
    send_end(id, END_ERROR, "Too many channels");
    return NULL;
}

static void nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int open_terminal(char *name, size_t size)
{
    int fd = open("/dev/ptmx", O_RDWR | O_CLOEXEC | O_NOCTTY);

    if (fd >= 0 && (grantpt(fd) || unlockpt(fd) || ptsname_r(fd, name, size))) {
        close_fd(&fd);
    }
    return fd;
}

/* The child's side of do_run(); fds are its 0, 1 and 2. */
static void __attribute__((noreturn)) child(char **argv, char **envp, const int *fds, bool pty)
{
    int moved[3];
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    for (int i = 0; i < 3; i++) {
        moved[i] = fcntl(fds[i], F_DUPFD, 10);
    }
    for (int i = 0; i < 3; i++) {
        dup2(moved[i], i);
        close(moved[i]);
    }
    if (pty) {
        ioctl(0, TIOCSCTTY, 0);
    }
    environ = envp;
    execvp(argv[0], argv);
    fprintf(stderr, "agent: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Splits `size` bytes of NUL-terminated strings into argv (argc of them) and the environment. */
static char **split(char *data, size_t size, uint32_t argc, char ***envp)
{
    size_t count = 0;
    char **strings;

    for (size_t i = 0; i < size; i++) {
        count += !data[i];
    }
    if (!size || data[size - 1] || argc > count || !argc) {
        return NULL;
    }
    strings = calloc(count + 2, sizeof(*strings));
    *envp = strings + argc + 1;
    for (size_t i = 0; i < count; i++) {
        strings[i < argc ? i : i + 1] = data;
        data += strlen(data) + 1;
    }
    return strings;
}

static void do_run(const struct frame *f, uint8_t *payload)
{
    bool pty = f->value & RUN_PTY;
    int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 };
    char name[64];
    uint32_t head[2];
    char **argv = NULL, **envp = NULL;
    struct channel *c;

    if (f->length > sizeof(head)) {
        memcpy(head, payload, sizeof(head));
        argv = split((char *)payload + sizeof(head), f->length - sizeof(head), head[1], &envp);
    }
    c = argv ? channel_new(f->channel, PROCESS) : NULL;
    if (!c) {
        if (!argv) {
            send_end(f->channel, END_ERROR, "Bad RUN frame");
        }
        free(argv);
        return;
    }
    if (pty) {
        c->in = c->out = open_terminal(name, sizeof(name));
        in[0] = open(name, O_RDWR | O_CLOEXEC | O_NOCTTY);
        out[1] = err[1] = in[0];
    } else if (!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC)) {
        c->in = in[1];
        c->out = out[0];
        c->err = err[0];
    }
    if (in[0] < 0 || out[1] < 0 || err[1] < 0) {
        channel_end(c, END_ERROR, strerror(errno));
        free(argv);
        return;
    }
    nonblocking(c->in);
    if (head[0]) {
        c->end_ns = now_ns(CLOCK_MONOTONIC) + head[0] * 1000000LL;
    }
    c->pid = fork();
    if (!c->pid) {
        int fds[3] = { in[0], out[1], err[1] };

        child(argv, envp, fds, pty);
    }
    close(in[0]);
    if (!pty) {
        close(out[1]);
        close(err[1]);
    }
    free(argv);
    if (c->pid < 0) {
        c->pid = 0;
        channel_end(c, END_ERROR, strerror(errno));
        return;
    }
    send_frame(F_OPEN, c->id, c->pid, NULL, 0);
}

/* True when the wait is over, for good or for bad. */
static bool try_connect(struct channel *c)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", c->path);
    if (!connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        free(c->path);
        c->path = NULL;
        c->end_ns = 0;
        nonblocking(fd);
        c->in = c->out = fd;
        send_frame(F_OPEN, c->id, 0, NULL, 0);
        return true;
    }
    close(fd);
    if (now_ns(CLOCK_MONOTONIC) < c->end_ns) {
        return false;
    }
    channel_end(c, END_TIMEOUT, strerror(errno));
    return true;
}

static char *payload_string(const struct frame *f, const uint8_t *payload)
{
    return strndup((const char *)payload, f->length);
}

static void do_connect(const struct frame *f, const uint8_t *payload)
{
    struct channel *c = channel_new(f->channel, SOCKET);

    if (c) {
        c->path = payload_string(f, payload);
        c->end_ns = now_ns(CLOCK_MONOTONIC) + f->value * 1000000LL;
        try_connect(c);
    }
}

static void do_file(const struct frame *f, const uint8_t *payload)
{
    bool writes = f->type == F_WRITE;
    struct channel *c = channel_new(f->channel, writes ? FILE_IN : FILE_OUT);
    char *path;
    int fd;

    if (!c) {
        return;
    }
    path = payload_string(f, payload);
    fd = open(path, writes ? O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC : O_RDONLY | O_CLOEXEC,
              f->value);
    free(path);
    if (fd < 0) {
        channel_end(c, END_ERROR, strerror(errno));
        return;
    }
    if (writes) {
        fchmod(fd, f->value);
        c->in = fd;
    } else {
        c->out = fd;
    }
    send_frame(F_OPEN, c->id, 0, NULL, 0);
}

/* Writes what is pending; what is left stays pending. */
static void flush_in(struct channel *c)
{
    while (c->pending_size && c->in >= 0) {
        ssize_t n = write(c->in, c->pending, c->pending_size);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n < 0) {
            if (c->kind == FILE_IN) {
                channel_end(c, END_ERROR, strerror(errno));
                return;
            }
            c->pending_size = 0; /* nobody reads any more */
            c->eof = true;
            break;
        }
        c->pending_size -= n;
        memmove(c->pending, c->pending + n, c->pending_size);
    }
    if (!c->eof || c->in < 0) {
        return;
    }
    if (c->kind == FILE_IN) {
        channel_end(c, 0, "");
    } else if (c->kind == SOCKET) {
        shutdown(c->in, SHUT_WR);
        c->in = -1; /* `out` is the same descriptor */
    } else if (c->in == c->out) {
        c->in = -1;
    } else {
        close_fd(&c->in);
    }
}

static void do_signal(struct channel *c, int signal)
{
    if (c->kind != PROCESS) {
        channel_end(c, 0, "");
    } else if (c->pid && kill(-c->pid, signal)) {
        kill(c->pid, signal); /* it has not called setsid() yet */
    }
}

static void handle(const struct frame *f, uint8_t *payload)
{
    struct channel *c = channel_find(f->channel);

    switch (f->type) {
    case F_RUN:
        do_run(f, payload);
        break;
    case F_CONNECT:
        do_connect(f, payload);
        break;
    case F_READ:
    case F_WRITE:
        do_file(f, payload);
        break;
    case F_DATA:
        if (c && c->in >= 0 && !c->eof) {
            c->pending = realloc(c->pending, c->pending_size + f->length);
            memcpy(c->pending + c->pending_size, payload, f->length);
            c->pending_size += f->length;
            flush_in(c);
        }
        break;
    case F_EOF:
        if (c) {
            c->eof = true;
            flush_in(c);
        }
        break;
    case F_SIGNAL:
        if (c) {
            do_signal(c, f->value);
        }
        break;
    case F_RESIZE:
        if (c && c->in >= 0) {
            struct winsize size = { .ws_row = f->value >> 16, .ws_col = f->value & 0xffff };

            ioctl(c->in, TIOCSWINSZ, &size);
        }
        break;
    default:
        fprintf(stderr, "agent: unknown frame type %u\n", f->type);
        exit(1);
    }
}

static void read_port(void)
{
    static uint8_t buffer[sizeof(struct frame) + MAX_FRAME];
    static size_t have;
    ssize_t n = read(port, buffer + have, sizeof(buffer) - have);
    struct frame frame;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        usleep(100000); /* the host is not there: it may come back */
        return;
    }
    have += n;
    while (have >= sizeof(frame)) {
        memcpy(&frame, buffer, sizeof(frame));
        if (frame.length > MAX_FRAME) {
            fprintf(stderr, "agent: a frame of %u bytes\n", frame.length);
            exit(1);
        }
        if (have < sizeof(frame) + frame.length) {
            return;
        }
        handle(&frame, buffer + sizeof(frame));
        have -= sizeof(frame) + frame.length;
        memmove(buffer, buffer + sizeof(frame) + frame.length, have);
    }
}

static void read_channel(struct channel *c, int *fd, uint32_t type)
{
    static uint8_t buffer[CHUNK];
    ssize_t n = read(*fd, buffer, sizeof(buffer));

    if (n > 0) {
        send_frame(type, c->id, 0, buffer, n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (c->kind == PROCESS) {
            if (c->in == *fd) {
                c->in = -1;
            }
            close_fd(fd);
        } else {
            channel_end(c, 0, "");
        }
    }
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < MAX_CHANNELS; i++) {
            if (channels[i].kind == PROCESS && channels[i].pid == pid) {
                channels[i].pid = 0;
                channels[i].status =
                    WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            }
        }
    }
}

/* Whether there is something to read or a hang-up now. */
static bool readable(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return fd >= 0 && poll(&p, 1, 0) > 0;
}

/* Deadlines, sockets that appear, processes that are gone. */
static void look_after(struct channel *c)
{
    if (c->kind == SOCKET && c->path) {
        try_connect(c);
        return;
    }
    if (c->kind != PROCESS) {
        return;
    }
    if (c->pid && c->end_ns && now_ns(CLOCK_MONOTONIC) > c->end_ns && !c->timed_out) {
        c->timed_out = true;
        do_signal(c, SIGKILL);
    }
    /* A grandchild in the background may hold the pipes: what is there already is all we take. */
    if (!c->pid && !readable(c->out) && !readable(c->err)) {
        channel_end(c, c->timed_out ? END_TIMEOUT : c->status, "");
    }
}

static bool must_look_soon(void)
{
    for (int i = 0; i < MAX_CHANNELS; i++) {
        if ((channels[i].kind == SOCKET && channels[i].path) ||
            (channels[i].kind == PROCESS && !channels[i].pid)) {
            return true;
        }
    }
    return false;
}

static void add(struct pollfd *fds, int *count, int fd, short events)
{
    if (fd >= 0) {
        fds[(*count)++] = (struct pollfd){ .fd = fd, .events = events };
    }
}

static short events_of(const struct pollfd *fds, int count, int fd)
{
    for (int i = 0; fd >= 0 && i < count; i++) {
        if (fds[i].fd == fd && fds[i].revents) {
            return fds[i].revents;
        }
    }
    return 0;
}

static void loop(void)
{
    struct pollfd fds[1 + 4 * MAX_CHANNELS];

    for (;;) {
        int count = 0;

        add(fds, &count, port, POLLIN);
        for (int i = 0; i < MAX_CHANNELS; i++) {
            struct channel *c = &channels[i];

            if (c->kind != FREE) {
                add(fds, &count, c->kind == FILE_IN ? -1 : c->out, POLLIN);
                add(fds, &count, c->err, POLLIN);
                add(fds, &count, c->pending_size ? c->in : -1, POLLOUT);
            }
        }
        /* SIGCHLD interrupts it */
        poll(fds, count, must_look_soon() ? 10 : 500);
        reap();
        for (int i = 0; i < MAX_CHANNELS; i++) {
            struct channel *c = &channels[i];
            uint32_t id = c->id;

            if (c->kind != FREE && c->pending_size && events_of(fds, count, c->in)) {
                flush_in(c);
            }
            if (c->kind != FREE && c->id == id && events_of(fds, count, c->err)) {
                read_channel(c, &c->err, F_ERR);
            }
            if (c->kind != FREE && c->id == id && events_of(fds, count, c->out)) {
                read_channel(c, &c->out, F_OUT);
            }
            if (c->kind != FREE && c->id == id) {
                look_after(c);
            }
        }
        if (events_of(fds, count, port)) {
            read_port();
        }
    }
}

static void on_child(int signal)
{
    (void)signal;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_child };

    if (argc != 2 || (port = open(argv[1], O_RDWR | O_CLOEXEC | O_NONBLOCK)) < 0) {
        fprintf(stderr, "usage: agent PORT: %s\n", strerror(errno));
        return 1;
    }
    sigaction(SIGCHLD, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    send_frame(F_HELLO, 0, VERSION, NULL, 0);
    loop();
}
