/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzz target: bytes from a source, into a destination. Refused with a sentence, or a state that a
 * valid stream could carry and that devices can work on; see fuzz-machine.h. With FERRY_FUZZ_SAY in
 * the environment it says what it made of each input.
 */
#include "fuzz-machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_machine *m;
    g_autoptr(GError) err = NULL;
    bool ok;

    if (!m) {
        m = fuzz_machine_new();
    }
    ok = fuzz_machine_load(m, data, size, &err);
    if (g_getenv("FERRY_FUZZ_SAY")) {
        g_printerr("%s\n", ok ? "taken" : err->message);
    }
    if (ok) {
        fuzz_machine_check_loaded(m);
    }
    return 0;
}
