/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM records of a guest that runs here already. A record is read into a buffer of the reader,
 * never into guest memory: only a whole host page may appear there, at once. Neighbours are put in
 * place together, as long as they are at hand: before the reader might have to wait for the
 * channel, and after a page that somebody waits for, what it has goes in.
 *
 * Trust: none. A record names a known block and a page inside it before a byte is stored. A host
 * page that consists of several records must come in one piece and in order, on one stream. What
 * has come already, or was never to come again, is read and dropped. After an error all whole pages
 * that came before it are in place.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "migration/postcopy/arrival-internal.h"
#include "migration/stream/format.h"
#include "migration/stream/row.h"
#include "system/vm.h"
#include "util/error.h"

/* Target pages that are put in place at once: one word of the sets, 256 KiB. */
#define RUN_MAX 64u

struct arrival_reader {
    struct arrival *a;
    struct arrival_block *ab; /* of the last record; NULL: none was named */

    /* pages in a row, of the size of a target page, not in place yet */
    struct {
        struct arrival_block *ab;
        uint64_t first;
        unsigned n;
        bool zero;
    } run;
    uint8_t *pages; /* RUN_MAX */

    /* the huge page that is coming */
    struct {
        struct arrival_block *ab;
        uint64_t page;
        uint64_t have; /* bytes; 0: none is coming */
        uint8_t *data;
        uint64_t size; /* of data */
    } huge;
};

struct arrival_reader *arrival_reader_new(struct arrival *a)
{
    struct arrival_reader *r = g_new0(struct arrival_reader, 1);

    r->a = a;
    r->pages = g_malloc(RUN_MAX * TARGET_PAGE_SIZE);
    return r;
}

void arrival_reader_free(struct arrival_reader *r)
{
    if (r) {
        if (r->huge.data) {
            munmap(r->huge.data, r->huge.size);
        }
        g_free(r->pages);
        g_free(r);
    }
}

void arrival_reader_set_block(struct arrival_reader *r, struct ram_block *b)
{
    r->ab = b ? &r->a->blocks[b->index] : NULL;
}

static bool bad(const struct stream_in *in, GError **err, const char *what)
{
    error_set(err, FERRY_ERROR_PEER, "The migration stream has %s at offset %" PRIu64, what,
              in_offset(in));
    return false;
}

static bool flush(struct arrival_reader *r, GError **err)
{
    unsigned n = r->run.n;

    r->run.n = 0;
    return !n ||
           arrival_place(r->a, r->run.ab, r->run.first, n, r->run.zero ? NULL : r->pages, err);
}

/* The block that a record is for, with the offset checked; NULL and *err. */
static struct arrival_block *record_block(struct arrival_reader *r, struct stream_in *in,
                                          uint64_t word, GError **err)
{
    uint64_t offset = word & TARGET_PAGE_MASK;

    if (!(word & RAM_FLAG_CONTINUE)) {
        char idstr[256];

        r->ab = NULL;
        if (!in_pstr(in, idstr, err)) {
            return NULL;
        }
        const struct ram_block *b = ram_block_find(r->a->vm->memory, idstr);

        if (!b || !b->migratable) {
            error_set(err, FERRY_ERROR_PEER,
                      "Can't find block %s, as a page of the migration stream names it", idstr);
            return NULL;
        }
        r->ab = &r->a->blocks[b->index];
    }
    if (!r->ab) {
        bad(in, err,
            "a page that continues a block before any was named (Ack, bad migration stream!)");
        return NULL;
    }
    if (offset >= r->ab->b->used_length) {
        error_set(err, FERRY_ERROR_PEER,
                  "Illegal RAM offset 0x%" PRIx64 " in block '%s' of 0x%" PRIx64 " bytes", offset,
                  r->ab->b->idstr, r->ab->b->used_length);
        return NULL;
    }
    if (!r->ab->travels) {
        error_set(err, FERRY_ERROR_PEER,
                  "Illegal RAM offset 0x%" PRIx64
                  ": memory '%s' is shared and its pages do not travel",
                  offset, r->ab->b->idstr);
        return NULL;
    }
    return r->ab;
}

/* --- target page = host page --- */

/* Makes the page the next one of the run. */
static bool run_add(struct arrival_reader *r, struct arrival_block *ab, uint64_t page, bool zero,
                    GError **err)
{
    if (r->run.n && (r->run.ab != ab || r->run.zero != zero || r->run.first + r->run.n != page) &&
        !flush(r, err)) {
        return false;
    }
    if (!r->run.n) {
        r->run.ab = ab;
        r->run.first = page;
        r->run.zero = zero;
    }
    return true;
}

/* The page is complete. */
static bool run_added(struct arrival_reader *r, uint64_t page, GError **err)
{
    r->run.n++;
    return (r->run.n < RUN_MAX && !atomic_bit_test(r->run.ab->wanted, page)) || flush(r, err);
}

static bool read_page(struct arrival_reader *r, struct stream_in *in, struct arrival_block *ab,
                      uint64_t page, GError **err)
{
    return run_add(r, ab, page, false, err) &&
           in_bytes(in, r->pages + r->run.n * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE, err) &&
           run_added(r, page, err);
}

/* --- huge pages --- */

static bool huge_begin(struct arrival_reader *r, struct arrival_block *ab, uint64_t page,
                       GError **err)
{
    uint64_t size = ab->b->page_size;

    if (r->huge.size < size) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED) {
            error_set_errno(err, FERRY_ERROR_HOST, errno,
                            "Cannot allocate %" PRIu64 " bytes for a huge page on its way", size);
            return false;
        }
        if (r->huge.data) {
            munmap(r->huge.data, r->huge.size);
        }
        r->huge.data = p;
        r->huge.size = size;
    }
    r->huge.ab = ab;
    r->huge.page = page;
    return true;
}

/*
 * Reads the part at `*at`, and the parts behind it as far as they come in order, straight into
 * their places: they must come so. *at goes to the first that has not come.
 */
static bool read_parts(struct arrival_reader *r, struct stream_in *in, uint64_t *at, GError **err)
{
    uint64_t size = r->huge.ab->b->page_size, page = r->huge.page << r->huge.ab->shift;
    size_t have = MIN(in_buffered(in), TARGET_PAGE_SIZE);
    struct row row = { .next = in_has_channel(in) };

    if (!in_bytes(in, r->huge.data + *at, row.next ? have : TARGET_PAGE_SIZE, err)) {
        return false;
    }
    if (!row.next || have == TARGET_PAGE_SIZE) {
        *at += TARGET_PAGE_SIZE;
        return true;
    }
    while (row.next) {
        uint64_t left = (size - *at) / TARGET_PAGE_SIZE - 1;

        if (!row_read(in, r->huge.data + *at, have,
                      (page + *at) | RAM_FLAG_PAGE | RAM_FLAG_CONTINUE,
                      (unsigned)MIN(left, ROW_PAGES), left > ROW_PAGES, &row, err)) {
            return false;
        }
        *at += row.pages * TARGET_PAGE_SIZE;
        have = row.begun;
    }
    if (!row.other) {
        in_expect_little(in); /* a header, and then what can go into its place again */
    }
    return true;
}

/* `in` NULL: the part is zero. */
static bool read_part(struct arrival_reader *r, struct stream_in *in, struct arrival_block *ab,
                      uint64_t offset, GError **err)
{
    uint64_t page = offset >> ab->shift, at = offset & (ab->b->page_size - 1);

    if (r->huge.have ? ab != r->huge.ab || page != r->huge.page || at != r->huge.have : at != 0) {
        g_autofree char *expected =
            r->huge.have ? g_strdup_printf("0x%" PRIx64 " of '%s'",
                                           (r->huge.page << r->huge.ab->shift) + r->huge.have,
                                           r->huge.ab->b->idstr)
                         : g_strdup("the beginning of one");

        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream tears a huge page: 0x%" PRIx64
                  " of memory '%s' came where %s must come",
                  offset, ab->b->idstr, expected);
        return false;
    }
    if (!at && !huge_begin(r, ab, page, err)) {
        return false;
    }
    if (!in) {
        memset(r->huge.data + at, 0, TARGET_PAGE_SIZE);
        at += TARGET_PAGE_SIZE;
    } else if (!read_parts(r, in, &at, err)) {
        return false;
    }
    r->huge.have = at;
    if (r->huge.have < ab->b->page_size) {
        return true;
    }
    r->huge.have = 0;
    return arrival_place(r->a, ab, page, 1, r->huge.data, err);
}

/* --- records --- */

static bool load_page(struct arrival_reader *r, struct stream_in *in, uint64_t word, GError **err)
{
    struct arrival_block *ab = record_block(r, in, word, err);
    uint64_t offset = word & TARGET_PAGE_MASK;

    if (!ab) {
        return false;
    }
    if (ab->shift > TARGET_PAGE_BITS) {
        return flush(r, err) && read_part(r, in, ab, offset, err);
    }
    return read_page(r, in, ab, offset >> TARGET_PAGE_BITS, err);
}

static bool load_zero(struct arrival_reader *r, struct stream_in *in, uint64_t word, GError **err)
{
    struct arrival_block *ab = record_block(r, in, word, err);
    uint64_t offset = word & TARGET_PAGE_MASK;
    uint8_t fill;

    if (!ab || !in_u8(in, &fill, err)) {
        return false;
    }
    if (fill) {
        return bad(in, err, "a page of equal bytes that are not zero");
    }
    if (ab->shift > TARGET_PAGE_BITS) {
        return flush(r, err) && read_part(r, NULL, ab, offset, err);
    }
    return run_add(r, ab, offset >> TARGET_PAGE_BITS, true, err) &&
           run_added(r, offset >> TARGET_PAGE_BITS, err);
}

/* One record behind its word. *eos: it was the end mark. */
static bool load_record(struct arrival_reader *r, struct stream_in *in, uint64_t word, bool *eos,
                        GError **err)
{
    switch (word & ~TARGET_PAGE_MASK & ~(uint64_t)RAM_FLAG_CONTINUE) {
    case RAM_FLAG_PAGE:
        return load_page(r, in, word, err);
    case RAM_FLAG_ZERO:
        return load_zero(r, in, word, err);
    case RAM_FLAG_EOS:
        *eos = true;
        return word == RAM_FLAG_EOS || bad(in, err, "an end of memory with an offset");
    case RAM_FLAG_MEM_SIZE:
        return bad(in, err, "a second list of RAM blocks");
    case RAM_FLAG_XBZRLE:
        return bad(in, err, "changes (xbzrle) of a page, which post-copy does not allow,");
    case RAM_FLAG_COMPRESS:
        return bad(in, err, "an unexpected compressed page");
    default:
        error_set(err, FERRY_ERROR_PEER,
                  "Unknown combination of migration flags: 0x%x, at offset %" PRIu64
                  " of the migration stream",
                  (unsigned)(word & ~TARGET_PAGE_MASK), in_offset(in));
        return false;
    }
}

/* Records until EOS, or, with `ended`, the end of the stream between two of them. */
static bool read_records(struct arrival_reader *r, struct stream_in *in, bool *ended, GError **err)
{
    bool eos = false;

    if (r->a->uffd < 0) {
        return bad(in, err, "pages of post-copy before the guest was taken over");
    }
    while (!eos) {
        uint64_t word = 0;
        uint8_t *bytes = (uint8_t *)&word;

        /* whoever waits must not wait for what comes next */
        if (in_buffered(in) < sizeof(word) + TARGET_PAGE_SIZE && !flush(r, err)) {
            return false;
        }
        if (!in_u8(in, &bytes[0], err)) {
            if (ended && in_ended(in)) {
                *ended = true;
                g_clear_error(err);
                return true;
            }
            return false;
        }
        if (!in_bytes(in, &bytes[1], sizeof(word) - 1, err) ||
            !load_record(r, in, GUINT64_FROM_BE(word), &eos, err)) {
            return false;
        }
    }
    return true;
}

static bool read_all(struct arrival_reader *r, struct stream_in *in, bool *ended, GError **err)
{
    GError *error = NULL;
    bool ok = read_records(r, in, ended, &error);

    /* what was whole before it broke is of use */
    ok = flush(r, ok ? &error : NULL) && ok;
    if (!ok) {
        r->huge.have = 0; /* it will come from its beginning, on another link */
        g_propagate_error(err, error);
    }
    return ok;
}

bool arrival_read_section(struct arrival_reader *r, struct stream_in *in, GError **err)
{
    return read_all(r, in, NULL, err);
}

bool arrival_read_bare(struct arrival_reader *r, struct stream_in *in, bool *ended, GError **err)
{
    *ended = false;
    return read_all(r, in, ended, err);
}
