/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ports of virtio-serial: virtconsole and virtserialport, each between a pair of queues and a
 * chardev.
 *
 * Out of the guest: the queue's handler writes what the chardev takes. What it does not take stays
 * with its request, until the chardev says that it has room (on the main loop, which only kicks the
 * queue). So a guest is never ahead of a slow reader by more than its own queue, and a request
 * written in part travels with its position.
 *
 * Into the guest: the chardev is asked for no more than the next buffer of the guest takes. The
 * buffer is taken from the queue when the chardev asks, and given back unused when the machine
 * stops. While memory is still coming (post-copy) only the I/O thread can take one; it then tells
 * the chardev.
 *
 * A console's guest end is always open; a port's opens and closes by control messages.
 */
#include "serial.h"

#include <string.h>

#include "qapi/qapi-events.h"
#include "system/vm.h"
#include "util/error.h"

#define ANY_NUMBER UINT32_MAX
/* VSERPORT_CHANGE comes at most so often per port: its state is the guest's to change. */
#define EVENT_US 1000000
/* Requests without room for a byte that one look at the queue passes over. */
#define MAX_EMPTY VIRTIO_QUEUE_SIZE_MAX

static bool is_running(const struct serial_port *port)
{
    return port->serial->vdev.running;
}

/* ---- out of the guest ---- */

static void writable(void *opaque)
{
    struct serial_port *port = opaque;

    port->blocked = false;
    virtqueue_kick(port->out);
}

/* Goes on with out_elem; true when all of it has been taken. */
static bool write_element(struct serial_port *port)
{
    struct virtqueue_element *elem = port->out_elem;

    while (port->out_piece < elem->out_count) {
        const struct iovec *iov = &elem->out[port->out_piece];
        size_t len = iov->iov_len - (size_t)port->out_offset, n = len;

        if (port->chr && port->host_connected) {
            n = chardev_write(port->chr, (const uint8_t *)iov->iov_base + port->out_offset, len);
        }
        if (n < len) {
            port->out_offset += n;
            port->blocked = true;
            chardev_notify_writable(port->chr, writable, port);
            return false;
        }
        port->out_piece++;
        port->out_offset = 0;
    }
    return true;
}

static void forget_output(struct serial_port *port)
{
    g_clear_pointer(&port->out_elem, g_free);
    port->out_piece = 0;
    port->out_offset = 0;
}

void serial_port_forget_stale(struct serial_port *port)
{
    if (port->out_elem && virtqueue_element_is_stale(port->out_elem)) {
        forget_output(port);
        port->blocked = false;
    }
    if (port->in_elem && virtqueue_element_is_stale(port->in_elem)) {
        g_clear_pointer(&port->in_elem, g_free);
    }
}

void serial_port_output(struct serial_port *port)
{
    bool used = false;

    serial_port_forget_stale(port);
    while (!port->blocked) {
        if (!port->out_elem) {
            port->out_elem = virtqueue_pop(port->out, sizeof(*port->out_elem));
        } else if (!virtqueue_element_wait(port->out_elem)) {
            break; /* one that came with the guest, whose memory has not all come */
        }
        if (!port->out_elem || !write_element(port)) {
            break;
        }
        virtqueue_push(port->out, port->out_elem, 0);
        forget_output(port);
        used = true;
    }
    if (used) {
        virtqueue_notify(port->out);
    }
}

void serial_port_emergency(struct serial_port *port, uint8_t c)
{
    if (port->chr) {
        chardev_write(port->chr, &c, 1); /* nobody waits in an emergency */
    }
}

/* ---- into the guest ---- */

/* The guest's next buffer with room, if there is one. */
static struct virtqueue_element *next_buffer(struct serial_port *port)
{
    serial_port_forget_stale(port);
    for (unsigned empty = 0; !port->in_elem && empty < MAX_EMPTY; empty++) {
        struct virtqueue_element *elem = virtqueue_pop(port->in, sizeof(*elem));

        if (!elem) {
            break;
        }
        if (elem->in_bytes) {
            port->in_elem = elem;
            break;
        }
        virtqueue_push(port->in, elem, 0);
        virtqueue_notify(port->in);
        g_free(elem);
    }
    return port->in_elem;
}

static size_t can_receive(void *opaque)
{
    struct serial_port *port = opaque;

    if (!port->guest_connected || !is_running(port) || !virtqueue_is_ready(port->in) ||
        !next_buffer(port)) {
        return 0;
    }
    return (size_t)port->in_elem->in_bytes;
}

static void receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct serial_port *port = opaque;
    struct virtqueue_element *elem = g_steal_pointer(&port->in_elem);
    size_t n;

    if (!elem) {
        return; /* more than was asked for */
    }
    n = iov_write(elem->in, elem->in_count, 0, buf, len);
    virtqueue_push(port->in, elem, (uint32_t)n);
    virtqueue_notify(port->in);
    g_free(elem);
}

void serial_port_input(struct serial_port *port)
{
    if (port->chr && port->guest_connected && next_buffer(port)) {
        chardev_accept_input(port->chr);
    }
}

/* ---- who is there ---- */

static void emit_change(struct serial_port *port)
{
    port->event_us = g_get_monotonic_time();
    qapi_event_send_vserport_change(port->dev.vm, port->dev.id, port->guest_connected);
}

static gboolean event_due(gpointer opaque)
{
    struct serial_port *port = opaque;

    g_clear_pointer(&port->event, g_source_unref);
    emit_change(port);
    return G_SOURCE_REMOVE;
}

static void report_change(struct serial_port *port)
{
    int64_t due = port->event_us ? port->event_us + EVENT_US : 0;

    if (!port->dev.id || port->event) {
        return; /* nobody could tell whose it is; or it is on its way and will say what is then */
    }
    if (due <= g_get_monotonic_time()) {
        emit_change(port);
        return;
    }
    port->event = g_timeout_source_new((guint)((due - g_get_monotonic_time()) / 1000 + 1));
    g_source_set_callback(port->event, event_due, port, NULL);
    g_source_attach(port->event, NULL);
}

void serial_port_set_guest_connected(struct serial_port *port, bool connected)
{
    port->guest_connected = connected || port->is_console;
    if (port->chr) {
        chardev_set_frontend_open(port->chr, port->guest_connected);
    }
    report_change(port);
    if (port->guest_connected && port->chr) {
        chardev_accept_input(port->chr);
    }
}

static void host_changed(void *opaque, enum chardev_event event)
{
    struct serial_port *port = opaque;
    bool connected = event == CHARDEV_EVENT_OPENED;

    if (connected == port->host_connected) {
        return;
    }
    port->host_connected = connected;
    if (is_running(port)) {
        serial_send_control(port->serial, port->nr, SERIAL_PORT_OPEN, connected, NULL);
    } else {
        port->tell_guest = true;
    }
    if (!connected && port->out_elem) {
        writable(port); /* the rest goes nowhere */
    }
}

void serial_port_stop(struct serial_port *port)
{
    serial_port_forget_stale(port);
    if (port->in_elem) {
        virtqueue_unpop(port->in, port->in_elem);
        g_clear_pointer(&port->in_elem, g_free);
    }
}

void serial_port_reset(struct serial_port *port)
{
    g_clear_pointer(&port->in_elem, g_free);
    forget_output(port);
    port->blocked = false;
    port->tell_guest = false;
    if (port->guest_connected && !port->is_console) {
        serial_port_set_guest_connected(port, false);
    }
}

/* ---- life ---- */

static struct virtio_serial *find_bus(struct serial_port *port, GError **err)
{
    struct vm *vm = port->dev.vm;
    struct virtio_serial *found = NULL;

    for (unsigned i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);
        g_autofree char *name = dev->id ? g_strdup_printf("%s.0", dev->id) : NULL;

        if (!g_str_equal(dev->class->name, SERIAL_DEVICE)) {
            continue;
        }
        if (port->bus_name && g_strcmp0(port->bus_name, name) == 0) {
            return (struct virtio_serial *)dev;
        }
        found = found ? found : (struct virtio_serial *)dev;
    }
    if (port->bus_name) {
        error_set(err, FERRY_ERROR_USER, "Bus '%s' not found", port->bus_name);
        return NULL;
    }
    if (!found) {
        error_set(err, FERRY_ERROR_USER, "No 'virtio-serial-bus' bus found for device '%s'",
                  port->dev.class->name);
    }
    return found;
}

static bool choose_number(struct serial_port *port, GError **err)
{
    struct virtio_serial *s = port->serial;

    if (port->nr == ANY_NUMBER) {
        /* 0 is for a console, which guests look for there */
        port->nr = port->is_console ? 0 : 1;
        while (serial_port_find(s, port->nr)) {
            port->nr++;
        }
    } else if (!port->nr && !port->is_console) {
        error_set(err, FERRY_ERROR_USER,
                  "Port number 0 on virtio-serial devices reserved for virtconsole devices for "
                  "backward compatibility.");
        return false;
    } else if (serial_port_find(s, port->nr)) {
        error_set(err, FERRY_ERROR_USER, "virtio-serial-bus: A port already exists at id %u",
                  port->nr);
        return false;
    }
    if (port->nr >= s->max_ports) {
        error_set(err, FERRY_ERROR_USER,
                  "virtio-serial-bus: Out-of-range port id specified, max. allowed: %u",
                  s->max_ports - 1);
        return false;
    }
    for (unsigned i = 0; port->name && i < s->ports->len; i++) {
        const struct serial_port *other = g_ptr_array_index(s->ports, i);

        if (g_strcmp0(other->name, port->name) == 0) {
            error_set(err, FERRY_ERROR_USER, "virtio-serial-bus: A port already exists by name %s",
                      port->name);
            return false;
        }
    }
    return true;
}

static bool attach_chardev(struct serial_port *port, GError **err)
{
    static const struct chardev_frontend frontend = {
        .can_receive = can_receive,
        .receive = receive,
        .event = host_changed,
    };
    struct chardev *chr;

    if (!port->chardev_id) {
        return true;
    }
    chr = chardev_find(port->dev.vm->chardevs, port->chardev_id);
    if (!chr) {
        error_set(err, FERRY_ERROR_USER, "Property '%s.chardev' can't find value '%s'",
                  port->dev.class->name, port->chardev_id);
        return false;
    }
    if (!chardev_attach(chr, &frontend, port, err)) {
        return false;
    }
    port->chr = chr;
    chardev_set_frontend_open(chr, port->guest_connected);
    return true;
}

static bool port_realize(struct device *dev, GError **err)
{
    struct serial_port *port = (struct serial_port *)dev;
    struct virtio_serial *s = find_bus(port, err);

    port->serial = s;
    port->is_console = g_str_equal(dev->class->name, "virtconsole");
    port->guest_connected = port->is_console;
    if (!s || !choose_number(port, err)) {
        return false;
    }
    port->in = g_ptr_array_index(s->vdev.queues, port->nr ? 2 * port->nr + 2 : 0);
    port->out = g_ptr_array_index(s->vdev.queues, port->nr ? 2 * port->nr + 3 : 1);
    if (!attach_chardev(port, err)) {
        return false;
    }
    g_ptr_array_add(s->ports, port);
    return true;
}

static void port_unrealize(struct device *dev)
{
    struct serial_port *port = (struct serial_port *)dev;

    if (port->event) {
        g_source_destroy(port->event);
        g_source_unref(port->event);
    }
    if (port->chr) {
        chardev_detach(port->chr);
    }
    g_free(port->in_elem);
    g_free(port->out_elem);
    g_ptr_array_remove(port->serial->ports, port);
}

static const struct property port_properties[] = {
    { .name = "chardev",
      .type = PROPERTY_STRING,
      .offset = offsetof(struct serial_port, chardev_id),
      .help = "id of the chardev" },
    { .name = "name",
      .type = PROPERTY_STRING,
      .offset = offsetof(struct serial_port, name),
      .help = "what the guest finds it by" },
    { .name = "nr",
      .type = PROPERTY_UINT32,
      .offset = offsetof(struct serial_port, nr),
      .def = ANY_NUMBER,
      .help = "its number; the next free one unless given" },
    { .name = "bus",
      .type = PROPERTY_STRING,
      .offset = offsetof(struct serial_port, bus_name),
      .help = "ID.0 of the virtio-serial-device; the first unless given" },
    {},
};

static const struct device_class console_class = {
    .name = "virtconsole",
    .description = "console on a virtio-serial device",
    .size = sizeof(struct serial_port),
    .properties = port_properties,
    .realize = port_realize,
    .unrealize = port_unrealize,
    .user_creatable = true,
};
DEVICE_CLASS(console_class);

static const struct device_class port_class = {
    .name = "virtserialport",
    .description = "port on a virtio-serial device",
    .size = sizeof(struct serial_port),
    .properties = port_properties,
    .realize = port_realize,
    .unrealize = port_unrealize,
    .user_creatable = true,
};
DEVICE_CLASS(port_class);
