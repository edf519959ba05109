/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to system/qtest*.c: the server and its commands. Machine lock held. */
#ifndef SYSTEM_QTEST_INTERNAL_H
#define SYSTEM_QTEST_INTERNAL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct chardev;
struct device;
struct irq_inputs;
struct vm;

/* Bytes of one read, write or memset. */
#define QTEST_MAX_DATA (16u << 20)

struct qtest {
    struct vm *vm;
    struct chardev *chr;
    FILE *log;
    int64_t opened_us;

    GByteArray *input; /* what was received and is not handled */
    unsigned taken;    /* of it: handled, to be removed */
    bool skipping;     /* the rest of a line that is too long */
    bool waiting;      /* for the client to read its answers */

    const struct device *intercepted;  /* NULL: none */
    const struct irq_inputs *watching; /* NULL: none */
    uint64_t levels;                   /* of the lines, bit per GSI, as the client was told */
};

/*
 * Runs a command; words[0] is its name. True: its value, with a blank before it, is appended to
 * answer. False: *err says why not (USER).
 */
bool qtest_run_command(struct qtest *q, char **words, GString *answer, GError **err);
/* Sends a line, which gets its newline here. */
void qtest_send_line(struct qtest *q, GString *line);

#endif
