/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages in a row: where it is foreseeable which pages come next, they are read straight into their
 * places, many by one read, instead of through the buffer of stream_in. One thread uses it.
 */
#ifndef MIGRATION_STREAM_ROW_H
#define MIGRATION_STREAM_ROW_H

#include "migration/stream/in.h"

/* Pages foreseen by one read; with their headers they fit into IN_UNREAD_MAX. */
#define ROW_PAGES 60u

struct row {
    unsigned pages;    /* that are whole now: at least the first */
    bool next;         /* the header of the page behind them has come, and is the foretold one */
    size_t begun;      /* with next: bytes of that page that are in place as well, less than all */
    unsigned spoiled;  /* pages behind the whole ones that bytes were written to which are not
                          theirs;  these bytes are unread again */
    bool other, ended; /* something else has come instead, unread again; it is the section's end */
};

/*
 * Reads what is missing of the page at `data`, of which the first `have` bytes are there and whose
 * header was read, and, as far as they have come, up to `ahead` pages behind it (ROW_PAGES at
 * most). `word` is the header of the first page; that of page k is word + k * TARGET_PAGE_SIZE.
 * more: a further page may follow those, so its header is read as well. Nothing may be buffered.
 * False and *err: the channel failed, or ended within the first page.
 */
bool row_read(struct stream_in *in, uint8_t *data, size_t have, uint64_t word, unsigned ahead,
              bool more, struct row *row, GError **err);

#endif
