/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's half of a check: description in, findings out; see compare.c. Trust: none; the
 * description is read by wire.c, whose bounds and schema hold for all that is looked at here, and
 * names in it are only compared and shown.
 */
#include "migration/check/answer.h"

#include "migration/check/compare.h"
#include "migration/check/side.h"
#include "migration/check/wire.h"
#include "migration/internal.h"
#include "system/vm.h"

bool check_answer(struct migration *m, const GByteArray *text, struct channel *ch, GError **err)
{
    g_autoptr(MigrationSide) there = check_side_from_text(text, err);
    g_autoptr(MigrationSide) here = NULL;
    g_autoptr(MigrationCheckAnswer) answer = NULL;

    if (!there) {
        return false;
    }
    vm_lock(m->vm);
    here = side_describe(m);
    vm_unlock(m->vm);
    side_describe_host(m, here);
    answer = g_new0(MigrationCheckAnswer, 1);
    answer->program = g_strdup(here->program);
    answer->findings = findings_new();
    sides_compare(there, here, answer->findings);
    findings_sort(answer->findings);
    return check_send_answer(ch, answer, err);
}
