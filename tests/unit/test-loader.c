/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every way to cut a stream off and every byte of it damaged, through the whole destination: each
 * is refused with a sentence, or loads as a state that a valid stream could carry (see
 * tests/fuzz/fuzz-machine.h). A crash, an access out of bounds (under the sanitizers) or a hang
 * fails the test. Page contents are sampled: any byte of them is as good as another. With -m slow
 * every bit of each byte is tried.
 */
#include <string.h>

#include "migration/stream/format.h"

#include "../fuzz/fuzz-machine.h"

static struct fuzz_machine *machine;

/* Bytes of what fuzz_machine_stream() writes behind the devices. */
#define DESCRIPTION_BYTES 7u /* type, length, {} */
#define GO_BYTES          13u

static GByteArray *stream(unsigned how)
{
    fuzz_machine_reset(machine);
    return fuzz_machine_stream(machine, how);
}

/* True: it was taken. */
static bool load(const uint8_t *data, size_t len, char **why)
{
    GError *err = NULL;
    bool ok = fuzz_machine_load(machine, data, len, &err);

    if (ok) {
        fuzz_machine_check_loaded(machine);
    } else if (why) {
        *why = g_strdup(err->message);
    }
    g_clear_error(&err);
    return ok;
}

static void test_good(void)
{
    for (unsigned how = 0; how <= FUZZ_STREAM_ALL; how++) {
        g_autoptr(GByteArray) bytes = stream(how);
        g_autoptr(GByteArray) before = fuzz_machine_devices(machine), after = NULL;
        const uint8_t *ram = ram_block_find(machine->vm->memory, FUZZ_RAM_ID)->host;
        GError *err = NULL;

        fuzz_machine_load(machine, bytes->data, bytes->len, &err);
        g_assert_no_error(err);
        g_assert_true(vm_is_running(machine->vm));
        after = fuzz_machine_devices(machine);
        g_assert_cmpmem(before->data, before->len, after->data, after->len);
        g_assert_cmphex(ram[0x1fff], ==, how & FUZZ_STREAM_PAGES ? 0xaa : 0);
        g_assert_cmphex(ram[0x1010], ==, how & FUZZ_STREAM_PAGES ? 0xbb : 0);
        g_assert_cmphex(ram[0x2000], ==, 0);
        fuzz_machine_check_loaded(machine);
    }
}

/* How many bytes a cut stream must have to be taken: with the handshake all up to the go, which
 * says that the source will not run the guest again; else all up to the end, for the description is
 * only for people. */
static unsigned needed(const GByteArray *bytes, unsigned how)
{
    return how & FUZZ_STREAM_COMMIT ? bytes->len : bytes->len - DESCRIPTION_BYTES;
}

static void test_truncated(gconstpointer data)
{
    unsigned how = GPOINTER_TO_UINT(data);
    g_autoptr(GByteArray) bytes = stream(how);

    for (unsigned n = 0; n < bytes->len; n++) {
        if (load(bytes->data, n, NULL) != (n >= needed(bytes, how))) {
            g_error("%u of %u bytes are %s", n, bytes->len,
                    n >= needed(bytes, how) ? "refused" : "taken");
        }
    }
}

static void test_flipped(gconstpointer data)
{
    unsigned how = GPOINTER_TO_UINT(data), taken = 0, refused = 0;
    g_autoptr(GByteArray) bytes = stream(how);
    unsigned bits = g_test_slow() ? 8 : 1;

    for (unsigned n = 0; n < bytes->len; n++) {
        bool page = n > 8 && bytes->data[n] == bytes->data[n - 1] && bytes->data[n] == 0xaa;

        if (page && n % 256) {
            continue;
        }
        for (unsigned i = 0; i < bits; i++) {
            uint8_t bit = (uint8_t)(1u << (n * 7 + i) % 8);

            bytes->data[n] ^= bit;
            if (load(bytes->data, bytes->len, NULL)) {
                taken++;
            } else {
                refused++;
            }
            bytes->data[n] ^= bit;
        }
    }
    g_test_message("%u taken, %u refused", taken, refused);
    /* numbers in registers are as good as others; names, lengths, ids and ranges are not */
    g_assert_cmpuint(taken, >, bits * 1000);
    g_assert_cmpuint(refused, >, bits * 500);
}

/* A byte less and a byte more at each place: lengths are right nowhere behind it. */
static void test_shifted(void)
{
    g_autoptr(GByteArray) bytes = stream(0);

    for (unsigned n = 0; n + DESCRIPTION_BYTES + 1 < bytes->len; n += g_test_slow() ? 1 : 7) {
        g_autofree uint8_t *other = g_malloc(bytes->len + 1);

        memcpy(other, bytes->data, n);
        memcpy(other + n, bytes->data + n + 1, bytes->len - n - 1);
        load(other, bytes->len - 1, NULL);
        other[n] = 0xff;
        memcpy(other + n + 1, bytes->data + n, bytes->len - n);
        load(other, bytes->len + 1, NULL);
    }
    /* and the machine still takes a good one */
    g_assert_true(load(bytes->data, bytes->len, NULL));
}

/* --- post-copy --- */

static void test_postcopy_good(gconstpointer data)
{
    unsigned how = GPOINTER_TO_UINT(data);
    g_autoptr(GByteArray) bytes = stream(how);
    const uint8_t *ram = ram_block_find(machine->vm->memory, FUZZ_RAM_ID)->host;
    GError *err = NULL;

    fuzz_machine_load(machine, bytes->data, bytes->len, &err);
    g_assert_no_error(err);
    g_assert_true(vm_is_running(machine->vm));
    g_assert_cmphex(ram[0x1fff], ==, 0xcc);
    g_assert_cmphex(ram[0x2000], ==, 0);
    g_assert_cmphex(ram[FUZZ_RAM - 1], ==, 0xdd);
    fuzz_machine_check_loaded(machine);
}

/* Where the record begins that lets the guest run; SIZE_MAX: nowhere. */
static size_t find_command(const GByteArray *bytes, unsigned command, unsigned len)
{
    uint8_t head[] = { 8, (uint8_t)(command >> 8), (uint8_t)command, 0, (uint8_t)len };
    const uint8_t *at = memmem(bytes->data, bytes->len, head, sizeof(head));

    return at ? (size_t)(at - bytes->data) : SIZE_MAX;
}

/* A stream that ends before the guest was given away is refused; behind that the guest has come,
 * and waits for its memory. */
static void test_postcopy_truncated(gconstpointer data)
{
    unsigned how = GPOINTER_TO_UINT(data);
    g_autoptr(GByteArray) bytes = stream(how);
    bool commit = how & FUZZ_STREAM_COMMIT;
    size_t runs = commit ? find_command(bytes, STREAM_CMD_FERRY_GO, 8) + GO_BYTES
                         : find_command(bytes, STREAM_CMD_POSTCOPY_RUN, 0) + 5;

    for (size_t n = 0; n < bytes->len; n += n < runs + 100 || g_test_slow() ? 1 : 61) {
        if (load(bytes->data, n, NULL) != (n >= runs)) {
            g_error("%zu of %u bytes are %s", n, bytes->len, n >= runs ? "refused" : "taken");
        }
    }
}

static void test_postcopy_flipped(gconstpointer data)
{
    unsigned how = GPOINTER_TO_UINT(data), taken = 0, refused = 0;
    g_autoptr(GByteArray) bytes = stream(how);
    size_t package = find_command(bytes, STREAM_CMD_PACKAGED, 4);

    for (size_t n = 0; n < bytes->len; n++) {
        bool page = n > 8 && bytes->data[n] == bytes->data[n - 1] && bytes->data[n] > 0xa0;
        bool device = n > package + 20 && n < find_command(bytes, STREAM_CMD_FERRY_GO, 8);

        /* devices are test_flipped()'s, but for some */
        if ((page && n % 256) || (device && n % 16 && !g_test_slow())) {
            continue;
        }
        uint8_t bit = (uint8_t)(1u << (n * 7) % 8);

        bytes->data[n] ^= bit;
        if (load(bytes->data, bytes->len, NULL)) {
            taken++;
        } else {
            refused++;
        }
        bytes->data[n] ^= bit;
    }
    g_test_message("%u taken, %u refused", taken, refused);
    g_assert_cmpuint(taken, >, 20);
    g_assert_cmpuint(refused, >, 100);
}

static void add(const char *name, GTestDataFunc test, unsigned how)
{
    g_test_add_data_func(name, GUINT_TO_POINTER(how), test);
}

int main(int argc, char **argv)
{
    int rc;

    g_test_init(&argc, &argv, NULL);
    machine = fuzz_machine_new();
    g_test_add_func("/loader/good", test_good);
    add("/loader/truncated", test_truncated, FUZZ_STREAM_PAGES);
    add("/loader/truncated-commit", test_truncated, FUZZ_STREAM_COMMIT);
    add("/loader/truncated-check", test_truncated, FUZZ_STREAM_COMMIT | FUZZ_STREAM_CHECK);
    add("/loader/flipped", test_flipped, 0);
    add("/loader/flipped-commit", test_flipped, FUZZ_STREAM_ALL);
    g_test_add_func("/loader/shifted", test_shifted);
    if (fuzz_machine_has_postcopy(machine)) {
        unsigned commit = FUZZ_STREAM_POSTCOPY | FUZZ_STREAM_COMMIT | FUZZ_STREAM_PAGES;

        add("/loader/postcopy/good", test_postcopy_good, FUZZ_STREAM_POSTCOPY);
        add("/loader/postcopy/commit/good", test_postcopy_good, commit);
        add("/loader/postcopy/truncated", test_postcopy_truncated, FUZZ_STREAM_POSTCOPY);
        add("/loader/postcopy/commit/truncated", test_postcopy_truncated, commit);
        add("/loader/postcopy/commit/flipped", test_postcopy_flipped, commit);
    }
    rc = g_test_run();
    fuzz_machine_free(machine);
    return rc;
}
