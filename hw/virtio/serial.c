/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-serial (VIRTIO 1.1, 5.3): consoles and named ports over one device. Port 0 has queues 0
 * and 1 (into the guest, out of it), control has 2 and 3, port n has 2n + 2 and 2n + 3. The queues
 * of all possible ports are there, because their number is part of the stream.
 *
 * Messages to the driver that find no buffer wait in a list; it is as long as the ports can make it
 * and not in the stream (nor is it QEMU's to send).
 */
#include "serial.h"

#include <string.h>

#include "util/error.h"

#define PORT_QUEUE    128
#define CONTROL_QUEUE 32
#define CONTROL_MAX   (SERIAL_MAX_PORTS * 4) /* messages that wait */

struct control_message {
    uint32_t id;
    uint16_t event, value;
};

/* The configuration space: 5.3.4. */
struct serial_config {
    uint16_t cols, rows;
    uint32_t max_nr_ports, emerg_wr;
};

static struct virtio_serial *serial_of(struct virtio_device *v)
{
    return (struct virtio_serial *)v;
}

struct serial_port *serial_port_find(struct virtio_serial *s, uint32_t nr)
{
    for (unsigned i = 0; i < s->ports->len; i++) {
        struct serial_port *port = g_ptr_array_index(s->ports, i);

        if (port->nr == nr) {
            return port;
        }
    }
    return NULL;
}

/* ---- control ---- */

static void flush_control(struct virtio_serial *s)
{
    bool used = false;

    while (!g_queue_is_empty(&s->control)) {
        struct virtqueue_element *elem = virtqueue_pop(s->control_in, sizeof(*elem));
        GBytes *message;
        size_t len;

        if (!elem) {
            break;
        }
        message = g_queue_pop_head(&s->control);
        len = iov_write(elem->in, elem->in_count, 0, g_bytes_get_data(message, NULL),
                        g_bytes_get_size(message));
        virtqueue_push(s->control_in, elem, (uint32_t)len);
        g_free(elem);
        g_bytes_unref(message);
        used = true;
    }
    if (used) {
        virtqueue_notify(s->control_in);
    }
}

void serial_send_control(struct virtio_serial *s, uint32_t port, enum serial_event event,
                         uint16_t value, const char *text)
{
    struct control_message message = { .id = port, .event = (uint16_t)event, .value = value };
    GByteArray *bytes;

    if (!virtio_has(&s->vdev, SERIAL_FEATURE_MULTIPORT) ||
        g_queue_get_length(&s->control) >= CONTROL_MAX) {
        return;
    }
    bytes = g_byte_array_new();
    g_byte_array_append(bytes, (const guint8 *)&message, sizeof(message));
    if (text) {
        g_byte_array_append(bytes, (const guint8 *)text, (guint)strlen(text) + 1);
    }
    g_queue_push_tail(&s->control, g_byte_array_free_to_bytes(bytes));
    flush_control(s);
}

static void handle_control_in(struct virtio_device *v, struct virtqueue *vq G_GNUC_UNUSED)
{
    flush_control(serial_of(v));
}

static void announce_ports(struct virtio_serial *s)
{
    for (unsigned i = 0; i < s->ports->len; i++) {
        const struct serial_port *port = g_ptr_array_index(s->ports, i);

        serial_send_control(s, port->nr, SERIAL_DEVICE_ADD, 1, NULL);
    }
}

static void port_is_ready(struct virtio_serial *s, const struct serial_port *port)
{
    if (port->is_console) {
        serial_send_control(s, port->nr, SERIAL_CONSOLE_PORT, 1, NULL);
    }
    if (port->name) {
        serial_send_control(s, port->nr, SERIAL_PORT_NAME, 1, port->name);
    }
    if (port->host_connected) {
        serial_send_control(s, port->nr, SERIAL_PORT_OPEN, 1, NULL);
    }
}

static void handle_message(struct virtio_serial *s, const struct control_message *m)
{
    struct serial_port *port = serial_port_find(s, m->id);

    if (m->event == SERIAL_DEVICE_READY) {
        if (m->value) {
            announce_ports(s);
        }
        return;
    }
    if (!port) {
        return; /* what a driver says of a port that is not there means nothing */
    }
    if (m->event == SERIAL_PORT_READY && m->value) {
        port_is_ready(s, port);
    } else if (m->event == SERIAL_PORT_OPEN) {
        serial_port_set_guest_connected(port, m->value);
    }
}

static void handle_control_out(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_serial *s = serial_of(v);
    struct virtqueue_element *elem;
    bool used = false;

    while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
        struct control_message m;

        if (iov_read(elem->out, elem->out_count, 0, &m, sizeof(m)) == sizeof(m)) {
            handle_message(s, &m);
        }
        virtqueue_push(vq, elem, 0);
        g_free(elem);
        used = true;
    }
    if (used) {
        virtqueue_notify(vq);
    }
}

/* ---- ports' queues ---- */

static struct serial_port *port_of_queue(struct virtio_serial *s, const struct virtqueue *vq)
{
    unsigned index = virtqueue_index(vq);

    return serial_port_find(s, index < 2 ? 0 : index / 2 - 1);
}

static void handle_input(struct virtio_device *v, struct virtqueue *vq)
{
    struct serial_port *port = port_of_queue(serial_of(v), vq);

    if (port) {
        serial_port_input(port);
    }
}

/* What is written to a port that is not there goes nowhere. */
static void handle_output(struct virtio_device *v, struct virtqueue *vq)
{
    struct serial_port *port = port_of_queue(serial_of(v), vq);
    struct virtqueue_element *elem;

    if (port) {
        serial_port_output(port);
        return;
    }
    while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
        virtqueue_push(vq, elem, 0);
        g_free(elem);
    }
    virtqueue_notify(vq);
}

/* ---- the device ---- */

static bool serial_realize(struct virtio_device *v, GError **err)
{
    struct virtio_serial *s = serial_of(v);

    if (!s->max_ports || s->max_ports > SERIAL_MAX_PORTS) {
        error_set(err, FERRY_ERROR_USER, "Property 'max_ports' takes 1 to %u ports",
                  SERIAL_MAX_PORTS);
        return false;
    }
    s->ports = g_ptr_array_new();
    g_queue_init(&s->control);
    v->config_len = sizeof(struct serial_config);
    if (s->max_ports > 1) {
        v->host_features |= 1 << SERIAL_FEATURE_MULTIPORT;
    }
    if (s->emergency_write) {
        v->host_features |= 1 << SERIAL_FEATURE_EMERG_WRITE;
    }
    for (uint32_t i = 0; i < s->max_ports; i++) {
        virtio_add_queue(v, PORT_QUEUE, handle_input);
        virtio_add_queue(v, PORT_QUEUE, handle_output);
        if (!i) {
            s->control_in = virtio_add_queue(v, CONTROL_QUEUE, handle_control_in);
            s->control_out = virtio_add_queue(v, CONTROL_QUEUE, handle_control_out);
        }
    }
    return true;
}

static void forget_control(struct virtio_serial *s)
{
    g_queue_clear_full(&s->control, (GDestroyNotify)g_bytes_unref);
}

static void serial_unrealize(struct virtio_device *v)
{
    struct virtio_serial *s = serial_of(v);

    g_assert(!s->ports->len); /* they came later and went before */
    forget_control(s);
    g_ptr_array_unref(s->ports);
}

static void serial_get_config(struct virtio_device *v, uint8_t *config)
{
    struct serial_config c = { .max_nr_ports = serial_of(v)->max_ports };

    memcpy(config, &c, sizeof(c));
}

/* 5.3.4: a character before there is a driver. */
static void serial_set_config(struct virtio_device *v, const uint8_t *config)
{
    struct serial_config c;

    memcpy(&c, config, sizeof(c));
    if (c.emerg_wr && serial_of(v)->emergency_write) {
        struct serial_port *port = serial_port_find(serial_of(v), 0);

        if (port) {
            serial_port_emergency(port, (uint8_t)c.emerg_wr);
        }
    }
}

static void serial_reset(struct virtio_device *v)
{
    struct virtio_serial *s = serial_of(v);

    forget_control(s);
    for (unsigned i = 0; i < s->ports->len; i++) {
        serial_port_reset(g_ptr_array_index(s->ports, i));
    }
}

static void serial_run_state(struct virtio_device *v, bool running)
{
    struct virtio_serial *s = serial_of(v);

    for (unsigned i = 0; i < s->ports->len; i++) {
        struct serial_port *port = g_ptr_array_index(s->ports, i);

        if (!running) {
            serial_port_stop(port);
        } else if (port->tell_guest) {
            port->tell_guest = false;
            serial_send_control(s, port->nr, SERIAL_PORT_OPEN, port->host_connected, NULL);
        }
    }
}

static void serial_describe(struct virtio_device *v,
                            void (*add)(void *opaque, const char *name, const char *value),
                            void *opaque)
{
    struct virtio_serial *s = serial_of(v);
    g_autofree char *max = g_strdup_printf("%u", s->max_ports);
    g_autoptr(GString) ports = g_string_new(NULL);
    g_autoptr(GString) names = g_string_new(NULL);

    for (uint32_t nr = 0; nr < s->max_ports; nr++) {
        const struct serial_port *port = serial_port_find(s, nr);
        const char *gap = ports->len ? " " : "";

        if (port) {
            g_string_append_printf(ports, "%s%u", gap, nr);
            g_string_append_printf(names, "%s%s", gap,
                                   port->is_console ? "console"
                                   : port->name     ? port->name
                                                    : "-");
        }
    }
    add(opaque, "max_ports", max);
    add(opaque, "ports", ports->str);
    add(opaque, "names", names->str);
}

static const struct property serial_properties[] = {
    { .name = "max_ports",
      .type = PROPERTY_UINT32,
      .offset = offsetof(struct virtio_serial, max_ports),
      .def = 31,
      .help = "how many ports there can be" },
    { .name = "emergency-write",
      .type = PROPERTY_BOOL,
      .offset = offsetof(struct virtio_serial, emergency_write),
      .def = 1,
      .help = "offer output without a driver" },
    VIRTIO_PROPERTIES,
    {},
};

static const struct virtio_class serial_class = {
    .device = { VIRTIO_DEVICE_LIFE, .name = SERIAL_DEVICE,
                .description = "consoles and serial ports", .size = sizeof(struct virtio_serial),
                .properties = serial_properties },
    .device_id = 3,
    .wire_name = "virtio-console",
    .version = 3,
    .realize = serial_realize,
    .unrealize = serial_unrealize,
    .get_config = serial_get_config,
    .set_config = serial_set_config,
    .reset = serial_reset,
    .run_state = serial_run_state,
    .describe = serial_describe,
    .wire = &serial_wire,
};
VIRTIO_CLASS(serial_class);
