/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Networks without a machine: options of user networking, rules, lists in options, receive filter.
 */
#include <arpa/inet.h>
#include <string.h>

#include "hw/net/virtio-net.h"
#include "net/net-user.h"
#include "qapi/type.h"
#include "system/keyval.h"
#include "util/error.h"

/* ---- rules ---- */

static void test_rules(void)
{
    static const struct {
        const char *text, *host, *guest;
        bool udp;
        unsigned host_port, guest_port;
    } good[] = {
        { "tcp::5555-:22", "0.0.0.0", "0.0.0.0", false, 5555, 22 },
        { "::80-:8080", "0.0.0.0", "0.0.0.0", false, 80, 8080 },
        { "udp:127.0.0.1:53-10.0.2.15:5353", "127.0.0.1", "10.0.2.15", true, 53, 5353 },
        { "tcp::0-:65535", "0.0.0.0", "0.0.0.0", false, 0, 65535 },
    };
    static const char *const bad[] = {
        "",
        "tcp",
        "icmp::1-:2",
        "tcp::1",
        "tcp:1-:2",
        "tcp::1-2",
        "tcp::65536-:2",
        "tcp::1-:0",
        "tcp::-1-:2",
        "tcp::x-:2",
        "tcp:localhost:1-:2",
        "tcp::1-guest:2",
        "tcp::1-:99999999999999999999",
        "tcp::1-:2 ",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GError) err = NULL;
        struct hostfwd_rule rule;

        g_assert_true(hostfwd_parse(good[i].text, true, &rule, &err));
        g_assert_no_error(err);
        g_assert_cmpuint(rule.host_address, ==, inet_addr(good[i].host));
        g_assert_cmpuint(rule.guest_address, ==, inet_addr(good[i].guest));
        g_assert_cmpuint(rule.host_port, ==, good[i].host_port);
        g_assert_cmpuint(rule.guest_port, ==, good[i].guest_port);
        g_assert_cmpint(rule.udp, ==, good[i].udp);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        struct hostfwd_rule rule;

        g_assert_false(hostfwd_parse(bad[i], true, &rule, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_USER);
        g_assert_true(g_str_has_prefix(err->message, "Invalid host forwarding rule '"));
    }
}

/* ---- networks ---- */

static Netdev *parse(const char *text, GError **err)
{
    return net_parse_option(text, err);
}

static char *network_of(const char *text)
{
    g_autoptr(GError) err = NULL;
    Netdev *options = parse(text, &err);
    struct user_config c = { 0 };
    char *result;

    g_assert_no_error(err);
    if (user_config_read(&options->u.user, &c, &err)) {
        char a[4][INET_ADDRSTRLEN];

        inet_ntop(AF_INET, &c.slirp.vnetmask, a[0], INET_ADDRSTRLEN);
        inet_ntop(AF_INET, &c.slirp.vhost, a[1], INET_ADDRSTRLEN);
        inet_ntop(AF_INET, &c.slirp.vdhcp_start, a[2], INET_ADDRSTRLEN);
        inet_ntop(AF_INET, &c.slirp.vnameserver, a[3], INET_ADDRSTRLEN);
        result =
            g_strdup_printf("%s %s %s %s v4=%d v6=%d%s%s", a[0], a[1], a[2], a[3],
                            c.slirp.in_enabled, c.slirp.in6_enabled,
                            c.slirp.restricted ? " restricted" : "", c.search ? " search" : "");
    } else {
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_USER);
        result = g_strdup("refused");
    }
    user_config_clear(&c);
    qapi_netdev_free(options);
    return result;
}

static void test_networks(void)
{
    static const struct {
        const char *text, *expect;
    } rows[] = {
        { "user,id=a", "255.255.255.0 10.0.2.2 10.0.2.15 10.0.2.3 v4=1 v6=1" },
        { "user,id=a,net=192.168.76.0/24,dhcpstart=192.168.76.9,restrict=on",
          "255.255.255.0 192.168.76.2 192.168.76.9 192.168.76.3 v4=1 v6=1 restricted" },
        { "user,id=a,net=10.0.0.0/255.0.0.0", "255.0.0.0 10.0.0.2 10.0.0.15 10.0.0.3 v4=1 v6=1" },
        { "user,id=a,net=192.168.1.0",
          "255.255.255.0 192.168.1.2 192.168.1.15 192.168.1.3 v4=1 v6=1" },
        { "user,id=a,ipv6=off,dnssearch=x.org,dnssearch=y.org",
          "255.255.255.0 10.0.2.2 10.0.2.15 10.0.2.3 v4=1 v6=0 search" },
        { "user,id=a,ipv6=on", "255.255.255.0 10.0.2.2 10.0.2.15 10.0.2.3 v4=0 v6=1" },
        { "user,id=a,ipv4=off,ipv6=off", "refused" },
        { "user,id=a,ipv4=off,net=10.0.2.0/24", "refused" },
        { "user,id=a,net=10.0.2.0/33", "refused" },
        { "user,id=a,net=10.0.2.0/31", "refused" },
        { "user,id=a,net=10.0.2.0/255.0.255.0", "refused" },
        { "user,id=a,net=ten", "refused" },
        { "user,id=a,host=10.0.3.2", "refused" },
        { "user,id=a,dns=10.0.2.2", "refused" },
        { "user,id=a,dhcpstart=10.0.2.3", "refused" },
        { "user,id=a,ipv6-prefixlen=127", "refused" },
        { "user,id=a,ipv6-prefix=fe80", "refused" },
        { "user,id=a,ipv6-dns=fec0::2", "refused" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *got = network_of(rows[i].text);

        g_test_message("%s", rows[i].text);
        g_assert_cmpstr(got, ==, rows[i].expect);
    }
}

static void test_options(void)
{
    static const char *const bad[] = {
        "user",
        "id=a",
        "user,id=a,x=1",
        "user,id=a,smb=/",
        "l2tpv3,id=a",
        "user,id=a,restrict=maybe",
        "tap,id=a,queues=x",
        "{\"type\":\"user\"}",
        "{\"type\":\"user\",\"id\":\"a\",\"hostfwd\":\"tcp::1-:2\"}",
        "user,id=a,guestfwd=tcp::1-cmd:x",
        "tap,id=a,br=br0",
        "{",
    };
    g_autoptr(GError) err = NULL;
    Netdev *n = parse("user,id=a,hostfwd=tcp::1-:2,hostfwd=udp::3-:4", &err);

    g_assert_no_error(err);
    g_assert_cmpuint(n->u.user.hostfwd->len, ==, 2);
    g_assert_cmpstr(((String *)n->u.user.hostfwd->pdata[1])->str, ==, "udp::3-:4");
    qapi_netdev_free(n);
    n = parse("{\"type\":\"user\",\"id\":\"a\",\"hostfwd\":[{\"str\":\"tcp::1-:2\"}]}", &err);
    g_assert_no_error(err);
    g_assert_cmpuint(n->u.user.hostfwd->len, ==, 1);
    qapi_netdev_free(n);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) refused = NULL;

        g_test_message("%s", bad[i]);
        g_assert_null(parse(bad[i], &refused));
        g_assert_error(refused, FERRY_ERROR, FERRY_ERROR_USER);
    }
}

/* ---- the filter ---- */

static const uint8_t own[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

static bool takes(const struct net_filter *f, const char *to, int vlan)
{
    uint8_t frame[18] = { 0 };
    unsigned b[6];

    g_assert_cmpint(sscanf(to, "%x:%x:%x:%x:%x:%x", b, b + 1, b + 2, b + 3, b + 4, b + 5), ==, 6);
    for (unsigned i = 0; i < 6; i++) {
        frame[i] = (uint8_t)b[i];
    }
    if (vlan >= 0) {
        frame[12] = 0x81;
        frame[14] = (uint8_t)(0xe0 | vlan >> 8); /* priority bits do not count */
        frame[15] = (uint8_t)vlan;
    }
    return net_filter_accepts(f, own, frame, sizeof(frame));
}

#define OWN    "52:54:0:12:34:56"
#define OTHER  "52:54:0:12:34:57"
#define LISTED "52:54:0:aa:aa:aa"
#define GROUP  "33:33:0:0:0:1"
#define ALIEN  "33:33:0:0:0:2"
#define ALL    "ff:ff:ff:ff:ff:ff"

static void test_filter(void)
{
    struct net_filter f;

    net_filter_reset(&f);
    g_assert_true(takes(&f, OTHER, 7));
    f.promisc = 0;
    memcpy(f.table[0], (uint8_t[]){ 0x52, 0x54, 0, 0xaa, 0xaa, 0xaa }, 6);
    memcpy(f.table[1], (uint8_t[]){ 0x33, 0x33, 0, 0, 0, 1 }, 6);
    f.first_multi = 1;
    f.in_use = 2;
    g_assert_true(takes(&f, OWN, -1));
    g_assert_true(takes(&f, LISTED, -1));
    g_assert_true(takes(&f, GROUP, -1));
    g_assert_true(takes(&f, ALL, -1));
    g_assert_false(takes(&f, OTHER, -1));
    g_assert_false(takes(&f, ALIEN, -1));
    f.alluni = 1;
    g_assert_true(takes(&f, OTHER, -1));
    f.alluni = 0, f.uni_overflow = 1;
    g_assert_true(takes(&f, OTHER, -1));
    g_assert_false(takes(&f, ALIEN, -1));
    f.uni_overflow = 0, f.nouni = 1;
    g_assert_false(takes(&f, OWN, -1));
    f.nouni = 0, f.allmulti = 1;
    g_assert_true(takes(&f, ALIEN, -1));
    f.nomulti = 1;
    g_assert_false(takes(&f, GROUP, -1));
    g_assert_true(takes(&f, ALL, -1));
    f.nobcast = 1;
    g_assert_false(takes(&f, ALL, -1));
    memset(f.vlans, 0, sizeof(f.vlans));
    g_assert_false(takes(&f, OWN, 7));
    f.vlans[0] = 0x80;
    g_assert_true(takes(&f, OWN, 7));
    g_assert_false(takes(&f, OWN, 0xfff));
    g_assert_true(takes(&f, OWN, -1));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/net/rules", test_rules);
    g_test_add_func("/net/networks", test_networks);
    g_test_add_func("/net/options", test_options);
    g_test_add_func("/net/filter", test_filter);
    return g_test_run();
}
