/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads from tests/lab/tools/streamer.c over TCP and compares each byte, in the guest:
 *
 *     download NAME ADDRESS PORT LINE_MS
 *
 *     LOAD user 17 bytes=123456 bad=0 connections=1 gap_ms=80
 *
 * A connection that ends, or that nothing has come of for QUIET_MS, is made anew and goes on where
 * the last one stopped: user networking's connections stay on the host that the guest has left,
 * those over a tap must not end (connections=1). gap_ms is the longest time without a byte so far.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "content.h"

#define QUIET_MS 8000
#define AGAIN_US 200000

struct download {
    const char *name;
    bool gives_up;
    struct sockaddr_in address;
    int line_ms;
    uint64_t bytes; /* in whole words */
    unsigned int tail;
    unsigned long bad, connections, line;
    int64_t next, last, gap;
    union {
        uint64_t words[8192];
        char bytes[65536];
    } buffer;
};

static struct download download;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* A connection that serves from d->bytes on; -1 when there is none yet. */
static int connect_to(struct download *d)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, idle = 1, tries = 5;

    if (d->gives_up) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
    }
    if (connect(fd, (struct sockaddr *)&d->address, sizeof(d->address)) ||
        write(fd, &d->bytes, sizeof(d->bytes)) != sizeof(d->bytes)) {
        close(fd);
        return -1;
    }
    d->tail = 0;
    d->connections++;
    return fd;
}

/* Compares what is in the buffer, `size` bytes, and keeps what is not a whole word. */
static void compare(struct download *d, size_t size)
{
    size_t words = size / 8;

    for (size_t i = 0; i < words; i++) {
        uint64_t at = d->bytes / 8 + i;

        if (d->buffer.words[i] != content_word(0, at) && !d->bad++) {
            fprintf(stderr, "download: %s: word %llu is %llx, not %llx\n", d->name,
                    (unsigned long long)at, (unsigned long long)d->buffer.words[i],
                    (unsigned long long)content_word(0, at));
        }
    }
    d->bytes += words * 8;
    d->tail = size % 8;
    memmove(d->buffer.bytes, d->buffer.bytes + words * 8, d->tail);
}

static void say(struct download *d)
{
    int64_t now = now_ms();

    if (now < d->next) {
        return;
    }
    d->next = now + d->line_ms;
    printf("LOAD %s %lu bytes=%llu bad=%lu connections=%lu gap_ms=%lld\n", d->name, d->line++,
           (unsigned long long)d->bytes, d->bad, d->connections, (long long)d->gap);
}

/* Until the connection ends or goes quiet. */
static void receive(struct download *d, int fd)
{
    int64_t quiet = now_ms();

    while (!d->gives_up || now_ms() - quiet < QUIET_MS) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, d->line_ms) > 0) {
            n = read(fd, d->buffer.bytes + d->tail, sizeof(d->buffer) - d->tail);
            if (n <= 0) {
                return;
            }
            quiet = now_ms();
            if (d->last && quiet - d->last > d->gap) {
                d->gap = quiet - d->last;
            }
            d->last = quiet;
            compare(d, d->tail + n);
        }
        say(d);
    }
}

int main(int argc, char **argv)
{
    struct download *d = &download;

    if (argc != 5 || inet_pton(AF_INET, argv[2], &d->address.sin_addr) != 1) {
        fprintf(stderr, "usage: download NAME ADDRESS PORT LINE_MS\n");
        return 2;
    }
    d->name = argv[1];
    d->gives_up = !strcmp(d->name, "user");
    d->address.sin_family = AF_INET;
    d->address.sin_port = htons(atoi(argv[3]));
    d->line_ms = atoi(argv[4]);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (;;) {
        int fd = connect_to(d);

        if (fd >= 0) {
            receive(d, fd);
            close(fd);
        }
        say(d);
        usleep(AGAIN_US);
    }
}
