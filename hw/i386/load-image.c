/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that go into guest memory: reading them, and the list of what a reset writes again. Images
 * are checked against the memory map and against each other when they are added, so writing them
 * cannot fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "board.h"

#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"

GBytes *image_read_file(const char *path, const char *what, uint64_t max_size, GError **err)
{
    g_autofree uint8_t *data = NULL;
    struct stat st;
    size_t got = 0, size;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set_errno(err, FERRY_ERROR_USER, errno, "Cannot open %s '%s'", what, path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(err, FERRY_ERROR_USER, "The %s '%s' is not a regular file", what, path);
        goto fail;
    }
    if ((uint64_t)st.st_size > max_size) {
        error_set(err, FERRY_ERROR_USER,
                  "The %s '%s' has %" PRIu64 " bytes, which is more than the %" PRIu64
                  " there is room for",
                  what, path, (uint64_t)st.st_size, max_size);
        goto fail;
    }
    size = (size_t)st.st_size;
    data = g_try_malloc(MAX(size, 1));
    if (!data) {
        error_set_errno(err, FERRY_ERROR_HOST, ENOMEM, "Cannot read %s '%s'", what, path);
        goto fail;
    }
    while (got < size) {
        ssize_t n = read(fd, data + got, size - got);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            error_set_errno(err, FERRY_ERROR_USER, n < 0 ? errno : EIO, "Cannot read %s '%s'", what,
                            path);
            goto fail;
        }
        got += (size_t)n;
    }
    close(fd);
    return g_bytes_new_take(g_steal_pointer(&data), size);
fail:
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

bool image_add(struct board *board, const char *name, uint64_t gpa, GBytes *bytes, uint64_t size,
               GError **err)
{
    struct image *image;
    const uint8_t *host;

    g_assert(g_bytes_get_size(bytes) <= size);
    if (size == 0) {
        return true;
    }
    host = memory_ram_ptr(board->vm->memory, gpa, size, false);
    if (!host) {
        error_set(err, FERRY_ERROR_USER,
                  "The image '%s' wants the %" PRIu64 " bytes at 0x%" PRIx64
                  ", which are not free guest memory; give the guest more memory",
                  name, size, gpa);
        return false;
    }
    for (unsigned i = 0; i < board->images->len; i++) {
        const struct image *other = g_ptr_array_index(board->images, i);
        /* by host address: the firmware shows at two guest addresses */
        const uint8_t *at = memory_ram_ptr(board->vm->memory, other->gpa, other->size, false);

        if (host < at + other->size && at < host + size) {
            error_set(err, FERRY_ERROR_USER,
                      "The image '%s' at 0x%" PRIx64 " overlaps with '%s' in guest memory", name,
                      gpa, other->name);
            return false;
        }
    }
    image = g_new(struct image, 1);
    *image = (struct image){
        .name = g_strdup(name), .gpa = gpa, .bytes = g_bytes_ref(bytes), .size = size
    };
    g_ptr_array_add(board->images, image);
    return true;
}

void images_write(struct board *board)
{
    struct memory *mem = board->vm->memory;

    for (unsigned i = 0; i < board->images->len; i++) {
        const struct image *image = g_ptr_array_index(board->images, i);
        size_t length;
        const void *data = g_bytes_get_data(image->bytes, &length);
        uint8_t *to = memory_ram_ptr(mem, image->gpa, image->size, true);

        memcpy(to, data, length);
        memset(to + length, 0, image->size - length);
        /* marked dirty again: the page may have been taken for sending before it was written */
        (void)memory_ram_ptr(mem, image->gpa, image->size, true);
    }
}

void image_free(struct image *image)
{
    g_bytes_unref(image->bytes);
    g_free(image->name);
    g_free(image);
}
