/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-serial's part of its section, as QEMU 7.2 sends it (measured):
 *
 *   be16 columns, be16 rows (of consoles; always 0)
 *   be32 ports that there can be, a bit for each that is there in words of be32
 *   be32 ports; per port, in order of creation:
 *     be32 number, u8 guest's end is open, u8 host's end is open
 *     be32 1 where output was written in part: be32 piece, be64 offset in it, the request; else
 * be32 0
 *
 * A destination must have the same ports. Trust: none; see parse().
 */
#include <string.h>

#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "serial.h"
#include "util/error.h"

struct port_state {
    struct serial_port *port;
    bool guest_connected, host_connected;
    struct virtqueue_saved *out; /* NULL: none */
    uint32_t out_piece;
    uint64_t out_offset;
};

struct serial_state {
    unsigned count;
    struct port_state *ports;
};

static unsigned map_words(const struct virtio_serial *s)
{
    return (s->max_ports + 31) / 32;
}

/* A word of the map of numbers that are taken. */
static uint32_t map_word(const struct virtio_serial *s, unsigned word)
{
    uint32_t bits = 0;

    for (unsigned i = 0; i < s->ports->len; i++) {
        const struct serial_port *port = g_ptr_array_index(s->ports, i);

        if (port->nr / 32 == word) {
            bits |= 1u << port->nr % 32;
        }
    }
    return bits;
}

static void save(struct virtio_device *v, struct stream_out *o)
{
    struct virtio_serial *s = (struct virtio_serial *)v;

    out_be16(o, 0);
    out_be16(o, 0);
    out_be32(o, s->max_ports);
    for (unsigned i = 0; i < map_words(s); i++) {
        out_be32(o, map_word(s, i));
    }
    out_be32(o, s->ports->len);
    for (unsigned i = 0; i < s->ports->len; i++) {
        struct serial_port *port = g_ptr_array_index(s->ports, i);

        serial_port_forget_stale(port);
        out_be32(o, port->nr);
        out_u8(o, port->guest_connected);
        out_u8(o, port->host_connected);
        out_be32(o, port->out_elem != NULL);
        if (port->out_elem) {
            out_be32(o, port->out_piece);
            out_be64(o, port->out_offset);
            virtqueue_element_save(port->out_elem, o);
        }
    }
}

static bool refuse(GError **err, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool refuse(GError **err, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    error_set(err, FERRY_ERROR_PEER, "The migration stream has a virtio-serial device with %s",
              text);
    return false;
}

static bool parse_port(struct virtio_serial *s, struct serial_state *state, unsigned i,
                       struct stream_in *in, GError **err)
{
    struct port_state *p = &state->ports[i];
    uint32_t nr, popped;
    uint8_t guest, host;

    if (!in_be32(in, &nr, err) || !in_u8(in, &guest, err) || !in_u8(in, &host, err) ||
        !in_be32(in, &popped, err)) {
        return false;
    }
    p->port = serial_port_find(s, nr);
    for (unsigned k = 0; p->port && k < i; k++) {
        p->port = state->ports[k].port == p->port ? NULL : p->port;
    }
    if (!p->port) {
        return refuse(err, "port %u, which is not here or came twice", nr);
    }
    if (guest > 1 || host > 1 || popped > 1) {
        return refuse(err, "port %u in state %u, %u, %u", nr, guest, host, popped);
    }
    p->guest_connected = guest;
    p->host_connected = host;
    if (!popped) {
        return true;
    }
    if (!in_be32(in, &p->out_piece, err) || !in_be64(in, &p->out_offset, err)) {
        return false;
    }
    p->out = virtqueue_element_parse(in, err);
    if (!p->out) {
        return false;
    }
    if (!virtqueue_saved_has(p->out, p->out_piece, p->out_offset)) {
        return refuse(err, "port %u at piece %u, byte %" G_GUINT64_FORMAT " of its output", nr,
                      p->out_piece, p->out_offset);
    }
    return true;
}

static bool parse(struct virtio_device *v, void *opaque, uint64_t features G_GNUC_UNUSED,
                  int version G_GNUC_UNUSED, struct stream_in *in, GError **err)
{
    struct virtio_serial *s = (struct virtio_serial *)v;
    struct serial_state *state = opaque;
    uint32_t size, max_ports, word, count;

    if (!in_be32(in, &size, err) || !in_be32(in, &max_ports, err)) {
        return false;
    }
    if (max_ports != s->max_ports) {
        return refuse(err, "max_ports=%u where this one has %u", max_ports, s->max_ports);
    }
    for (unsigned i = 0; i < map_words(s); i++) {
        if (!in_be32(in, &word, err)) {
            return false;
        }
        if (word != map_word(s, i)) {
            return refuse(err,
                          "other ports than this one has (0x%x, 0x%x): give both sides the same "
                          "devices",
                          word, map_word(s, i));
        }
    }
    if (!in_be32(in, &count, err)) {
        return false;
    }
    if (count > s->ports->len) {
        return refuse(err, "%u ports where this one has %u", count, s->ports->len);
    }
    state->ports = g_new0(struct port_state, count + 1);
    state->count = count;
    for (unsigned i = 0; i < count; i++) {
        if (!parse_port(s, state, i, in, err)) {
            return false;
        }
    }
    return true;
}

static bool load(struct virtio_device *v G_GNUC_UNUSED, const void *opaque, GError **err)
{
    const struct serial_state *state = opaque;

    for (unsigned i = 0; i < state->count; i++) {
        const struct port_state *p = &state->ports[i];
        struct serial_port *port = p->port;

        if (p->guest_connected != port->guest_connected) {
            serial_port_set_guest_connected(port, p->guest_connected);
        }
        port->tell_guest = p->host_connected != port->host_connected;
        if (p->out) {
            port->out_elem =
                virtqueue_element_load(port->out, p->out, sizeof(*port->out_elem), err);
            if (!port->out_elem) {
                return false;
            }
            port->out_piece = p->out_piece;
            port->out_offset = p->out_offset;
        }
    }
    return true;
}

static void clear(void *opaque)
{
    struct serial_state *state = opaque;

    for (unsigned i = 0; i < state->count; i++) {
        g_free(state->ports[i].out);
    }
    g_free(state->ports);
}

const struct virtio_wire serial_wire = {
    .state_size = sizeof(struct serial_state),
    .save = save,
    .parse = parse,
    .load = load,
    .clear = clear,
};
