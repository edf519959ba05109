/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What -netdev user says, as libslirp wants it: networks, addresses, rules. Pure functions; all
 * errors are the user's and name the parameter.
 */
#include "net-user.h"

#include <arpa/inet.h>
#include <string.h>

#include "util/error.h"

static bool parse_ipv4(const char *key, const char *text, struct in_addr *out, GError **err)
{
    if (inet_pton(AF_INET, text, out) != 1) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects an IPv4 address, not '%s'", key,
                  text);
        return false;
    }
    return true;
}

static bool parse_ipv6(const char *key, const char *text, struct in6_addr *out, GError **err)
{
    if (inet_pton(AF_INET6, text, out) != 1) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects an IPv6 address, not '%s'", key,
                  text);
        return false;
    }
    return true;
}

/* The mask of a network that is given without one: by its class, as of old. */
static uint32_t class_mask(uint32_t network)
{
    if (!(network & 0x80000000)) {
        return 0xff000000;
    }
    if ((network & 0xfff00000) == 0xac100000) {
        return 0xfff00000; /* 172.16.0.0/12 */
    }
    if ((network & 0xc0000000) == 0x80000000) {
        return 0xffff0000;
    }
    if ((network & 0xe0000000) == 0xc0000000) {
        return 0xffffff00;
    }
    return 0xfffffff0;
}

/* ADDRESS, ADDRESS/BITS or ADDRESS/MASK; all three in host byte order. */
static bool parse_network(const char *text, uint32_t *network, uint32_t *mask, uint32_t *address,
                          GError **err)
{
    const char *slash = strchr(text, '/');
    g_autofree char *before = slash ? g_strndup(text, (gsize)(slash - text)) : g_strdup(text);
    struct in_addr a, m;
    guint64 bits;

    if (!parse_ipv4("net", before, &a, err)) {
        return false;
    }
    *address = ntohl(a.s_addr);
    if (!slash) {
        *mask = class_mask(*address);
    } else if (inet_pton(AF_INET, slash + 1, &m) == 1) {
        *mask = ntohl(m.s_addr);
    } else if (g_ascii_string_to_unsigned(slash + 1, 10, 4, 30, &bits, NULL)) {
        *mask = 0xffffffffu << (32 - bits);
    } else {
        *mask = 0;
    }
    if (!*mask || (~*mask & (~*mask + 1)) || ~*mask < 3) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'net' expects ADDRESS/BITS with 4 to 30 bits or ADDRESS/MASK, not "
                  "'%s'",
                  text);
        return false;
    }
    *network = *address & *mask;
    return true;
}

/* An address of the network: what is given, or the network's `nth`. */
static bool place(const char *key, const char *text, const struct user_config *c, uint32_t nth,
                  struct in_addr *out, GError **err)
{
    uint32_t network = ntohl(c->slirp.vnetwork.s_addr), mask = ntohl(c->slirp.vnetmask.s_addr);

    out->s_addr = htonl(network | (nth & ~mask));
    if (!text) {
        return true;
    }
    if (!parse_ipv4(key, text, out, err)) {
        return false;
    }
    if ((ntohl(out->s_addr) & mask) != network) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' must lie in the network of 'net'", key);
        return false;
    }
    return true;
}

static bool read_ipv4(const NetdevUserOptions *u, struct user_config *c, GError **err)
{
    const char *net = u->net ? u->net : u->ip ? u->ip : "10.0.2.0/24";
    SlirpConfig *s = &c->slirp;
    uint32_t network, mask, address;

    if (!parse_network(net, &network, &mask, &address, err)) {
        return false;
    }
    s->vnetwork.s_addr = htonl(network);
    s->vnetmask.s_addr = htonl(mask);
    if (!place("host", u->host, c, 2, &s->vhost, err) ||
        !place("dhcpstart", u->dhcpstart, c, 15, &s->vdhcp_start, err) ||
        !place("dns", u->dns, c, 3, &s->vnameserver, err)) {
        return false;
    }
    if (s->vnameserver.s_addr == s->vhost.s_addr) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'dns' must differ from 'host'");
        return false;
    }
    if (s->vdhcp_start.s_addr == s->vhost.s_addr ||
        s->vdhcp_start.s_addr == s->vnameserver.s_addr) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'dhcpstart' must differ from 'host' and 'dns'");
        return false;
    }
    return true;
}

static bool read_ipv6(const NetdevUserOptions *u, struct user_config *c, GError **err)
{
    SlirpConfig *s = &c->slirp;
    int64_t bits = u->has_ipv6_prefixlen ? u->ipv6_prefixlen : 64;

    if (bits < 0 || bits > 126) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'ipv6-prefixlen' expects a value between 0 and 126");
        return false;
    }
    s->vprefix_len = (uint8_t)bits;
    if (!parse_ipv6("ipv6-prefix", u->ipv6_prefix ? u->ipv6_prefix : "fec0::", &s->vprefix_addr6,
                    err)) {
        return false;
    }
    s->vhost6 = s->vnameserver6 = s->vprefix_addr6;
    s->vhost6.s6_addr[15] |= 2;
    s->vnameserver6.s6_addr[15] |= 3;
    if ((u->ipv6_host && !parse_ipv6("ipv6-host", u->ipv6_host, &s->vhost6, err)) ||
        (u->ipv6_dns && !parse_ipv6("ipv6-dns", u->ipv6_dns, &s->vnameserver6, err))) {
        return false;
    }
    if (memcmp(&s->vhost6, &s->vnameserver6, sizeof(s->vhost6)) == 0) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'ipv6-dns' must differ from 'ipv6-host'");
        return false;
    }
    return true;
}

/* DHCP options have a byte for their length. */
static bool check_length(const char *key, const char *text, GError **err)
{
    if (text && strlen(text) > 255) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects at most 255 characters", key);
        return false;
    }
    return true;
}

bool user_config_read(const NetdevUserOptions *u, struct user_config *c, GError **err)
{
    SlirpConfig *s = &c->slirp;
    bool any4 = u->net || u->ip || u->host || u->dhcpstart || u->dns;
    bool any6 = u->ipv6_prefix || u->has_ipv6_prefixlen || u->ipv6_host || u->ipv6_dns;

    *c = (struct user_config){ .slirp.version = 4 };
    if ((u->has_ipv4 && !u->ipv4 && any4) || (u->has_ipv6 && !u->ipv6 && any6)) {
        error_set(err, FERRY_ERROR_USER, "IPv%d is off but an address of it is given",
                  u->has_ipv4 && !u->ipv4 && any4 ? 4 : 6);
        return false;
    }
    /* asking for one of them alone leaves the other out */
    s->in_enabled = u->has_ipv4 ? u->ipv4 : !(u->has_ipv6 && u->ipv6);
    s->in6_enabled = u->has_ipv6 ? u->ipv6 : !(u->has_ipv4 && u->ipv4);
    if (!s->in_enabled && !s->in6_enabled) {
        error_set(err, FERRY_ERROR_USER, "IPv4 and IPv6 are both off");
        return false;
    }
    s->restricted = u->has_q_restrict && u->q_restrict;
    if (!read_ipv4(u, c, err) || !read_ipv6(u, c, err) ||
        !check_length("hostname", u->hostname, err) ||
        !check_length("bootfile", u->bootfile, err) ||
        !check_length("domainname", u->domainname, err) ||
        !check_length("tftp-server-name", u->tftp_server_name, err)) {
        return false;
    }
    s->vhostname = u->hostname;
    s->vdomainname = u->domainname;
    s->tftp_path = u->tftp;
    s->bootfile = u->bootfile;
    s->tftp_server_name = u->tftp_server_name;
    if (u->dnssearch && u->dnssearch->len) {
        c->search = g_new0(const char *, u->dnssearch->len + 1);
        for (unsigned i = 0; i < u->dnssearch->len; i++) {
            c->search[i] = ((const String *)g_ptr_array_index(u->dnssearch, i))->str;
        }
        s->vdnssearch = c->search;
    }
    return true;
}

void user_config_clear(struct user_config *c)
{
    g_clear_pointer(&c->search, g_free);
}

/* ---- rules ---- */

static bool parse_port(const char *text, size_t len, bool may_be_zero, unsigned *port)
{
    g_autofree char *digits = g_strndup(text, len);
    guint64 value;

    if (!g_ascii_string_to_unsigned(digits, 10, may_be_zero ? 0 : 1, 65535, &value, NULL)) {
        return false;
    }
    *port = (unsigned)value;
    return true;
}

/* "[ADDRESS]:PORT" of len bytes; an empty address is 0. */
static const char *parse_end(const char *text, size_t len, const char *side, bool may_be_zero,
                             uint32_t *address, unsigned *port)
{
    const char *colon = memchr(text, ':', len);
    g_autofree char *host = NULL;
    struct in_addr a = { 0 };

    if (!colon) {
        return g_str_equal(side, "host") ? "Missing : separator between host address and port"
                                         : "Missing : separator between guest address and port";
    }
    host = g_strndup(text, (gsize)(colon - text));
    if (*host && inet_pton(AF_INET, host, &a) != 1) {
        return g_str_equal(side, "host") ? "Bad host address" : "Bad guest address";
    }
    *address = a.s_addr;
    if (!parse_port(colon + 1, len - (size_t)(colon + 1 - text), may_be_zero, port)) {
        return g_str_equal(side, "host") ? "Bad host port" : "Bad guest port";
    }
    return NULL;
}

static const char *parse_rule(const char *text, bool with_guest, struct hostfwd_rule *rule)
{
    const char *colon = strchr(text, ':');
    const char *dash, *why;
    size_t len;

    if (!colon) {
        return "No protocol";
    }
    len = (size_t)(colon - text);
    if (len == 3 && strncmp(text, "udp", 3) == 0) {
        rule->udp = true;
    } else if (len && !(len == 3 && strncmp(text, "tcp", 3) == 0)) {
        return "Bad protocol name";
    }
    text = colon + 1;
    if (!with_guest) {
        return parse_end(text, strlen(text), "host", true, &rule->host_address, &rule->host_port);
    }
    dash = strchr(text, '-');
    if (!dash) {
        return "Bad host port separator";
    }
    why =
        parse_end(text, (size_t)(dash - text), "host", true, &rule->host_address, &rule->host_port);
    return why ? why
               : parse_end(dash + 1, strlen(dash + 1), "guest", false, &rule->guest_address,
                           &rule->guest_port);
}

bool hostfwd_parse(const char *text, bool with_guest, struct hostfwd_rule *rule, GError **err)
{
    const char *why;

    *rule = (struct hostfwd_rule){ 0 };
    why = parse_rule(text, with_guest, rule);
    if (why) {
        error_set(err, FERRY_ERROR_USER, "Invalid host forwarding rule '%s' (%s)", text, why);
    }
    return !why;
}
