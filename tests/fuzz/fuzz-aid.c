/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a fuzz target is told about the program, made from the program, so that a new device or
 * command is known to the fuzzer at once: the dictionary of a target (`fuzz-aid dict stream` from
 * the tables of all device states, `fuzz-aid dict qmp` from the schema), and first inputs
 * (`fuzz-aid seeds stream|qmp FOLDER`).
 */
#include "fuzz-machine.h"

#include <stdio.h>
#include <string.h>

#include "migration/stream/format.h"
#include "migration/vmstate/savevm.h"
#include "qapi/command.h"
#include "qapi/json.h"

/* Entries seen, so that none is there twice. */
static GHashTable *seen;

static void entry(const void *data, size_t len)
{
    GString *line = g_string_new("\"");

    for (size_t i = 0; i < len; i++) {
        unsigned char c = ((const unsigned char *)data)[i];

        if (c >= ' ' && c <= '~' && c != '"' && c != '\\') {
            g_string_append_c(line, (char)c);
        } else {
            g_string_append_printf(line, "\\x%02x", c);
        }
    }
    g_string_append_c(line, '"');
    if (len && !g_hash_table_contains(seen, line->str)) {
        puts(line->str);
        g_hash_table_add(seen, g_string_free(line, FALSE));
    } else {
        g_string_free(line, TRUE);
    }
}

/* --- stream --- */

static void entry_be(uint64_t v, unsigned size)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(v >> 8 * (size - 1 - i));
    }
    entry(bytes, size);
}

/* `type`, unless 0, and the name as it stands on the wire. */
static void entry_name(uint8_t type, const char *name)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    uint8_t len = (uint8_t)strlen(name);

    if (type) {
        g_byte_array_append(bytes, &type, 1);
    }
    g_byte_array_append(bytes, &len, 1);
    g_byte_array_append(bytes, (const uint8_t *)name, len);
    entry(bytes->data, bytes->len);
}

static unsigned field_size(const struct vmstate_field *f)
{
    static const unsigned sizes[] = {
        [VMS_BOOL] = 1, [VMS_U8] = 1,  [VMS_U16] = 2, [VMS_U32] = 4,
        [VMS_U64] = 8,  [VMS_I32] = 4, [VMS_I64] = 8, [VMS_TIMER] = 8,
    };

    return f->type < G_N_ELEMENTS(sizes) ? sizes[f->type] : 0;
}

static void table(const struct vmstate *vmstate)
{
    for (const struct vmstate_field *f = vmstate->fields; f->type != VMS_END; f++) {
        unsigned size = field_size(f);

        if (f->type == VMS_STRUCT) {
            table(f->sub);
        } else if (size && f->min != f->max) {
            for (int64_t near = -1; near <= 1; near++) {
                entry_be((uint64_t)f->min + (uint64_t)near, size);
                entry_be((uint64_t)f->max + (uint64_t)near, size);
            }
        }
    }
    for (const struct vmstate_subsection *s = vmstate->subsections; s && s->vmstate; s++) {
        entry_name(STREAM_SUBSECTION, s->vmstate->name);
        table(s->vmstate);
    }
}

static void section(const char *idstr, uint32_t instance_id G_GNUC_UNUSED,
                    const struct vmstate *vmstate, void *opaque G_GNUC_UNUSED)
{
    entry_name(0, idstr);
    entry_be((uint32_t)vmstate->version, 4);
    table(vmstate);
}

static void stream_dictionary(void)
{
    struct fuzz_machine *m = fuzz_machine_new();
    static const uint16_t commands[] = {
        STREAM_CMD_OPEN_RETURN_PATH, STREAM_CMD_PING,     STREAM_CMD_SWITCHOVER_START,
        STREAM_CMD_FERRY_FEATURES,   STREAM_CMD_FERRY_GO, STREAM_CMD_FERRY_ADDRESSES,
    };
    static const uint64_t numbers[] = { 0,          1,          0x7fffffff,        0x80000000,
                                        0xffffffff, UINT64_MAX, UINT64_C(1) << 63, INT64_MAX };

    savevm_foreach(m->vm->savevm, section, NULL);
    for (unsigned i = 0; i < FUZZ_BLOCKS; i++) {
        entry_name(0, ram_block_at(m->vm->memory, i)->idstr);
    }
    entry_name(0, "ram");
    entry_name(STREAM_SUBSECTION, "configuration/capabilities");
    entry_name(STREAM_SUBSECTION, "configuration/uuid");
    entry_name(0, "x-ignore-shared");
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        entry_be((uint64_t)STREAM_COMMAND << 16 | commands[i], 3);
    }
    for (unsigned flag = 1; flag <= RAM_FLAG_MULTIFD; flag <<= 1) {
        entry_be(flag, 8);
        entry_be(flag | RAM_FLAG_CONTINUE, 8);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(numbers); i++) {
        entry_be(numbers[i], 8);
        entry_be(numbers[i], 4);
    }
    fuzz_machine_free(m);
}

/* --- qmp --- */

static void entry_quoted(const char *word)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\"", word);

    entry(quoted, strlen(quoted));
}

/* Names of members and values of enumerations, wherever in the schema they are. */
static void words(json_t *node)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_array(node)) {
        json_array_foreach(node, i, value)
        {
            if (json_is_string(value)) {
                entry_quoted(json_string_value(value));
            }
            words(value);
        }
    } else if (json_is_object(node)) {
        json_object_foreach(node, key, value)
        {
            if (!strcmp(key, "name") && json_is_string(value)) {
                entry_quoted(json_string_value(value));
            }
            words(value);
        }
    }
}

static void qmp_dictionary(void)
{
    static const char *const texts[] = {
        "{\"execute\":",
        "\"arguments\":{",
        "\"id\":",
        "\"exec-oob\":",
        "true",
        "false",
        "null",
        "\\u0000",
        "\\ud800",
        "18446744073709551615",
        "-1",
        "2147483648",
        "1e308",
        "4294967296",
        "-9223372036854775808",
        "'",
        "\xff",
        "\xed\xa0",
        "\"uri\":\"tcp:",
        "\"uri\":\"file:",
        "\"uri\":\"fd:",
        "\"uri\":\"exec:",
        "\"uri\":\"unix:",
        "\"command-line\":\"",
    };
    g_autoptr(json_t) schema = qapi_introspection();

    for (size_t i = 0; i < qmp_command_count; i++) {
        g_autofree char *text = g_strdup_printf("{\"execute\":\"%s\"", qmp_commands[i].name);

        entry(text, strlen(text));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        entry(texts[i], strlen(texts[i]));
    }
    words(schema);
}

/* --- first inputs --- */

static void put(const char *folder, const char *name, const void *data, size_t len)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    GError *err = NULL;

    if (!g_file_set_contents(path, data, (gssize)len, &err)) {
        g_error("%s", err->message);
    }
}

static void stream_seeds(const char *folder)
{
    struct fuzz_machine *m = fuzz_machine_new();

    for (unsigned how = 0; how <= (FUZZ_STREAM_ALL | FUZZ_STREAM_POSTCOPY); how++) {
        g_autoptr(GByteArray) bytes = NULL;
        g_autofree char *name = g_strdup_printf("ferry-%u", how);

        fuzz_machine_reset(m);
        bytes = fuzz_machine_stream(m, how);
        put(folder, name, bytes->data, bytes->len);
    }
    fuzz_machine_free(m);
}

/* Each command once, without arguments. */
static void qmp_seeds(const char *folder)
{
    for (size_t i = 0; i < qmp_command_count; i++) {
        g_autofree char *text = g_strdup_printf("{\"execute\":\"%s\"}", qmp_commands[i].name);

        put(folder, qmp_commands[i].name, text, strlen(text));
    }
}

/* Numbers that mean something to rings and registers; names in sections, with their length. */
static void virtio_dictionary(void)
{
    static const char *const names[] = {
        "virtio/64bit_features",
        "virtio/virtqueues",
        "virtio/ringsize",
        "virtio/broken",
        "virtio/extra_state",
        "virtio_mmio/state",
        "virtio/started",
        "virtio-balloon-device/free-page-report",
        "virtio-balloon-device/page-poison",
    };
    static const uint32_t values[] = { 0x100000,   0x1000000,  0xfffff8,   0xfeb02e00,
                                       0xffffffff, 0x30000006, 0x30000000, 0x1000 };

    for (unsigned i = 0; i < G_N_ELEMENTS(values); i++) {
        printf("\"\\x%02x\\x%02x\\x%02x\\x%02x\"\n", values[i] & 0xff, values[i] >> 8 & 0xff,
               values[i] >> 16 & 0xff, values[i] >> 24);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        entry_name(STREAM_SUBSECTION, names[i]);
    }
}

static void no_seeds(const char *folder G_GNUC_UNUSED)
{
}

static const struct {
    const char *name;
    void (*dictionary)(void);
    void (*seeds)(const char *folder);
} targets[] = {
    { "stream", stream_dictionary, stream_seeds },
    { "qmp", qmp_dictionary, qmp_seeds },
    /* their inputs are in seeds/ */
    { "virtio", virtio_dictionary, no_seeds },
    { "virtio-balloon", virtio_dictionary, no_seeds },
    { "virtio-blk", virtio_dictionary, no_seeds },
    { "virtio-net", virtio_dictionary, no_seeds },
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 2 && i < G_N_ELEMENTS(targets); i++) {
        if (strcmp(argv[2], targets[i].name)) {
            continue;
        }
        if (argc == 3 && !strcmp(argv[1], "dict")) {
            seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
            targets[i].dictionary();
            g_hash_table_unref(seen);
            return 0;
        }
        if (argc == 4 && !strcmp(argv[1], "seeds")) {
            targets[i].seeds(argv[3]);
            return 0;
        }
    }
    fprintf(stderr, "usage: fuzz-aid dict TARGET | seeds TARGET FOLDER\n");
    return 1;
}
