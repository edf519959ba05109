/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a fuzz target on the files it is given (or on all files of a folder), in place of libFuzzer:
 * with any compiler, and as a test. Each argument is a test case.
 */
#include <glib.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run_file(const char *path)
{
    g_autofree char *data = NULL;
    g_autoptr(GError) err = NULL;
    gsize len;

    if (!g_file_get_contents(path, &data, &len, &err)) {
        g_error("%s", err->message);
    }
    g_test_message("%s", path);
    LLVMFuzzerTestOneInput((const uint8_t *)data, len);
}

static void run(gconstpointer path)
{
    g_autoptr(GDir) folder = g_dir_open(path, 0, NULL);
    const char *name;

    if (!folder) {
        run_file(path);
        return;
    }
    while ((name = g_dir_read_name(folder))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        run_file(file);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 1; i < argc; i++) {
        g_autofree char *name = g_strdup_printf("/replay/%d", i);

        g_test_add_data_func(name, argv[i], run);
    }
    return g_test_run();
}
