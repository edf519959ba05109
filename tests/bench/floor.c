/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor beside a measured migration: what it costs to bring the same bytes, in the same
 * records, from one process to another and to do nothing else. No guest, no dirty pages, no checks
 * but that the records are the expected ones.
 *
 *   floor unix|tcp direct|buffered SOURCE-FILE DESTINATION-FILE PAGES
 *
 * The sender walks SOURCE-FILE from its begin and writes RAM_FLAG_PAGE records with writev(), page
 * data by reference. The receiver reads them
 *
 *   direct     with readv() straight into the memory of DESTINATION-FILE: it knows in advance which
 *              records come, which no real destination does
 *   buffered   with read() into a buffer in the second-level cache, and copies each page into place
 *
 * Both files are mapped with all their pages present before the clock starts. The clock stops when
 * the receiver's answer has come back. Prints one JSON object. Any failure ends both with status 1.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "migration/stream/format.h"

#define PAGE_BYTES 4096u
/*
 * Records of one system call; two iovecs each, and the kernel takes 1024. These were the best of
 * 32, 61, 128, 256 and 512 on either side: over TCP 180 ms for a gigabyte, 512 on both sides 250.
 */
#define SEND_BATCH    256u
#define RECEIVE_BATCH 61u
/* Of TCP: does not pace, as others may by default; the host's own choice cost another tenth. */
#define CONGESTION_CONTROL "reno"
/* Of the buffered receiver. */
#define BUFFER_BYTES (256u * 1024u)

static const char block_name[] = "ram0";

struct answer {
    uint64_t cpu_ns;
};

static uint64_t now_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint8_t *map(const char *path, uint64_t pages)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        err(1, "Cannot open %s", path);
    }
    if ((uint64_t)st.st_size / PAGE_BYTES < pages) {
        errx(1, "File %s has less than %" PRIu64 " pages", path, pages);
    }
    uint8_t *p =
        mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);

    if (p == MAP_FAILED) {
        err(1, "Cannot map %s", path);
    }
    close(fd);
    return p;
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(addr);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, len) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&addr, &len) < 0) {
        err(1, "Cannot listen on the loopback interface");
    }
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fds[0] < 0 || connect(fds[0], (struct sockaddr *)&addr, len) < 0) {
        err(1, "Cannot connect on the loopback interface");
    }
    fds[1] = accept(listener, NULL, NULL);
    if (fds[1] < 0) {
        err(1, "Cannot accept a connection");
    }
    close(listener);
    for (int i = 0; i < 2; i++) {
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fds[i], IPPROTO_TCP, TCP_CONGESTION, CONGESTION_CONTROL,
                   sizeof(CONGESTION_CONTROL) - 1);
    }
}

/* Moves the begin of `iov` past `done` bytes; returns how many entries are left. */
static int advance(struct iovec **iov, int count, size_t done)
{
    while (count && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        (*iov)++;
        count--;
    }
    if (count) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
    return count;
}

static void vector_all(int fd, struct iovec *iov, int count, bool out)
{
    while (count) {
        ssize_t n = out ? writev(fd, iov, count) : readv(fd, iov, count);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errx(1, "The connection broke: %s", n ? strerror(errno) : "closed");
        }
        count = advance(&iov, count, (size_t)n);
    }
}

static uint64_t record(uint64_t page)
{
    return htobe64(page * PAGE_BYTES | RAM_FLAG_PAGE | (page ? RAM_FLAG_CONTINUE : 0));
}

/* The block's name follows the first record only. */
static void put_name(uint8_t name[sizeof(block_name)])
{
    name[0] = sizeof(block_name) - 1;
    memcpy(name + 1, block_name, sizeof(block_name) - 1);
}

static uint64_t send_pages(int fd, uint8_t *memory, uint64_t pages)
{
    uint64_t words[SEND_BATCH], end = htobe64(RAM_FLAG_EOS), bytes = sizeof(end);
    struct iovec iov[2 * SEND_BATCH + 1];
    uint8_t name[sizeof(block_name)];

    put_name(name);
    for (uint64_t page = 0; page < pages;) {
        int count = 0;

        for (unsigned i = 0; i < SEND_BATCH && page < pages; i++, page++) {
            words[i] = record(page);
            iov[count++] = (struct iovec){ &words[i], sizeof(words[i]) };
            if (!page) {
                iov[count++] = (struct iovec){ name, sizeof(name) };
                bytes += sizeof(name);
            }
            iov[count++] = (struct iovec){ memory + page * PAGE_BYTES, PAGE_BYTES };
            bytes += sizeof(words[i]) + PAGE_BYTES;
        }
        vector_all(fd, iov, count, true);
    }
    vector_all(fd, &(struct iovec){ &end, sizeof(end) }, 1, true);
    return bytes;
}

static void expect_record(uint64_t word, uint64_t page)
{
    if (word != record(page)) {
        errx(1, "Record of page %" PRIu64 " is 0x%" PRIx64, page, be64toh(word));
    }
}

static void receive_direct(int fd, uint8_t *memory, uint64_t pages)
{
    uint64_t words[RECEIVE_BATCH], end;
    struct iovec iov[2 * RECEIVE_BATCH + 1];
    uint8_t name[sizeof(block_name)];

    for (uint64_t page = 0; page < pages;) {
        uint64_t first = page;
        int count = 0;

        for (unsigned i = 0; i < RECEIVE_BATCH && page < pages; i++, page++) {
            iov[count++] = (struct iovec){ &words[i], sizeof(words[i]) };
            if (!page) {
                iov[count++] = (struct iovec){ name, sizeof(name) };
            }
            iov[count++] = (struct iovec){ memory + page * PAGE_BYTES, PAGE_BYTES };
        }
        vector_all(fd, iov, count, false);
        for (uint64_t p = first; p < page; p++) {
            expect_record(words[p - first], p);
        }
    }
    vector_all(fd, &(struct iovec){ &end, sizeof(end) }, 1, false);
}

struct buffer {
    int fd;
    size_t pos, len;
    uint8_t data[BUFFER_BYTES];
};

static void take(struct buffer *b, void *to, size_t len)
{
    uint8_t *p = to;

    while (len) {
        if (b->pos == b->len) {
            ssize_t n = read(b->fd, b->data, sizeof(b->data));

            if (n < 0 && errno == EINTR) {
                continue;
            }
            if (n <= 0) {
                errx(1, "The connection broke: %s", n ? strerror(errno) : "closed");
            }
            b->pos = 0;
            b->len = (size_t)n;
        }
        size_t n = b->len - b->pos < len ? b->len - b->pos : len;

        memcpy(p, b->data + b->pos, n);
        b->pos += n;
        p += n;
        len -= n;
    }
}

static void receive_buffered(int fd, uint8_t *memory, uint64_t pages)
{
    struct buffer *b = calloc(1, sizeof(*b));
    uint8_t name[sizeof(block_name)];
    uint64_t word;

    if (!b) {
        err(1, "No memory for the buffer");
    }
    b->fd = fd;
    for (uint64_t page = 0; page < pages; page++) {
        take(b, &word, sizeof(word));
        expect_record(word, page);
        if (!page) {
            take(b, name, sizeof(name));
        }
        take(b, memory + page * PAGE_BYTES, PAGE_BYTES);
    }
    take(b, &word, sizeof(word));
    free(b);
}

int main(int argc, char **argv)
{
    char *rest;
    int fds[2];

    if (argc != 6) {
        errx(2, "usage: floor unix|tcp direct|buffered SOURCE-FILE DESTINATION-FILE PAGES");
    }
    bool direct = !strcmp(argv[2], "direct");
    uint64_t pages = strtoull(argv[5], &rest, 10);

    if (*rest || !pages) {
        errx(2, "'%s' is no number of pages", argv[5]);
    }
    uint8_t *from = map(argv[3], pages), *to = map(argv[4], pages);

    if (!strcmp(argv[1], "tcp")) {
        tcp_pair(fds);
    } else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        err(1, "Cannot make a pair of sockets");
    }
    pid_t child = fork();

    if (child < 0) {
        err(1, "Cannot make the second process");
    }
    uint64_t cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    struct answer answer;

    if (!child) {
        uint8_t ready = 1;

        close(fds[0]);
        /* page tables do not come with fork() for shared mappings */
        for (uint64_t i = 0; i < pages; i++) {
            ready += (uint8_t)(((volatile uint8_t *)to)[i * PAGE_BYTES] & 0);
        }
        vector_all(fds[1], &(struct iovec){ &ready, 1 }, 1, true);
        cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        (direct ? receive_direct : receive_buffered)(fds[1], to, pages);
        answer.cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        vector_all(fds[1], &(struct iovec){ &answer, sizeof(answer) }, 1, true);
        _exit(0);
    }
    uint8_t ready;

    close(fds[1]);
    vector_all(fds[0], &(struct iovec){ &ready, 1 }, 1, false);
    cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t begun = now_ns(CLOCK_MONOTONIC);
    uint64_t bytes = send_pages(fds[0], from, pages);

    vector_all(fds[0], &(struct iovec){ &answer, sizeof(answer) }, 1, false);
    uint64_t took = now_ns(CLOCK_MONOTONIC) - begun;

    cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    waitpid(child, NULL, 0);
    if (memcmp(from, to, pages * PAGE_BYTES)) {
        errx(1, "The memory that arrived is not the memory that was sent");
    }
    printf("{\"ns\": %" PRIu64 ", \"cpu_ns\": %" PRIu64 ", \"sender_cpu_ns\": %" PRIu64
           ", \"bytes\": %" PRIu64 "}\n",
           took, cpu + answer.cpu_ns, cpu, bytes);
    return 0;
}
