/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -sandbox: a system call filter for all threads, installed when everything is open and before the
 * guest runs.
 *
 * The filter is a list of what is not allowed, in four groups that the option switches. Calls that
 * nothing in here ever makes end the process; those that a user may ask for later (exec: transports
 * under spawn=deny) fail with EPERM, so that the request fails and the guest lives on.
 */
#include "process.h"

#include "system/options.h"
#include "util/error.h"

#ifdef HAVE_SECCOMP

#include <errno.h>
#include <sched.h>
#include <seccomp.h>

enum group { GROUP_OBSOLETE, GROUP_ELEVATE, GROUP_SPAWN, GROUP_RESOURCE };

#define KILL   SCMP_ACT_KILL_PROCESS
#define REFUSE SCMP_ACT_ERRNO(EPERM)
/* glibc then falls back to the older call, whose arguments a filter can see */
#define MISSING SCMP_ACT_ERRNO(ENOSYS)

static const struct {
    enum group group;
    int call;
    uint32_t action;
    unsigned conditions;
    struct scmp_arg_cmp condition;
} rules[] = {
    /* gone from current kernels, or kept only for old programs */
    { GROUP_OBSOLETE, SCMP_SYS(_sysctl), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(afs_syscall), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(create_module), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(epoll_ctl_old), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(epoll_wait_old), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(get_kernel_syms), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(getpmsg), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(lookup_dcookie), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(nfsservctl), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(putpmsg), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(query_module), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(remap_file_pages), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(security), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(sysfs), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(tuxcall), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(uselib), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(ustat), KILL, 0, {} },
    { GROUP_OBSOLETE, SCMP_SYS(vserver), KILL, 0, {} },

    { GROUP_ELEVATE, SCMP_SYS(setuid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setgid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setreuid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setregid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setresuid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setresgid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setfsuid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setfsgid), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setgroups), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(capset), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(setns), KILL, 0, {} },
    { GROUP_ELEVATE, SCMP_SYS(unshare), KILL, 0, {} },

    { GROUP_SPAWN, SCMP_SYS(fork), REFUSE, 0, {} },
    { GROUP_SPAWN, SCMP_SYS(vfork), REFUSE, 0, {} },
    { GROUP_SPAWN, SCMP_SYS(execve), REFUSE, 0, {} },
    { GROUP_SPAWN, SCMP_SYS(execveat), REFUSE, 0, {} },
    { GROUP_SPAWN, SCMP_SYS(clone3), MISSING, 0, {} },
    { GROUP_SPAWN, SCMP_SYS(clone), REFUSE, 1, { 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0 } },

    { GROUP_RESOURCE, SCMP_SYS(sched_setaffinity), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(sched_setattr), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(sched_setparam), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(sched_setscheduler), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(setpriority), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(ioprio_set), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(setrlimit), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(prlimit64), REFUSE, 1, { 2, SCMP_CMP_NE, 0, 0 } },
    { GROUP_RESOURCE, SCMP_SYS(mbind), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(set_mempolicy), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(migrate_pages), REFUSE, 0, {} },
    { GROUP_RESOURCE, SCMP_SYS(move_pages), REFUSE, 0, {} },
};

static int add_rules(scmp_filter_ctx filter, const struct sandbox_options *o)
{
    const bool denied[] = {
        [GROUP_OBSOLETE] = o->obsolete == SANDBOX_DENY,
        [GROUP_ELEVATE] = o->elevate_privileges == SANDBOX_DENY,
        [GROUP_SPAWN] = o->spawn == SANDBOX_DENY,
        [GROUP_RESOURCE] = o->resource_control == SANDBOX_DENY,
    };
    int result = 0;

    for (size_t i = 0; result == 0 && i < G_N_ELEMENTS(rules); i++) {
        if (denied[rules[i].group]) {
            result = seccomp_rule_add_array(filter, rules[i].action, rules[i].call,
                                            rules[i].conditions, &rules[i].condition);
        }
    }
    return result;
}

bool sandbox_enter(const struct sandbox_options *o, GError **err)
{
    scmp_filter_ctx filter;
    int result;

    if (!o->enable) {
        return true;
    }
    filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter) {
        error_set(err, FERRY_ERROR_HOST, "-sandbox: Cannot make a system call filter");
        return false;
    }
    /* loading sets no_new_privs too, which is what elevateprivileges=children asks for */
    result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (result == 0) {
        result = add_rules(filter, o);
    }
    if (result == 0) {
        result = seccomp_load(filter);
    }
    seccomp_release(filter);
    if (result != 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -result,
                        "-sandbox: Cannot install the system call filter");
        return false;
    }
    return true;
}

#else

bool sandbox_enter(const struct sandbox_options *o, GError **err)
{
    if (o->enable) {
        error_set(err, FERRY_ERROR_USER,
                  "-sandbox: This program was built without libseccomp and has no system call "
                  "filter; use -sandbox off");
        return false;
    }
    return true;
}

#endif
