/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between the files of virtio-serial: the device with its control queue (serial.c), its ports
 * (serial-port.c) and its part of the stream (serial-wire.c). Machine lock held.
 */
#ifndef HW_VIRTIO_SERIAL_H
#define HW_VIRTIO_SERIAL_H

#include "chardev/chardev.h"
#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"

#define SERIAL_DEVICE    "virtio-serial-device"
#define SERIAL_MAX_PORTS 511 /* two queues each, and two for control */

#define SERIAL_FEATURE_MULTIPORT   1
#define SERIAL_FEATURE_EMERG_WRITE 2

/* Control events: VIRTIO 1.1, 5.3.6.2. */
enum serial_event {
    SERIAL_DEVICE_READY,
    SERIAL_DEVICE_ADD,
    SERIAL_DEVICE_REMOVE,
    SERIAL_PORT_READY,
    SERIAL_CONSOLE_PORT,
    SERIAL_RESIZE,
    SERIAL_PORT_OPEN,
    SERIAL_PORT_NAME,
};

struct virtio_serial {
    struct virtio_device vdev;
    uint32_t max_ports;
    bool emergency_write; /* property */

    GPtrArray *ports; /* struct serial_port *, in order of creation */
    struct virtqueue *control_in, *control_out;
    GQueue control; /* GBytes *: for the driver, which gave no buffer yet */
};

/* virtconsole, virtserialport: a device of its own, at a number of a virtio-serial device. */
struct serial_port {
    struct device dev;
    uint32_t nr; /* property, then the number */
    char *chardev_id, *name, *bus_name;

    struct virtio_serial *serial;
    struct chardev *chr; /* NULL: what is written goes nowhere */
    struct virtqueue *in, *out;
    bool is_console;
    bool guest_connected; /* somebody in the guest has it open; consoles always */
    bool host_connected;  /* the chardev has its client */

    struct virtqueue_element *in_elem;  /* popped for what comes next, nothing is in it yet */
    struct virtqueue_element *out_elem; /* a part of it was written */
    unsigned out_piece;                 /* how far: piece, and offset in it */
    uint64_t out_offset;
    bool blocked;    /* the chardev takes no more; it will say so */
    bool tell_guest; /* what the guest knows of the host's end came from elsewhere */

    int64_t event_us; /* when VSERPORT_CHANGE was emitted last; 0: never */
    GSource *event;   /* the next one, when it is early */
};

/* The serial device whose port this is by that queue; NULL: no such port. */
struct serial_port *serial_port_find(struct virtio_serial *s, uint32_t nr);

/* To the driver, when it has room; nothing where it has not accepted MULTIPORT. text: behind the
 * message, with its NUL; may be NULL. */
void serial_send_control(struct virtio_serial *s, uint32_t port, enum serial_event event,
                         uint16_t value, const char *text);

/* Queue handlers of a port. */
void serial_port_output(struct serial_port *port);
void serial_port_input(struct serial_port *port);
void serial_port_set_guest_connected(struct serial_port *port, bool connected);
/* Of a queue that the driver has taken back. */
void serial_port_forget_stale(struct serial_port *port);
/* Requests that are held go back (stop) or away (reset). */
void serial_port_stop(struct serial_port *port);
void serial_port_reset(struct serial_port *port);
/* A character of the emergency write. */
void serial_port_emergency(struct serial_port *port, uint8_t c);

extern const struct virtio_wire serial_wire;

#endif
