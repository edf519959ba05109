/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads a section `cpu` of version 12 from stdin, as it is in a stream, and writes to stdout what
 * the tables make of it; test_cpu_wire.py compares. Status 1 and the reason on stderr when the
 * section is refused.
 */
#include <stdio.h>
#include <unistd.h>

#include "migration/vmstate/table.h"
#include "target/i386/cpu-internal.h"
#include "util/error.h"

#define CPU_VERSION 12

static GByteArray *read_all(void)
{
    GByteArray *all = g_byte_array_new();
    uint8_t piece[4096];
    ssize_t n;

    while ((n = read(STDIN_FILENO, piece, sizeof(piece))) > 0) {
        g_byte_array_append(all, piece, (guint)n);
    }
    return all;
}

int main(void)
{
    g_autoptr(GByteArray) in_bytes = read_all(), out_bytes = g_byte_array_new();
    struct stream_in *in = in_new_memory(in_bytes->data, in_bytes->len);
    g_autofree struct cpu_state *state = g_new0(struct cpu_state, 1);
    struct stream_out *out = out_new_memory(out_bytes);
    struct x86_cpus machine = { 0 };
    struct x86_cpu cpu = { .all = &machine };
    g_autoptr(GError) err = NULL;
    bool ok;

    cpu_state_defaults(&cpu, state);
    ok = vmstate_decode(&cpu_vmstate, state, CPU_VERSION, in, "cpu", &err);
    if (ok && in_offset(in) != in_bytes->len) {
        error_set(&err, FERRY_ERROR_PEER, "%zu bytes are left over",
                  (size_t)(in_bytes->len - in_offset(in)));
        ok = false;
    }
    if (ok) {
        vmstate_encode(&cpu_vmstate, state, out, NULL);
        ok = out_flush(out, &err) && fwrite(out_bytes->data, out_bytes->len, 1, stdout) == 1;
    }
    if (!ok) {
        fprintf(stderr, "%s\n", err ? err->message : "Cannot write");
    }
    out_free(out);
    in_free(in);
    return !ok;
}
