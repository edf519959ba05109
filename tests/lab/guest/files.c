/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Works on files and knows what must be in them, in the guest:
 *
 *     files work DIR FILES LINE_MS   writes and reads back until SIGTERM, prints every LINE_MS
 *     files check DIR                reads them all
 *
 *     FILES 17 written=123 read=120 bad=0 errors=0 slow_ms=31
 *     FILES END files=16 written=140 bad=0 errors=0
 *     FILES CHECKED files=16 written=140 bad=0 errors=0
 *
 * File n is written again and again, each time as another generation with another size and content,
 * by turns through the page cache with fsync() and past it (O_DIRECT); then another one is read
 * past the cache. So the disk is written and read all the time, and each byte that was written
 * before a move and read after it counts. `written` of END and of CHECKED are the generations of
 * all files, added up: they agree when nothing that was written last has been lost. slow_ms is the
 * longest that a file took. The first thing that goes wrong is said on stderr, all are counted.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "content.h"

#define BLOCK      4096
#define WORDS      (BLOCK / 8)
#define MAX_BLOCKS 32
#define MAX_FILES  4096
#define MAGIC      0x73656c6966u
#define PAUSE_US   20000

/* The first words of each block; the rest is content. */
enum { W_MAGIC, W_FILE, W_GENERATION, W_BLOCK, W_BLOCKS, W_HEAD };

struct totals {
    unsigned long read, bad, errors;
};

static const char *folder;
static uint64_t *buffer;
static uint64_t generations[MAX_FILES]; /* of each file on the disk; 0: none */
static struct totals totals;
static volatile sig_atomic_t stopped;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int open_file(unsigned int file, int flags)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%u", folder, file);
    return open(path, flags | O_CLOEXEC, 0600);
}

static void failed(const char *what, unsigned int file)
{
    if (!totals.errors++) {
        fprintf(stderr, "files: %s of file %u: %s\n", what, file, strerror(errno));
    }
}

static unsigned int blocks_of(unsigned int file, uint64_t generation)
{
    return 1 + content_word(file, generation) % MAX_BLOCKS;
}

static uint64_t seed_of(unsigned int file, uint64_t generation)
{
    return ((uint64_t)file << 40) + generation;
}

static bool write_all(int fd, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (char *)buffer + done, size - done);

        if (n < 0) {
            return false;
        }
        done += n;
    }
    return true;
}

static void write_file(unsigned int file, uint64_t generation)
{
    unsigned int blocks = blocks_of(file, generation);
    bool direct = generation % 2;
    int fd = open_file(file, O_WRONLY | O_CREAT | O_TRUNC | (direct ? O_DIRECT : 0));

    for (unsigned int b = 0; b < blocks; b++) {
        uint64_t *block = buffer + b * WORDS;

        block[W_MAGIC] = MAGIC;
        block[W_FILE] = file;
        block[W_GENERATION] = generation;
        block[W_BLOCK] = b;
        block[W_BLOCKS] = blocks;
        for (unsigned int w = W_HEAD; w < WORDS; w++) {
            block[w] = content_word(seed_of(file, generation), b * WORDS + w);
        }
    }
    if (fd < 0 || !write_all(fd, (size_t)blocks * BLOCK) || fsync(fd)) {
        failed("writing", file);
    }
    if (fd >= 0) {
        close(fd);
    }
    generations[file] = generation;
}

static bool block_is_good(unsigned int file, uint64_t generation, unsigned int b)
{
    const uint64_t *block = buffer + b * WORDS;

    if (block[W_MAGIC] != MAGIC || block[W_FILE] != file || block[W_GENERATION] != generation ||
        block[W_BLOCK] != b || block[W_BLOCKS] != blocks_of(file, generation)) {
        return false;
    }
    for (unsigned int w = W_HEAD; w < WORDS; w++) {
        if (block[w] != content_word(seed_of(file, generation), b * WORDS + w)) {
            return false;
        }
    }
    return true;
}

/* Reads a file from the disk; generation 0: that which its first block names. Returns it. */
static uint64_t check_file(unsigned int file, uint64_t generation)
{
    int fd = open_file(file, O_RDONLY | O_DIRECT);
    size_t size = 0;
    ssize_t n = 0;

    if (fd < 0) {
        failed("opening", file);
        return generation;
    }
    memset(buffer, 0, MAX_BLOCKS * BLOCK);
    while (size < MAX_BLOCKS * BLOCK &&
           (n = read(fd, (char *)buffer + size, MAX_BLOCKS * BLOCK - size)) > 0) {
        size += n;
    }
    close(fd);
    totals.read++;
    if (n < 0) {
        failed("reading", file);
        return generation;
    }
    generation = generation ? generation : buffer[W_GENERATION];
    if (size != (size_t)blocks_of(file, generation) * BLOCK) {
        fprintf(stderr, "files: file %u has %zu bytes, generation %llu has %u blocks\n", file, size,
                (unsigned long long)generation, blocks_of(file, generation));
        totals.bad++;
        return generation;
    }
    for (unsigned int b = 0; b < size / BLOCK; b++) {
        if (!block_is_good(file, generation, b)) {
            const uint64_t *block = buffer + b * WORDS;

            fprintf(stderr,
                    "files: block %u of file %u, generation %llu, has file %llu, generation %llu, "
                    "block %llu\n",
                    b, file, (unsigned long long)generation, (unsigned long long)block[W_FILE],
                    (unsigned long long)block[W_GENERATION], (unsigned long long)block[W_BLOCK]);
            totals.bad++;
            break;
        }
    }
    return generation;
}

static void say(const char *what, unsigned int files)
{
    unsigned long written = 0, have = 0;

    for (unsigned int i = 0; i < files; i++) {
        written += generations[i];
        have += generations[i] != 0;
    }
    printf("FILES %s files=%lu written=%lu read=%lu bad=%lu errors=%lu", what, have, written,
           totals.read, totals.bad, totals.errors);
}

static int work(unsigned int files, int line_ms)
{
    uint64_t turn = 0;
    int64_t next = 0, slow = 0;
    char name[32];

    for (unsigned int line = 0; !stopped; turn++) {
        int64_t begun = now_ms(), took;
        unsigned int file = turn % files, other = content_word(7, turn) % files;

        write_file(file, generations[file] + 1);
        if (generations[other]) {
            check_file(other, generations[other]);
        }
        took = now_ms() - begun;
        slow = took > slow ? took : slow;
        if (now_ms() >= next) {
            next = now_ms() + line_ms;
            snprintf(name, sizeof(name), "%u", line++);
            say(name, files);
            printf(" slow_ms=%lld\n", (long long)slow);
        }
        usleep(PAUSE_US);
    }
    say("END", files);
    printf("\n");
    return totals.bad || totals.errors;
}

static int check(void)
{
    unsigned int files = 0;

    for (; files < MAX_FILES; files++) {
        int fd = open_file(files, O_RDONLY);

        if (fd < 0) {
            break;
        }
        close(fd);
        generations[files] = check_file(files, 0);
    }
    say("CHECKED", files);
    printf("\n");
    return totals.bad || totals.errors;
}

static void on_term(int signal)
{
    (void)signal;
    stopped = 1;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_term };
    bool works = argc == 5 && !strcmp(argv[1], "work");
    int files = works ? atoi(argv[3]) : 1, line_ms = works ? atoi(argv[4]) : 1;

    if ((!works && (argc != 3 || strcmp(argv[1], "check"))) || files < 1 || files > MAX_FILES ||
        line_ms < 1) {
        fprintf(stderr, "usage: files work DIR FILES LINE_MS | files check DIR\n");
        return 2;
    }
    folder = argv[2];
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    sigaction(SIGTERM, &action, NULL);
    if (posix_memalign((void **)&buffer, BLOCK, MAX_BLOCKS * BLOCK)) {
        perror("files");
        return 1;
    }
    return works ? work(files, line_ms) : check();
}
