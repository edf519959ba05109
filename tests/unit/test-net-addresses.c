/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which addresses a guest is taken to have, what is announced of them, and a list of them from a
 * migration stream. */
#include <string.h>

#include "migration/announce-wire.h"
#include "util/error.h"

static const uint8_t guest[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
static const uint8_t other[6] = { 2, 0, 0, 0, 0, 1 };
static const uint8_t ip1[4] = { 10, 0, 2, 15 }, ip2[4] = { 10, 0, 2, 16 };
static const uint8_t ip6[16] = { 0xfe, 0x80, [8] = 0x50, [15] = 1 };
static const uint8_t ip6b[16] = { 0x20, 1, 0xd, 0xb8, [15] = 9 };

struct frame {
    uint8_t bytes[128];
    size_t len;
};

static struct frame arp(const uint8_t eth[6], unsigned op, const uint8_t sha[6],
                        const uint8_t spa[4], const uint8_t tpa[4])
{
    static const uint8_t head[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0 };
    struct frame f = { .len = 60 };

    memset(f.bytes, 0xff, 6);
    memcpy(f.bytes + 6, eth, 6);
    memcpy(f.bytes + 12, head, sizeof(head));
    f.bytes[21] = (uint8_t)op;
    memcpy(f.bytes + 22, sha, 6);
    memcpy(f.bytes + 28, spa, 4);
    memcpy(f.bytes + 38, tpa, 4);
    return f;
}

static struct frame advert(const uint8_t eth[6], const uint8_t src[16], const uint8_t target[16],
                           uint8_t flags)
{
    struct frame f = { .len = 86 };

    memcpy(f.bytes + 6, eth, 6);
    f.bytes[12] = 0x86;
    f.bytes[13] = 0xdd;
    f.bytes[14] = 0x60;
    f.bytes[19] = 32;
    f.bytes[20] = 58;
    f.bytes[21] = 255;
    memcpy(f.bytes + 22, src, 16);
    f.bytes[54] = 136;
    f.bytes[58] = flags;
    memcpy(f.bytes + 62, target, 16);
    return f;
}

/* Behind `skip` bytes, in pieces of `piece` bytes. */
static void pass(struct net_addresses *t, struct frame f, size_t skip, size_t piece, bool sent)
{
    uint8_t all[sizeof(f.bytes) + 16] = { 0 };
    struct iovec iov[sizeof(all)];
    unsigned n = 0;

    memset(all, 0xee, skip);
    memcpy(all + skip, f.bytes, f.len);
    for (size_t at = 0; at < skip + f.len; at += piece) {
        iov[n++] = (struct iovec){ all + at, MIN(piece, skip + f.len - at) };
    }
    if (net_addresses_concerned(iov, n, skip)) {
        (sent ? net_addresses_sent : net_addresses_received)(t, guest, iov, n, skip);
    }
}

static bool learns(struct frame f)
{
    struct net_addresses t = { 0 };

    pass(&t, f, 12, 4096, true);
    return t.count;
}

static void test_learns(void)
{
    static const uint8_t none[4], loop[4] = { 127, 0, 0, 1 }, group[4] = { 224, 0, 0, 1 },
                                  all[4] = { 255, 255, 255, 255 };
    static const uint8_t none6[16], loop6[16] = { [15] = 1 }, group6[16] = { 0xff, 2, [15] = 1 };
    struct net_addresses t = { 0 };
    struct frame f;

    for (size_t skip = 0; skip <= 12; skip += 6) {
        for (size_t piece = 1; piece < 100; piece++) {
            t.count = 0;
            pass(&t, arp(guest, 1, guest, ip1, ip2), skip, piece, true);
            pass(&t, advert(guest, ip6, ip6, 0xa0), skip, piece, true);
            g_assert_cmpuint(t.count, ==, 2);
            g_assert_cmpuint(t.list[0].family, ==, 4);
            g_assert_cmpmem(t.list[0].bytes, 4, ip1, 4);
            g_assert_cmpuint(t.list[1].family, ==, 6);
            g_assert_cmpmem(t.list[1].bytes, 16, ip6, 16);
            g_assert_true(t.list[1].router);
        }
    }
    g_assert_true(learns(arp(guest, 2, guest, ip1, ip1))); /* gratuitous */
    g_assert_true(learns(advert(guest, ip6b, ip6b, 0x60)));

    g_assert_false(learns(arp(guest, 2, guest, ip1, ip2))); /* maybe of a proxy */
    g_assert_false(learns(arp(guest, 3, guest, ip1, ip1)));
    g_assert_false(learns(arp(other, 1, guest, ip1, ip2)));
    g_assert_false(learns(arp(guest, 1, other, ip1, ip2)));
    g_assert_false(learns(arp(other, 1, other, ip1, ip2)));
    g_assert_false(learns(arp(guest, 1, guest, none, ip2)));
    g_assert_false(learns(arp(guest, 1, guest, loop, ip2)));
    g_assert_false(learns(arp(guest, 1, guest, group, ip2)));
    g_assert_false(learns(arp(guest, 1, guest, all, ip2)));
    g_assert_false(learns(advert(guest, ip6, ip6b, 0x60))); /* of a proxy */
    g_assert_false(learns(advert(guest, ip6, ip6, 0x40)));  /* does not override */
    g_assert_false(learns(advert(other, ip6, ip6, 0x60)));
    g_assert_false(learns(advert(guest, none6, none6, 0x60)));
    g_assert_false(learns(advert(guest, loop6, loop6, 0x60)));
    g_assert_false(learns(advert(guest, group6, group6, 0x60)));
    for (size_t i = 14; i < 20; i++) { /* not Ethernet, not IPv4, other lengths */
        f = arp(guest, 1, guest, ip1, ip2);
        f.bytes[i] ^= 1;
        g_assert_false(learns(f));
    }
    for (size_t i = 0; i < 6; i++) {
        static const uint8_t at[] = { 14, 19, 20, 21, 54, 55 };

        f = advert(guest, ip6, ip6, 0x60);
        f.bytes[at[i]] ^= 0x20;
        g_assert_false(learns(f));
    }
    f = arp(guest, 1, guest, ip1, ip2);
    f.bytes[12] = 0x81; /* with a VLAN tag: another network */
    f.bytes[13] = 0;
    g_assert_false(learns(f));
    for (size_t len = 0; len < 42; len++) {
        f = arp(guest, 1, guest, ip1, ip2);
        f.len = len;
        g_assert_false(learns(f));
    }
    for (size_t len = 0; len < 78; len++) {
        f = advert(guest, ip6, ip6, 0x60);
        f.len = len;
        g_assert_false(learns(f));
    }
}

static void test_bounded(void)
{
    struct net_addresses t = { 0 };
    uint8_t ip[4] = { 10, 0, 0, 0 };

    for (unsigned i = 1; i <= NET_ADDRESSES_MAX + 3; i++) {
        ip[3] = (uint8_t)i;
        pass(&t, arp(guest, 1, guest, ip, ip), 0, 60, true);
        ip[3] = 1; /* keeps being used: is not the oldest */
        pass(&t, arp(guest, 1, guest, ip, ip), 0, 60, true);
    }
    g_assert_cmpuint(t.count, ==, NET_ADDRESSES_MAX);
    g_assert_cmpuint(t.list[NET_ADDRESSES_MAX - 1].bytes[3], ==, 1);
    for (unsigned i = 0; i + 1 < NET_ADDRESSES_MAX; i++) {
        g_assert_cmpuint(t.list[i].bytes[3], ==, i + 5);
    }
}

/* An address that has gone to somebody else is not announced any more. */
static void test_forgets(void)
{
    struct net_addresses t = { 0 };

    pass(&t, arp(guest, 1, guest, ip1, ip2), 0, 60, true);
    pass(&t, arp(guest, 1, guest, ip2, ip1), 0, 60, true);
    pass(&t, advert(guest, ip6, ip6, 0x60), 0, 86, true);
    /* its own, come back; others that ask for it */
    pass(&t, arp(guest, 1, guest, ip1, ip2), 0, 60, false);
    pass(&t, arp(other, 1, other, (const uint8_t[]){ 10, 0, 2, 2 }, ip1), 0, 60, false);
    g_assert_cmpuint(t.count, ==, 3);
    pass(&t, arp(other, 1, other, ip1, ip1), 0, 60, false);
    g_assert_cmpuint(t.count, ==, 2);
    g_assert_cmpmem(t.list[0].bytes, 4, ip2, 4);
    pass(&t, advert(other, ip6, ip6, 0x20), 0, 86, false);
    pass(&t, arp(other, 2, other, ip2, ip1), 0, 60, false);
    g_assert_cmpuint(t.count, ==, 0);
}

static uint16_t sum_of(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i += 2) {
        sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

/* What is announced is what would be learned, and right to the checksum. */
static void test_frames(void)
{
    struct net_address a = { .family = 4, .bytes = { 10, 0, 2, 15 } };
    struct net_addresses t = { 0 };
    struct frame f;

    f.len = net_address_frame(&a, guest, f.bytes);
    g_assert_cmpuint(f.len, ==, 60);
    for (unsigned i = 0; i < 6; i++) {
        g_assert_cmpuint(f.bytes[i], ==, 0xff);
    }
    g_assert_cmpuint(f.bytes[21], ==, 1);
    g_assert_cmpmem(f.bytes + 38, 4, ip1, 4);
    pass(&t, f, 0, 60, true);
    g_assert_cmpmem(&t.list[0], sizeof(a), &a, sizeof(a));

    a = (struct net_address){ .family = 6, .router = true };
    memcpy(a.bytes, ip6b, 16);
    f.len = net_address_frame(&a, guest, f.bytes);
    g_assert_cmpuint(f.len, ==, 86);
    g_assert_cmpmem(f.bytes, 6, ((const uint8_t[]){ 0x33, 0x33, 0, 0, 0, 1 }), 6);
    g_assert_cmpmem(f.bytes + 80, 6, guest, 6);
    g_assert_cmphex(sum_of(f.bytes + 22, 64, 32 + 58), ==, 0xffff);
    pass(&t, f, 0, 86, true);
    g_assert_cmpmem(&t.list[1], sizeof(a), &a, sizeof(a));
}

/* ---- from a stream ---- */

static bool parses(const uint8_t *payload, size_t len, unsigned *count)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(struct announced_address));
    g_autoptr(GError) err = NULL;
    bool ok = announce_parse_addresses(payload, len, list, &err);

    if (!ok) {
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    }
    *count = list->len;
    return ok;
}

static void test_wire(void)
{
    g_autofree uint8_t *p = g_malloc0((ANNOUNCE_ENTRIES_MAX + 1) * ANNOUNCE_ENTRY);
    unsigned n;

    for (unsigned i = 0; i <= ANNOUNCE_ENTRIES_MAX; i++) {
        uint8_t *e = p + (size_t)i * ANNOUNCE_ENTRY;

        e[8] = i & 1 ? 6 : 4;
        e[9] = i & 1;
        memcpy(e + 10, i & 1 ? ip6 : ip1, i & 1 ? 16 : 4);
    }
    g_assert_true(parses(p, 2 * ANNOUNCE_ENTRY, &n));
    g_assert_cmpuint(n, ==, 2);
    g_assert_true(parses(p, ANNOUNCE_ENTRIES_MAX * ANNOUNCE_ENTRY, &n));
    g_assert_false(parses(p, (ANNOUNCE_ENTRIES_MAX + 1) * ANNOUNCE_ENTRY, &n));
    for (size_t len = 0; len < 2 * ANNOUNCE_ENTRY; len++) {
        g_assert_true(parses(p, len, &n) == (len == ANNOUNCE_ENTRY));
    }
    for (size_t i = 8; i < 10; i++) { /* no family, a flag that is none, a router of IPv4 */
        for (unsigned v = 0; v < 256; v++) {
            uint8_t was = p[i];

            p[i] = (uint8_t)v;
            g_assert_true(parses(p, ANNOUNCE_ENTRY, &n) == (v == was || (i == 8 && v == 6)));
            p[i] = was;
        }
    }
    p[25] = 1; /* behind an IPv4 address */
    g_assert_false(parses(p, ANNOUNCE_ENTRY, &n));
    p[25] = 0;
    p[10] = 239;
    g_assert_false(parses(p, ANNOUNCE_ENTRY, &n));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/net/addresses/learns", test_learns);
    g_test_add_func("/net/addresses/bounded", test_bounded);
    g_test_add_func("/net/addresses/forgets", test_forgets);
    g_test_add_func("/net/addresses/frames", test_frames);
    g_test_add_func("/net/addresses/wire", test_wire);
    return g_test_run();
}
