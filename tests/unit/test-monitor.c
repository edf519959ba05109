/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP server as its clients see it, over real sockets. The commands about the VM are fakes of
 * test-monitor-fakes.c: what counts here is which of them run, with which arguments, and what comes
 * back. Error texts are compared in full where managers match them; they were taken from QEMU 7.2.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev/chardev.h"
#include "monitor/monitor.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "system/vm.h"
#include "test-monitor-fakes.h"

/* ---- a machine with one monitor, and its client ---- */

struct fixture {
    struct vm vm;
    char *directory;
    char *path;
    struct chardev *chr;
    int client;
    struct qapi_json_framer *framer; /* of the client */
    GQueue messages;                 /* json_t * received */
};

static void client_message(void *opaque, json_t *value, const GError *error)
{
    struct fixture *f = opaque;

    g_assert_no_error(error);
    g_queue_push_tail(&f->messages, json_incref(value));
}

static void spin(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

/* Lets the server work and takes in what it sends. */
static void client_pump(struct fixture *f)
{
    char buf[65536];
    ssize_t n;

    spin();
    while ((n = recv(f->client, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
        qapi_json_framer_feed(f->framer, buf, (size_t)n);
        spin();
    }
}

static void client_connect(struct fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    g_strlcpy(addr.sun_path, f->path, sizeof(addr.sun_path));
    f->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    g_assert_cmpint(connect(f->client, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    f->framer = qapi_json_framer_new(client_message, f);
    client_pump(f);
}

static void client_disconnect(struct fixture *f)
{
    close(f->client);
    qapi_json_framer_free(f->framer);
    g_queue_clear_full(&f->messages, (GDestroyNotify)json_decref);
    f->client = -1;
    spin();
}

static void fixture_set_up(struct fixture *f, gconstpointer pretty)
{
    g_autoptr(json_t) options = NULL;
    g_autoptr(GError) error = NULL;

    memset(&fake, 0, sizeof(fake));
    f->vm.run_state = RUN_STATE_RUNNING;
    f->directory = g_dir_make_tmp("ferry-qmp-XXXXXX", NULL);
    f->path = g_build_filename(f->directory, "qmp", NULL);
    f->vm.chardevs = chardev_set_new();
    options = json_pack("{s:s, s:s, s:s, s:s, s:s}", "backend", "socket", "id", "mon0", "path",
                        f->path, "server", "on", "wait", "off");
    f->chr = chardev_open(f->vm.chardevs, options, &error);
    g_assert_no_error(error);
    f->vm.monitors = monitor_set_new(&f->vm);
    g_assert_true(monitor_add_qmp(f->vm.monitors, f->chr, pretty != NULL, &error));
    g_assert_no_error(error);
    g_queue_init(&f->messages);
    client_connect(f);
}

static void fixture_tear_down(struct fixture *f, gconstpointer pretty G_GNUC_UNUSED)
{
    if (f->client >= 0) {
        client_disconnect(f);
    }
    monitor_set_free(f->vm.monitors);
    chardev_set_free(f->vm.chardevs);
    g_assert_cmpint(g_rmdir(f->directory), ==, 0);
    g_free(f->path);
    g_free(f->directory);
}

static void client_send(struct fixture *f, const char *text)
{
    g_assert_cmpint(send(f->client, text, strlen(text), 0), ==, (ssize_t)strlen(text));
    client_pump(f);
}

static void client_send_fd(struct fixture *f, const char *text, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = (char *)text, .iov_len = strlen(text) };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof(control.bytes) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    g_assert_cmpint(sendmsg(f->client, &msg, 0), ==, (ssize_t)strlen(text));
    client_pump(f);
}

/* The next message as text, "" when there is none. The time of events is left out. */
static char *client_next(struct fixture *f)
{
    g_autoptr(json_t) message = g_queue_pop_head(&f->messages);

    if (!message) {
        return g_strdup("");
    }
    json_t *timestamp = json_object_get(message, "timestamp");
    if (timestamp) {
        g_assert_true(json_is_integer(json_object_get(timestamp, "seconds")));
        g_assert_true(json_is_integer(json_object_get(timestamp, "microseconds")));
        json_object_del(message, "timestamp");
    }
    return qapi_json_dump(message, false);
}

static void expect(struct fixture *f, const char *expected)
{
    g_autofree char *got = client_next(f);

    g_assert_cmpstr(got, ==, expected);
}

static void exchange(struct fixture *f, const char *request, const char *answer)
{
    client_send(f, request);
    expect(f, answer);
    g_assert_cmpuint(f->messages.length, ==, 0);
}

static void expect_error(struct fixture *f, const char *request, const char *class,
                         const char *desc)
{
    client_send(f, request);
    g_autoptr(json_t) message = g_queue_pop_head(&f->messages);
    json_t *error = json_object_get(message, "error");

    g_assert_cmpstr(json_string_value(json_object_get(error, "desc")), ==, desc);
    g_assert_cmpstr(json_string_value(json_object_get(error, "class")), ==, class);
    g_assert_cmpuint(f->messages.length, ==, 0);
}

static void negotiate(struct fixture *f)
{
    g_autofree char *greeting = client_next(f);

    g_assert_true(g_str_has_prefix(greeting, "{\"QMP\": {"));
    exchange(f, "{'execute':'qmp_capabilities'}", "{\"return\": {}}");
}

/* ---- negotiation and requests ---- */

static void test_negotiation(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char expecting[] = "Expecting capabilities negotiation with 'qmp_capabilities'";

    expect(f, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 22}, "
              "\"package\": \"ferry-" FERRY_VERSION "\"}, \"capabilities\": [\"oob\"]}}");
    expect_error(f, "{'execute':'query-version'}", "CommandNotFound", expecting);
    expect_error(f, "{'execute':'nope','id':1}", "CommandNotFound", expecting);
    expect_error(f, "{'exec-oob':'qmp_capabilities'}", "GenericError",
                 "QMP input member 'exec-oob' is unexpected");
    expect_error(f, "{'execute':'qmp_capabilities','arguments':{'enable':['nope']}}",
                 "GenericError", "Parameter 'enable[0]' does not accept value 'nope'");
    qapi_event_send_stop(&f->vm); /* not for this client yet */
    exchange(f, "{'execute':'qmp_capabilities','id':'x'}", "{\"return\": {}, \"id\": \"x\"}");
    expect_error(f, "{'execute':'qmp_capabilities'}", "CommandNotFound",
                 "Capabilities negotiation is already complete, command ignored");
    expect_error(f, "{'exec-oob':'migrate-pause'}", "GenericError",
                 "QMP input member 'exec-oob' is unexpected");
    qapi_event_send_stop(&f->vm);
    client_pump(f);
    expect(f, "{\"event\": \"STOP\"}");
}

static void test_oob(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_free(client_next(f));
    exchange(f, "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}",
             "{\"return\": {}}");
    expect_error(f, "{'exec-oob':'migrate-pause'}", "GenericError",
                 "migrate-pause is currently only supported during postcopy-active state");
    expect_error(f, "{'exec-oob':'query-version'}", "GenericError",
                 "The command query-version does not support OOB");
    expect_error(f, "{'exec-oob':1}", "GenericError",
                 "QMP input member 'exec-oob' must be a string");
    expect_error(f, "{'execute':'stop','exec-oob':'stop'}", "GenericError",
                 "QMP input member 'exec-oob' clashes with 'execute'");
}

static void test_requests(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const struct {
        const char *request, *class, *desc;
    } refused[] = {
        { "{'execute':'nope'}", "CommandNotFound", "The command nope has not been found" },
        { "{'execute':''}", "CommandNotFound", "The command  has not been found" },
        { "{}", "GenericError", "QMP input lacks member 'execute'" },
        { "{'arguments':{}}", "GenericError", "QMP input lacks member 'execute'" },
        { "[]", "GenericError", "QMP input must be a JSON object" },
        { "null\n", "GenericError", "QMP input must be a JSON object" },
        { "{'execute':1}", "GenericError", "QMP input member 'execute' must be a string" },
        { "{'execute':18446744073709551615}", "GenericError",
          "QMP input member 'execute' must be a string" },
        { "{'execute':'stop','foo':1}", "GenericError", "QMP input member 'foo' is unexpected" },
        { "{'execute':'stop','arguments':1}", "GenericError",
          "QMP input member 'arguments' must be an object" },
        { "{'execute':'stop','arguments':{'x':1}}", "GenericError", "Parameter 'x' is unexpected" },
        { "{'execute':'qom-get'}", "GenericError", "Parameter 'path' is missing" },
        { "{'execute':'qom-get','arguments':{'path':1,'property':'x'}}", "GenericError",
          "Invalid parameter type for 'path', expected: string" },
        { "{'execute':'qom-get','arguments':{'path':'/x','property':'x'}}", "DeviceNotFound",
          "Device '/x' not found" },
        { "{'execute':'migrate'}", "GenericError",
          "Command 'migrate' failed without naming a reason" },
        { "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':'1k'}}", "GenericError",
          "Parameter 'max-bandwidth' expects uint64" },
        { "{'execute':'migrate-continue','arguments':{'state':'foo'}}", "GenericError",
          "Parameter 'state' does not accept value 'foo'" },
        { "{'execute':'object-add','arguments':{'qom-type':'nope','id':'x'}}", "GenericError",
          "Parameter 'qom-type' does not accept value 'nope'" },
    };

    negotiate(f);
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        expect_error(f, refused[i].request, refused[i].class, refused[i].desc);
    }
    g_assert_cmpint((int)f->vm.run_state, ==, RUN_STATE_RUNNING);
}

static void test_answers(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    exchange(f, "{'execute':'query-status','id':null}",
             "{\"return\": {\"running\": true, \"singlestep\": false, \"status\": \"running\"}, "
             "\"id\": null}");
    exchange(f, "{'execute':'query-name','id':18446744073709551615}",
             "{\"return\": {}, \"id\": 18446744073709551615}");
    exchange(f, "{'execute':'query-name','id':{'a':[1.5,'é']}}",
             "{\"return\": {}, \"id\": {\"a\": [1.5, \"\\u00E9\"]}}");
    exchange(f, "{'execute':'qom-get','arguments':{'path':'/machine','property':'x'}}",
             "{\"return\": 18446744073709551615}");
    exchange(f, "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':-1}}",
             "{\"return\": {}}");
    exchange(f, "{'execute':'query-migrate-parameters'}",
             "{\"return\": {\"max-bandwidth\": 18446744073709551615}}");
}

/* query-chardev names a path that differs each time, so it is looked at in parts */
static void test_query_chardev(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    json_t *info;

    negotiate(f);
    client_send(f, "{'execute':'query-chardev'}");
    g_autoptr(json_t) answer = g_queue_pop_head(&f->messages);
    g_autofree char *filename = g_strdup_printf("unix:%s,server=on", f->path);

    info = json_array_get(json_object_get(answer, "return"), 0);
    g_assert_cmpstr(json_string_value(json_object_get(info, "label")), ==, "mon0");
    g_assert_cmpstr(json_string_value(json_object_get(info, "filename")), ==, filename);
    g_assert_true(json_is_true(json_object_get(info, "frontend-open")));
}

static void test_bad_json(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    expect_error(f, "{'execute': foo}\n", "GenericError",
                 "JSON parse error, invalid keyword 'foo'");
    expect_error(f, "{'execute':'stop','execute':'stop'}", "GenericError",
                 "JSON parse error, duplicate object key near '\"execute\"'");
    /* half a request, then a client that starts over */
    client_send(f, "{\"execute\":\"qu\xff{'execute':'query-name','id':1}");
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray byte "
              "0xff\"}}");
    expect(f, "{\"return\": {}, \"id\": 1}");
    exchange(f, "\n \r\n", "");
    exchange(f, "{'execute':", "");
    exchange(f, "'query-name'}", "{\"return\": {}}");
    client_send(f, "{'execute':'query-name','id':1}{'execute':'query-name','id':2}");
    expect(f, "{\"return\": {}, \"id\": 1}");
    expect(f, "{\"return\": {}, \"id\": 2}");
}

static void test_events(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    client_send(f, "{'execute':'stop','id':1}");
    expect(f, "{\"event\": \"STOP\"}");
    expect(f, "{\"return\": {}, \"id\": 1}");
    client_send(f, "{'execute':'quit'}");
    expect(f, "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": "
              "\"host-qmp-quit\"}}");
    expect(f, "{\"return\": {}}");
    g_assert_cmpuint(fake.quits, ==, 1);
    qapi_event_send_migration(&f->vm, MIGRATION_STATUS_PRE_SWITCHOVER);
    qapi_event_send_migration_pass(&f->vm, 3);
    client_pump(f);
    expect(f, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"pre-switchover\"}}");
    expect(f, "{\"event\": \"MIGRATION_PASS\", \"data\": {\"pass\": 3}}");
}

/* Two servers on two chardevs: each has its own negotiation and descriptors, events go to both. */
static void test_two_clients(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    struct fixture other = { .path = g_build_filename(f->directory, "qmp2", NULL) };
    g_autoptr(json_t) options =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "backend", "socket", "id", "mon1", "path",
                  other.path, "server", "on", "wait", "off");
    g_autoptr(GError) error = NULL;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    other.chr = chardev_open(f->vm.chardevs, options, &error);
    g_assert_no_error(error);
    g_assert_true(monitor_add_qmp(f->vm.monitors, other.chr, false, &error));
    g_assert_false(monitor_add_qmp(f->vm.monitors, other.chr, false, &error));
    g_assert_nonnull(error);
    client_connect(&other);
    negotiate(f);
    client_send(f, "{'execute':'stop'}");
    expect(f, "{\"event\": \"STOP\"}");
    expect(f, "{\"return\": {}}");
    negotiate(&other); /* it was not told */
    client_send_fd(f, "{'execute':'getfd','arguments':{'fdname':'a'}}", fd);
    expect(f, "{\"return\": {}}");
    expect_error(&other, "{'execute':'closefd','arguments':{'fdname':'a'}}", "GenericError",
                 "File descriptor named 'a' not found");
    client_send(&other, "{'execute':'cont'}");
    expect(&other, "{\"event\": \"RESUME\"}");
    expect(&other, "{\"return\": {}}");
    client_pump(f);
    expect(f, "{\"event\": \"RESUME\"}");
    client_disconnect(&other);
    exchange(f, "{'execute':'closefd','arguments':{'fdname':'a'}}", "{\"return\": {}}");
    g_free(other.path);
    close(fd);
}

/* The main loop holds the machine lock except while it waits, as in the program. */
static struct vm *polling_vm;

static gint unlocked_poll(GPollFD *fds, guint count, gint timeout)
{
    vm_unlock(polling_vm);
    gint ready = g_poll(fds, count, timeout);
    vm_lock(polling_vm);
    return ready;
}

#define THREAD_EVENTS 2000

static gpointer emit_events(gpointer opaque)
{
    struct vm *vm = opaque;

    for (int i = 0; i < THREAD_EVENTS; i++) {
        vm_lock(vm);
        qapi_event_send_migration_pass(vm, i);
        vm_unlock(vm);
    }
    return NULL;
}

static void test_events_of_threads(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GPollFunc poll_before = g_main_context_get_poll_func(NULL);
    unsigned events = 0;

    negotiate(f);
    mutex_init(&f->vm.lock);
    polling_vm = &f->vm;
    g_main_context_set_poll_func(NULL, unlocked_poll);
    vm_lock(&f->vm);
    GThread *thread = g_thread_new("events", emit_events, &f->vm);
    while (events < THREAD_EVENTS) {
        client_send(f, "{'execute':'query-name','id':1}");
        while (f->messages.length) {
            g_autoptr(json_t) message = g_queue_pop_head(&f->messages);
            json_t *pass = json_object_get(json_object_get(message, "data"), "pass");

            if (pass) {
                /* none is lost and the order is kept */
                g_assert_cmpint(json_integer_value(pass), ==, events);
                events++;
            }
        }
    }
    vm_unlock(&f->vm);
    g_thread_join(thread);
    g_main_context_set_poll_func(NULL, poll_before);
    mutex_clear(&f->vm.lock);
}

/* Without monitors events go nowhere, and their data is freed. */
static void test_no_monitors(void)
{
    struct vm vm = { 0 };

    qapi_event_send_migration_pass(&vm, 1);
}

static void test_reconnect(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_free(client_next(f));
    exchange(f, "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}",
             "{\"return\": {}}");
    client_send(f, "{'execute':'query-na"); /* left unfinished */
    client_disconnect(f);
    qapi_event_send_stop(&f->vm);
    client_connect(f);
    g_assert_cmpuint(f->messages.length, ==, 1);
    negotiate(f);
    expect_error(f, "{'exec-oob':'migrate-pause'}", "GenericError",
                 "QMP input member 'exec-oob' is unexpected");
}

static void test_pretty(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char request[] = "{'execute':'query-name','id':[1,{}]}";
    char buf[4096] = "";

    negotiate(f);
    f->vm.name = (char *)"guest";
    g_assert_cmpint(send(f->client, request, strlen(request), 0), ==, (ssize_t)strlen(request));
    spin();
    g_assert_cmpint(recv(f->client, buf, sizeof(buf) - 1, 0), >, 0);
    g_assert_cmpstr(buf, ==,
                    "{\r\n    \"return\": {\r\n        \"name\": \"guest\"\r\n    },\r\n"
                    "    \"id\": [\r\n        1,\r\n        {}\r\n    ]\r\n}\r\n");
}

static void test_introspection(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    size_t i, commands = 0;
    json_t *entry;

    negotiate(f);
    client_send(f, "{'execute':'query-qmp-schema'}");
    g_autoptr(json_t) answer = g_queue_pop_head(&f->messages);
    json_t *schema = json_object_get(answer, "return");

    json_array_foreach(schema, i, entry)
    {
        const char *meta = json_string_value(json_object_get(entry, "meta-type"));

        g_assert_true(
            g_hash_table_add(names, (char *)json_string_value(json_object_get(entry, "name"))));
        commands += !strcmp(meta, "command");
    }
    g_assert_cmpuint(commands, ==, qmp_command_count);
    /* it follows its own description */
    GPtrArray *list = NULL;
    g_autoptr(GError) error = NULL;
    qapi_read(&qapi_type_list_schema_info, "schema", schema, QAPI_READ_JSON, &list, &error);
    g_assert_no_error(error);
    for (guint n = 0; n < list->len; n++) {
        const SchemaInfo *info = list->pdata[n];

        if (info->meta_type == SCHEMA_META_TYPE_COMMAND) {
            g_assert_true(g_hash_table_contains(names, info->u.command.arg_type));
            g_assert_true(g_hash_table_contains(names, info->u.command.ret_type));
        }
    }
    g_ptr_array_unref(list);
    client_send(f, "{'execute':'query-commands'}");
    g_autoptr(json_t) listed = g_queue_pop_head(&f->messages);
    g_assert_cmpuint(json_array_size(json_object_get(listed, "return")), ==, qmp_command_count);
}

/* ---- descriptors ---- */

static void test_named_fds(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int pipes[2];
    char byte = 0;

    negotiate(f);
    g_assert_cmpint(pipe2(pipes, O_CLOEXEC), ==, 0);
    expect_error(f, "{'execute':'getfd','arguments':{'fdname':'a'}}", "GenericError",
                 "No file descriptor supplied via SCM_RIGHTS");
    client_send_fd(f, "{'execute':'getfd','arguments':{'fdname':'1a'}}", pipes[1]);
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'fdname' expects a "
              "name not starting with a digit\"}}");
    client_send_fd(f, "{'execute':'getfd','arguments':{'fdname':'a'}}", pipes[1]);
    expect(f, "{\"return\": {}}");
    client_send_fd(f, "{'execute':'getfd','arguments':{'fdname':'a'}}", pipes[1]); /* replaces */
    expect(f, "{\"return\": {}}");
    expect_error(f, "{'execute':'closefd','arguments':{'fdname':'b'}}", "GenericError",
                 "File descriptor named 'b' not found");
    expect_error(f, "{'execute':'migrate','arguments':{'uri':'fd:b'}}", "GenericError",
                 "File descriptor named 'b' has not been found");
    /* it outlives the connection, and is gone once used */
    client_disconnect(f);
    client_connect(f);
    negotiate(f);
    exchange(f, "{'execute':'migrate','arguments':{'uri':'fd:a'}}", "{\"return\": {}}");
    g_assert_cmpint(write(fake.migrate_fd, "x", 1), ==, 1);
    g_assert_cmpint(fcntl(fake.migrate_fd, F_GETFD), ==, FD_CLOEXEC);
    close(fake.migrate_fd);
    expect_error(f, "{'execute':'migrate','arguments':{'uri':'fd:a'}}", "GenericError",
                 "File descriptor named 'a' has not been found");
    /* all copies on our side are closed: the reader sees the end */
    close(pipes[1]);
    g_assert_cmpint(read(pipes[0], &byte, 1), ==, 1);
    g_assert_cmpint(read(pipes[0], &byte, 1), ==, 0);
    close(pipes[0]);
}

static void test_inherited_fds(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    int inherited = open("/dev/null", O_RDWR);
    int own = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_autofree char *name = g_strdup_printf("%d", inherited);
    g_autofree char *own_name = g_strdup_printf("%d", own);

    g_assert_cmpint(monitor_get_fd(&f->vm, name, &error), ==, inherited);
    g_assert_no_error(error);
    /* now it is ours, like the other */
    g_assert_cmpint(monitor_get_fd(&f->vm, name, NULL), ==, -1);
    g_assert_cmpint(monitor_get_fd(&f->vm, own_name, &error), ==, -1);
    g_assert_nonnull(error);
    g_assert_cmpint(monitor_get_fd(&f->vm, "99999999999", NULL), ==, -1);
    g_assert_cmpint(monitor_get_fd(&f->vm, "", NULL), ==, -1);
    close(inherited);
    close(own);
}

static void add_fd(struct fixture *f, const char *arguments, int fd, int64_t id)
{
    g_autofree char *request = g_strdup_printf("{'execute':'add-fd','arguments':{%s}}", arguments);

    client_send_fd(f, request, fd);
    g_autoptr(json_t) answer = g_queue_pop_head(&f->messages);
    json_t *ret = json_object_get(answer, "return");
    g_assert_cmpint(json_integer_value(json_object_get(ret, "fdset-id")), ==, id);
    g_assert_true(json_is_integer(json_object_get(ret, "fd")));
}

static char *fdset_ids(struct fixture *f)
{
    GString *text = g_string_new(NULL);
    size_t i;
    json_t *set;

    client_send(f, "{'execute':'query-fdsets'}");
    g_autoptr(json_t) answer = g_queue_pop_head(&f->messages);
    json_array_foreach(json_object_get(answer, "return"), i, set)
    {
        g_string_append_printf(text, "%" JSON_INTEGER_FORMAT "x%zu ",
                               json_integer_value(json_object_get(set, "fdset-id")),
                               json_array_size(json_object_get(set, "fds")));
    }
    return g_string_free(text, FALSE);
}

static void expect_fdsets(struct fixture *f, const char *expected)
{
    g_autofree char *got = fdset_ids(f);

    g_assert_cmpstr(got, ==, expected);
}

static void test_fdsets(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    struct monitor_set *set = f->vm.monitors;
    g_autoptr(GError) error = NULL;
    int read_only = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int write_only = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int fd;

    negotiate(f);
    expect_error(f, "{'execute':'add-fd'}", "GenericError",
                 "No file descriptor supplied via SCM_RIGHTS");
    client_send_fd(f, "{'execute':'add-fd','arguments':{'fdset-id':-1}}", read_only);
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'fdset-id' expects "
              "a non-negative value\"}}");
    add_fd(f, "'fdset-id':7,'opaque':'o'", read_only, 7);
    add_fd(f, "", read_only, 0);
    add_fd(f, "", read_only, 1);
    add_fd(f, "'fdset-id':7", write_only, 7);
    expect_fdsets(f, "0x1 1x1 7x2 ");
    expect_error(f, "{'execute':'remove-fd','arguments':{'fdset-id':3}}", "GenericError",
                 "File descriptor named 'fdset-id:3' not found");
    expect_error(f, "{'execute':'remove-fd','arguments':{'fdset-id':7,'fd':99}}", "GenericError",
                 "File descriptor named 'fdset-id:7, fd:99' not found");
    exchange(f, "{'execute':'remove-fd','arguments':{'fdset-id':0}}", "{\"return\": {}}");
    add_fd(f, "", read_only, 0);
    exchange(f, "{'execute':'remove-fd','arguments':{'fdset-id':0}}", "{\"return\": {}}");

    g_assert_true(monitor_fdset_is_path("/dev/fdset/7"));
    g_assert_false(monitor_fdset_is_path("/dev/null"));
    fd = monitor_fdset_open(set, "/dev/fdset/7", O_WRONLY, &error);
    g_assert_no_error(error);
    g_assert_cmpint(fcntl(fd, F_GETFL) & O_ACCMODE, ==, O_WRONLY);
    close(fd);
    g_assert_cmpint(monitor_fdset_open(set, "/dev/fdset/7", O_RDWR, &error), ==, -1);
    g_assert_cmpstr(error->message, ==, "Could not open '/dev/fdset/7': Permission denied");
    g_clear_error(&error);
    g_assert_cmpint(monitor_fdset_open(set, "/dev/fdset/9", O_RDWR, &error), ==, -1);
    g_assert_cmpstr(error->message, ==, "Could not open '/dev/fdset/9': No such file or directory");
    g_clear_error(&error);
    g_assert_cmpint(monitor_fdset_open(set, "/dev/fdset/7x", O_WRONLY, NULL), ==, -1);

    g_assert_cmpint(monitor_fdset_add(set, dup(read_only), 9, NULL, &error), ==, 9);
    g_assert_cmpint(monitor_fdset_add(set, dup(read_only), -2, NULL, NULL), ==, -1);
    g_assert_cmpint(monitor_fdset_add(set, 999, 9, NULL, &error), ==, -1);
    g_assert_nonnull(error);
    /* a stopped guest keeps all, a running one what was opened or came from the command line */
    f->vm.run_state = RUN_STATE_PRELAUNCH;
    client_disconnect(f);
    client_connect(f);
    negotiate(f);
    expect_fdsets(f, "1x1 7x2 9x1 ");
    f->vm.run_state = RUN_STATE_RUNNING;
    client_disconnect(f);
    client_connect(f);
    negotiate(f);
    expect_fdsets(f, "7x2 9x1 ");
    close(read_only);
    close(write_only);
}

/* ---- answers given later ---- */

#define CHECK "{'execute':'migrate-check','arguments':{'uri':'x','peer':'ferry'},'id':'c'}"
#define RESULT                                                                                     \
    "{\"return\": {\"possible\": true, \"peer-asked\": true, \"findings\": []}, \"id\": \"c\"}"

/* The answer to the last CHECK, now. */
static void give_answer(struct fixture *f)
{
    MigrationCheckResult *result = g_new0(MigrationCheckResult, 1);

    result->possible = result->peer_asked = true;
    result->findings = qapi_migration_finding_list_new();
    qmp_migrate_check_answer(g_steal_pointer(&fake.answer), result, NULL);
    if (f->client >= 0) {
        client_pump(f);
    }
}

/* Begins one; its client hears nothing of it yet. */
static void begin_check(struct fixture *f)
{
    client_send(f, CHECK);
    g_assert_nonnull(fake.answer);
    g_assert_cmpuint(f->messages.length, ==, 0);
}

static void test_deferred(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    negotiate(f);
    begin_check(f);
    give_answer(f);
    expect(f, RESULT);
    /* at once, in the handler */
    exchange(f, "{'execute':'migrate-check','arguments':{'peer':'qemu'},'id':1}",
             "{\"return\": {\"possible\": true, \"peer-asked\": false, \"findings\": []}, "
             "\"id\": 1}");
    expect_error(f, "{'execute':'migrate-check','arguments':{'peer':'ferry'}}", "GenericError",
                 "No way");
    expect_error(f, "{'execute':'migrate-check','arguments':{'uri':'x'}}", "GenericError",
                 "Parameter 'peer' is missing");
    /* an error, later */
    begin_check(f);
    g_set_error(&error, 1, 2, "Too late");
    qmp_migrate_check_answer(g_steal_pointer(&fake.answer), NULL, error);
    client_pump(f);
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Too late\"}, \"id\": "
              "\"c\"}");
}

/* What the client asks meanwhile is answered afterwards and in order; events come at once. */
static void test_deferred_order(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    begin_check(f);
    client_send(f, "{'execute':'query-name','id':1}{'execute': foo}\n[]" CHECK
                   "{'execute':'query-name','id':2}");
    g_assert_cmpuint(f->messages.length, ==, 0);
    qapi_event_send_stop(&f->vm);
    client_pump(f);
    expect(f, "{\"event\": \"STOP\"}");
    give_answer(f);
    expect(f, RESULT);
    expect(f, "{\"return\": {}, \"id\": 1}");
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, invalid "
              "keyword 'foo'\"}}");
    expect(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input must be a JSON "
              "object\"}}");
    g_assert_cmpuint(f->messages.length, ==, 0);
    give_answer(f);
    expect(f, RESULT);
    expect(f, "{\"return\": {}, \"id\": 2}");
}

static void test_deferred_oob(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_free(client_next(f));
    exchange(f, "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}",
             "{\"return\": {}}");
    begin_check(f);
    client_send(f, "{'execute':'query-name','id':1}");
    expect_error(f, "{'exec-oob':'migrate-pause'}", "GenericError",
                 "migrate-pause is currently only supported during postcopy-active state");
    give_answer(f);
    expect(f, RESULT);
    expect(f, "{\"return\": {}, \"id\": 1}");
}

/* A client that asks without end meanwhile is not read from; nothing is lost. */
static void test_deferred_flood(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) requests = g_string_new(NULL);
    size_t sent = 0;

    negotiate(f);
    begin_check(f);
    for (unsigned i = 0; i < 40000; i++) {
        g_string_append_printf(requests, "{'execute':'query-name','id':%u}", i);
    }
    for (unsigned idle = 0; sent < requests->len && idle < 100; spin()) {
        ssize_t n = send(f->client, requests->str + sent, requests->len - sent, MSG_DONTWAIT);

        idle = n > 0 ? 0 : idle + 1;
        sent += n > 0 ? (size_t)n : 0;
    }
    g_assert_cmpuint(sent, <, requests->len);
    give_answer(f);
    expect(f, RESULT);
    for (unsigned i = 0; i < 40000; i++) {
        g_autofree char *expected = g_strdup_printf("{\"return\": {}, \"id\": %u}", i);

        while (f->messages.length == 0) {
            ssize_t n = send(f->client, requests->str + sent, requests->len - sent, MSG_DONTWAIT);

            sent += n > 0 ? (size_t)n : 0;
            client_pump(f);
        }
        expect(f, expected);
    }
}

static void test_deferred_client_gone(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    begin_check(f);
    client_send(f, "{'execute':'quit'}");
    client_disconnect(f);
    client_connect(f);
    negotiate(f);
    give_answer(f);
    exchange(f, "{'execute':'query-name','id':5}", "{\"return\": {}, \"id\": 5}");
    g_assert_cmpuint(fake.quits, ==, 0);
}

/* The process ends: the answer finds nobody, not even the server. */
static void test_deferred_server_gone(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    begin_check(f);
    client_send(f, "{'execute':'quit'}");
    monitor_set_free(f->vm.monitors);
    f->vm.monitors = NULL;
    give_answer(f);
    g_assert_cmpuint(fake.quits, ==, 0);
}

/* ---- slow clients ---- */

static void test_slow_reader(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char request[] = "{'execute':'query-qmp-schema'}\n";
    size_t sent = 0;

    negotiate(f);
    /* asks and does not read: at some point the server stops taking requests */
    for (; sent < 100000; sent++) {
        ssize_t n = send(f->client, request, strlen(request), MSG_DONTWAIT);

        if (n < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            spin();
            n = send(f->client, request, strlen(request), MSG_DONTWAIT);
            if (n < 0) {
                break;
            }
        }
        g_assert_cmpint(n, ==, (ssize_t)strlen(request));
        if (sent % 16 == 0) {
            spin();
        }
    }
    g_assert_cmpuint(sent, <, 100000);
    g_assert_cmpuint(chardev_queue_length(f->chr), >, 1 << 20);
    g_assert_cmpuint(chardev_queue_length(f->chr), <, 32 << 20);
}

static void test_slow_reader_catches_up(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char request[] = "{'execute':'query-qmp-schema'}\n";
    unsigned sent = 0, answered = 0;

    negotiate(f);
    for (; sent < 300; sent++) {
        if (send(f->client, request, strlen(request), MSG_DONTWAIT) < 0) {
            break;
        }
        spin();
    }
    for (int i = 0; i < 1000 && answered < sent; i++) {
        client_pump(f);
        answered += f->messages.length;
        g_queue_clear_full(&f->messages, (GDestroyNotify)json_decref);
    }
    g_assert_cmpuint(answered, ==, sent);
    exchange(f, "{'execute':'query-name'}", "{\"return\": {}}");
}

static void test_events_dropped(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    for (int i = 0; i < 400000 && chardev_queue_length(f->chr) <= 16 << 20; i++) {
        qapi_event_send_migration_pass(&f->vm, i);
    }
    size_t full = chardev_queue_length(f->chr);
    g_assert_cmpuint(full, >, 16 << 20);
    for (int i = 0; i < 1000; i++) {
        qapi_event_send_stop(&f->vm);
    }
    g_assert_cmpuint(chardev_queue_length(f->chr), ==, full);
    client_pump(f);
    g_assert_cmpuint(f->messages.length, >, 100000);
    g_queue_clear_full(&f->messages, (GDestroyNotify)json_decref);
    qapi_event_send_stop(&f->vm);
    client_pump(f);
    expect(f, "{\"event\": \"STOP\"}");
}

/* ---- the monitor for people ---- */

static void hmp(struct fixture *f, const char *line, const char *output)
{
    g_autoptr(json_t) request = json_pack("{s:s, s:{s:s}}", "execute", "human-monitor-command",
                                          "arguments", "command-line", line);
    g_autofree char *text = qapi_json_dump(request, false);

    client_send(f, text);
    g_autoptr(json_t) answer = g_queue_pop_tail(&f->messages);
    g_queue_clear_full(&f->messages, (GDestroyNotify)json_decref); /* events */
    g_assert_cmpstr(json_string_value(json_object_get(answer, "return")), ==, output);
}

static void test_hmp(struct fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    negotiate(f);
    hmp(f, "", "");
    hmp(f, "  ", "");
    hmp(f, "nope", "unknown command: 'nope'\r\n");
    hmp(f, "infox", "unknown command: 'infox'\r\n");
    hmp(f, "info foo", "unknown command: 'info foo'\r\n");
    hmp(f, "info status", "VM status: running\r\n");
    hmp(f, " info  status ", "VM status: running\r\n");
    hmp(f, "info status x",
        "status: extraneous characters at the end of line\r\n"
        "Try \"help info status\" for more information\r\n");
    hmp(f, "stop", "");
    hmp(f, "info status", "VM status: paused\r\n");
    f->vm.run_state = RUN_STATE_POSTMIGRATE;
    hmp(f, "info status", "VM status: paused (postmigrate)\r\n");
    hmp(f, "c", "");
    hmp(f, "info status", "VM status: running\r\n");
    hmp(f, "info name", "");
    f->vm.name = (char *)"guest";
    hmp(f, "info name", "guest\r\n");
    hmp(f, "info uuid", "00000000-0000-0000-0000-000000000000\r\n");
    hmp(f, "info kvm", "kvm support: enabled\r\n");
    hmp(f, "info block", "disks \r\n");
    hmp(f, "info  block  -v  x", "disks -v  x\r\n");
    hmp(f, "info cpus", "* CPU #0: thread_id=100\r\n  CPU #1: thread_id=101\r\n");
    hmp(f, "info version", "7.2.22 (ferry-" FERRY_VERSION ")\r\n");
    hmp(f, "info migrate_capabilities", "events: on\r\n");
    hmp(f, "info migrate_parameters", "max-bandwidth: 0 bytes/second\r\n");
    hmp(f, "info migrate",
        "Migration status: failed (No way)\r\ntotal time: 8 ms\r\n"
        "transferred ram: 0 kbytes\r\nthroughput: 173.59 mbps\r\nremaining ram: 0 kbytes\r\n"
        "total ram: 32844 kbytes\r\nduplicate: 0 pages\r\nskipped: 0 pages\r\n"
        "normal: 0 pages\r\nnormal bytes: 0 kbytes\r\ndirty sync count: 0\r\n"
        "page size: 0 kbytes\r\nmultifd bytes: 0 kbytes\r\npages-per-second: 0\r\n");
    hmp(f, "migrate_cancel", "");
    g_assert_cmpuint(fake.cancels, ==, 1);
    hmp(f, "help info status", "info status  -- show whether the guest runs\r\n");
    hmp(f, "help info nope", "unknown command: 'info nope'\r\n");
    hmp(f, "help nope", "unknown command: 'nope'\r\n");
    hmp(f, "help stop", "stop|s  -- stop the guest\r\n");
    expect_error(f,
                 "{'execute':'human-monitor-command','arguments':{'command-line':'info status',"
                 "'cpu-index':2}}",
                 "GenericError", "Parameter 'cpu-index' expects a CPU number");
    exchange(f,
             "{'execute':'human-monitor-command','arguments':{'command-line':'info kvm',"
             "'cpu-index':1}}",
             "{\"return\": \"kvm support: enabled\\r\\n\"}");
}

#define ADD(name, data, fn)                                                                        \
    g_test_add("/monitor/" name, struct fixture, data, fixture_set_up, fn, fixture_tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("negotiation", NULL, test_negotiation);
    ADD("oob", NULL, test_oob);
    ADD("requests", NULL, test_requests);
    ADD("answers", NULL, test_answers);
    ADD("query-chardev", NULL, test_query_chardev);
    ADD("bad-json", NULL, test_bad_json);
    ADD("events", NULL, test_events);
    ADD("events-of-threads", NULL, test_events_of_threads);
    ADD("two-clients", NULL, test_two_clients);
    g_test_add_func("/monitor/no-monitors", test_no_monitors);
    ADD("reconnect", NULL, test_reconnect);
    ADD("pretty", "pretty", test_pretty);
    ADD("introspection", NULL, test_introspection);
    ADD("named-fds", NULL, test_named_fds);
    ADD("inherited-fds", NULL, test_inherited_fds);
    ADD("fdsets", NULL, test_fdsets);
    ADD("deferred/answers", NULL, test_deferred);
    ADD("deferred/order", NULL, test_deferred_order);
    ADD("deferred/out-of-band", NULL, test_deferred_oob);
    ADD("deferred/flood", NULL, test_deferred_flood);
    ADD("deferred/client-gone", NULL, test_deferred_client_gone);
    ADD("deferred/server-gone", NULL, test_deferred_server_gone);
    ADD("slow-reader/stops", NULL, test_slow_reader);
    ADD("slow-reader/catches-up", NULL, test_slow_reader_catches_up);
    ADD("slow-reader/misses-events", NULL, test_events_dropped);
    ADD("hmp", NULL, test_hmp);
    return g_test_run();
}
