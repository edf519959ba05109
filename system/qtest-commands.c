/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands of the qtest protocol: rows of a table with name, form, fewest words, handler. A
 * handler gets at least that many words and appends its value to the answer, or sets an error,
 * which becomes FAIL.
 *
 * Words are checked here before use: numbers that are none, ports and ranges beyond their space and
 * lengths that do not fit are refused where QEMU's server aborts.
 *
 * Trust: who drives qtest is the machine's owner and may write anywhere in it, but not beyond it.
 */
#include "qtest-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "accel/qtest.h"
#include "hw/device.h"
#include "system/memory.h"
#include "system/qtest.h"
#include "system/vm-init.h"
#include "system/vm.h"
#include "util/error.h"

#define MAX_PORT UINT64_C(0xffff)

/* Interrupt inputs of a device: they are lines of the machine. */
struct irq_inputs {
    const char *class;
    uint32_t instance;
    const char *alias; /* its name below /machine on QEMU's machine, where it has one */
    unsigned first_gsi, count;
};

static const struct irq_inputs irq_inputs[] = {
    { "ioapic", 0, "ioapic", 0, 24 }, { "kvm-ioapic", 0, "ioapic", 0, 24 },
    { "ioapic", 1, NULL, 24, 24 },    { "kvm-i8259", 0, NULL, 0, 8 },
    { "kvm-i8259", 1, NULL, 8, 8 },
};

struct command {
    const char *name;
    const char *form; /* its words */
    unsigned words;   /* needed at least, without the name */
    unsigned size;    /* bytes of the access; with size 0: for the handler */
    bool (*handle)(struct qtest *q, const struct command *c, char **words, GString *answer,
                   GError **err);
};

/* ---- words ---- */

static bool parse_number(const char *word, uint64_t *value, GError **err)
{
    char *end;

    errno = 0;
    *value = g_ascii_strtoull(word, &end, 0);
    if (end == word || *end || errno) {
        error_set(err, FERRY_ERROR_USER, "'%.40s' is not a number", word);
        return false;
    }
    return true;
}

static bool parse_port(const char *word, unsigned size, uint64_t *port, GError **err)
{
    if (!parse_number(word, port, err)) {
        return false;
    }
    if (*port > MAX_PORT - (size - 1)) {
        error_set(err, FERRY_ERROR_USER, "Port 0x%" PRIx64 " is beyond 0x%" PRIx64, *port,
                  MAX_PORT);
        return false;
    }
    return true;
}

/* Address and length of a piece of memory. */
static bool parse_range(char **words, uint64_t *addr, uint64_t *len, GError **err)
{
    if (!parse_number(words[0], addr, err) || !parse_number(words[1], len, err)) {
        return false;
    }
    if (*len > QTEST_MAX_DATA) {
        error_set(err, FERRY_ERROR_USER, "Length %" PRIu64 " is above %u", *len, QTEST_MAX_DATA);
        return false;
    }
    if (*len && *addr + (*len - 1) < *addr) {
        error_set(err, FERRY_ERROR_USER, "Address 0x%" PRIx64 " plus length is beyond 64 bits",
                  *addr);
        return false;
    }
    return true;
}

/* ---- ports and memory ---- */

static bool handle_out(struct qtest *q, const struct command *c, char **words,
                       GString *answer G_GNUC_UNUSED, GError **err)
{
    uint64_t port, value;

    if (!parse_port(words[0], c->size, &port, err) || !parse_number(words[1], &value, err)) {
        return false;
    }
    memory_io(q->vm->memory, IO_SPACE_PORT, port, &value, c->size, true);
    return true;
}

static bool handle_in(struct qtest *q, const struct command *c, char **words, GString *answer,
                      GError **err)
{
    uint64_t port, value = 0;

    if (!parse_port(words[0], c->size, &port, err)) {
        return false;
    }
    memory_io(q->vm->memory, IO_SPACE_PORT, port, &value, c->size, false);
    g_string_append_printf(answer, " 0x%04" PRIx64, value);
    return true;
}

/* In post-copy the main loop waits for missing memory only so long. */
static bool is_here(struct qtest *q, uint64_t addr, uint64_t len, GError **err)
{
    if (!memory_is_here(q->vm->memory, addr, len)) {
        error_set(err, FERRY_ERROR_LINK,
                  "Memory at 0x%" PRIx64 " has not come yet from where the guest was", addr);
        return false;
    }
    return true;
}

static bool guest_read(struct qtest *q, uint64_t addr, void *buf, uint64_t len, GError **err)
{
    if (!is_here(q, addr, len, err)) {
        return false;
    }
    memory_read(q->vm->memory, addr, buf, len);
    return true;
}

static bool guest_write(struct qtest *q, uint64_t addr, const void *buf, uint64_t len, GError **err)
{
    if (!is_here(q, addr, len, err)) {
        return false;
    }
    memory_write(q->vm->memory, addr, buf, len);
    return true;
}

static bool handle_write_value(struct qtest *q, const struct command *c, char **words,
                               GString *answer G_GNUC_UNUSED, GError **err)
{
    uint64_t addr, value;

    if (!parse_number(words[0], &addr, err) || !parse_number(words[1], &value, err)) {
        return false;
    }
    return guest_write(q, addr, &value, c->size, err);
}

static bool handle_read_value(struct qtest *q, const struct command *c, char **words,
                              GString *answer, GError **err)
{
    uint64_t addr, value = 0;

    if (!parse_number(words[0], &addr, err)) {
        return false;
    }
    if (!guest_read(q, addr, &value, c->size, err)) {
        return false;
    }
    g_string_append_printf(answer, " 0x%016" PRIx64, value);
    return true;
}

static bool handle_read(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                        GString *answer, GError **err)
{
    static const char digits[] = "0123456789abcdef";
    g_autofree uint8_t *data = NULL;
    uint64_t addr, len;

    if (!parse_range(words, &addr, &len, err)) {
        return false;
    }
    if (!len) {
        error_set(err, FERRY_ERROR_USER, "Length must be at least 1");
        return false;
    }
    data = g_malloc(len);
    if (!guest_read(q, addr, data, len, err)) {
        return false;
    }
    g_string_append(answer, " 0x");
    for (uint64_t i = 0; i < len; i++) {
        g_string_append_c(answer, digits[data[i] >> 4]);
        g_string_append_c(answer, digits[data[i] & 15]);
    }
    return true;
}

/* Data that is too short for the length is filled up with zeros, more than it is left out: QEMU. */
static bool handle_write(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                         GString *answer G_GNUC_UNUSED, GError **err)
{
    g_autofree uint8_t *data = NULL;
    const char *hex = words[2];
    uint64_t addr, len;
    size_t digits;

    if (!parse_range(words, &addr, &len, err)) {
        return false;
    }
    if (!len) {
        error_set(err, FERRY_ERROR_USER, "Length must be at least 1");
        return false;
    }
    if (hex[0] != '0' || hex[1] != 'x') {
        error_set(err, FERRY_ERROR_USER, "Data must be hexadecimal digits that begin with 0x");
        return false;
    }
    hex += 2;
    digits = strspn(hex, "0123456789abcdefABCDEF");
    if (hex[digits] || digits % 2) {
        error_set(err, FERRY_ERROR_USER, "Data must be pairs of hexadecimal digits");
        return false;
    }
    data = g_malloc0(len);
    for (uint64_t i = 0; i < MIN(len, digits / 2); i++) {
        data[i] =
            (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
    }
    return guest_write(q, addr, data, len, err);
}

static bool handle_b64read(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                           GString *answer, GError **err)
{
    g_autofree uint8_t *data = NULL;
    g_autofree char *text = NULL;
    uint64_t addr, len;

    if (!parse_range(words, &addr, &len, err)) {
        return false;
    }
    data = g_malloc0(len + 1);
    if (!guest_read(q, addr, data, len, err)) {
        return false;
    }
    text = g_base64_encode(data, len);
    g_string_append_printf(answer, " %s", text);
    return true;
}

static bool handle_b64write(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                            GString *answer G_GNUC_UNUSED, GError **err)
{
    g_autofree guchar *data = NULL;
    uint64_t addr, len;
    gsize have;

    if (!parse_range(words, &addr, &len, err)) {
        return false;
    }
    data = g_base64_decode(words[2], &have);
    if (have != len) {
        error_set(err, FERRY_ERROR_USER,
                  "Data has %" G_GSIZE_FORMAT " bytes, the length says %" PRIu64, have, len);
        return false;
    }
    return guest_write(q, addr, data, len, err);
}

static bool handle_memset(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                          GString *answer G_GNUC_UNUSED, GError **err)
{
    g_autofree uint8_t *data = NULL;
    uint64_t addr, len, value;

    if (!parse_range(words, &addr, &len, err) || !parse_number(words[2], &value, err)) {
        return false;
    }
    if (len) {
        data = g_malloc(len);
        memset(data, (int)(value & 0xff), len);
        return guest_write(q, addr, data, len, err);
    }
    return true;
}

static bool handle_endianness(struct qtest *q G_GNUC_UNUSED, const struct command *c G_GNUC_UNUSED,
                              char **words G_GNUC_UNUSED, GString *answer,
                              GError **err G_GNUC_UNUSED)
{
    g_string_append(answer, " little");
    return true;
}

/* ---- the clock ---- */

/* Never backwards. Answers with where the clock then is. */
static void clock_to(struct qtest *q, uint64_t ns, GString *answer)
{
    if (ns > (uint64_t)vm_clock_ns(q->vm)) {
        vm_clock_advance_to(q->vm, (int64_t)ns);
    }
    g_string_append_printf(answer, " %" PRId64, vm_clock_ns(q->vm));
}

static bool clock_check(uint64_t ns, GError **err)
{
    if (ns > INT64_MAX) {
        error_set(err, FERRY_ERROR_USER, "The clock cannot go beyond 2^63-1 ns");
        return false;
    }
    return true;
}

static bool handle_clock_step(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                              GString *answer, GError **err)
{
    uint64_t now = (uint64_t)vm_clock_ns(q->vm), ns;

    if (!words[0]) {
        clock_to(q, (uint64_t)MAX(vm_clock_next_deadline(q->vm), 0), answer);
        return true;
    }
    if (!parse_number(words[0], &ns, err) || !clock_check(ns, err) || !clock_check(now + ns, err)) {
        return false;
    }
    clock_to(q, now + ns, answer);
    return true;
}

static bool handle_clock_set(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                             GString *answer, GError **err)
{
    uint64_t ns;

    if (!parse_number(words[0], &ns, err) || !clock_check(ns, err)) {
        return false;
    }
    clock_to(q, ns, answer);
    return true;
}

/* ---- interrupt lines ---- */

/* A device by its path, the end of its path, or the name it has on QEMU's machine. */
static const struct device *find_device(struct qtest *q, const char *name,
                                        const struct irq_inputs **inputs, GError **err)
{
    g_autofree char *tail = g_strconcat("/", name, NULL);
    const char *alias = g_str_has_prefix(name, "/machine/") ? name + strlen("/machine/") : name;

    for (unsigned i = 0; i < q->vm->devices->len; i++) {
        const struct device *dev = g_ptr_array_index(q->vm->devices, i);
        bool found = dev->path && (g_str_equal(dev->path, name) ||
                                   (name[0] != '/' && g_str_has_suffix(dev->path, tail)));

        *inputs = NULL;
        for (unsigned j = 0; j < G_N_ELEMENTS(irq_inputs); j++) {
            if (g_str_equal(irq_inputs[j].class, dev->class->name) &&
                irq_inputs[j].instance == dev->instance_id) {
                *inputs = &irq_inputs[j];
                found = found || g_strcmp0(irq_inputs[j].alias, alias) == 0;
            }
        }
        if (found) {
            return dev;
        }
    }
    error_set(err, FERRY_ERROR_USER, "Unknown device");
    return NULL;
}

/* irq_intercept_in watches a device's inputs, which still get their levels. irq_intercept_out is
 * taken as well, and as on QEMU's machine says nothing: no device has outputs of the kind it means.
 */
static bool handle_intercept(struct qtest *q, const struct command *c, char **words,
                             GString *answer G_GNUC_UNUSED, GError **err)
{
    bool out = g_str_equal(c->name, "irq_intercept_out");
    const struct irq_inputs *inputs;
    const struct device *dev = find_device(q, words[0], &inputs, err);

    if (!dev) {
        return false;
    }
    if (q->intercepted && q->intercepted != dev) {
        error_set(err, FERRY_ERROR_USER, "IRQ intercept already enabled");
        return false;
    }
    q->intercepted = dev;
    if (!out) {
        q->watching = inputs;
    }
    return true;
}

void qtest_irq_changed(struct vm *vm, unsigned gsi, bool level)
{
    struct qtest *q = vm->qtest;
    uint64_t bit = UINT64_C(1) << gsi;
    g_autoptr(GString) line = NULL;

    if (!(q->levels & bit) == !level) {
        return;
    }
    q->levels ^= bit;
    if (q->watching && gsi - q->watching->first_gsi < q->watching->count) {
        line = g_string_new(NULL);
        g_string_printf(line, "IRQ %s %u", level ? "raise" : "lower", gsi - q->watching->first_gsi);
        qtest_send_line(q, line);
    }
}

/* set_irq_in PATH unnamed-gpio-in NUMBER LEVEL */
static bool handle_set_irq_in(struct qtest *q, const struct command *c G_GNUC_UNUSED, char **words,
                              GString *answer G_GNUC_UNUSED, GError **err)
{
    const struct irq_inputs *inputs;
    uint64_t number, level;

    if (!find_device(q, words[0], &inputs, err) || !parse_number(words[2], &number, err) ||
        !parse_number(words[3], &level, err)) {
        return false;
    }
    if (!inputs || !g_str_equal(words[1], "unnamed-gpio-in") || number >= inputs->count) {
        error_set(err, FERRY_ERROR_USER, "Device '%.60s' has no interrupt input '%.40s' %" PRIu64,
                  words[0], words[1], number);
        return false;
    }
    vm_irq_set(q->vm, inputs->first_gsi + (unsigned)number, level != 0);
    return true;
}

/* ---- commands ---- */

static const struct command commands[] = {
    { "outb", "PORT VALUE", 2, 1, handle_out },
    { "outw", "PORT VALUE", 2, 2, handle_out },
    { "outl", "PORT VALUE", 2, 4, handle_out },
    { "inb", "PORT", 1, 1, handle_in },
    { "inw", "PORT", 1, 2, handle_in },
    { "inl", "PORT", 1, 4, handle_in },
    { "writeb", "ADDRESS VALUE", 2, 1, handle_write_value },
    { "writew", "ADDRESS VALUE", 2, 2, handle_write_value },
    { "writel", "ADDRESS VALUE", 2, 4, handle_write_value },
    { "writeq", "ADDRESS VALUE", 2, 8, handle_write_value },
    { "readb", "ADDRESS", 1, 1, handle_read_value },
    { "readw", "ADDRESS", 1, 2, handle_read_value },
    { "readl", "ADDRESS", 1, 4, handle_read_value },
    { "readq", "ADDRESS", 1, 8, handle_read_value },
    { "read", "ADDRESS LENGTH", 2, 0, handle_read },
    { "write", "ADDRESS LENGTH DATA", 3, 0, handle_write },
    { "b64read", "ADDRESS LENGTH", 2, 0, handle_b64read },
    { "b64write", "ADDRESS LENGTH DATA", 3, 0, handle_b64write },
    { "memset", "ADDRESS LENGTH VALUE", 3, 0, handle_memset },
    { "endianness", "", 0, 0, handle_endianness },
    { "irq_intercept_in", "DEVICE", 1, 0, handle_intercept },
    { "irq_intercept_out", "DEVICE", 1, 0, handle_intercept },
    { "set_irq_in", "DEVICE NAME NUMBER LEVEL", 4, 0, handle_set_irq_in },
};

/* Known only where the clock is the test's. */
static const struct command clock_commands[] = {
    { "clock_step", "[NS]", 0, 0, handle_clock_step },
    { "clock_set", "NS", 1, 0, handle_clock_set },
};

static const struct command *find_command(struct qtest *q, const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(commands[i].name, name)) {
            return &commands[i];
        }
    }
    for (unsigned i = 0; qtest_enabled(q->vm) && i < G_N_ELEMENTS(clock_commands); i++) {
        if (g_str_equal(clock_commands[i].name, name)) {
            return &clock_commands[i];
        }
    }
    return NULL;
}

bool qtest_run_command(struct qtest *q, char **words, GString *answer, GError **err)
{
    const struct command *c = find_command(q, words[0]);

    if (!c) {
        error_set(err, FERRY_ERROR_USER, "Unknown command '%.60s'", words[0]);
        return false;
    }
    if (g_strv_length(words) - 1 < c->words) {
        error_set(err, FERRY_ERROR_USER, "Command '%s' needs: %s", c->name, c->form);
        return false;
    }
    return c->handle(q, c, words + 1, answer, err);
}
