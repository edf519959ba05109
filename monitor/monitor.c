/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP server: from the bytes of a client to the answers and back.
 *
 * A client is greeted when it connects; until it sends qmp_capabilities every other command is
 * refused and no event reaches it. Requests are handled in the order in which they come, each to
 * its answer before the next is looked at, so answers keep that order too. Handlers never wait; a
 * command whose answer takes time (deferred in the schema) is answered from the main loop when it
 * is there. Meanwhile this client's requests queue up (QUEUE_STOP, then its input waits), while
 * "exec-oob", events and other clients go on.
 *
 * When the client goes, what it had negotiated is forgotten, the answer it waited for is dropped,
 * and the next one is greeted anew; descriptors it stored with getfd stay, as in QEMU.
 *
 * A client that does not read its answers is not read from: above OUTPUT_STOP bytes of waiting
 * output no further input is taken until all of it has gone. Events cannot be held back like that;
 * above OUTPUT_LIMIT they are dropped for that client, and a warning says so.
 *
 * Trust: a client may do whatever commands can do, but not more. Whatever it sends, the worst that
 * happens to it is an error with a text.
 */
#include "monitor-internal.h"

#include <string.h>

#include "chardev/chardev.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

#define INPUT_CHUNK                                                                                \
    4096 /* bytes taken at a time; bounds what is answered before OUTPUT_STOP counts */
#define QUEUE_STOP   8 /* requests that wait for an answer given later: no more is read */
#define OUTPUT_STOP  (1u << 20)
#define OUTPUT_LIMIT (16u << 20)

/* ---- output ---- */

static void output_gone(void *opaque)
{
    struct monitor *mon = opaque;

    mon->waiting = false;
    mon->dropping = false;
    chardev_accept_input(mon->chr);
}

void monitor_send(struct monitor *mon, json_t *message)
{
    g_autofree char *text = qapi_json_dump(message, mon->pretty);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *joined = g_strjoinv("\r\n", lines); /* lines end as QEMU's do */
    g_autofree char *output = g_strconcat(joined, "\r\n", NULL);

    chardev_write_queued(mon->chr, output, strlen(output));
    if (!mon->waiting && chardev_queue_length(mon->chr) > OUTPUT_STOP) {
        mon->waiting = true;
        chardev_notify_writable(mon->chr, output_gone, mon);
    }
}

void monitor_send_event(struct monitor *mon, json_t *event)
{
    if (chardev_queue_length(mon->chr) <= OUTPUT_LIMIT) {
        monitor_send(mon, event);
    } else if (!mon->dropping) {
        mon->dropping = true;
        report_warning(
            "The QMP client on chardev '%s' does not read; it misses events until it does",
            chardev_id(mon->chr));
    }
}

/* Sends the answer to a request: exactly one of ret (stolen) and error is set. */
static void send_answer(struct monitor *mon, json_t *id, json_t *ret, const GError *error)
{
    g_autoptr(json_t) answer = json_object();

    if (error) {
        json_t *desc = json_string(error->message);

        if (!desc) {
            /* the text quotes a name that is not UTF-8 */
            g_autofree char *valid = g_utf8_make_valid(error->message, -1);
            desc = json_string(valid);
        }
        json_object_set_new(answer, "error",
                            json_pack("{s:s, s:o}", "class", error_qmp_class(error), "desc", desc));
    } else {
        json_object_set_new(answer, "return", ret);
    }
    if (id) {
        json_object_set(answer, "id", id);
    }
    monitor_send(mon, answer);
}

static void send_greeting(struct monitor *mon)
{
    g_autoptr(VersionInfo) version = qmp_query_version(mon->set->vm, NULL);
    g_autoptr(json_t) greeting =
        json_pack("{s:{s:o, s:[s]}}", "QMP", "version", qapi_version_info_to_json(version),
                  "capabilities", qapi_qmp_capability_str(QMP_CAPABILITY_OOB));

    monitor_send(mon, greeting);
}

/* ---- requests ---- */

struct request {
    const char *command;
    bool oob;
    json_t *arguments;
};

static bool request_refuse(GError **err, const char *member, const char *what)
{
    error_set(err, FERRY_ERROR_USER, "QMP input member '%s' %s", member, what);
    return false;
}

/* Checks the form of a message. */
static bool request_parse(struct monitor *mon, json_t *message, struct request *request,
                          GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(message, key, value)
    {
        bool oob = mon->oob && !strcmp(key, "exec-oob");

        if (oob || !strcmp(key, "execute")) {
            const char *command = qapi_json_get_string(value);

            if (!command) {
                return request_refuse(err, key, "must be a string");
            }
            if (request->command) {
                error_set(err, FERRY_ERROR_USER, "QMP input member '%s' clashes with '%s'",
                          oob ? "exec-oob" : "execute", oob ? "execute" : "exec-oob");
                return false;
            }
            request->command = command;
            request->oob = oob;
        } else if (!strcmp(key, "arguments")) {
            if (!json_is_object(value)) {
                return request_refuse(err, key, "must be an object");
            }
            request->arguments = value;
        } else if (strcmp(key, "id")) {
            return request_refuse(err, key, "is unexpected");
        }
    }
    if (!request->command) {
        error_set(err, FERRY_ERROR_USER, "QMP input lacks member 'execute'");
        return false;
    }
    return true;
}

/* Finds the command, unless this client may not use it now. */
static const struct qmp_command *request_command(struct monitor *mon, const struct request *request,
                                                 GError **err)
{
    const struct qmp_command *command = qmp_command_find(request->command);
    bool negotiates = !strcmp(request->command, "qmp_capabilities");

    if (!mon->negotiated && !negotiates) {
        error_set(err, FERRY_ERROR_COMMAND_NOT_FOUND,
                  "Expecting capabilities negotiation with 'qmp_capabilities'");
    } else if (!command) {
        error_set(err, FERRY_ERROR_COMMAND_NOT_FOUND, "The command %s has not been found",
                  request->command);
    } else if (request->oob && !command->allow_oob) {
        error_set(err, FERRY_ERROR_USER, "The command %s does not support OOB", request->command);
    } else if (mon->negotiated && negotiates) {
        error_set(err, FERRY_ERROR_COMMAND_NOT_FOUND,
                  "Capabilities negotiation is already complete, command ignored");
    } else {
        return command;
    }
    return NULL;
}

/* A request on its way to an answer. */
struct pending {
    struct qmp_answer answer; /* first member */
    struct monitor *mon;      /* NULL: the client has gone */
    json_t *id;
    bool oob; /* not what the others wait for */
};

/* What came while another request was pending: a message or the reason why there is none. */
struct queued {
    json_t *message;
    GError *bad_json;
};

static void queued_free(gpointer opaque)
{
    struct queued *q = opaque;

    json_decref(q->message);
    g_clear_error(&q->bad_json);
    g_free(q);
}

static void work_off_queue(struct monitor *mon);

static void on_answer(struct qmp_answer *answer, json_t *ret, const GError *error)
{
    struct pending *p = (struct pending *)answer;
    struct monitor *mon = p->mon;

    if (mon) {
        send_answer(mon, p->id, ret, error);
    } else {
        json_decref(ret);
    }
    if (mon && !p->oob) {
        mon->pending = NULL;
    }
    json_decref(p->id);
    g_free(p);
    if (mon && !mon->draining) {
        work_off_queue(mon);
    }
}

static void run_command(struct monitor *mon, const struct qmp_command *command,
                        const struct request *request, json_t *id)
{
    struct pending *p = g_new0(struct pending, 1);

    p->answer.send = on_answer;
    p->mon = mon;
    p->id = json_incref(id);
    p->oob = request->oob;
    if (!p->oob) {
        mon->pending = p;
    }
    mon->set->current = mon;
    qmp_command_start(command, mon->set->vm, request->arguments, &p->answer);
    mon->set->current = NULL;
}

/* What the framer found: a message or the reason why there is none. */
static void handle(struct monitor *mon, json_t *message, const GError *bad_json)
{
    struct request request = { 0 };
    const struct qmp_command *command = NULL;
    g_autoptr(GError) error = NULL;

    if (bad_json) {
        error = g_error_copy(bad_json);
    } else if (!json_is_object(message)) {
        error_set(&error, FERRY_ERROR_USER, "QMP input must be a JSON object");
    } else if (request_parse(mon, message, &request, &error)) {
        command = request_command(mon, &request, &error);
    }
    if (command) {
        run_command(mon, command, &request, json_object_get(message, "id"));
    } else {
        send_answer(mon, json_object_get(message, "id"), NULL, error);
    }
}

static void work_off_queue(struct monitor *mon)
{
    if (g_queue_is_empty(&mon->queue)) {
        return;
    }
    mon->draining = true;
    while (!mon->pending && !g_queue_is_empty(&mon->queue)) {
        struct queued *q = g_queue_pop_head(&mon->queue);

        handle(mon, q->message, q->bad_json);
        queued_free(q);
    }
    mon->draining = false;
    chardev_accept_input(mon->chr);
}

static void on_message(void *opaque, json_t *message, const GError *bad_json)
{
    struct monitor *mon = opaque;
    bool oob = mon->oob && json_is_object(message) && json_object_get(message, "exec-oob");
    struct queued *q;

    if (oob || (!mon->pending && g_queue_is_empty(&mon->queue))) {
        handle(mon, message, bad_json);
        return;
    }
    q = g_new0(struct queued, 1);
    q->message = json_incref(message);
    q->bad_json = bad_json ? g_error_copy(bad_json) : NULL;
    g_queue_push_tail(&mon->queue, q);
}

/* ---- the chardev's front end ---- */

static size_t can_receive(void *opaque)
{
    struct monitor *mon = opaque;

    return mon->waiting || mon->queue.length >= QUEUE_STOP ? 0 : INPUT_CHUNK;
}

static void receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct monitor *mon = opaque;

    qapi_json_framer_feed(mon->framer, buf, len);
}

static void forget_client(struct monitor *mon)
{
    qapi_json_framer_reset(mon->framer);
    g_queue_clear_full(&mon->queue, queued_free);
    if (mon->pending) {
        mon->pending->mon = NULL;
        mon->pending = NULL;
    }
    mon->connected = false;
    mon->negotiated = false;
    mon->oob = false;
    mon->waiting = false;
    mon->dropping = false;
}

static void on_event(void *opaque, enum chardev_event event)
{
    struct monitor *mon = opaque;

    forget_client(mon);
    if (event == CHARDEV_EVENT_OPENED) {
        mon->connected = true;
        send_greeting(mon);
    } else {
        monitor_fdsets_cleanup(mon->set);
    }
}

static const struct chardev_frontend monitor_frontend = {
    .can_receive = can_receive,
    .receive = receive,
    .event = on_event,
};

struct monitor *monitor_new(struct monitor_set *set, struct chardev *chr, bool pretty, GError **err)
{
    struct monitor *mon = g_new0(struct monitor, 1);

    mon->set = set;
    mon->chr = chr;
    mon->pretty = pretty;
    mon->framer = qapi_json_framer_new(on_message, mon);
    mon->fds = monitor_fds_new();
    if (!chardev_attach(chr, &monitor_frontend, mon, err)) {
        mon->chr = NULL;
        monitor_free(mon);
        return NULL;
    }
    return mon;
}

void monitor_free(struct monitor *mon)
{
    if (mon->chr) {
        chardev_notify_writable(mon->chr, NULL, NULL);
        chardev_detach(mon->chr);
    }
    forget_client(mon);
    qapi_json_framer_free(mon->framer);
    g_hash_table_unref(mon->fds);
    g_free(mon);
}
