/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What -blockdev and -drive take, and what they say to what they do not take. */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "block/block.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "system/keyval.h"
#include "system/vm-init.h"

static GMainContext *test_context;

static GMainContext *context_of(struct vm *vm G_GNUC_UNUSED)
{
    return test_context;
}

static struct vm *machine(void)
{
    struct vm *vm = vm_new();

    vm->blocks = block_set_new(vm, context_of, true);
    return vm;
}

static char *path; /* an image of 1 MiB; $ in what follows */

static char *expand(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "$", -1);

    return g_strjoinv(path, parts);
}

static bool open_text(struct vm *vm, const char *text, bool drive, GError **err)
{
    g_autofree char *full = expand(text);
    bool is_json = false;
    g_autoptr(json_t) options = drive ? keyval_parse(full, "file", NULL, err)
                                      : keyval_parse_or_json(full, "driver", NULL, &is_json, err);

    return options && (drive ? block_open_drive(vm->blocks, options, err)
                             : block_open_blockdev(vm->blocks, options, is_json, err));
}

static const struct {
    bool drive;
    const char *text, *says; /* says NULL: it is taken */
} cases[] = {
    { false, "file,filename=$,node-name=a", NULL },
    { false, "driver=file,filename=$,node-name=a,cache.direct=off,cache.no-flush=on", NULL },
    { false, "driver=raw,node-name=a,file.driver=file,file.filename=$,file.locking=off", NULL },
    { false,
      "{\"driver\":\"raw\",\"node-name\":\"a\",\"file\":{\"driver\":\"file\","
      "\"filename\":\"$\",\"read-only\":true}}",
      NULL },
    { false, "file,filename=$,node-name=a,discard=unmap,detect-zeroes=off,auto-read-only=on",
      NULL },
    { false, "file,filename=$,node-name=a,read-only=on,force-share=on", NULL },
    { false, "file,filename=$", "'node-name' must be specified for the root node" },
    { false, "file,node-name=a", "Parameter 'filename' is missing" },
    { false, "qcow2,node-name=a,file=b", "qcow2" },
    { false, "nbd,node-name=a", "nbd" },
    { false, "node-name=a", "driver" },
    { false, "file,filename=$,node-name=1a", "Invalid node-name: '1a'" },
    { false, "file,filename=$,node-name=#block0", "Invalid node-name: '#block0'" },
    { false, "file,filename=$,node-name=abcdefghijklmnopqrstuvwxyzabcdefgh", "Node name too long" },
    { false, "file,filename=/nonexistent/x,node-name=a",
      "Could not open '/nonexistent/x': No such file or directory" },
    { false, "file,filename=/tmp,node-name=a", "Could not open '/tmp': Is a directory" },
    { false, "file,filename=/dev/null,node-name=a",
      "'file' driver requires '/dev/null' to be a regular file" },
    { false, "host_device,filename=$,node-name=a", "to be either a character or block device" },
    { false, "host_device,filename=/dev/null,node-name=a", "neither a file nor a block device" },
    { true, "file=/dev/null,format=raw,if=none,id=d", "neither a file nor a block device" },
    { false, "file,filename=nbd://x,node-name=a", "Unknown protocol 'nbd'" },
    { false, "file,filename=,node-name=a", "file name" },
    { false, "file,filename=$,node-name=a,aio=native",
      "aio=native was specified, but it requires cache.direct=on, which was not specified." },
    { false, "file,filename=$,node-name=a,force-share=on",
      "force-share=on can only be used with read-only images" },
    { false, "file,filename=$,node-name=a,detect-zeroes=on", "detect-zeroes" },
    { false, "file,filename=$,node-name=a,throttling.iops=1", "throttling" },
    { false, "file,filename=$,node-name=a,pr-manager=x", "pr-manager" },
    { false, "raw,node-name=a,file=$,offset=512", "offset" },
    { false, "raw,node-name=a,file=nope", "nope" },
    { false, "raw,node-name=a", "file" },
    { false, "raw,node-name=a,file=b,file.driver=file", "used inconsistently" },
    { false, "raw,node-name=a,file.driver=raw,file.file.driver=file,file.file.filename=/nope",
      "/nope" },
    { false, "{\"driver\":\"file\",\"filename\":1,\"node-name\":\"a\"}", "filename" },
    { true, "file=$,format=raw,if=none,id=d", NULL },
    { true, "file=$,format=raw,if=none,id=d,cache=writethrough,aio=threads,media=disk", NULL },
    { true, "file=$,driver=raw,if=none,id=d,readonly=on,snapshot=off,discard=on", NULL },
    { true, "file=$,format=raw,if=none,werror=stop,rerror=stop,file.locking=off", NULL },
    { true, "format=raw,if=none,id=d", "Parameter 'file' is missing" },
    { true, "file=$,if=none,id=d", "format=raw" },
    { true, "file=$,format=qcow2,if=none,id=d", "Unknown driver 'qcow2'" },
    { true, "file=$,format=raw,if=ide,id=d", "virtio-blk-device" },
    { true, "file=$,format=raw,if=none,id=d,snapshot=on", "copy" },
    { true, "file=$,format=raw,if=none,id=d,media=cdrom", "CD-ROM" },
    { true, "file=$,format=raw,if=none,id=d,cache=fast", "'cache'" },
    { true, "file=$,format=raw,if=none,id=d,werror=maybe", "'werror'" },
    { true, "file=$,format=raw,if=none,id=d,serial=1", "'serial'" },
    { true, "file=$,format=raw,if=none,id=d,index=1", "'index'" },
    { true, "file=$,format=raw,if=none,id=d,iops=100", "'iops'" },
    { true, "file=$,format=raw,if=none,id=d,aio=native", "aio=native" },
    { true, "file=$,format=raw,if=none,id=0", "identifier" },
};

static void test_forms(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct vm *vm = machine();
        g_autoptr(GError) err = NULL;
        bool ok = open_text(vm, cases[i].text, cases[i].drive, &err);

        if (ok != !cases[i].says || (err && !strstr(err->message, cases[i].says))) {
            g_error("%s: %s", cases[i].text, err ? err->message : "taken");
        }
        if (!ok) { /* nothing stays of it */
            struct qmp_query_named_block_nodes_arg none = {};
            g_autoptr(GPtrArray) nodes = qmp_query_named_block_nodes(vm, &none, NULL);

            g_assert_cmpuint(nodes->len, ==, 0);
        }
        vm_free(vm);
    }
}

static void test_names(void)
{
    struct vm *vm = machine();
    g_autoptr(GError) err = NULL;

    g_assert_true(open_text(vm, "file,filename=$,node-name=a", false, &err));
    g_assert_true(open_text(vm, "file=$,format=raw,if=none,id=d", true, &err));
    g_assert_false(open_text(vm, "file,filename=$,node-name=a", false, &err));
    g_assert_cmpstr(err->message, ==, "Duplicate nodes with node-name='a'");
    g_clear_error(&err);
    g_assert_false(open_text(vm, "file,filename=$,node-name=d", false, &err));
    g_assert_cmpstr(err->message, ==, "node-name=d is conflicting with a device id");
    g_clear_error(&err);
    g_assert_false(open_text(vm, "file=$,format=raw,if=none,id=d", true, &err));
    g_assert_cmpstr(err->message, ==, "Duplicate ID 'd' for drive");
    g_clear_error(&err);
    g_assert_false(open_text(vm, "file=$,format=raw,if=none,id=a", true, &err));
    g_assert_cmpstr(err->message, ==, "Device name 'a' conflicts with an existing node name");
    g_clear_error(&err);

    g_assert_true(open_text(vm, "raw,node-name=r,file=a", false, &err));
    g_assert_false(qmp_blockdev_del(vm, &(struct qmp_blockdev_del_arg){ "a" }, &err));
    g_assert_cmpstr(err->message, ==, "Block device a is in use");
    g_clear_error(&err);
    g_assert_false(qmp_blockdev_del(vm, &(struct qmp_blockdev_del_arg){ "x" }, &err));
    g_assert_cmpstr(err->message, ==, "Failed to find node with node-name='x'");
    g_clear_error(&err);
    g_assert_true(qmp_blockdev_del(vm, &(struct qmp_blockdev_del_arg){ "r" }, &err));
    g_assert_true(qmp_blockdev_del(vm, &(struct qmp_blockdev_del_arg){ "a" }, &err));
    g_assert_no_error(err);
    vm_free(vm);
}

static void test_resize(void)
{
    struct vm *vm = machine();
    g_autoptr(GError) err = NULL;
    char d[] = "d", x[] = "x";

    g_assert_true(open_text(vm, "file=$,format=raw,if=none,id=d", true, &err));
    g_assert_true(
        qmp_block_resize(vm, &(struct qmp_block_resize_arg){ .device = d, .size = 2 << 20 }, &err));
    g_assert_cmpuint(block_length(block_find(vm->blocks, "d")), ==, 2 << 20);
    g_assert_false(
        qmp_block_resize(vm, &(struct qmp_block_resize_arg){ .device = d, .size = -1 }, &err));
    g_assert_cmpstr(err->message, ==, "Parameter 'size' expects a >0 size");
    g_clear_error(&err);
    g_assert_false(
        qmp_block_resize(vm, &(struct qmp_block_resize_arg){ .node_name = x, .size = 1 }, &err));
    g_assert_cmpstr(err->message, ==, "Cannot find device='' nor node-name='x'");
    vm_free(vm);
}

int main(int argc, char **argv)
{
    int fd = g_file_open_tmp("ferry-block-XXXXXX", &path, NULL), status;

    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    close(fd);
    test_context = g_main_context_new();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block-options/forms", test_forms);
    g_test_add_func("/block-options/names", test_names);
    g_test_add_func("/block-options/resize", test_resize);
    status = g_test_run();
    unlink(path);
    g_free(path);
    g_main_context_unref(test_context);
    return status;
}
