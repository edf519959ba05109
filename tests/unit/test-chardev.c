/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Chardevs other than sockets: options and their errors, short forms, null, file, log files, pty,
 * stdio. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>

#include "test-chardev-common.h"

static char *scratch;

static char *in_scratch(const char *name)
{
    return g_build_filename(scratch, name, NULL);
}

static void test_option_errors(void)
{
    static const struct {
        const char *options;
        const char *message;
    } bad[] = {
        { "{\"backend\":\"null\"}", "chardev: no id specified" },
        { "{\"backend\":\"null\",\"id\":\"1a\"}",
          "Parameter 'id' expects an identifier: letters, digits, '-', '.', '_', starting with a "
          "letter" },
        { "{\"backend\":\"bogus\",\"id\":\"a\"}", "'bogus' is not a valid char driver name" },
        { "{\"id\":\"a\"}", "'' is not a valid char driver name" },
        { "{\"backend\":\"null\",\"id\":\"a\",\"foo\":\"1\"}", "Invalid parameter 'foo'" },
        { "{\"backend\":\"pty\",\"id\":\"a\",\"path\":\"/x\"}", "Invalid parameter 'path'" },
        { "{\"backend\":\"file\",\"id\":\"a\"}", "chardev: file: no filename given" },
        { "{\"backend\":\"file\",\"id\":\"a\",\"path\":\"/dev/null\",\"append\":\"maybe\"}",
          "Parameter 'append' expects 'on' or 'off'" },
        { "{\"backend\":\"file\",\"id\":\"a\",\"path\":[]}", "Parameter 'path' expects a string" },
        { "{\"backend\":\"stdio\",\"id\":\"a\",\"signal\":\"3\"}",
          "Parameter 'signal' expects 'on' or 'off'" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"foo\":\"1\"}", "Invalid parameter 'foo'" },
        { "{\"backend\":\"socket\",\"id\":\"a\"}",
          "One of 'path', 'fd' or 'host' option required." },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"path\":\"/x\",\"fd\":\"3\"}",
          "One of 'path', 'fd' or 'host' option required." },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"host\":\"localhost\"}",
          "chardev: socket: no port given" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"path\":\"/x\",\"reconnect\":\"x\"}",
          "Parameter 'reconnect' expects a number" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"path\":\"/x\",\"reconnect\":\"1\","
          "\"server\":\"on\"}",
          "'reconnect' option is incompatible with socket in server listen mode" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"path\":\"/x\",\"wait\":\"on\"}",
          "'wait' option is incompatible with socket in client connect mode" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"fd\":\"nope\"}",
          "Unable to parse FD number nope" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"fd\":\"999\"}",
          "File descriptor '999' is not a socket" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"host\":\"h\",\"port\":\"1\",\"ipv4\":\"off\","
          "\"ipv6\":\"off\"}",
          "Cannot disable IPv4 and IPv6 at same time" },
        { "{\"backend\":\"socket\",\"id\":\"a\",\"host\":\"127.0.0.1\",\"port\":\"1\"}",
          "Failed to connect to '127.0.0.1:1': Connection refused" },
        { "{\"backend\":\"null\",\"id\":\"taken\"}", "Duplicate ID 'taken' for chardev" },
    };
    g_autoptr(chardev_set) set = chardev_set_new();

    g_assert_nonnull(open_text(set, "backend=null,id=taken", NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;

        g_assert_null(open_json(set, bad[i].options, &err));
        g_assert_nonnull(err);
        g_assert_cmpstr(err->message, ==, bad[i].message);
    }
    g_assert_null(chardev_find(set, "a"));
}

static void test_path_errors(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    g_autofree char *lost = in_scratch("nodir/x");
    g_autofree char *file = g_strdup_printf("backend=file,id=a,path=%s", lost);
    g_autofree char *log = g_strdup_printf("backend=pty,id=a,logfile=%s", lost);
    g_autofree char *server =
        g_strdup_printf("backend=socket,id=a,server=on,wait=off,path=%s", lost);
    g_autofree char *client = g_strdup_printf("backend=socket,id=a,path=%s", lost);
    const struct {
        const char *options;
        const char *before; /* the path in the message */
        const char *after;
    } bad[] = {
        { file, "Could not open '", "': No such file or directory" },
        { log, "Could not create '", "': No such file or directory" },
        { server, "Failed to bind socket to ", ": No such file or directory" },
        { client, "Failed to connect to '", "': No such file or directory" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *message = g_strconcat(bad[i].before, lost, bad[i].after, NULL);
        g_autoptr(GError) err = NULL;

        g_assert_null(open_text(set, bad[i].options, &err));
        g_assert_nonnull(err);
        g_assert_cmpstr(err->message, ==, message);
    }
}

static void count_chardev(struct chardev *chr G_GNUC_UNUSED, void *opaque)
{
    (*(unsigned *)opaque)++;
}

static void test_null(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_json(set, "{\"backend\":\"null\",\"id\":\"n\"}", NULL);
    g_autofree char *name = chardev_describe(chr);
    g_autoptr(GError) err = NULL;
    struct front *f = front_attach(chr);
    unsigned count = 0;

    g_assert_cmpstr(name, ==, "null");
    g_assert_cmpstr(chardev_id(chr), ==, "n");
    g_assert_true(chardev_find(set, "n") == chr);
    g_assert_true(chardev_is_connected(chr));
    g_assert_true(chardev_frontend_open(chr));
    g_assert_cmpstr(f->events->str, ==, "O");
    g_assert_cmpuint(chardev_write(chr, "abc", 3), ==, 3);
    chardev_notify_writable(chr, front_writable, f);
    g_assert_cmpuint(f->writable_calls, ==, 0); /* from the main loop, not from here */
    RUN_UNTIL(f->writable_calls == 1);
    g_assert_false(chardev_attach(chr, &front_ops, f, &err));
    g_assert_cmpstr(err->message, ==, "Device 'n' is in use");
    chardev_notify_writable(chr, front_writable, f);
    chardev_detach(chr);
    g_assert_false(chardev_frontend_open(chr));
    run_idle();
    g_assert_cmpuint(f->writable_calls, ==, 1);
    g_assert_cmpint(chardev_take_fd(chr), ==, -1);
    chardev_foreach(set, count_chardev, &count);
    g_assert_cmpuint(count, ==, 1);
    front_free(f);
}

static void expect_file(const char *path, const char *text)
{
    g_autofree char *got = NULL;

    g_assert_true(g_file_get_contents(path, &got, NULL, NULL));
    g_assert_cmpstr(got, ==, text);
}

static void test_file(void)
{
    g_autofree char *path = in_scratch("out");
    g_autofree char *log = in_scratch("log");
    g_autofree char *input = in_scratch("in");
    g_autofree char *first =
        g_strdup_printf("backend=file,id=a,path=%s,logfile=%s,input-path=%s", path, log, input);
    g_autofree char *second =
        g_strdup_printf("backend=file,id=a,path=%s,append=on,logfile=%s,logappend=on", path, log);
    struct chardev_set *set = chardev_set_new();
    g_autoptr(GError) err = NULL;
    struct chardev *chr;
    struct front *f;

    g_assert_true(g_file_set_contents(path, "old", -1, NULL));
    g_assert_true(g_file_set_contents(log, "old", -1, NULL));
    g_assert_true(g_file_set_contents(input, "from a file", -1, NULL));
    chr = open_text(set, first, &err);
    g_assert_no_error(err);
    f = front_attach(chr);
    RUN_UNTIL(f->got->len == 11);
    g_assert_cmpstr(f->got->str, ==, "from a file");
    run_idle();
    g_assert_cmpuint(chardev_write(chr, "one", 3), ==, 3);
    chardev_write_queued(chr, "two", 3);
    chardev_set_free(set);
    g_assert_cmpstr(f->events->str, ==, "O"); /* the end of the input is not the end */
    front_free(f);
    expect_file(path, "onetwo");
    expect_file(log, "onetwo");
    set = chardev_set_new();
    chr = open_text(set, second, &err);
    g_assert_no_error(err);
    chardev_write(chr, "three", 5);
    chardev_set_free(set);
    expect_file(path, "onetwothree");
    expect_file(log, "onetwothree");
    unlink(path);
    unlink(log);
    unlink(input);
}

/* A full disk costs output, nothing else. */
static void test_full(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr =
        open_text(set, "backend=file,id=a,path=/dev/full,append=on,logfile=/dev/full", NULL);

    g_assert_cmpuint(chardev_write(chr, "abc", 3), ==, 3);
    chardev_write_queued(chr, "abc", 3);
    g_assert_cmpuint(chardev_queue_length(chr), ==, 0);
}

static int open_fdset(void *opaque, const char *path, int flags, GError **err)
{
    g_assert_cmpstr(path, ==, "/dev/fdset/2");
    if (!opaque) {
        error_set(err, FERRY_ERROR_USER, "No such fdset");
        return -1;
    }
    return open(opaque, flags | O_CLOEXEC, 0600);
}

static void test_fdset(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    g_autofree char *path = in_scratch("behind");
    g_autoptr(GError) err = NULL;

    chardev_set_fdset_opener(set, open_fdset, NULL);
    g_assert_null(open_text(set, "backend=file,id=a,path=/dev/fdset/2", &err));
    g_assert_cmpstr(err->message, ==, "No such fdset");
    g_clear_error(&err);
    chardev_set_fdset_opener(set, open_fdset, path);
    chardev_write(open_text(set, "backend=file,id=a,path=/dev/fdset/2", &err), "x", 1);
    g_assert_no_error(err);
    expect_file(path, "x");
    unlink(path);
}

static void test_legacy(void)
{
    g_autofree char *path = in_scratch("legacy");
    g_autofree char *server = g_strdup_printf("unix:%s,server,nowait", path);
    g_autofree char *named = g_strdup_printf("disconnected:unix:%s,server=on", path);
    g_autofree char *file = g_strdup_printf("file:%s", path);
    static const struct {
        const char *spec;
        const char *message;
    } bad[] = {
        { "bogus:x", "'bogus:x' is not a valid char driver" },
        { "pty:x", "'pty:x' is not a valid char driver" },
        { "", "'' is not a valid char driver" },
        { "chardev:nope", "Chardev 'nope' not found" },
        { "unix:/x,foo", "Invalid parameter 'foo'" },
        { "unix:/x,foo=2", "Invalid parameter 'foo'" },
        { "tcp:127.0.0.1", "The address '127.0.0.1' has no port: use tcp:HOST:PORT" },
        { "file:", "Could not open '': No such file or directory" },
    };
    struct chardev_set *set = chardev_set_new();
    g_autofree char *name = NULL;
    g_autoptr(GError) err = NULL;
    struct chardev *chr;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_null(chardev_open_legacy(set, "serial0", bad[i].spec, &err));
        g_assert_nonnull(err);
        g_assert_cmpstr(err->message, ==, bad[i].message);
        g_clear_error(&err);
    }
    chr = chardev_open_legacy(set, "serial0", server, &err);
    g_assert_no_error(err);
    name = chardev_describe(chr);
    g_assert_cmpstr(name, ==, named);
    g_assert_true(chardev_open_legacy(set, "x", "chardev:serial0", &err) == chr);
    g_assert_nonnull(chardev_open_legacy(set, "serial1", "null", &err));
    g_assert_nonnull(
        chardev_open_legacy(set, "serial2", "tcp:127.0.0.1:0,server=on,wait=off,nodelay", &err));
    g_assert_no_error(err);
    chardev_set_free(set);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    set = chardev_set_new();
    chr = chardev_open_legacy(set, "serial0", file, &err);
    g_assert_no_error(err);
    chardev_write(chr, "y", 1);
    expect_file(path, "y");
    unlink(path);
    chardev_set_free(set);
    /* two commas stand for one in a path */
    set = chardev_set_new();
    g_autofree char *comma = in_scratch("with,,comma");
    g_autofree char *comma_path = in_scratch("with,comma");
    g_autofree char *comma_spec = g_strdup_printf("unix:%s,server=on,wait=off,", comma);
    g_assert_nonnull(chardev_open_legacy(set, "serial0", comma_spec, &err));
    g_assert_no_error(err);
    g_assert_true(g_file_test(comma_path, G_FILE_TEST_EXISTS));
    chardev_set_free(set);
}

/* The pty chardev names its path on stdout, where the test protocol is spoken. */
static struct chardev *open_pty(struct chardev_set *set, GError **err)
{
    int saved = dup(STDOUT_FILENO);
    struct chardev *chr;

    fflush(stdout);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    chr = open_text(set, "backend=pty,id=p", err);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    return chr;
}

static void test_pty(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    g_autoptr(GError) err = NULL;
    struct chardev *chr = open_pty(set, &err);
    g_autofree char *name = chardev_describe(chr);
    struct front *f = front_attach(chr);
    struct termios mode;
    int slave;

    g_assert_no_error(err);
    g_assert_true(g_str_has_prefix(name, "pty:/dev/pts/"));
    run_idle();
    g_assert_false(chardev_is_connected(chr));
    g_assert_cmpuint(chardev_write(chr, "lost", 4), ==, 4);
    for (int round = 0; round < 2; round++) {
        slave = open(name + 4, O_RDWR | O_NOCTTY);
        g_assert_cmpint(slave, >=, 0);
        RUN_UNTIL(chardev_is_connected(chr));
        g_assert_cmpint(tcgetattr(slave, &mode), ==, 0);
        g_assert_cmpuint(mode.c_lflag & (ICANON | ECHO | ISIG), ==, 0);
        send_text(slave, "to\r\n\003guest");
        RUN_UNTIL(f->got->len == 10);
        g_assert_cmpstr(f->got->str, ==, "to\r\n\003guest");
        g_string_truncate(f->got, 0);
        g_assert_cmpuint(chardev_write(chr, "out\n", 4), ==, 4);
        expect_bytes(slave, "out\n");
        close(slave);
        RUN_UNTIL(!chardev_is_connected(chr));
        g_assert_cmpuint(chardev_write(chr, "lost", 4), ==, 4);
        chardev_notify_writable(chr, front_writable, f);
        RUN_UNTIL(f->writable_calls == (unsigned)round + 1);
    }
    g_assert_cmpstr(f->events->str, ==, "OCOC");
    /* a reader that does not read fills the line; then we are told so */
    slave = open(name + 4, O_RDWR | O_NOCTTY);
    RUN_UNTIL(chardev_is_connected(chr));
    g_autofree char *block = g_malloc0(1 << 20);
    for (int quiet = 0; quiet < 5; quiet++) {
        size_t taken = chardev_write(chr, block, 1 << 20);

        g_assert_cmpuint(taken, <, 1 << 20);
        if (taken > 0) {
            quiet = 0;
        }
        run_idle(); /* the kernel moves bytes on in the background */
    }
    chardev_notify_writable(chr, front_writable, f);
    run_idle();
    g_assert_cmpuint(f->writable_calls, ==, 2);
    close(slave);
    RUN_UNTIL(f->writable_calls == 3);
    chardev_detach(chr);
    front_free(f);
}

/* What a child with a terminal of its own does; see stdio_in_child(). */
static void stdio_child(const char *end)
{
    struct chardev_set *set = chardev_set_new();
    struct chardev *chr = open_text(
        set, g_str_equal(end, "nosignal") ? "backend=stdio,id=s,signal=off" : "backend=stdio,id=s",
        NULL);
    struct front *f;

    if (!chr || open_text(set, "backend=stdio,id=s2", NULL)) {
        _exit(99);
    }
    f = front_attach(chr);
    chardev_write_queued(chr, "ready\n", 6);
    RUN_UNTIL(f->got->len > 0);
    if (g_str_equal(end, "segv")) {
        raise(SIGSEGV);
    } else if (g_str_equal(end, "kill")) {
        raise(SIGTERM);
    } else if (g_str_equal(end, "close")) {
        chardev_set_free(set);
        _exit(0);
    }
    exit(0);
}

/* Runs the stdio chardev on a terminal; checks raw mode inside, and the mode found afterwards. */
static void stdio_in_child(gconstpointer data)
{
    const char *end = data;
    bool signals = !g_str_equal(end, "nosignal");
    struct termios before, during, after;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave, status;
    pid_t pid;

    g_assert_cmpint(grantpt(master), ==, 0);
    g_assert_cmpint(unlockpt(master), ==, 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(tcgetattr(slave, &before), ==, 0);
    g_assert_cmpuint(before.c_lflag & ICANON, !=, 0);
    pid = fork();
    if (pid == 0) {
        setsid();
        dup2(slave, 0);
        dup2(slave, 1);
        /* the default actions, whatever a sanitizer has installed */
        signal(SIGSEGV, SIG_DFL);
        stdio_child(end);
    }
    expect_bytes(master, "ready\r\n");
    g_assert_cmpint(tcgetattr(slave, &during), ==, 0);
    g_assert_cmpuint(during.c_lflag & (ICANON | ECHO), ==, 0);
    g_assert_cmpuint(during.c_lflag & ISIG, ==, signals ? ISIG : 0);
    g_assert_cmpuint(fcntl(slave, F_GETFL) & O_NONBLOCK, ==, 0);
    send_text(master, signals ? "x" : "\003");
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (g_str_equal(end, "segv") || g_str_equal(end, "kill")) {
        g_assert_true(WIFSIGNALED(status));
        g_assert_cmpint(WTERMSIG(status), ==, g_str_equal(end, "segv") ? SIGSEGV : SIGTERM);
    } else {
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 0);
    }
    g_assert_cmpint(tcgetattr(slave, &after), ==, 0);
    g_assert_cmpuint(after.c_lflag, ==, before.c_lflag);
    g_assert_cmpuint(after.c_iflag, ==, before.c_iflag);
    close(slave);
    close(master);
}

/* Pipes as stdin and stdout: the end of stdin closes, output goes on; a reader that is gone does no
 * harm. */
static void test_stdio_pipes(void)
{
    int to[2], from[2], status;
    pid_t pid;

    g_assert_cmpint(pipe(to), ==, 0);
    g_assert_cmpint(pipe(from), ==, 0);
    pid = fork();
    if (pid == 0) {
        struct chardev_set *set = chardev_set_new();
        struct chardev *chr;
        struct front *f;

        dup2(to[0], 0);
        dup2(from[1], 1);
        for (int fd = 3; fd < 20; fd++) {
            close(fd);
        }
        chr = open_text(set, "backend=stdio,id=s", NULL);
        f = front_attach(chr);
        RUN_UNTIL(g_str_equal(f->events->str, "OC"));
        if (!g_str_equal(f->got->str, "hello") || fcntl(1, F_GETFL) & O_NONBLOCK) {
            _exit(1);
        }
        chardev_write_queued(chr, "world", 5);
        g_usleep(100000);
        for (int i = 0; i < 3; i++) {
            if (chardev_write(chr, "gone", 4) != 4) {
                _exit(2);
            }
        }
        chardev_set_free(set);
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    send_text(to[1], "hello");
    close(to[1]);
    expect_bytes(from[0], "world");
    close(from[0]);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    static const char *const ends[] = { "exit", "close", "nosignal", "segv", "kill" };
    int status;

    g_test_init(&argc, &argv, NULL);
    scratch = g_dir_make_tmp("ferry-chr-XXXXXX", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autofree char *path = g_strconcat("/chardev/stdio-terminal/", ends[i], NULL);

        g_test_add_data_func(path, ends[i], stdio_in_child);
    }
    g_test_add_func("/chardev/stdio-pipes", test_stdio_pipes);
    g_test_add_func("/chardev/option-errors", test_option_errors);
    g_test_add_func("/chardev/path-errors", test_path_errors);
    g_test_add_func("/chardev/null", test_null);
    g_test_add_func("/chardev/file", test_file);
    g_test_add_func("/chardev/full", test_full);
    g_test_add_func("/chardev/fdset", test_fdset);
    g_test_add_func("/chardev/legacy", test_legacy);
    g_test_add_func("/chardev/pty", test_pty);
    status = g_test_run();
    g_rmdir(scratch);
    g_free(scratch);
    return status;
}
