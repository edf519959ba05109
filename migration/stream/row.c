/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows of pages; see migration/stream/row.h.
 *
 * Trust: none. What is written is the caller's memory [data, data + (1 + ahead) pages); a header
 * that is not the foretold one ends the row, and it and what came behind it is given back.
 */
#include "migration/stream/row.h"

#include "migration/stream/format.h"
#include "system/memory.h"

#define RECORD_SIZE (sizeof(uint64_t) + TARGET_PAGE_SIZE)

/* Gives `left` bytes back that lie in iov[from] and behind. */
static void give_back(struct stream_in *in, struct iovec *iov, unsigned from, size_t left)
{
    unsigned n = from;

    for (; left; n++) {
        iov[n].iov_len = MIN(iov[n].iov_len, left);
        left -= iov[n].iov_len;
    }
    in_unread(in, iov + from, (int)(n - from));
}

/*
 * One read is: the rest of the first page, then n times (header, page), then one header more if
 * there is a page it could foretell. So as long as pages come in order nothing passes through the
 * buffer.
 */
bool row_read(struct stream_in *in, uint8_t *data, size_t have, uint64_t word, unsigned ahead,
              bool more, struct row *row, GError **err)
{
    uint64_t headers[ROW_PAGES + 2];
    /* the last is never used: it would follow the last header */
    struct iovec iov[3 + 2 * ROW_PAGES];
    unsigned last = more ? ahead + 1 : ahead, k; /* headers 1..last */
    size_t got;

    g_assert(ahead <= ROW_PAGES);
    *row = (struct row){ 0 };
    do {
        iov[0] = (struct iovec){ data + have, TARGET_PAGE_SIZE - have };
        for (k = 1; k <= last; k++) {
            iov[2 * k - 1] = (struct iovec){ &headers[k], sizeof(headers[k]) };
            iov[2 * k] = (struct iovec){ data + k * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE };
        }
        got = in_readv(in, iov, (int)(1 + ahead + last), err);
        if (!got) {
            return false;
        }
        have += got;
    } while (have < TARGET_PAGE_SIZE);
    got = have - TARGET_PAGE_SIZE;
    for (k = 1; k <= last && got >= sizeof(headers[k]); k++) {
        if (headers[k] != GUINT64_TO_BE(word + k * TARGET_PAGE_SIZE)) {
            row->pages = k;
            row->other = true;
            row->ended = headers[k] == GUINT64_TO_BE(RAM_FLAG_EOS);
            give_back(in, iov, 2 * k - 1, got);
            got -= sizeof(headers[k]);
            row->spoiled = (unsigned)((got + RECORD_SIZE - 1) / RECORD_SIZE);
            return true;
        }
        if (got < RECORD_SIZE) {
            break;
        }
        got -= RECORD_SIZE;
    }
    row->pages = k;
    if (k > last || got < sizeof(headers[k])) {
        give_back(in, iov, 2 * k - 1, got); /* nothing, or a part of a header */
        return true;
    }
    /* the page that header k foretold has begun to come, or comes next */
    row->next = true;
    row->begun = got - sizeof(headers[k]);
    return true;
}
