/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Open files that clients hand over: named ones of one monitor (getfd, used by `fd:NAME`), and
 * numbered sets that all share (add-fd and -add-fd, used by the path /dev/fdset/N).
 *
 * Every descriptor has exactly one owner. A named one leaves its monitor when it is used; a set
 * keeps its own and hands out copies. All are close-on-exec from here on, so no child inherits
 * them.
 *
 * A client that comes and goes must not fill the table of descriptors: when the last client leaves
 * a running guest, sets that came over QMP and were never opened are forgotten. Unlike QEMU,
 * remove-fd acts at once in every run state, because copies live on without their set.
 *
 * Trust: a client may hand over any descriptor and is believed about what it is for. How many come
 * at a time is bounded by the socket chardev, names and numbers are checked here.
 */
#include "monitor-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "chardev/chardev.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

#define FDSET_PREFIX "/dev/fdset/"

struct fdset_fd {
    int fd;
    char *opaque;
};

/* ---- named descriptors ---- */

/* Values are descriptor + 1, so that none is NULL. */
static void named_fd_close(void *value)
{
    close(GPOINTER_TO_INT(value) - 1);
}

GHashTable *monitor_fds_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, named_fd_close);
}

/* Takes a named descriptor from a monitor; -1 when it has none. */
static int named_fd_take(struct monitor *mon, const char *name)
{
    gpointer key, value;

    if (!g_hash_table_steal_extended(mon->fds, name, &key, &value)) {
        return -1;
    }
    g_free(key);
    return GPOINTER_TO_INT(value) - 1;
}

/*
 * A descriptor given by number is taken only when the process was started with it: all of our own
 * are close-on-exec, so those are not at anybody's disposal.
 */
static int inherited_fd(const char *text)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(text, 10, 0, INT_MAX, &number, NULL)) {
        return -1;
    }
    int flags = fcntl((int)number, F_GETFD);
    if (flags < 0 || flags & FD_CLOEXEC || fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0) {
        return -1;
    }
    return (int)number;
}

int monitor_get_fd(struct vm *vm, const char *name, GError **err)
{
    struct monitor_set *set = vm->monitors;
    int fd = -1;

    if (set && set->current) {
        fd = named_fd_take(set->current, name);
    }
    for (guint i = 0; fd < 0 && set && i < set->monitors->len; i++) {
        fd = named_fd_take(set->monitors->pdata[i], name);
    }
    if (fd < 0) {
        fd = inherited_fd(name);
    }
    if (fd < 0) {
        error_set(err, FERRY_ERROR_USER, "File descriptor named '%s' has not been found", name);
    }
    return fd;
}

/* The descriptor that came with the command being handled. */
static int received_fd(struct monitor_set *set, GError **err)
{
    int fd = set->current ? chardev_take_fd(set->current->chr) : -1;

    if (fd < 0) {
        error_set(err, FERRY_ERROR_USER, "No file descriptor supplied via SCM_RIGHTS");
    }
    return fd;
}

bool qmp_getfd(struct vm *vm, const struct qmp_getfd_arg *arg, GError **err)
{
    int fd = received_fd(vm->monitors, err);

    if (fd < 0) {
        return false;
    }
    if (g_ascii_isdigit(arg->fdname[0])) {
        close(fd);
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'fdname' expects a name not starting with a digit");
        return false;
    }
    g_hash_table_insert(vm->monitors->current->fds, g_strdup(arg->fdname), GINT_TO_POINTER(fd + 1));
    return true;
}

bool qmp_closefd(struct vm *vm, const struct qmp_closefd_arg *arg, GError **err)
{
    struct monitor *mon = vm->monitors->current;

    if (!mon || !g_hash_table_remove(mon->fds, arg->fdname)) {
        error_set(err, FERRY_ERROR_USER, "File descriptor named '%s' not found", arg->fdname);
        return false;
    }
    return true;
}

/* ---- sets ---- */

static void fdset_fd_free(struct fdset_fd *entry)
{
    close(entry->fd);
    g_free(entry->opaque);
    g_free(entry);
}

void fdset_free(struct fdset *fdset)
{
    g_ptr_array_unref(fdset->fds);
    g_free(fdset);
}

static struct fdset *fdset_find(struct monitor_set *set, int64_t id)
{
    for (guint i = 0; i < set->fdsets->len; i++) {
        struct fdset *fdset = set->fdsets->pdata[i];

        if (fdset->id == id) {
            return fdset;
        }
    }
    return NULL;
}

static struct fdset *fdset_new(struct monitor_set *set, int64_t id)
{
    struct fdset *fdset = g_new0(struct fdset, 1);
    guint at = 0;

    fdset->id = id;
    fdset->fds = g_ptr_array_new_with_free_func((GDestroyNotify)fdset_fd_free);
    while (at < set->fdsets->len && ((struct fdset *)set->fdsets->pdata[at])->id < id) {
        at++;
    }
    g_ptr_array_insert(set->fdsets, (gint)at, fdset);
    return fdset;
}

static int64_t first_free_id(struct monitor_set *set)
{
    int64_t id = 0;

    for (guint i = 0; i < set->fdsets->len; i++) {
        if (((struct fdset *)set->fdsets->pdata[i])->id == id) {
            id++;
        }
    }
    return id;
}

/* fd then belongs to the set; `id` is not negative, or -1 for a new set */
static struct fdset *fdset_add(struct monitor_set *set, int fd, int64_t id, const char *opaque)
{
    struct fdset *fdset;
    struct fdset_fd *entry = g_new0(struct fdset_fd, 1);

    if (id < 0) {
        id = first_free_id(set);
    }
    fdset = fdset_find(set, id);
    if (!fdset) {
        fdset = fdset_new(set, id);
    }
    entry->fd = fd;
    entry->opaque = g_strdup(opaque);
    g_ptr_array_add(fdset->fds, entry);
    return fdset;
}

int64_t monitor_fdset_add(struct monitor_set *set, int fd, int64_t fdset_id, const char *opaque,
                          GError **err)
{
    struct fdset *fdset;

    if (fdset_id < -1) {
        close(fd);
        error_set(err, FERRY_ERROR_USER, "Parameter 'set' expects a non-negative value");
        return -1;
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_USER, errno,
                        "File descriptor %d cannot be added to a set; pass one that is open", fd);
        return -1;
    }
    fdset = fdset_add(set, fd, fdset_id, opaque);
    fdset->from_command_line = true;
    return fdset->id;
}

bool monitor_fdset_is_path(const char *path)
{
    return g_str_has_prefix(path, FDSET_PREFIX);
}

/* The descriptor of the set with this access mode, or -1 with errno. */
static int fdset_match(struct fdset *fdset, int flags)
{
    for (guint i = 0; fdset && i < fdset->fds->len; i++) {
        struct fdset_fd *entry = fdset->fds->pdata[i];
        int mode = fcntl(entry->fd, F_GETFL);

        if (mode >= 0 && (mode & O_ACCMODE) == (flags & O_ACCMODE)) {
            return entry->fd;
        }
    }
    errno = fdset ? EACCES : ENOENT;
    return -1;
}

/* Makes a copy behave as if it had been opened with these flags. */
static bool fdset_apply_flags(int fd, int flags)
{
    int set = flags & (O_APPEND | O_NONBLOCK);
    int now = fcntl(fd, F_GETFL);

    if (now < 0 || (set && fcntl(fd, F_SETFL, now | set) < 0)) {
        return false;
    }
    return !(flags & O_TRUNC) || ftruncate(fd, 0) == 0;
}

int monitor_fdset_open(struct monitor_set *set, const char *path, int flags, GError **err)
{
    guint64 id;
    struct fdset *fdset = NULL;
    int fd;

    if (monitor_fdset_is_path(path) &&
        g_ascii_string_to_unsigned(path + strlen(FDSET_PREFIX), 10, 0, INT64_MAX, &id, NULL)) {
        fdset = fdset_find(set, (int64_t)id);
    }
    fd = fdset_match(fdset, flags);
    if (fd >= 0) {
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    if (fd >= 0 && !fdset_apply_flags(fd, flags)) {
        int saved = errno;

        close(fd);
        errno = saved;
        fd = -1;
    }
    if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open '%s'", path);
        return -1;
    }
    fdset->opened = true;
    return fd;
}

void monitor_fdsets_cleanup(struct monitor_set *set)
{
    for (guint i = 0; i < set->monitors->len; i++) {
        if (((struct monitor *)set->monitors->pdata[i])->connected) {
            return;
        }
    }
    if (!vm_is_running(set->vm)) {
        return; /* a manager may set the guest up over several connections */
    }
    for (guint i = set->fdsets->len; i-- > 0;) {
        struct fdset *fdset = set->fdsets->pdata[i];

        if (!fdset->from_command_line && !fdset->opened) {
            g_ptr_array_remove_index(set->fdsets, i);
        }
    }
}

AddfdInfo *qmp_add_fd(struct vm *vm, const struct qmp_add_fd_arg *arg, GError **err)
{
    int fd = received_fd(vm->monitors, err);
    AddfdInfo *info;

    if (fd < 0) {
        return NULL;
    }
    if (arg->has_fdset_id && arg->fdset_id < 0) {
        close(fd);
        error_set(err, FERRY_ERROR_USER, "Parameter 'fdset-id' expects a non-negative value");
        return NULL;
    }
    info = g_new0(AddfdInfo, 1);
    info->fd = fd;
    info->fdset_id =
        fdset_add(vm->monitors, fd, arg->has_fdset_id ? arg->fdset_id : -1, arg->opaque)->id;
    return info;
}

bool qmp_remove_fd(struct vm *vm, const struct qmp_remove_fd_arg *arg, GError **err)
{
    struct monitor_set *set = vm->monitors;
    struct fdset *fdset = fdset_find(set, arg->fdset_id);
    bool found = fdset && !arg->has_fd;

    for (guint i = 0; fdset && arg->has_fd && !found && i < fdset->fds->len; i++) {
        if (((struct fdset_fd *)fdset->fds->pdata[i])->fd == arg->fd) {
            g_ptr_array_remove_index(fdset->fds, i);
            found = true;
        }
    }
    if (!found) {
        g_autofree char *fd =
            arg->has_fd ? g_strdup_printf(", fd:%" PRId64, arg->fd) : g_strdup("");

        error_set(err, FERRY_ERROR_USER, "File descriptor named 'fdset-id:%" PRId64 "%s' not found",
                  arg->fdset_id, fd);
        return false;
    }
    if (!arg->has_fd || !fdset->fds->len) {
        g_ptr_array_remove(set->fdsets, fdset);
    }
    return true;
}

GPtrArray *qmp_query_fdsets(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_fdset_info_list_new();

    for (guint i = 0; i < vm->monitors->fdsets->len; i++) {
        struct fdset *fdset = vm->monitors->fdsets->pdata[i];
        FdsetInfo *info = g_new0(FdsetInfo, 1);

        info->fdset_id = fdset->id;
        info->fds = qapi_fdset_fd_info_list_new();
        for (guint j = 0; j < fdset->fds->len; j++) {
            struct fdset_fd *entry = fdset->fds->pdata[j];
            FdsetFdInfo *fd_info = g_new0(FdsetFdInfo, 1);

            fd_info->fd = entry->fd;
            fd_info->opaque = g_strdup(entry->opaque);
            g_ptr_array_add(info->fds, fd_info);
        }
        g_ptr_array_add(list, info);
    }
    return list;
}
