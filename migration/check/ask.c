/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's half of a check: description out, findings in; see migration/greeting.c for the
 * other end. The answer is a peer's, see wire.c and findings.c. Trust: none.
 */
#include "migration/check/ask.h"

#include "migration/check/side.h"
#include "migration/check/wire.h"
#include "migration/internal.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "system/vm.h"
#include "util/error.h"

/* How long a link that broke is listened to for the reason. */
#define REASON_TIMEOUT_MS 500

bool check_ask(struct migration *m, struct stream_out *o, struct return_path *rp,
               unsigned timeout_ms, GPtrArray *findings, char **program, GError **err)
{
    g_autoptr(MigrationSide) side = NULL;
    g_autoptr(MigrationCheckAnswer) answer = NULL;
    g_autoptr(GByteArray) text = NULL;

    vm_lock(m->vm);
    side = side_describe(m);
    vm_unlock(m->vm);
    side_describe_host(m, side);
    return_path_expect_check(rp);
    if (!check_send_side(o, side, err) || !out_flush(o, err) ||
        !return_path_wait(rp, RETURN_WAIT_CHECK, timeout_ms, err)) {
        return false;
    }
    text = return_path_take_check(rp);
    answer = check_answer_from_text(text, err);
    if (!answer) {
        return false;
    }
    findings_append(findings, answer->findings);
    if (program) {
        *program = finding_clean_text(answer->program);
    }
    return true;
}

static bool agree(struct stream_out *o, struct return_path *rp, const char *name,
                  unsigned timeout_ms, GError **err)
{
    uint32_t start = GUINT32_TO_BE(STREAM_PING_START), magic = GUINT32_TO_BE(FERRY_PING_MAGIC);
    uint64_t features = GUINT64_TO_BE(FERRY_FEATURE_CHECK);

    out_be32(o, STREAM_MAGIC);
    out_be32(o, STREAM_VERSION);
    stream_put_command(o, STREAM_CMD_OPEN_RETURN_PATH, NULL, 0);
    return_path_ask_pong(rp, STREAM_PING_START);
    stream_put_command(o, STREAM_CMD_PING, &start, sizeof(start));
    return_path_ask_pong(rp, FERRY_PING_MAGIC);
    stream_put_command(o, STREAM_CMD_PING, &magic, sizeof(magic));
    if (!out_flush(o, err) || !return_path_wait(rp, RETURN_WAIT_FERRY_PONG, timeout_ms, err)) {
        return false;
    }
    if (!(return_path_features(rp) & FERRY_FEATURE_CHECK)) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination at %s is no Ferry that answers checks: say that it is a qemu, "
                  "and only this side is looked at",
                  name);
        return false;
    }
    stream_put_command(o, STREAM_CMD_FERRY_FEATURES, &features, sizeof(features));
    return true;
}

bool check_ask_only(struct migration *m, struct channel *ch, unsigned timeout_ms,
                    GPtrArray *findings, char **program, GError **err)
{
    struct return_path *rp;
    struct stream_out *o;
    GError *error = NULL, *better = NULL;
    bool ok;

    if (!channel_is_duplex(ch)) {
        error_set(err, FERRY_ERROR_USER, "%s carries no answers: a check needs a socket",
                  channel_name(ch));
        return false;
    }
    rp = return_path_new(ch, err);
    if (!rp) {
        return false;
    }
    o = out_new_channel(ch);
    ok = agree(o, rp, channel_name(ch), timeout_ms, &error) &&
         check_ask(m, o, rp, timeout_ms, findings, program, &error);
    /* a write that failed says less than what the reader of the return path has found, or soon will
     */
    if (!ok && !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_PEER) &&
        (return_path_failure(rp, REASON_TIMEOUT_MS, &better) || !return_path_check(rp, &better))) {
        g_error_free(error);
        error = better;
    }
    if (error) {
        g_propagate_error(err, error);
    }
    return_path_free(rp);
    out_free(o);
    return ok;
}
