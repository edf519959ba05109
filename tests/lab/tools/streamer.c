/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Serves what tests/lab/guest/download.c reads, in the outer machine:
 *
 *     streamer PORT CHUNK INTERVAL_MS
 *
 * Who connects sends the offset at which to begin, eight bytes; from there on CHUNK bytes come
 * every INTERVAL_MS, so that a download works the network all the time and leaves the one CPU to
 * others. Each connection has a process; all end with the process group. Prints "STREAMER" when it
 * listens.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../guest/content.h"

#define MAX_CHUNK 65536

static void serve(int fd, size_t chunk, int interval_ms)
{
    static uint64_t buffer[MAX_CHUNK / 8];
    uint64_t offset;

    if (recv(fd, &offset, sizeof(offset), MSG_WAITALL) != sizeof(offset)) {
        return;
    }
    for (uint64_t at = offset / 8;; at += chunk / 8) {
        for (size_t i = 0; i < chunk / 8; i++) {
            buffer[i] = content_word(0, at + i);
        }
        if (send(fd, buffer, chunk, MSG_NOSIGNAL) != (ssize_t)chunk) {
            return;
        }
        usleep(interval_ms * 1000);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY) };
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    size_t chunk = argc == 4 ? atoi(argv[2]) & ~7 : 0;

    if (argc != 4 || !chunk || chunk > MAX_CHUNK) {
        fprintf(stderr, "usage: streamer PORT CHUNK INTERVAL_MS\n");
        return 2;
    }
    signal(SIGCHLD, SIG_IGN);
    address.sin_port = htons(atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8)) {
        perror("streamer");
        return 1;
    }
    puts("STREAMER");
    fflush(stdout);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0 && !fork()) {
            close(listener);
            serve(fd, chunk, atoi(argv[3]));
            _exit(0);
        }
        close(fd);
    }
}
