/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * User networking over libslirp.
 *
 * Threads. libslirp has no lock of its own: it is entered with the machine lock held, from the
 * source below on the I/O thread, from the device's send and from timers on the main loop. It
 * calls back for each frame for the guest while it works; giving one to the device may drop the
 * lock and let another thread in, so frames are queued and handed over when libslirp has returned,
 * from the source alone.
 *
 * What libslirp waits for changes with everything it does. Whoever has entered it marks the source
 * stale, and the source asks anew before the I/O thread sleeps (for which it takes the lock for a
 * moment each time); not for every packet. While the guest does not take what is queued nothing is
 * read from sockets, so the other side slows down.
 *
 * Saved state: a section `slirp` as QEMU's, libslirp's own layout. Ferry offers no guestfwd, so
 * only the counter of IP identifiers and the addresses that DHCP has given out are in it; the
 * layout of those is checked here, and a stream with more in it is refused: libslirp would trust
 * it. Connections through the host end with a move: their sockets stay on the source.
 */
#include "net-user.h"

#include <errno.h>
#include <string.h>

#include "hw/i386/savevm-order.h"
#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"
#include "migration/vmstate/savevm.h"
#include "system/vm.h"
#include "util/error.h"

#define QUEUE_MAX 256 /* frames for the guest; more are lost */

/* libslirp's idle state: no connections, be16 IP identifier, 16 leases of be16 used and a MAC. */
#define LEASES       16
#define LEASE_SIZE   8
#define STATE_SIZE   (1 + 2 + LEASES * LEASE_SIZE)
#define STATE_OLDEST 3 /* the first version with leases; later ones differ in connections only */

struct frame {
    size_t len;
    uint8_t data[];
};

struct poll_fd {
    gpointer tag;
    int fd;
    GIOCondition events;
    bool used; /* by the refill under way */
};

struct user;

struct user_source {
    GSource source;
    struct vm *vm;
    /* the rest with the machine lock held, while the source is not destroyed */
    struct user *user;
    GArray *fds; /* struct poll_fd; an index is what libslirp knows */
    bool stale;  /* libslirp is to be asked what it waits for */
};

struct user {
    struct netdev nd; /* first */
    Slirp *slirp;
    struct user_source *source;
    GQueue frames; /* struct frame *, oldest first */
    uint8_t *sent; /* NET_FRAME_MAX bytes: the frame that is being given to libslirp */
    bool delivering;
    bool restricted;
    uint32_t network; /* network byte order, for people */
    struct vmstate vmstate;
};

struct user_timer {
    struct user *user;
    struct vm_timer *timer;
    SlirpTimerId id;
    void *cb_opaque;
};

struct user_state {
    uint8_t data[STATE_SIZE];
};

/* Something happened in libslirp, or frames wait: the I/O thread has a look. */
static void touch(struct user *u)
{
    if (!u->source) {
        return; /* being opened */
    }
    u->source->stale = true;
    if (u->frames.length && !u->delivering) {
        g_source_set_ready_time(&u->source->source, 0);
    }
    g_main_context_wakeup(virtio_context(u->nd.vm));
}

/* ---- what libslirp calls ---- */

static ssize_t on_packet(const void *buf, size_t len, void *opaque)
{
    struct user *u = opaque;
    struct frame *f;

    if (u->frames.length < QUEUE_MAX && len <= NET_FRAME_MAX) {
        f = g_malloc(sizeof(*f) + len);
        f->len = len;
        memcpy(f->data, buf, len);
        g_queue_push_tail(&u->frames, f);
        touch(u);
    }
    return (ssize_t)len;
}

static void on_guest_error(const char *msg G_GNUC_UNUSED, void *opaque G_GNUC_UNUSED)
{
    /* a guest must not be able to fill the log */
}

static int64_t on_clock(void *opaque)
{
    struct user *u = opaque;

    return vm_clock_ns(u->nd.vm);
}

static void on_timer(void *opaque)
{
    struct user_timer *t = opaque;
    struct user *u = t->user;

    slirp_handle_timer(u->slirp, t->id, t->cb_opaque);
    touch(u);
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct user *u = opaque;
    struct user_timer *t = g_new0(struct user_timer, 1);

    t->user = u;
    t->id = id;
    t->cb_opaque = cb_opaque;
    t->timer = vm_timer_new(u->nd.vm, on_timer, t);
    return t;
}

static void on_timer_free(void *timer, void *opaque G_GNUC_UNUSED)
{
    struct user_timer *t = timer;

    vm_timer_free(t->timer);
    g_free(t);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque G_GNUC_UNUSED)
{
    struct user_timer *t = timer;

    vm_timer_mod(t->timer, expire_ms * 1000000);
}

static void on_poll_fd(int fd G_GNUC_UNUSED, void *opaque G_GNUC_UNUSED)
{
}

static void on_notify(void *opaque)
{
    touch(opaque);
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new_opaque = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_poll_fd,
    .unregister_poll_fd = on_poll_fd,
    .notify = on_notify,
};

/* ---- the source on the I/O thread ---- */

static const struct {
    int slirp;
    GIOCondition glib;
} poll_bits[] = {
    { SLIRP_POLL_IN, G_IO_IN },   { SLIRP_POLL_OUT, G_IO_OUT }, { SLIRP_POLL_PRI, G_IO_PRI },
    { SLIRP_POLL_ERR, G_IO_ERR }, { SLIRP_POLL_HUP, G_IO_HUP },
};

static int add_poll(int fd, int events, void *opaque)
{
    struct user_source *s = opaque;
    struct poll_fd *free_slot = NULL;
    GIOCondition want = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(poll_bits); i++) {
        want |= events & poll_bits[i].slirp ? poll_bits[i].glib : 0;
    }
    for (unsigned i = 0; i < s->fds->len; i++) {
        struct poll_fd *p = &g_array_index(s->fds, struct poll_fd, i);

        if (p->tag && p->fd == fd && !p->used) {
            p->used = true;
            if (p->events != want) {
                p->events = want;
                g_source_modify_unix_fd(&s->source, p->tag, want);
            }
            return (int)i;
        }
        if (!p->tag && !free_slot) {
            free_slot = p;
        }
    }
    if (!free_slot) {
        g_array_set_size(s->fds, s->fds->len + 1);
        free_slot = &g_array_index(s->fds, struct poll_fd, s->fds->len - 1);
    }
    *free_slot = (struct poll_fd){
        .tag = g_source_add_unix_fd(&s->source, fd, want), .fd = fd, .events = want, .used = true
    };
    return (int)(free_slot - (struct poll_fd *)(void *)s->fds->data);
}

static int get_revents(int index, void *opaque)
{
    struct user_source *s = opaque;
    int events = 0;

    if (index >= 0 && (unsigned)index < s->fds->len) {
        struct poll_fd *p = &g_array_index(s->fds, struct poll_fd, index);
        GIOCondition got = p->tag ? g_source_query_unix_fd(&s->source, p->tag) : 0;

        for (unsigned i = 0; i < G_N_ELEMENTS(poll_bits); i++) {
            events |= got & poll_bits[i].glib ? poll_bits[i].slirp : 0;
        }
    }
    return events;
}

/* Asks libslirp what it waits for. */
static void refill(struct user_source *s)
{
    struct user *u = s->user;
    uint32_t timeout = UINT32_MAX;
    bool full = u->frames.length >= QUEUE_MAX / 2;

    for (unsigned i = 0; i < s->fds->len; i++) {
        g_array_index(s->fds, struct poll_fd, i).used = false;
    }
    s->stale = false;
    if (!full) {
        slirp_pollfds_fill(u->slirp, &timeout, add_poll, s);
    }
    for (unsigned i = 0; i < s->fds->len; i++) {
        struct poll_fd *p = &g_array_index(s->fds, struct poll_fd, i);

        if (p->tag && !p->used) {
            g_source_remove_unix_fd(&s->source, g_steal_pointer(&p->tag));
        }
    }
    if (g_source_get_ready_time(&s->source) != 0) {
        g_source_set_ready_time(&s->source, timeout == UINT32_MAX
                                                ? -1
                                                : g_get_monotonic_time() + timeout * INT64_C(1000));
    }
}

static gboolean source_prepare(GSource *source, gint *timeout)
{
    struct user_source *s = (struct user_source *)source;

    *timeout = -1;
    vm_lock(s->vm);
    if (!g_source_is_destroyed(source) && s->stale) {
        refill(s);
    }
    vm_unlock(s->vm);
    return FALSE;
}

static void deliver(struct user *u)
{
    struct frame *f;

    if (u->delivering) {
        return;
    }
    netdev_ref(&u->nd);
    u->delivering = true;
    while ((f = g_queue_pop_head(&u->frames))) {
        struct iovec iov = { f->data, f->len };

        /* the lock may be dropped in here */
        if (!netdev_receive(&u->nd, 0, &iov, 1) && !u->nd.closed) {
            g_queue_push_head(&u->frames, f);
            break;
        }
        g_free(f);
    }
    u->delivering = false;
    netdev_unref(&u->nd);
}

static gboolean source_dispatch(GSource *source, GSourceFunc unused G_GNUC_UNUSED,
                                gpointer data G_GNUC_UNUSED)
{
    struct user_source *s = (struct user_source *)source;

    vm_lock(s->vm);
    if (!g_source_is_destroyed(source)) {
        g_source_set_ready_time(source, -1);
        s->stale = true;
        slirp_pollfds_poll(s->user->slirp, 0, get_revents, s);
        deliver(s->user);
    }
    vm_unlock(s->vm);
    return G_SOURCE_CONTINUE;
}

static void source_finalize(GSource *source)
{
    struct user_source *s = (struct user_source *)source;

    g_array_free(s->fds, TRUE);
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .dispatch = source_dispatch,
    .finalize = source_finalize,
};

static void source_start(struct user *u)
{
    GSource *source = g_source_new(&source_funcs, sizeof(struct user_source));
    struct user_source *s = (struct user_source *)source;

    s->vm = u->nd.vm;
    s->user = u;
    s->fds = g_array_new(FALSE, TRUE, sizeof(struct poll_fd));
    s->stale = true;
    u->source = s;
    g_source_set_name(source, "slirp");
    g_source_set_can_recurse(source, TRUE);
    g_source_attach(source, virtio_context(u->nd.vm));
}

/* ---- the core's side ---- */

/* A copy: libslirp reads some kinds of frames (ARP, NC-SI) where they are, and more than once,
 * while the guest may change them. */
static void input(struct user *u, const struct iovec *iov, unsigned count)
{
    size_t len = 0;

    for (unsigned i = 0; i < count; i++) {
        len += iov[i].iov_len;
    }
    if (!len || len > NET_FRAME_MAX) {
        return;
    }
    len = iov_read(iov, count, 0, u->sent, len);
    slirp_input(u->slirp, u->sent, (int)len);
    touch(u);
}

static bool user_send(struct netdev *nd, unsigned queue G_GNUC_UNUSED, const struct iovec *iov,
                      unsigned count)
{
    input((struct user *)nd, iov, count);
    return true;
}

static void user_send_raw(struct netdev *nd, const void *frame, size_t len)
{
    struct iovec iov = { (void *)(uintptr_t)frame, len };

    input((struct user *)nd, &iov, 1);
}

static void user_flush(struct netdev *nd, unsigned queue G_GNUC_UNUSED)
{
    struct user *u = (struct user *)nd;

    if (u->frames.length) {
        touch(u);
    }
}

static void user_describe(struct netdev *nd, GString *out)
{
    struct user *u = (struct user *)nd;
    char text[INET_ADDRSTRLEN];

    inet_ntop(AF_INET, &u->network, text, sizeof(text));
    g_string_append_printf(out, "net=%s,restrict=%s", text, u->restricted ? "on" : "off");
}

static bool user_hostfwd(struct netdev *nd, const char *text, bool add, GError **err)
{
    struct user *u = (struct user *)nd;
    struct hostfwd_rule rule;
    struct in_addr host, guest;

    if (!hostfwd_parse(text, add, &rule, err)) {
        return false;
    }
    host.s_addr = rule.host_address;
    guest.s_addr = rule.guest_address;
    if (add) {
        if (slirp_add_hostfwd(u->slirp, rule.udp, host, (int)rule.host_port, guest,
                              (int)rule.guest_port) < 0) {
            error_set(err, FERRY_ERROR_HOST, "Could not set up host forwarding rule '%s'", text);
            return false;
        }
    } else if (slirp_remove_hostfwd(u->slirp, rule.udp, host, (int)rule.host_port) < 0) {
        error_set(err, FERRY_ERROR_USER, "host forwarding rule for %s not found", text);
        return false;
    }
    touch(u);
    return true;
}

static void user_close(struct netdev *nd)
{
    struct user *u = (struct user *)nd;

    savevm_unregister(nd->vm->savevm, u);
    if (u->source) {
        g_source_destroy(&u->source->source);
        g_source_unref(&u->source->source);
        u->source = NULL;
    }
    if (u->slirp) {
        slirp_cleanup(u->slirp);
    }
    g_queue_clear_full(&u->frames, g_free);
    g_clear_pointer(&u->sent, g_free);
}

static const struct netdev_ops user_ops = {
    .kind = "user",
    .send = user_send,
    .send_raw = user_send_raw,
    .flush = user_flush,
    .describe = user_describe,
    .hostfwd = user_hostfwd,
    .close = user_close,
};

/* ---- saved state ---- */

static ssize_t on_save(const void *buf, size_t len, void *opaque)
{
    g_byte_array_append(opaque, buf, (guint)len);
    return (ssize_t)len;
}

static bool user_save(void *opaque, void *state, GError **err)
{
    struct user *u = opaque;
    struct user_state *s = state;
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    slirp_state_save(u->slirp, on_save, bytes);
    if (bytes->len != STATE_SIZE) {
        error_set(err, FERRY_ERROR_HOST,
                  "libslirp %s saves %u bytes of '%s', a layout that Ferry does not know",
                  slirp_version_string(), bytes->len, u->nd.id);
        return false;
    }
    memcpy(s->data, bytes->data, STATE_SIZE);
    return true;
}

static bool user_check(void *opaque G_GNUC_UNUSED, const void *state, GError **err)
{
    const struct user_state *s = state;

    if (s->data[0] != 0) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has user networking with connections to guestfwd, which "
                  "Ferry does not offer");
        return false;
    }
    for (unsigned i = 0; i < LEASES; i++) {
        const uint8_t *lease = s->data + 3 + i * LEASE_SIZE;

        if (lease[0] != 0 || lease[1] > 1) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has slirp/lease %u = %u, which is neither 0 nor 1", i,
                      (unsigned)(lease[0] << 8 | lease[1]));
            return false;
        }
    }
    return true;
}

struct reader {
    const uint8_t *data;
    size_t left;
};

static ssize_t on_load(void *buf, size_t len, void *opaque)
{
    struct reader *r = opaque;
    size_t n = MIN(len, r->left);

    memset(buf, 0, len);
    memcpy(buf, r->data, n);
    r->data += n;
    r->left -= n;
    return (ssize_t)len;
}

static bool user_load(void *opaque, const void *state, int version, GError **err)
{
    struct user *u = opaque;
    struct reader r = { ((const struct user_state *)state)->data, STATE_SIZE };
    int ret = slirp_state_load(u->slirp, version, on_load, &r);

    touch(u);
    if (ret < 0) {
        error_set_errno(err, FERRY_ERROR_PEER, -ret, "libslirp does not take the state of '%s'",
                        u->nd.id);
        return false;
    }
    return true;
}

static const struct vmstate_field user_fields[] = {
    VMS_BYTES(struct user_state, "data", data, STATE_SIZE),
    {},
};

/* Sections of one name are told apart by their number, in order of opening. */
static void count_section(const char *idstr, uint32_t instance_id,
                          const struct vmstate *vmstate G_GNUC_UNUSED, void *opaque)
{
    uint32_t *next = opaque;

    if (g_str_equal(idstr, "slirp")) {
        *next = MAX(*next, instance_id + 1);
    }
}

static void register_state(struct user *u)
{
    uint32_t instance = 0;

    u->vmstate = (struct vmstate){
        .name = "slirp",
        .version = slirp_state_version(),
        .min_version = STATE_OLDEST,
        .size = sizeof(struct user_state),
        .optional = true, /* a guest that comes from another kind of back end */
        .fields = user_fields,
        .save = user_save,
        .load = user_load,
        .check = user_check,
    };
    savevm_foreach(u->nd.vm->savevm, count_section, &instance);
    savevm_register(u->nd.vm->savevm, NULL, instance, &u->vmstate, u, SAVEVM_ORDER_NETDEV);
}

struct netdev *net_user_open(struct net_set *set, struct vm *vm, const Netdev *options,
                             GError **err)
{
    const NetdevUserOptions *o = &options->u.user;
    struct user *u = (struct user *)netdev_new(&user_ops, sizeof(*u), set, vm, options->id);
    struct user_config config = { 0 };
    bool ok = user_config_read(o, &config, err);

    g_queue_init(&u->frames);
    u->sent = g_malloc(NET_FRAME_MAX);
    if (ok) {
        u->network = config.slirp.vnetwork.s_addr;
        u->restricted = config.slirp.restricted;
        u->slirp = slirp_new(&config.slirp, &callbacks, u);
        if (!u->slirp) {
            error_set(err, FERRY_ERROR_HOST, "libslirp %s refuses the options of '%s'",
                      slirp_version_string(), options->id);
            ok = false;
        }
    }
    user_config_clear(&config);
    for (unsigned i = 0; ok && o->hostfwd && i < o->hostfwd->len; i++) {
        ok = user_hostfwd(&u->nd, ((const String *)g_ptr_array_index(o->hostfwd, i))->str, true,
                          err);
    }
    if (!ok) {
        user_close(&u->nd);
        netdev_unref(&u->nd);
        return NULL;
    }
    source_start(u);
    register_state(u);
    return &u->nd;
}
