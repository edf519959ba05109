/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compares two guests' memories, which are files of the same size:
 *
 *     pagediff FILE FILE
 *
 * Prints a line for each page that differs, with the first and the last byte that does:
 *
 *     PAGE 5dff000 first=123 last=456 count=12 zero=0,1
 *
 * (zero: whether the page is all zero in the first file, in the second), and "compared N, differ
 * M".
 */

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096

static const uint8_t *map(const char *path, size_t *size)
{
    int fd = open(path, O_RDONLY);
    struct stat info;
    const uint8_t *at;

    if (fd < 0 || fstat(fd, &info)) {
        return NULL;
    }
    *size = info.st_size;
    at = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void describe(uint64_t address, const uint8_t *a, const uint8_t *b)
{
    static const uint8_t zero[PAGE];
    int first = -1, last = 0, count = 0;

    for (int i = 0; i < PAGE; i++) {
        if (a[i] != b[i]) {
            first = first < 0 ? i : first;
            last = i;
            count++;
        }
    }
    printf("PAGE %" PRIx64 " first=%d last=%d count=%d zero=%d,%d\n", address, first, last, count,
           !memcmp(a, zero, PAGE), !memcmp(b, zero, PAGE));
}

int main(int argc, char **argv)
{
    size_t size[2] = { 0 }, differ = 0;
    const uint8_t *a = argc == 3 ? map(argv[1], &size[0]) : NULL;
    const uint8_t *b = argc == 3 ? map(argv[2], &size[1]) : NULL;

    if (!a || !b || size[0] != size[1]) {
        fprintf(stderr, "usage: pagediff FILE FILE (of the same size)\n");
        return 2;
    }
    for (size_t at = 0; at < size[0]; at += PAGE) {
        if (memcmp(a + at, b + at, PAGE)) {
            differ++;
            describe(at, a + at, b + at);
        }
    }
    printf("compared %zu, differ %zu\n", size[0] / PAGE, differ);
    return differ > 0;
}
