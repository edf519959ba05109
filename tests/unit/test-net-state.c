/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What network devices and back ends save: every cut and many damages of each byte. Whatever comes
 * is refused with a sentence and nothing has changed, or it is loaded, and saving it again gives
 * what was read. The driver's side (rings, features, filters) is played through the registers.
 */
#include <slirp/libslirp.h>
#include <string.h>

#include "../fuzz/fuzz-machine.h"
#include "hw/device.h"
#include "hw/net/virtio-net.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate/savevm.h"
#include "migration/vmstate/table.h"
#include "net/net.h"
#include "system/memory.h"
#include "qapi/json.h"
#include "util/error.h"

#define SLOT        UINT64_C(0xfeb02e00)
#define NET_SECTION "virtio-mmio@00000000feb02e00/virtio-net"
#define RINGS       0x800000

static struct fuzz_machine *machine;
static struct virtio_net *net;

static void write_register(unsigned reg, uint32_t value)
{
    memory_io(machine->vm->memory, IO_SPACE_MEM, SLOT + reg, &value, 4, true);
}

/* A legacy driver that has set up its three queues. */
static void driver_starts(uint32_t features)
{
    write_register(0x070, 0);
    write_register(0x070, 3);
    write_register(0x024, 0);
    write_register(0x020, features);
    write_register(0x028, 4096);
    for (unsigned i = 0; i < 3; i++) {
        write_register(0x030, i);
        write_register(0x038, 64);
        write_register(0x03c, 4096);
        write_register(0x040, RINGS / 4096 + 4 * i);
    }
    write_register(0x070, 7);
}

/* ---- one section, out and in ---- */

static GByteArray *save_all(void)
{
    GByteArray *bytes = g_byte_array_new();
    struct stream_out *o = out_new_memory(bytes);
    GError *err = NULL;

    g_assert_true(savevm_save(machine->vm->savevm, o, NULL, &err));
    g_assert_true(out_flush(o, &err));
    g_assert_no_error(err);
    out_free(o);
    return bytes;
}

/* The payload of a section in what the machine saves now. */
static GByteArray *save(const char *idstr)
{
    g_autoptr(GByteArray) all = save_all();
    size_t len = strlen(idstr);

    for (size_t i = 5; i + len + 8 < all->len; i++) {
        if (all->data[i] == len && memcmp(all->data + i + 1, idstr, len) == 0) {
            size_t start = i + 1 + len + 8, end = start;
            const uint8_t *id = all->data + i - 4;

            while (all->data[end] != 0x7e || memcmp(all->data + end + 1, id, 4) != 0) {
                end++;
            }
            return g_byte_array_append(g_byte_array_new(), all->data + start, (guint)(end - start));
        }
    }
    g_error("no section '%s'", idstr);
}

/* True: taken. What was read must then be what is saved; `whole`: of the bytes, all were read. */
static bool load(const char *idstr, uint32_t version, const uint8_t *data, size_t len, bool *whole)
{
    struct savevm_load *l = savevm_load_new(machine->vm->savevm);
    struct stream_in *in = in_new_memory(data, len);
    GError *err = NULL;
    bool ok = savevm_load_section(l, in, idstr, 0, version, &err);

    *whole = ok && in_offset(in) == len;
    ok = ok && savevm_load_commit(l, &err);
    if (!ok) {
        g_assert_nonnull(err);
        g_assert_true(g_ascii_isupper(err->message[0]) ||
                      g_str_has_prefix(err->message, "virtio-net:") ||
                      g_str_has_prefix(err->message, "savevm:"));
        g_clear_error(&err);
    }
    in_free(in);
    savevm_load_free(l);
    return ok;
}

/* Damages one byte after the other. Returns how many were taken. */
static unsigned damage(const char *idstr, uint32_t version, const GByteArray *good)
{
    static const uint8_t flips[] = { 0x01, 0x80, 0xff, 0x10 };
    g_autofree uint8_t *data = g_memdup2(good->data, good->len);
    unsigned taken = 0;
    bool whole;

    /* behind the device's part come a thousand queue sizes: of those some */
    for (size_t i = 0; i < good->len; i += i < 1000 ? 1 : 23) {
        for (size_t j = 0; j < G_N_ELEMENTS(flips); j++) {
            data[i] ^= flips[j];
            if (load(idstr, version, data, good->len, &whole) && whole) {
                g_autoptr(GByteArray) first = save(idstr), second = NULL;

                g_assert_true(load(idstr, version, first->data, first->len, &whole) && whole);
                second = save(idstr);
                g_assert_cmpmem(first->data, first->len, second->data, second->len);
                taken++;
            }
            data[i] ^= flips[j];
        }
    }
    g_assert_true(load(idstr, version, good->data, good->len, &whole));
    return taken;
}

static void cut(const char *idstr, uint32_t version, const GByteArray *good)
{
    bool whole;

    for (size_t i = 0; i < good->len; i++) {
        /* subsections may be left out, so a stream may end before one */
        if (load(idstr, version, good->data, i, &whole) && whole) {
            g_assert_cmpuint(good->data[i], ==, 0x05);
        }
    }
}

/* ---- slirp ---- */

static void test_slirp(void)
{
    uint32_t version = (uint32_t)slirp_state_version();
    g_autoptr(GByteArray) good = save("slirp");
    g_autoptr(GByteArray) again = NULL;
    uint8_t longer[4096] = { 42 };
    bool whole;

    g_assert_cmpuint(good->len, ==, 131);
    for (unsigned i = 0; i < good->len; i++) {
        g_assert_false(load("slirp", version, good->data, i, &whole));
    }
    damage("slirp", version, good);
    /* a connection, which Ferry never has, is not even looked at */
    g_assert_false(load("slirp", version, longer, sizeof(longer), &whole));
    g_assert_false(load("slirp", 1, good->data, good->len, &whole));
    g_assert_false(load("slirp", version + 1, good->data, good->len, &whole));
    /* a lease is kept: the second of sixteen, 3 bytes behind the beginning */
    memcpy(good->data + 3 + 8, "\0\1\x52\x54\0\1\2\3", 8);
    good->data[1] = 0x12;
    g_assert_true(load("slirp", version, good->data, good->len, &whole) && whole);
    again = save("slirp");
    g_assert_cmpmem(good->data, good->len, again->data, again->len);
}

/* ---- virtio-net ---- */

static void fill_filter(struct net_filter *f)
{
    f->promisc = 0;
    f->allmulti = 1;
    f->in_use = 2;
    f->first_multi = 1;
    memcpy(f->table[0], "\2abcde", 6);
    memcpy(f->table[1], "\1abcde", 6);
    memset(f->vlans, 0, sizeof(f->vlans));
    f->vlans[3] = 0x42;
}

static void test_reset_state(void)
{
    g_autoptr(GByteArray) good = NULL;

    fuzz_machine_reset(machine);
    good = save(NET_SECTION);
    cut(NET_SECTION, 11, good);
    g_assert_cmpuint(damage(NET_SECTION, 11, good), >, 0);
}

static void test_running_state(void)
{
    uint32_t features = 1u << NET_F_CTRL_VQ | 1u << NET_F_CTRL_RX | 1u << NET_F_CTRL_VLAN |
                        1u << NET_F_MRG_RXBUF | 1u << NET_F_STATUS | 1u << NET_F_GUEST_ANNOUNCE |
                        1u << NET_F_CTRL_GUEST_OFFLOADS;
    g_autoptr(GByteArray) good = NULL;

    fuzz_machine_reset(machine);
    driver_starts(features);
    g_assert_cmpuint(net->vdev.guest_features, ==, features);
    fill_filter(&net->filter);
    net->status |= NET_S_ANNOUNCE;
    good = save(NET_SECTION);
    cut(NET_SECTION, 11, good);
    g_assert_cmpuint(damage(NET_SECTION, 11, good), >, 0);
    g_assert_cmpuint(net->filter.in_use, ==, 2);
    g_assert_cmpuint(net->filter.first_multi, ==, 1);
    g_assert_true(net->merge);
    g_assert_cmpuint(net->hdr_len, ==, 12);
}

/* Values that no device would send. The offset is that in the device's part, found by its MAC. */
static void test_refused(void)
{
    static const struct {
        const char *what;
        unsigned at, len;
        uint32_t value;
    } rows[] = {
        { "tx_waiting", 6, 4, 2 },
        { "mergeable buffers not negotiated", 10, 4, 1 },
        { "status", 14, 2, 4 },
        { "promisc", 16, 1, 2 },
        { "allmulti", 17, 1, 255 },
        { "in_use", 18, 4, 65 },
        { "in_use", 18, 4, 0xffffffff },
        { "vnet header", 534, 4, 1 },
        { "vnet header", 534, 4, 7 },
        { "multi_overflow", 538, 1, 2 },
        { "nobcast", 543, 1, 3 },
        { "ufo", 544, 1, 1 },
        { "ufo", 544, 1, 9 },
    };
    g_autoptr(GByteArray) good = NULL;
    size_t mac = 0;
    bool whole;

    fuzz_machine_reset(machine);
    good = save(NET_SECTION);
    for (size_t i = 24 + net->vdev.config_len; !mac; i++) {
        mac = memcmp(good->data + i, net->own_mac, 6) == 0 ? i : 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree uint8_t *data = g_memdup2(good->data, good->len);

        for (unsigned j = 0; j < rows[i].len; j++) {
            data[mac + rows[i].at + j] = (uint8_t)(rows[i].value >> (8 * (rows[i].len - 1 - j)));
        }
        g_test_message("%s = %u", rows[i].what, rows[i].value);
        g_assert_false(load(NET_SECTION, 11, data, good->len, &whole));
    }
    g_assert_true(load(NET_SECTION, 11, good->data, good->len, &whole) && whole);
    for (uint32_t version = 0; version < 13; version++) {
        g_assert_cmpint(load(NET_SECTION, version, good->data, good->len, &whole), ==,
                        version == 11);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(json_t) options =
        json_pack("{s:s, s:s}", "driver", "virtio-net-device", "netdev", "n0");
    GError *err = NULL;
    Netdev *netdev;
    int status;

    g_test_init(&argc, &argv, NULL);
    machine = fuzz_machine_new();
    netdev = net_parse_option("user,id=n0", &err);
    g_assert_true(net_open(machine->vm->net, netdev, &err));
    qapi_netdev_free(netdev);
    net = (struct virtio_net *)device_add(machine->vm, options, &err);
    g_assert_no_error(err);
    fuzz_machine_reset(machine);
    g_test_add_func("/net/state/slirp", test_slirp);
    g_test_add_func("/net/state/reset", test_reset_state);
    g_test_add_func("/net/state/running", test_running_state);
    g_test_add_func("/net/state/refused", test_refused);
    status = g_test_run();
    fuzz_machine_free(machine);
    return status;
}
