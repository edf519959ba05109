/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Following a migration to its end, and the command watch; see watch.h. */
#include "watch.h"
#include "machines.h"
#include "poller.h"
#include "text.h"
#include "view.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define TICK_MS 500 /* how often a display that hears nothing is drawn */

static const char question_text[] =
    "Interrupted. c: cancel the migration   d: detach, it goes on   any other key: watch on";

struct watch {
    struct ctl *ctl;
    const struct watch_options *options;
    struct poller *poller;
    const struct view_ops *ops;
    struct view *view;
    int signal_fd;
    int64_t began_us;
    move *latest;

    int64_t last_round; /* shown */
    int64_t last_decision_ms;
    guint decisions_then; /* how many of that time have been shown */

    bool asking, cancelling, timed_out, post_copy_asked;
    bool over;
    int status; /* once it is over */
    GError *error;
};

/* ---- signals ---- */

static void signal_set(sigset_t *set)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP };

    sigemptyset(set);
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        sigaddset(set, signals[i]);
    }
}

void watch_hold_signals(void)
{
    sigset_t set;

    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* ---- what is shown ---- */

static void notice(struct watch *w, const char *text)
{
    if (w->ops->notice) {
        w->ops->notice(w->view, text);
    }
}

static void question(struct watch *w, const char *text)
{
    w->asking = text != NULL;
    if (w->ops->question) {
        w->ops->question(w->view, text);
    }
}

static void show_round(struct watch *w, const move *m, const struct move_round *r)
{
    if (r->number > w->last_round) {
        w->last_round = r->number;
        if (w->ops->round) {
            w->ops->round(w->view, m, r);
        }
    }
}

/* same: how many of those up to here have this one's time. */
static void show_decision(struct watch *w, const struct move_decision *d, guint same)
{
    if (d->time_ms < w->last_decision_ms ||
        (d->time_ms == w->last_decision_ms && same <= w->decisions_then)) {
        return;
    }
    w->decisions_then = d->time_ms > w->last_decision_ms ? 1 : w->decisions_then + 1;
    w->last_decision_ms = d->time_ms;
    if (w->ops->decision) {
        w->ops->decision(w->view, d);
    }
}

/* Hands on the rounds and decisions that have not been, in the order of time. A machine may have
 * forgotten old ones, so they are told apart by number and time, not by how many there are. */
static void show_news(struct watch *w, const move *m)
{
    guint i = 0, k = 0, same = 0;

    while (i < m->rounds->len || k < m->decisions->len) {
        const struct move_round *r =
            i < m->rounds->len ? &g_array_index(m->rounds, struct move_round, i) : NULL;
        const struct move_decision *d = k < m->decisions->len ? m->decisions->pdata[k] : NULL;

        if (r && (!d || (r->start_us + r->duration_us) / 1000 <= d->time_ms)) {
            show_round(w, m, r);
            i++;
        } else {
            const struct move_decision *before = k ? m->decisions->pdata[k - 1] : NULL;

            same = before && before->time_ms == d->time_ms ? same + 1 : 1;
            show_decision(w, d, same);
            k++;
        }
    }
}

/* ---- how it ends ---- */

static void end(struct watch *w, int status)
{
    w->over = true;
    w->status = status;
}

static void leave_running(struct watch *w, const char *why)
{
    end(w, CTL_LEFT_RUNNING);
    ctl_fail(&w->error, CTL_LEFT_RUNNING,
             "%s: the migration goes on, see ferryctl watch and ferryctl "
             "cancel",
             why);
}

static void cancel(struct watch *w, const char *why)
{
    w->cancelling = true;
    poller_command(w->poller, "migrate_cancel");
    notice(w, why);
}

static void ended(struct watch *w, const move *m)
{
    g_autofree char *where = move_whereabouts(m);

    if (!strcmp(m->status, "completed")) {
        end(w, CTL_DONE);
    } else if (!strcmp(m->status, "cancelled")) {
        end(w, CTL_CANCELLED);
        ctl_fail(&w->error, CTL_CANCELLED, "The migration was cancelled%s. %s.",
                 w->timed_out ? " since its time was up" : "", where);
    } else {
        end(w, CTL_FAILED);
        ctl_fail(&w->error, CTL_FAILED, "The migration failed: %s%s %s.",
                 m->error ? m->error : "the machine gives no reason",
                 m->error && g_str_has_suffix(m->error, ".") ? "" : ".", where);
    }
}

/* What a completed migration was like, printed where the view has been. */
static void print_result(const struct watch *w)
{
    const move *m = w->latest;
    g_autofree char *total = text_duration_us(m->total_ms * 1000);
    g_autofree char *pause = text_duration_us(move_pause_us(m));
    g_autofree char *sent = text_bytes((double)m->transferred);
    g_autofree char *rounds = text_plural(move_round_count(m), "round", "rounds");

    if (m->total_ms < 0) { /* the receiving side counts nothing */
        g_autofree char *where = move_whereabouts(m);

        g_print("Completed. %s.\n", where);
        return;
    }
    g_print("Completed in %s: the guest paused for %s, %s sent in %s.\n", total, pause, sent,
            rounds);
    g_print("The guest runs at %s; what is here is a stopped copy, which ferryctl quit ends.\n",
            w->options->destination ? w->options->destination : "its destination");
}

/* ---- what comes in ---- */

static void state_came(struct watch *w, move *m)
{
    g_clear_pointer(&w->latest, move_unref);
    w->latest = m;
    show_news(w, m);
    w->ops->progress(w->view, m);
    if (move_is_over(m)) {
        ended(w, m);
    } else if (!move_is_running(m) && !m->listens) {
        end(w, CTL_REFUSED);
        ctl_fail(&w->error, CTL_REFUSED,
                 "There is no migration to watch; ferryctl migrate starts one");
    } else if (w->options->post_copy_after && !w->post_copy_asked &&
               m->syncs > w->options->post_copy_after && !strcmp(m->status, "active")) {
        w->post_copy_asked = true;
        poller_command(w->poller, "migrate-start-postcopy");
        notice(w, "Switching to post-copy");
    }
}

static void poller_event(struct watch *w)
{
    move *m;
    g_autofree char *refusal = NULL;
    GError *error = NULL;

    poller_take(w->poller, &m, &refusal, &error);
    if (refusal) {
        g_autofree char *clean = text_clean(refusal, w->ctl->utf8);
        g_autofree char *text = g_strdup_printf("The machine refused: %s", clean);

        w->cancelling = false;
        notice(w, text);
    }
    if (m) {
        state_came(w, m);
    }
    if (error && !w->over) {
        end(w, error->code);
        ctl_fail(&w->error, CTL_UNREACHABLE, "%s%s What became of the migration is not known",
                 error->message, g_str_has_suffix(error->message, "?") ? "" : ".");
    }
    g_clear_error(&error);
}

static void interrupted(struct watch *w)
{
    if (!w->options->own) {
        leave_running(w, "Stopped watching");
    } else if (w->ops->question && !w->asking && !w->cancelling) {
        question(w, question_text);
    } else if (!w->cancelling) {
        question(w, NULL);
        cancel(w, "Interrupted: cancelling the migration");
    } else {
        leave_running(w, "Interrupted again while it was being cancelled");
    }
}

static void suspended(struct watch *w)
{
    if (w->ops->suspend) {
        w->ops->suspend(w->view);
    }
    kill(getpid(), SIGSTOP);
    if (w->ops->resume) {
        w->ops->resume(w->view);
    }
}

static void signal_event(struct watch *w)
{
    struct signalfd_siginfo info;

    while (!w->over && read(w->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGINT:
            interrupted(w);
            break;
        case SIGWINCH:
            w->ops->progress(w->view, NULL);
            break;
        case SIGTSTP:
            suspended(w);
            break;
        default:
            leave_running(w, "Told to end");
        }
    }
}

/* Only where there is a question, so only with a terminal as standard input. Returns false at its
 * end. */
static bool key_event(struct watch *w)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

    if (n <= 0) {
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    }
    if (!w->asking) {
        return true; /* what was typed before the question is no answer */
    }
    question(w, NULL);
    if (keys[0] == 'c' || keys[0] == 'C') {
        cancel(w, "Cancelling the migration");
    } else if (keys[0] == 'd' || keys[0] == 'D') {
        leave_running(w, "Detached");
    }
    return true;
}

static void check_timeout(struct watch *w)
{
    if (w->options->timeout_ms && !w->timed_out && !w->over &&
        g_get_monotonic_time() - w->began_us > w->options->timeout_ms * 1000) {
        w->timed_out = true;
        cancel(w, "Not done in the time given: cancelling the migration");
    }
}

static void loop(struct watch *w)
{
    bool keys = w->ops->question != NULL;

    while (!w->over) {
        struct pollfd fds[] = {
            { poller_fd(w->poller), POLLIN, 0 },
            { w->signal_fd, POLLIN, 0 },
            { keys ? STDIN_FILENO : -1, POLLIN, 0 },
        };
        int n = poll(fds, G_N_ELEMENTS(fds), TICK_MS);

        if (n <= 0) {
            w->ops->progress(w->view, NULL);
        } else {
            if (fds[1].revents) {
                signal_event(w);
            }
            if (fds[2].revents && !w->over) {
                keys = key_event(w);
            }
            if (fds[0].revents && !w->over) {
                poller_event(w);
            }
        }
        check_timeout(w);
    }
}

int watch_run(struct ctl *ctl, const qmp_address *address, const struct watch_options *options,
              GError **err)
{
    struct watch w = { .ctl = ctl, .options = options, .last_decision_ms = -1 };
    sigset_t set;

    watch_hold_signals();
    signal_set(&set);
    w.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (w.signal_fd < 0) {
        ctl_fail(err, CTL_FAILED, "Cannot wait for signals: %s", g_strerror(errno));
        return CTL_FAILED;
    }
    w.began_us = g_get_monotonic_time();
    w.ops = view_choose(ctl);
    w.view = w.ops->open(ctl, options->title,
                         options->own ? "Ctrl-C: cancel or detach" : "Ctrl-C stops watching");
    w.poller = poller_new(ctl, address, options->interval_ms);
    loop(&w);
    poller_free(w.poller);
    w.ops->close(w.view);
    close(w.signal_fd);

    if (w.latest) {
        g_autoptr(json_t) members = move_to_json(w.latest, "end");

        json_object_update(ctl->end, members);
    }
    if (!ctl->json && w.status == CTL_DONE && w.latest) {
        print_result(&w);
    }
    g_clear_pointer(&w.latest, move_unref);
    if (w.error) {
        g_propagate_error(err, w.error);
    }
    return w.status;
}

/* ---- the command ---- */

static int watch_command(struct ctl *ctl, const struct command *self, int argc, char **argv,
                         GError **err)
{
    g_autofree char *interval = NULL;
    const GOptionEntry entries[] = {
        { "interval", 'i', 0, G_OPTION_ARG_STRING, &interval, "how often to ask [200ms]", "TIME" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 0, 0, err);
    struct watch_options options = { .interval_ms = WATCH_INTERVAL_MS };
    g_autoptr(qmp_address) address = NULL;
    g_autofree char *name = NULL;

    if (!rest || (interval && !watch_parse_interval(interval, &options.interval_ms, err))) {
        return CTL_USAGE;
    }
    address = machines_chosen(ctl, err);
    if (!address) {
        return CTL_UNREACHABLE;
    }
    name = machines_name(ctl, address);
    options.title = name;
    return watch_run(ctl, address, &options, err);
}

bool watch_parse_interval(const char *text, int64_t *interval_ms, GError **err)
{
    if (!text_parse_duration(text, interval_ms, err)) {
        return false;
    }
    if (*interval_ms < 10 || *interval_ms > 3600 * 1000) {
        ctl_fail(err, CTL_USAGE, "--interval takes 10ms to 1h");
        return false;
    }
    return true;
}

const struct command command_watch = {
    .name = "watch",
    .arguments = "",
    .summary = "show how the migration goes until it ends",
    .description = "Works on either side. Of a migration that is over the end is told, also by the "
                   "exit status.\nCtrl-C stops watching; the migration goes on.",
    .run = watch_command,
};
