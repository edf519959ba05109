/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzz target: bytes from a QMP client, to a machine with all its commands; nothing runs in the
 * machine, and addresses lead nowhere (see below). What is checked:
 *
 *   - what the server says is JSON, and each answer is a return or an error that is one sentence;
 *   - a command that fails has changed nothing that can be asked for.
 *
 * An input that begins with 'I' goes to a destination that waits for migrate-incoming.
 */
#include "fuzz-machine.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev/chardev.h"
#include "io/transport.h"
#include "migration/internal.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "qapi/command.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "system/objects.h"
#include "system/vm-init.h"
#include "util/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- what must not happen here: commands, files and connections --- */

struct channel *__wrap_transport_connect(const struct transport_address *addr, int fd,
                                         int cancel_fd, unsigned timeout_ms, GError **err);
struct listener *__wrap_transport_listen(const struct transport_address *addr, int fd,
                                         GError **err);
json_t *__wrap_qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                                GError **err);
json_t *__real_qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                                GError **err);

struct channel *__wrap_transport_connect(const struct transport_address *addr, int fd,
                                         int cancel_fd G_GNUC_UNUSED,
                                         unsigned timeout_ms G_GNUC_UNUSED, GError **err)
{
    g_autofree char *text = transport_address_text(addr);

    if (fd >= 0) {
        close(fd);
    }
    error_set(err, FERRY_ERROR_LINK, "Nobody is at '%s'", text);
    return NULL;
}

struct listener *__wrap_transport_listen(const struct transport_address *addr, int fd, GError **err)
{
    return (struct listener *)__wrap_transport_connect(addr, fd, -1, 0, err);
}

/* No sockets, scripts and interfaces of the host either. */
struct netdev *__wrap_net_user_open(struct net_set *set, struct vm *vm, const Netdev *options,
                                    GError **err);
struct netdev *__wrap_net_tap_open(struct net_set *set, struct vm *vm, const Netdev *options,
                                   GError **err);

struct netdev *__wrap_net_user_open(struct net_set *set G_GNUC_UNUSED, struct vm *vm G_GNUC_UNUSED,
                                    const Netdev *options, GError **err)
{
    error_set(err, FERRY_ERROR_HOST, "Back end '%s' is not opened here", options->id);
    return NULL;
}

struct netdev *__wrap_net_tap_open(struct net_set *set, struct vm *vm, const Netdev *options,
                                   GError **err)
{
    return __wrap_net_user_open(set, vm, options, err);
}

/* --- a failure changes nothing --- */

/* What can be asked for about everything that commands change. */
static char *snapshot(struct vm *vm)
{
    static const char *const questions[] = {
        "query-status",
        "query-migrate-parameters",
        "query-migrate-capabilities",
        "query-fdsets",
        "query-chardev",
        "query-name",
        "x-query-migrate-hold",
    };
    GString *all = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_autoptr(json_t) ret =
            __real_qmp_command_call(qmp_command_find(questions[i]), vm, NULL, NULL);
        g_autofree char *text = qapi_json_dump(ret, false);

        g_string_append(all, text);
    }
    for (unsigned i = 0; object_at(vm->objects, i); i++) {
        g_autoptr(json_t) object = qapi_object_options_to_json(object_at(vm->objects, i));
        g_autofree char *text = qapi_json_dump(object, false);

        g_string_append(all, text);
    }
    return g_string_free(all, FALSE);
}

json_t *__wrap_qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                                GError **err)
{
    g_autofree char *before = snapshot(vm), *after = NULL;
    GError *error = NULL;
    json_t *ret = __real_qmp_command_call(command, vm, arguments, &error);

    g_assert_true(!ret == !!error);
    if (error) {
        after = snapshot(vm);
        if (strcmp(before, after)) {
            g_error("'%s' failed (%s) and changed something:\n%s\n%s", command->name,
                    error->message, before, after);
        }
        g_propagate_error(err, error);
    }
    return ret;
}

/* --- the client --- */

struct client {
    struct fuzz_machine *m;
    struct sockaddr_un addr;
    struct qapi_json_framer *framer;
    int fd;
    unsigned messages;
};

static void check_error(json_t *error)
{
    const char *desc = json_string_value(json_object_get(error, "desc"));

    g_assert_cmpuint(json_object_size(error), ==, 2);
    g_assert_nonnull(json_string_value(json_object_get(error, "class")));
    g_assert_nonnull(desc);
    g_assert_true(desc[0]);
}

static void on_message(void *opaque, json_t *value, const GError *error)
{
    struct client *c = opaque;
    json_t *failure;

    if (error) {
        g_error("The server does not speak JSON: %s", error->message);
    }
    failure = json_object_get(value, "error");
    g_assert_cmpint(!!failure + !!json_object_get(value, "return") +
                        !!json_object_get(value, "event") + !!json_object_get(value, "QMP"),
                    ==, 1);
    if (failure) {
        check_error(failure);
    }
    c->messages++;
}

static void turn(struct client *c)
{
    static char buf[1 << 16];
    ssize_t n;

    vm_main_loop_once(c->m->vm, 0);
    c->m->vm->exiting = false; /* after `quit` there is one more turn, and the next input */
    while (c->fd >= 0 && (n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
        qapi_json_framer_feed(c->framer, buf, (size_t)n);
    }
}

static void client_connect(struct client *c)
{
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(c->fd, (struct sockaddr *)&c->addr, sizeof(c->addr)) < 0) {
        g_error("connect: %s", g_strerror(errno));
    }
    c->framer = qapi_json_framer_new(on_message, c);
    c->messages = 0;
    while (!c->messages) {
        turn(c);
    }
}

static void client_say(struct client *c, const char *data, size_t len)
{
    while (len) {
        ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN) {
            break; /* nothing that a client says makes the server hang up, but `quit` may */
        }
        turn(c);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
}

/* Until the server has read all and said all that it has to say about it. */
static void client_hear(struct client *c)
{
    static const char end[] = "\n\xff\n{\"execute\":\"query-name\",\"id\":\"\"}\n";
    unsigned idle = 0;

    client_say(c, end, sizeof(end) - 1);
    for (unsigned seen = c->messages; idle < 3; seen = c->messages) {
        do {
            turn(c);
        } while (c->m->vm->migration->checks->len); /* migrate-check is answered by a thread */
        idle = c->messages == seen ? idle + 1 : 0;
    }
    g_assert_cmpuint(c->messages, >, 1);
}

static void client_disconnect(struct client *c)
{
    close(c->fd);
    c->fd = -1;
    qapi_json_framer_free(c->framer);
    for (int i = 0; i < 3; i++) {
        turn(c);
    }
}

/* --- the machine --- */

static void start(struct client *c)
{
    g_autoptr(json_t) options = NULL;
    struct chardev *chr;
    GError *err = NULL;

    c->m = fuzz_machine_new();
    c->m->vm->objects = object_set_new();
    c->m->vm->monitors = monitor_set_new(c->m->vm);
    c->addr.sun_family = AF_UNIX;
    g_snprintf(c->addr.sun_path, sizeof(c->addr.sun_path), "%s/qmp", c->m->folder);
    options = json_pack("{s:s, s:s, s:s, s:s, s:s}", "backend", "socket", "id", "mon0", "path",
                        c->addr.sun_path, "server", "on", "wait", "off");
    chr = chardev_open(c->m->vm->chardevs, options, &err);
    if (!chr || !monitor_add_qmp(c->m->vm->monitors, chr, false, &err)) {
        g_error("%s", err->message);
    }
}

/* Whatever the last input did, the next one finds the machine as it was at first. */
static void begin(struct client *c, bool incoming)
{
    struct vm *vm = c->m->vm;
    struct migration *m = vm->migration;

    if (m->out) {
        qmp_migrate_cancel(vm, NULL);
        outgoing_free(m->out);
        m->out = NULL;
    }
    object_set_free(vm->objects);
    vm->objects = object_set_new();
    memset(&m->options, 0, sizeof(m->options));
    migration_options_init(&m->options);
    m->hold = MIGRATION_HOLD_POINT_NONE;
    m->held = false;
    while (vm_request_pending(vm)) {
        turn(c);
    }
    fuzz_machine_reset(c->m);
    m->status = MIGRATION_STATUS_NONE;
    m->incoming_defer = incoming;
    if (!incoming) {
        vm_set_run_state(vm, RUN_STATE_PRELAUNCH);
        vm_start(vm);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char hello[] = "{\"execute\":\"qmp_capabilities\",\"arguments\":"
                                "{\"enable\":[\"oob\"]}}\n";
    static struct client c;
    bool incoming = size && data[0] == 'I';

    if (!c.m) {
        start(&c);
    }
    begin(&c, incoming);
    client_connect(&c);
    client_say(&c, hello, sizeof(hello) - 1);
    client_say(&c, (const char *)data + incoming, size - incoming);
    client_hear(&c);
    client_disconnect(&c);
    return 0;
}
