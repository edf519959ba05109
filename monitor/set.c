/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All QMP servers of a vm, and the events that go to each of them; see include/monitor/monitor.h.
 */
#include "monitor-internal.h"

#include "system/vm.h"

struct monitor_set *monitor_set_new(struct vm *vm)
{
    struct monitor_set *set = g_new0(struct monitor_set, 1);

    set->vm = vm;
    set->monitors = g_ptr_array_new_with_free_func((GDestroyNotify)monitor_free);
    set->fdsets = g_ptr_array_new_with_free_func((GDestroyNotify)fdset_free);
    return set;
}

void monitor_set_free(struct monitor_set *set)
{
    if (!set) {
        return;
    }
    g_ptr_array_unref(set->monitors);
    g_ptr_array_unref(set->fdsets);
    g_free(set);
}

bool monitor_add_qmp(struct monitor_set *set, struct chardev *chr, bool pretty, GError **err)
{
    struct monitor *mon = monitor_new(set, chr, pretty, err);

    if (mon) {
        g_ptr_array_add(set->monitors, mon);
    }
    return mon != NULL;
}

void monitor_emit_event(struct vm *vm, const char *name, json_t *data)
{
    struct monitor_set *set = vm->monitors;
    int64_t now = g_get_real_time();

    if (!set) {
        json_decref(data);
        return;
    }
    g_autoptr(json_t) event =
        json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds", (json_int_t)(now / G_USEC_PER_SEC),
                  "microseconds", (json_int_t)(now % G_USEC_PER_SEC), "event", name);
    if (data) {
        json_object_set_new(event, "data", data);
    }
    for (guint i = 0; i < set->monitors->len; i++) {
        struct monitor *mon = set->monitors->pdata[i];

        if (mon->negotiated) {
            monitor_send_event(mon, event);
        }
    }
}
