/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate-check: the local half at once, the destination's on a thread "mig/check", the answer from
 * the main loop. And the mark of an operator who wants a guest to stay.
 *
 * A job has one GSource on the main loop. It is the deadline, and the thread makes it ready when it
 * is done; so the job is ended in one place, and the end of the process finds it in m->checks.
 * After the deadline the channel is shut down, which ends every wait of the thread, and its own
 * error is replaced by one that says so.
 *
 * What cannot be asked: a QEMU has one connection to give; a file or a command has no answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/check/ask.h"
#include "migration/check/side.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/vmstate.h"
#include "qapi/qapi-commands.h"
#include "system/config.h"
#include "system/vm.h"
#include "util/error.h"

/* The whole of a check, from the connection on. */
#define CHECK_TIMEOUT_MS 5000
/* What waits inside it waits a little longer, so that it is the deadline of the whole that ends it.
 */
#define WAIT_TIMEOUT_MS (CHECK_TIMEOUT_MS + 1000)
/* More at a time are refused: each has a thread. */
#define CHECKS_MAX 16

#define BLOCKER_MAX_LENGTH 500

struct check_job {
    struct migration *m;
    struct qmp_answer *answer;
    struct transport_address *addr;
    char *uri;
    int fd; /* until the transport takes it */
    int cancel_fd;
    struct channel *ch; /* set with m held */
    bool cancelled;     /* m */
    GThread *thread;
    GSource *source;
    bool late;            /* main loop: the deadline has passed */
    atomic_bool finished; /* the thread is done with the result */
    MigrationCheckResult *result;
    GError *error; /* of the connection */
};

/* --- the thread --- */

static bool take_channel(struct check_job *job, struct channel *ch, GError **err)
{
    mutex_lock(&job->m->lock);
    bool ok = !job->cancelled;
    job->ch = ok ? ch : NULL;
    mutex_unlock(&job->m->lock);
    if (!ok) {
        error_set(err, FERRY_ERROR_CANCELLED, "The check was ended");
        channel_unref(ch);
    }
    return ok;
}

static void ask(struct check_job *job)
{
    struct channel *ch;
    int fd = job->fd;

    job->fd = -1;
    ch = transport_connect(job->addr, fd, job->cancel_fd, WAIT_TIMEOUT_MS, &job->error);
    if (!ch || !take_channel(job, ch, &job->error)) {
        return;
    }
    channel_set_timeout(ch, WAIT_TIMEOUT_MS);
    job->result->peer_asked = check_ask_only(job->m, ch, WAIT_TIMEOUT_MS, job->result->findings,
                                             &job->result->peer_version, &job->error);
    mutex_lock(&job->m->lock);
    job->ch = NULL;
    mutex_unlock(&job->m->lock);
    channel_unref(ch);
}

static gpointer check_thread(gpointer opaque)
{
    struct check_job *job = opaque;

    ask(job);
    atomic_store(&job->finished, true);
    g_source_set_ready_time(job->source, 0);
    return NULL;
}

/* --- a job on the main loop --- */

static void job_cancel(struct check_job *job)
{
    uint64_t one = 1;

    mutex_lock(&job->m->lock);
    job->cancelled = true;
    if (job->ch) {
        channel_shutdown(job->ch);
    }
    mutex_unlock(&job->m->lock);
    if (write(job->cancel_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the thread of a check: %s", g_strerror(errno));
    }
}

static void job_free(gpointer opaque)
{
    struct check_job *job = opaque;

    if (job->source) {
        g_source_destroy(job->source);
        g_source_unref(job->source);
    }
    if (job->fd >= 0) {
        close(job->fd);
    }
    if (job->cancel_fd >= 0) {
        close(job->cancel_fd);
    }
    transport_address_free(job->addr);
    qapi_migration_check_result_free(job->result);
    g_clear_error(&job->error);
    g_free(job->uri);
    g_free(job);
}

/* Hands the result over; the job is gone afterwards. */
static void job_answer(struct check_job *job)
{
    MigrationCheckResult *result = g_steal_pointer(&job->result);
    struct qmp_answer *answer = job->answer;

    if (job->late) {
        finding_obstacle(result->findings, MIGRATION_FINDING_KIND_CONNECTION, job->uri,
                         "The destination at %s has not answered the check within %d s: look "
                         "whether it waits for a guest",
                         job->uri, CHECK_TIMEOUT_MS / 1000);
    } else if (job->error) {
        finding_obstacle(result->findings, MIGRATION_FINDING_KIND_CONNECTION, job->uri, "%s",
                         job->error->message);
    }
    findings_sort(result->findings);
    result->possible = !findings_have_obstacle(result->findings);
    if (job->thread) {
        g_ptr_array_remove(job->m->checks, job);
    } else {
        job_free(job);
    }
    qmp_migrate_check_answer(answer, result, NULL);
}

static gboolean on_ready(gpointer opaque)
{
    struct check_job *job = opaque;

    if (atomic_load(&job->finished)) {
        g_thread_join(job->thread); /* has only its return left */
        job_answer(job);
        return G_SOURCE_REMOVE;
    }
    job->late = true;
    job_cancel(job);
    g_source_set_ready_time(job->source, -1);
    if (atomic_load(&job->finished)) {
        g_source_set_ready_time(job->source, 0); /* it was made ready just before */
    }
    return G_SOURCE_CONTINUE;
}

static gboolean dispatch(GSource *source, GSourceFunc fn, gpointer opaque)
{
    (void)source;
    return fn(opaque);
}

static GSourceFuncs ready_funcs = { .dispatch = dispatch };

static bool job_start(struct check_job *job, GError **err)
{
    job->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (job->cancel_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot create an eventfd for the check");
        return false;
    }
    job->source = g_source_new(&ready_funcs, sizeof(GSource));
    g_source_set_callback(job->source, on_ready, job, NULL);
    g_source_set_ready_time(job->source, g_get_monotonic_time() + (gint64)CHECK_TIMEOUT_MS * 1000);
    g_source_attach(job->source, NULL);
    job->thread = g_thread_try_new("mig/check", check_thread, job, err);
    if (!job->thread) {
        g_prefix_error(err, "Cannot start the thread of the check: ");
        return false;
    }
    g_ptr_array_add(job->m->checks, job);
    return true;
}

GPtrArray *migration_checks_new(void)
{
    return g_ptr_array_new_with_free_func(job_free);
}

void migration_checks_end(struct migration *m)
{
    for (unsigned i = 0; i < m->checks->len; i++) {
        job_cancel(g_ptr_array_index(m->checks, i));
    }
    for (unsigned i = 0; i < m->checks->len; i++) {
        struct check_job *job = g_ptr_array_index(m->checks, i);

        vm_unlock(m->vm);
        g_thread_join(job->thread);
        vm_lock(m->vm);
        g_source_destroy(job->source); /* else it might be dispatched, with nobody to be told */
    }
    while (m->checks->len) {
        struct check_job *job = g_ptr_array_index(m->checks, 0);
        GError *error = NULL;

        error_set(&error, FERRY_ERROR_CANCELLED, "The process ends");
        qmp_migrate_check_answer(job->answer, NULL, error);
        g_ptr_array_remove_index(m->checks, 0);
    }
}

/* --- the local half --- */

/* What can be said of an address without connecting. */
static void check_address(struct check_job *job)
{
    struct stat st;

    if (job->addr->type == TRANSPORT_UNIX &&
        (stat(job->addr->path, &st) < 0 || !S_ISSOCK(st.st_mode))) {
        finding_obstacle(job->result->findings, MIGRATION_FINDING_KIND_CONNECTION, job->uri,
                         "There is no socket '%s': start the destination first", job->addr->path);
    }
}

static void check_locally(struct check_job *job, MigrationPeer peer)
{
    GPtrArray *findings = job->result->findings;
    struct migration *m = job->m;
    g_autoptr(GPtrArray) reasons = migration_blocker_reasons(m);

    for (unsigned i = 0; i < reasons->len; i++) {
        finding_obstacle(findings, MIGRATION_FINDING_KIND_BLOCKER, "source", "%s",
                         (const char *)g_ptr_array_index(reasons, i));
    }
    if (peer == MIGRATION_PEER_QEMU) {
        check_address(job);
    } else if (!m->options.caps[MIGRATION_CAPABILITY_RETURN_PATH]) {
        finding_warning(findings, MIGRATION_FINDING_KIND_CAPABILITY, "return-path",
                        "Capability 'return-path' is off, so a migration could not learn what the "
                        "destination thinks of the guest: switch it on");
    }
}

static bool can_answer(const struct transport_address *addr)
{
    return addr->type != TRANSPORT_EXEC && addr->type != TRANSPORT_FILE;
}

bool qmp_migrate_check(struct vm *vm, const struct qmp_migrate_check_arg *arg,
                       struct qmp_answer *answer, GError **err)
{
    struct migration *m = vm->migration;
    struct transport_address *addr;
    struct check_job *job;

    if (!vm->board) {
        error_set(err, FERRY_ERROR_USER, "Machine 'none' has no guest that could migrate");
        return false;
    }
    if (!migration_guest_is_here(m, err)) {
        return false;
    }
    if (m->checks->len >= CHECKS_MAX) {
        error_set(err, FERRY_ERROR_USER, "%d checks are under way: wait until one is answered",
                  CHECKS_MAX);
        return false;
    }
    addr = migration_address(arg->uri, arg->channels, err);
    if (!addr) {
        return false;
    }
    job = g_new0(struct check_job, 1);
    job->m = m;
    job->answer = answer;
    job->addr = addr;
    job->uri = transport_address_text(addr);
    job->fd = job->cancel_fd = -1;
    job->result = g_new0(MigrationCheckResult, 1);
    job->result->findings = findings_new();
    check_locally(job, arg->peer);
    if (arg->peer == MIGRATION_PEER_QEMU) {
        job_answer(job);
        return true;
    }
    if (!can_answer(addr)) {
        finding_warning(job->result->findings, MIGRATION_FINDING_KIND_CONNECTION, job->uri,
                        "%s carries no answers, so only this side was looked at: check over a "
                        "socket",
                        job->uri);
        job_answer(job);
        return true;
    }
    if (!migration_address_fd(vm, addr, O_RDWR, &job->fd, err) || !job_start(job, err)) {
        job_free(job);
        return false;
    }
    return true;
}

MigrationSide *qmp_x_query_migrate_side(struct vm *vm, GError **err)
{
    MigrationSide *side = side_describe(vm->migration);

    (void)err;
    side_describe_host(vm->migration, side);
    return side;
}

/* --- the operator's mark --- */

bool migration_reason_valid(const char *reason, GError **err)
{
    if (!reason[0] || strlen(reason) > BLOCKER_MAX_LENGTH || !g_utf8_validate(reason, -1, NULL)) {
        error_set(err, FERRY_ERROR_USER,
                  "The reason why the guest is not to migrate must have 1 to %d bytes",
                  BLOCKER_MAX_LENGTH);
        return false;
    }
    for (const char *p = reason; *p; p++) {
        if (g_ascii_iscntrl(*p)) {
            error_set(err, FERRY_ERROR_USER,
                      "The reason why the guest is not to migrate must be a single line");
            return false;
        }
    }
    return true;
}

bool migration_set_operator_blocker(struct vm *vm, const char *reason, GError **err)
{
    struct migration *m = vm->migration;
    g_autofree char *text = NULL;
    unsigned handle;

    if (!migration_reason_valid(reason, err)) {
        return false;
    }
    text = vm->name
               ? g_strdup_printf("Guest '%s' is kept here by its operator: %s", vm->name, reason)
               : g_strdup_printf("The guest is kept here by its operator: %s", reason);
    if (!migration_blocker_add(vm, text, &handle, err)) {
        return false;
    }
    migration_blocker_remove(vm, m->operator_blocker);
    m->operator_blocker = handle;
    return true;
}

bool qmp_migrate_set_blocker(struct vm *vm, const struct qmp_migrate_set_blocker_arg *arg,
                             GError **err)
{
    return migration_set_operator_blocker(vm, arg->reason, err);
}

bool qmp_migrate_clear_blocker(struct vm *vm, GError **err)
{
    (void)err;
    migration_blocker_remove(vm, vm->migration->operator_blocker);
    vm->migration->operator_blocker = 0;
    return true;
}
