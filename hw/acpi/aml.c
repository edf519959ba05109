/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The AML writer; see include/hw/acpi/aml.h for how it is used.
 *
 * A construct with a length is written without it first. Its frame remembers where the length
 * belongs, and aml_end() inserts the encoded length there once the size of the body is known. Only
 * bytes after the insertion point move, and frames close innermost first, so the positions of the
 * frames still open stay right.
 */
#include "hw/acpi/aml.h"

#include <string.h>

enum {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_DUAL_NAME = 0x2e,
    AML_MULTI_NAME = 0x2f,
    AML_EXTENDED = 0x5b,
    AML_LOCAL0 = 0x60,
    AML_IF = 0xa0,
    AML_EXT_REGION = 0x80,
    AML_EXT_FIELD = 0x81,
    AML_EXT_DEVICE = 0x82,
};

#define AML_SEGMENT_LENGTH  4
#define AML_METHOD_SERIAL   0x08
#define AML_FIELD_DWORD     3
#define AML_FIELD_ZERO_FILL (2 << 5) /* bits of the word outside the field are written as 0 */
#define AML_SPACE_MEMORY    0

/* Resource descriptor tags and flags (ACPI 6.0, section 6.4). */
#define RESOURCE_IRQ             0x22 /* small item, 2 bytes: edge, active high, exclusive */
#define RESOURCE_IO              0x47
#define RESOURCE_END_TAG         0x79
#define RESOURCE_MEMORY32_FIXED  0x86
#define RESOURCE_INTERRUPT       0x89
#define RESOURCE_IO_DECODE16     0x01
#define RESOURCE_MEMORY_WRITABLE 0x01
#define RESOURCE_IRQ_CONSUMER    0x01
#define RESOURCE_IRQ_EDGE        0x02

struct aml_frame {
    guint start;    /* where the length is to be inserted */
    bool resources; /* a resource buffer: its byte count goes in front of the body, an end tag
                       behind it */
};

static void put_u8(struct aml *aml, uint8_t value)
{
    g_byte_array_append(aml->out, &value, 1);
}

/* Little-endian, @size bytes. */
static void put_le(struct aml *aml, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        put_u8(aml, value >> (8 * i));
    }
}

static void insert(GByteArray *array, guint at, const uint8_t *bytes, guint count)
{
    guint tail = array->len - at;

    g_byte_array_set_size(array, array->len + count);
    memmove(array->data + at + count, array->data + at, tail);
    memcpy(array->data + at, bytes, count);
}

/*
 * The package length counts itself. One byte holds 6 bits; longer forms keep the number of further
 * bytes in bits 7..6 of the first, 4 bits of the value in its low half, and 8 bits in each further
 * byte. Returns the bytes written.
 */
static guint encode_length(uint8_t out[4], uint32_t body)
{
    if (body + 1 < 64) {
        out[0] = body + 1;
        return 1;
    }
    for (guint more = 1; more <= 3; more++) {
        uint32_t total = body + 1 + more;

        if (total < 1u << (4 + 8 * more)) {
            out[0] = more << 6 | (total & 0xf);
            for (guint i = 0; i < more; i++) {
                out[1 + i] = total >> (4 + 8 * i);
            }
            return 1 + more;
        }
    }
    g_assert_not_reached(); /* 256 MiB of AML */
}

/* Returns the bytes written: an opcode and 0 to 8 bytes of value, the shortest form. */
static guint encode_integer(uint8_t out[9], uint64_t value)
{
    static const struct {
        uint64_t max;
        uint8_t op;
        uint8_t bytes;
    } forms[] = {
        { UINT8_MAX, AML_BYTE, 1 },
        { UINT16_MAX, AML_WORD, 2 },
        { UINT32_MAX, AML_DWORD, 4 },
        { UINT64_MAX, AML_QWORD, 8 },
    };
    guint form = 0;

    if (value <= 1) {
        out[0] = value ? AML_ONE : AML_ZERO;
        return 1;
    }
    while (value > forms[form].max) {
        form++;
    }
    out[0] = forms[form].op;
    for (guint i = 0; i < forms[form].bytes; i++) {
        out[1 + i] = value >> (8 * i);
    }
    return 1 + forms[form].bytes;
}

/* One segment ends at '.' or the end of the string; returns what follows it. */
static const char *put_segment(struct aml *aml, const char *name)
{
    unsigned length = 0;

    for (; *name && *name != '.'; name++, length++) {
        g_assert(g_ascii_isupper(*name) || *name == '_' || (length && g_ascii_isdigit(*name)));
        put_u8(aml, *name);
    }
    g_assert(length >= 1 && length <= AML_SEGMENT_LENGTH);
    for (; length < AML_SEGMENT_LENGTH; length++) {
        put_u8(aml, '_');
    }
    return *name ? name + 1 : name;
}

static void put_path(struct aml *aml, const char *name)
{
    unsigned segments = 0;

    while (*name == '\\' || *name == '^') {
        put_u8(aml, *name++);
    }
    if (*name) {
        segments = 1;
        for (const char *p = name; *p; p++) {
            segments += *p == '.';
        }
    }
    g_assert(segments <= UINT8_MAX);
    if (segments == 0) {
        put_u8(aml, AML_ZERO); /* the null name: the root itself */
    } else if (segments == 2) {
        put_u8(aml, AML_DUAL_NAME);
    } else if (segments > 2) {
        put_u8(aml, AML_MULTI_NAME);
        put_u8(aml, segments);
    }
    while (*name) {
        name = put_segment(aml, name);
    }
}

static void open_frame(struct aml *aml, bool resources)
{
    struct aml_frame frame = { .start = aml->out->len, .resources = resources };

    g_array_append_val(aml->open, frame);
}

void aml_begin(struct aml *aml, GByteArray *out)
{
    aml->out = out;
    aml->open = g_array_new(false, false, sizeof(struct aml_frame));
}

void aml_finish(struct aml *aml)
{
    g_assert(aml->open->len == 0);
    g_array_free(aml->open, true);
    aml->open = NULL;
    aml->out = NULL;
}

void aml_scope(struct aml *aml, const char *name)
{
    put_u8(aml, AML_SCOPE);
    open_frame(aml, false);
    put_path(aml, name);
}

void aml_device(struct aml *aml, const char *name)
{
    put_u8(aml, AML_EXTENDED);
    put_u8(aml, AML_EXT_DEVICE);
    open_frame(aml, false);
    put_path(aml, name);
}

void aml_method(struct aml *aml, const char *name, unsigned args, bool serialized)
{
    g_assert(args <= 7);
    put_u8(aml, AML_METHOD);
    open_frame(aml, false);
    put_path(aml, name);
    put_u8(aml, args | (serialized ? AML_METHOD_SERIAL : 0));
}

void aml_if(struct aml *aml)
{
    put_u8(aml, AML_IF);
    open_frame(aml, false);
}

void aml_package(struct aml *aml, uint8_t elements)
{
    put_u8(aml, AML_PACKAGE);
    open_frame(aml, false);
    put_u8(aml, elements);
}

void aml_dword_field(struct aml *aml, const char *region)
{
    put_u8(aml, AML_EXTENDED);
    put_u8(aml, AML_EXT_FIELD);
    open_frame(aml, false);
    put_path(aml, region);
    put_u8(aml, AML_FIELD_DWORD | AML_FIELD_ZERO_FILL);
}

void aml_resources(struct aml *aml)
{
    put_u8(aml, AML_BUFFER);
    open_frame(aml, true);
}

void aml_end(struct aml *aml)
{
    uint8_t encoded[9];
    struct aml_frame frame;

    g_assert(aml->open->len);
    frame = g_array_index(aml->open, struct aml_frame, aml->open->len - 1);
    g_array_set_size(aml->open, aml->open->len - 1);

    if (frame.resources) {
        put_u8(aml, RESOURCE_END_TAG);
        put_u8(aml, 0); /* checksum 0: not checked */
        insert(aml->out, frame.start, encoded,
               encode_integer(encoded, aml->out->len - frame.start));
    }
    insert(aml->out, frame.start, encoded, encode_length(encoded, aml->out->len - frame.start));
}

void aml_name(struct aml *aml, const char *name)
{
    put_u8(aml, AML_NAME);
    put_path(aml, name);
}

void aml_memory_region(struct aml *aml, const char *name, uint64_t base, uint32_t size)
{
    put_u8(aml, AML_EXTENDED);
    put_u8(aml, AML_EXT_REGION);
    put_path(aml, name);
    put_u8(aml, AML_SPACE_MEMORY);
    aml_integer(aml, base);
    aml_integer(aml, size);
}

void aml_field_unit(struct aml *aml, const char *name, uint32_t bits)
{
    uint8_t encoded[4];

    /* The width is encoded like a package length that does not count itself. */
    put_segment(aml, name);
    if (bits < 64) {
        put_u8(aml, bits);
        return;
    }
    g_assert(bits < 1u << 12);
    encoded[0] = 1 << 6 | (bits & 0xf);
    encoded[1] = bits >> 4;
    g_byte_array_append(aml->out, encoded, 2);
}

void aml_op(struct aml *aml, enum aml_op op)
{
    put_u8(aml, op);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    uint8_t encoded[9];

    g_byte_array_append(aml->out, encoded, encode_integer(encoded, value));
}

void aml_string(struct aml *aml, const char *text)
{
    g_assert(g_str_is_ascii(text));
    put_u8(aml, AML_STRING);
    g_byte_array_append(aml->out, (const uint8_t *)text, strlen(text) + 1);
}

void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = 0;

    /* three letters of 5 bits, four hex digits, all of it most significant byte first */
    g_assert(strlen(id) == 7);
    for (unsigned i = 0; i < 3; i++) {
        g_assert(g_ascii_isupper(id[i]));
        value |= (uint32_t)(id[i] - '@') << (26 - 5 * i);
    }
    for (unsigned i = 3; i < 7; i++) {
        g_assert(g_ascii_isxdigit(id[i]));
        value |= (uint32_t)g_ascii_xdigit_value(id[i]) << (4 * (6 - i));
    }
    put_u8(aml, AML_DWORD);
    put_le(aml, GUINT32_SWAP_LE_BE(value), 4);
}

void aml_reference(struct aml *aml, const char *name)
{
    put_path(aml, name);
}

void aml_local(struct aml *aml, unsigned index)
{
    g_assert(index <= 7);
    put_u8(aml, AML_LOCAL0 + index);
}

void aml_no_target(struct aml *aml)
{
    put_u8(aml, AML_ZERO);
}

void aml_resource_io(struct aml *aml, uint16_t base, uint8_t ports)
{
    put_u8(aml, RESOURCE_IO);
    put_u8(aml, RESOURCE_IO_DECODE16);
    put_le(aml, base, 2); /* lowest and highest base: it does not move */
    put_le(aml, base, 2);
    put_u8(aml, 1); /* alignment */
    put_u8(aml, ports);
}

void aml_resource_irq(struct aml *aml, unsigned irq)
{
    g_assert(irq <= 15);
    put_u8(aml, RESOURCE_IRQ);
    put_le(aml, 1u << irq, 2);
}

void aml_resource_memory32(struct aml *aml, uint32_t base, uint32_t size)
{
    put_u8(aml, RESOURCE_MEMORY32_FIXED);
    put_le(aml, 9, 2);
    put_u8(aml, RESOURCE_MEMORY_WRITABLE);
    put_le(aml, base, 4);
    put_le(aml, size, 4);
}

void aml_resource_interrupt(struct aml *aml, enum aml_trigger trigger, uint32_t gsi)
{
    put_u8(aml, RESOURCE_INTERRUPT);
    put_le(aml, 6, 2);
    put_u8(aml, RESOURCE_IRQ_CONSUMER | (trigger == AML_EDGE ? RESOURCE_IRQ_EDGE : 0));
    put_u8(aml, 1); /* number of interrupts */
    put_le(aml, gsi, 4);
}
