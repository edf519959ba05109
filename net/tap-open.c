/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a tap interface, or taking over descriptors of one, and telling it what -netdev says.
 * Nothing is watched before everything was right; on failure every descriptor is closed again.
 */
#include "net-tap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/monitor.h"
#include "util/error.h"

#define SCRIPT_UP      "/etc/qemu-ifup"
#define SCRIPT_DOWN    "/etc/qemu-ifdown"
#define SCRIPT_MS      30000
#define SNDBUF_DEFAULT (1024 * 1024)

bool tap_run_script(const char *script, const char *ifname, GError **err)
{
    const char *argv[] = { script, ifname, NULL };
    g_autoptr(GError) local = NULL;
    struct pollfd pfd = { .events = POLLIN };
    GPid pid;
    int status;

    if (!g_spawn_async(NULL, (char **)(uintptr_t)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
                       &pid, &local)) {
        error_set(err, FERRY_ERROR_HOST, "Cannot run network script %s: %s", script,
                  local->message);
        return false;
    }
    pfd.fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pfd.fd >= 0) {
        if (poll(&pfd, 1, SCRIPT_MS) == 0) {
            kill(pid, SIGKILL);
        }
        close(pfd.fd);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        error_set(err, FERRY_ERROR_HOST, "network script %s failed with status %d", script, status);
        return false;
    }
    return true;
}

/* What a script option means: NULL none, else a path. A default is run only where it exists. */
static const char *script_of(const char *option, const char *fallback)
{
    if (!option) {
        return access(fallback, X_OK) == 0 ? fallback : NULL;
    }
    return *option && strcmp(option, "no") != 0 ? option : NULL;
}

static bool check_options(const NetdevTapOptions *o, GError **err)
{
    if (o->has_vhost && o->vhost) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'vhost' is not offered: frames must pass through Ferry, which tracks "
                  "what is written to the guest's memory; leave it off");
        return false;
    }
    if (o->fd && o->fds) {
        error_set(err, FERRY_ERROR_USER, "Parameters 'fd' and 'fds' exclude each other");
        return false;
    }
    if ((o->fd || o->fds) &&
        (o->ifname || o->script || o->downscript || (o->has_queues && o->queues > 1))) {
        error_set(
            err, FERRY_ERROR_USER,
            "ifname=, script=, downscript= and queues= are invalid with %s=", o->fd ? "fd" : "fds");
        return false;
    }
    if (o->has_queues && (o->queues < 1 || o->queues > NET_QUEUES_MAX)) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'queues' expects a value between 1 and %d",
                  NET_QUEUES_MAX);
        return false;
    }
    if (o->ifname && (!*o->ifname || strlen(o->ifname) >= IFNAMSIZ)) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'ifname' expects 1 to %d characters",
                  IFNAMSIZ - 1);
        return false;
    }
    return true;
}

/* A descriptor of a new interface, or one more of it. */
static int open_tun(struct tap *t, const NetdevTapOptions *o, bool *vnet_hdr, GError **err)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    unsigned features = 0;

    if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "could not open /dev/net/tun");
        return -1;
    }
    *vnet_hdr = (!o->has_vnet_hdr || o->vnet_hdr) && ioctl(fd, TUNGETFEATURES, &features) == 0 &&
                (features & IFF_VNET_HDR);
    ifr.ifr_flags |= *vnet_hdr ? IFF_VNET_HDR : 0;
    ifr.ifr_flags |= t->nd.queues > 1 ? IFF_MULTI_QUEUE : 0;
    g_strlcpy(ifr.ifr_name, *t->ifname ? t->ifname : o->ifname ? o->ifname : "tap%d", IFNAMSIZ);
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "could not configure /dev/net/tun (%s)",
                        ifr.ifr_name);
        close(fd);
        return -1;
    }
    g_strlcpy(t->ifname, ifr.ifr_name, IFNAMSIZ);
    return fd;
}

/* A descriptor that somebody else has opened. */
static int take_fd(struct tap *t, const char *name, bool *vnet_hdr, GError **err)
{
    int fd = monitor_get_fd(t->nd.vm, name, err);
    struct ifreq ifr = { 0 };

    if (fd < 0) {
        return -1;
    }
    if (ioctl(fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_TAP) ||
        !(ifr.ifr_flags & IFF_NO_PI)) {
        error_set(err, FERRY_ERROR_USER,
                  "Descriptor '%s' is not that of a tap interface (IFF_TAP, IFF_NO_PI)", name);
        close(fd);
        return -1;
    }
    if (*t->ifname && strcmp(t->ifname, ifr.ifr_name) != 0) {
        error_set(err, FERRY_ERROR_USER, "Descriptor '%s' is of tap '%s', the others are of '%s'",
                  name, ifr.ifr_name, t->ifname);
        close(fd);
        return -1;
    }
    g_strlcpy(t->ifname, ifr.ifr_name, IFNAMSIZ);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    *vnet_hdr = ifr.ifr_flags & IFF_VNET_HDR;
    return fd;
}

static bool configure(struct tap *t, const NetdevTapOptions *o, int fd, GError **err)
{
    uint64_t wanted = o->has_sndbuf ? o->sndbuf : SNDBUF_DEFAULT;
    int sndbuf = wanted && wanted < INT_MAX ? (int)wanted : INT_MAX;
    int hdr_len = 10;

    if (ioctl(fd, TUNSETSNDBUF, &sndbuf) < 0 && o->has_sndbuf) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot set sndbuf of tap '%s'", t->ifname);
        return false;
    }
    if (t->nd.has_vnet_hdr) {
        /* whoever had the descriptor before may have left them otherwise */
        if (ioctl(fd, TUNSETVNETHDRSZ, &hdr_len) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, errno,
                            "Tap '%s' has no vnet header of settable length; use vnet_hdr=off",
                            t->ifname);
            return false;
        }
        t->vnet_hdr_len = 10;
    }
    return true;
}

static bool open_queue(struct tap *t, const NetdevTapOptions *o, unsigned i, const char *fd_name,
                       GError **err)
{
    struct tap_queue *q = &t->queues[i];
    bool vnet_hdr = false;

    q->fd = fd_name ? take_fd(t, fd_name, &vnet_hdr, err) : open_tun(t, o, &vnet_hdr, err);
    if (q->fd < 0) {
        return false;
    }
    if (o->has_vnet_hdr && o->vnet_hdr != vnet_hdr) {
        error_set(err, FERRY_ERROR_HOST, "vnet_hdr=%s requested, but tap '%s' is %s it",
                  o->vnet_hdr ? "1" : "0", t->ifname, vnet_hdr ? "with" : "without");
        return false;
    }
    if (i && vnet_hdr != t->nd.has_vnet_hdr) {
        error_set(err, FERRY_ERROR_USER,
                  "The descriptors of tap '%s' differ in whether they have a vnet header",
                  t->ifname);
        return false;
    }
    t->nd.has_vnet_hdr = vnet_hdr;
    return configure(t, o, q->fd, err);
}

static bool open_all(struct tap *t, const NetdevTapOptions *o, GError **err)
{
    g_auto(GStrv) names = o->fds  ? g_strsplit(o->fds, ":", NET_QUEUES_MAX + 1)
                          : o->fd ? g_strsplit(o->fd, ":", 1)
                                  : NULL;
    const char *script;

    t->nd.queues = names ? g_strv_length(names) : o->has_queues ? o->queues : 1;
    if (t->nd.queues < 1 || t->nd.queues > NET_QUEUES_MAX) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'fds' expects 1 to %d descriptors",
                  NET_QUEUES_MAX);
        t->nd.queues = 0;
        return false;
    }
    for (unsigned i = 0; i < t->nd.queues; i++) {
        t->queues[i] = (struct tap_queue){ .tap = t, .index = i, .fd = -1 };
    }
    for (unsigned i = 0; i < t->nd.queues; i++) {
        if (!open_queue(t, o, i, names ? names[i] : NULL, err)) {
            return false;
        }
    }
    t->nd.has_ufo =
        t->nd.has_vnet_hdr && ioctl(t->queues[0].fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_UFO) == 0;
    if (t->nd.has_ufo) {
        ioctl(t->queues[0].fd, TUNSETOFFLOAD, 0);
    }
    if (names) {
        return true;
    }
    script = script_of(o->script, SCRIPT_UP);
    if (script && !tap_run_script(script, t->ifname, err)) {
        return false;
    }
    t->down_script = g_strdup(script_of(o->downscript, SCRIPT_DOWN));
    return true;
}

struct netdev *net_tap_open(struct net_set *set, struct vm *vm, const Netdev *options, GError **err)
{
    const NetdevTapOptions *o = &options->u.tap;
    struct tap *t;

    if (!check_options(o, err)) {
        return NULL;
    }
    t = (struct tap *)netdev_new(&net_tap_ops, sizeof(*t), set, vm, options->id);
    if (!open_all(t, o, err)) {
        net_tap_ops.close(&t->nd);
        netdev_unref(&t->nd);
        return NULL;
    }
    tap_start(t);
    return &t->nd;
}
