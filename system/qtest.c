/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qtest server: lines of a client on a chardev, their answers, the log. The protocol is QEMU's,
 * as its "QTest Device Emulation Testing Framework" documents it: one command a line, words
 * separated by spaces, one answer a line, "OK [value]" or "FAIL reason". Between answers come
 * "IRQ raise N" and "IRQ lower N" once lines are intercepted; those that a command causes come
 * before its answer. What the commands do is in qtest-commands.c.
 *
 * Under -accel qtest nothing else runs and the clock moves by clock_step and clock_set. Beside a
 * guest that runs, everything but those two works: commands are handled on the main loop with the
 * machine lock held, like the guest's own accesses.
 *
 * What a client sends is not trusted. Lines have a longest length; what is longer is refused and
 * skipped. A client that does not read its answers is not read from.
 */
#include "system/qtest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "chardev/chardev.h"
#include "qtest-internal.h"
#include "system/vm.h"
#include "util/error.h"

#define MAX_LINE    (2 * QTEST_MAX_DATA + 256) /* hexadecimal digits of the longest write */
#define INPUT_CHUNK (64u << 10)                /* bytes taken from the chardev at a time */
#define OUTPUT_STOP (1u << 20) /* above this many waiting bytes nothing is handled */

/* ---- output ---- */

static void log_stamp(struct qtest *q, const char *kind)
{
    fprintf(q->log, "[%s +%.6f] ", kind, (double)(g_get_monotonic_time() - q->opened_us) / 1e6);
}

static void log_line(struct qtest *q, const char *kind, const char *text)
{
    if (q->log) {
        log_stamp(q, kind);
        fprintf(q->log, "%s\n", text);
        fflush(q->log);
    }
}

static void input_resume(void *opaque);

void qtest_send_line(struct qtest *q, GString *line)
{
    log_line(q, "S", line->str);
    g_string_append_c(line, '\n');
    chardev_write_queued(q->chr, line->str, line->len);
    if (!q->waiting && chardev_queue_length(q->chr) > OUTPUT_STOP) {
        q->waiting = true;
        chardev_notify_writable(q->chr, input_resume, q);
    }
}
/* ---- lines ---- */

static void send_failure(struct qtest *q, const char *reason)
{
    g_autoptr(GString) line = g_string_new("FAIL ");

    g_string_append(line, reason);
    qtest_send_line(q, line);
}

static void handle_line(struct qtest *q, const char *text, size_t len)
{
    g_autoptr(GString) answer = g_string_new("OK");
    g_autoptr(GError) error = NULL;
    g_autofree char *line = NULL;
    g_auto(GStrv) words = NULL;

    if (memchr(text, '\0', len)) {
        send_failure(q, "A line must not have a zero byte in it");
        return;
    }
    line = g_strndup(text, len);
    log_line(q, "R", line);
    words = g_strsplit(line, " ", -1);
    if (!words[0]) {
        send_failure(q, "Unknown command ''");
    } else if (qtest_run_command(q, words, answer, &error)) {
        qtest_send_line(q, answer);
    } else {
        send_failure(q, error->message);
    }
}

/* ---- input ---- */

static void input_forget(struct qtest *q)
{
    g_byte_array_set_size(q->input, 0);
    q->taken = 0;
    q->skipping = false;
}

/* Handles whole lines until there are no more, or the client has answers to read. */
static void input_handle(struct qtest *q)
{
    while (!q->waiting && q->taken < q->input->len) {
        const uint8_t *start = q->input->data + q->taken;
        const uint8_t *end = memchr(start, '\n', q->input->len - q->taken);

        if (!end) {
            break;
        }
        q->taken += (unsigned)(end - start) + 1;
        if (!q->skipping) {
            handle_line(q, (const char *)start, (size_t)(end - start));
        }
        q->skipping = false;
    }
    g_byte_array_remove_range(q->input, 0, q->taken);
    q->taken = 0;
    if (!q->waiting && q->input->len > MAX_LINE) {
        g_byte_array_set_size(q->input, 0);
        if (!q->skipping) {
            q->skipping = true;
            send_failure(q, "Line is too long");
        }
    }
}

static void input_resume(void *opaque)
{
    struct qtest *q = opaque;

    q->waiting = false;
    input_handle(q);
    chardev_accept_input(q->chr);
}

static size_t can_receive(void *opaque)
{
    struct qtest *q = opaque;

    return q->waiting ? 0 : INPUT_CHUNK;
}

static void receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct qtest *q = opaque;

    g_byte_array_append(q->input, buf, (guint)len);
    input_handle(q);
}

static void on_event(void *opaque, enum chardev_event event)
{
    struct qtest *q = opaque;
    int64_t now = g_get_monotonic_time();
    bool opened = event == CHARDEV_EVENT_OPENED;

    input_forget(q);
    q->waiting = false;
    chardev_notify_writable(q->chr, NULL, NULL);
    if (opened) {
        q->opened_us = now;
        q->levels = 0;
    }
    if (q->log) {
        fprintf(q->log, "[I %s%.6f] %s\n", opened ? "" : "+", (double)(now - q->opened_us) / 1e6,
                opened ? "OPENED" : "CLOSED");
        fflush(q->log);
    }
}

static const struct chardev_frontend qtest_frontend = {
    .can_receive = can_receive,
    .receive = receive,
    .event = on_event,
};

/* ---- life ---- */

static bool open_log(struct qtest *q, const char *log, GError **err)
{
    if (!log || g_str_equal(log, "none")) {
        return true;
    }
    q->log = fopen(log, "we");
    if (!q->log) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open the qtest log '%s'", log);
    }
    return q->log != NULL;
}

bool qtest_start(struct vm *vm, struct chardev *chr, const char *log, GError **err)
{
    struct qtest *q = g_new0(struct qtest, 1);

    q->vm = vm;
    q->chr = chr;
    q->input = g_byte_array_new();
    q->opened_us = g_get_monotonic_time();
    vm->qtest = q;
    if (!open_log(q, log, err) || !chardev_attach(chr, &qtest_frontend, q, err)) {
        q->chr = NULL;
        qtest_free(vm);
        return false;
    }
    return true;
}

void qtest_free(struct vm *vm)
{
    struct qtest *q = vm->qtest;

    if (!q) {
        return;
    }
    if (q->chr) {
        chardev_detach(q->chr);
    }
    if (q->log) {
        fclose(q->log);
    }
    g_byte_array_unref(q->input);
    g_free(q);
    vm->qtest = NULL;
}
