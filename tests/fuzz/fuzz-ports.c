/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ports of the virtio-serial devices s0, s1, ... of a fuzz target: two each, whose other ends are
 * here. */
#include "fuzz-driver.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "chardev/chardev.h"
#include "hw/device.h"
#include "hw/virtio/virtio.h"
#include "qapi/json.h"
#include "system/vm-init.h"

#define SERIALS_MAX 2u

static int peers[2 * SERIALS_MAX]; /* our ends of what the ports are connected to */
static unsigned ports;

static void open_port(struct vm *vm, const char *driver, unsigned serial, unsigned port,
                      const char *name)
{
    g_autofree char *id = g_strdup_printf("c%u", ports), *bus = g_strdup_printf("s%u.0", serial);
    g_autofree char *number = NULL;
    g_autoptr(json_t) chardev = NULL, device = NULL;
    GError *err = NULL;
    int fds[2];

    g_assert_cmpuint(ports, <, G_N_ELEMENTS(peers));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        g_error("socketpair: %s", g_strerror(errno));
    }
    peers[ports++] = fds[0];
    number = g_strdup_printf("%d", fds[1]);
    chardev = json_pack("{s:s, s:s, s:s}", "backend", "socket", "id", id, "fd", number);
    fuzz_must(chardev_open(vm->chardevs, chardev, &err), &err);
    device = json_pack("{s:s, s:s, s:s, s:i}", "driver", driver, "chardev", id, "bus", bus, "nr",
                       (int)port);
    if (name) {
        json_object_set_new(device, "name", json_string(name));
    }
    fuzz_must(device_add(vm, device, &err), &err);
}

static void ports_plug(struct fuzz_driver *d)
{
    for (unsigned i = 0; fuzz_find(d->m->vm, "virtio-serial-device", i); i++) {
        open_port(d->m->vm, "virtconsole", i, 0, NULL);
        open_port(d->m->vm, "virtserialport", i, 1, i ? NULL : "org.a");
    }
}

/* Characters for a port, and a turn of the main loop; what came out is read. */
static void ports_extra(struct fuzz_driver *d, unsigned device G_GNUC_UNUSED, struct fuzz_reader *r)
{
    unsigned which = fuzz_next8(r) % ports, n = fuzz_next8(r);
    uint8_t bytes[256];
    char out[4096];

    for (unsigned i = 0; i < n; i++) {
        bytes[i] = fuzz_next8(r);
    }
    if (n && send(peers[which], bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        g_assert(errno == EAGAIN);
    }
    vm_main_loop_once(d->m->vm, 0);
    while (recv(peers[which], out, sizeof(out), MSG_DONTWAIT) > 0) {
    }
}

const struct fuzz_kind fuzz_ports = {
    .plug = ports_plug,
    .extra = ports_extra,
};
