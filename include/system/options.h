/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line, parsed and checked for form; nothing is opened or built here. main() carries it
 * out in its own order. Options keep QEMU's names and syntax; what Ferry lacks is refused by name.
 */
#ifndef SYSTEM_OPTIONS_H
#define SYSTEM_OPTIONS_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "system/config.h"

/* One use of an option whose effect comes later; errors then name it as it was typed. */
struct option_use {
    char *text;   /* "-object id=a", for messages */
    char *arg;    /* the argument as given */
    json_t *opts; /* the argument parsed, where the option has key=value syntax; else NULL */
    bool is_json; /* it was JSON */
};

/* -sandbox */
struct sandbox_options {
    bool enable;
    unsigned obsolete, elevate_privileges, spawn, resource_control; /* enum sandbox_choice */
};
enum sandbox_choice { SANDBOX_ALLOW, SANDBOX_DENY, SANDBOX_CHILDREN };

struct smp_options {
    unsigned cpus, sockets, dies, clusters, cores, threads, maxcpus; /* 0: not given */
};

struct options {
    struct vm_config config; /* serials and ram_backend are filled in by main() */

    char *machine_accel;      /* -machine accel=A:B */
    GPtrArray *accels;        /* char *: names in order of preference */
    unsigned dirty_ring_size; /* -accel kvm,dirty-ring-size= */
    struct smp_options smp;
    uint64_t maxmem; /* -m; 0: not given */
    unsigned memory_slots;
    bool ram_size_given;
    bool mem_lock; /* -overcommit */

    char *name, *process_name;
    uint8_t uuid[16];
    bool uuid_set;
    bool timestamp, timestamp_guest_name; /* -msg */

    /* struct option_use *, in order of the command line */
    GPtrArray *objects, *fds, *chardevs, *serials, *monitors, *globals, *devices, *netdevs;
    GPtrArray *blockdevs, *drives;
    char *qtest, *qtest_log;

    bool paused; /* -S */
    bool no_reboot, no_shutdown, only_migratable;
    bool daemonize, nodefaults, nographic;
    char *pidfile;
    char *migrate_blocker; /* why the guest is not to migrate; NULL: it may */
    struct sandbox_options sandbox;

    GPtrArray *warnings; /* char *: what to say once everything else is right */
    bool done;           /* -help, -version and the like have printed what they are for */
};

/*
 * The options of argv[1...]; NULL with *err set (USER) when one of them is unknown, malformed, not
 * offered, or contradicts another one. The caller frees the result.
 */
struct options *options_parse(int argc, char **argv, GError **err);
void options_free(struct options *o);
typedef struct options options;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(options, options_free)

/* Puts "TEXT: " of a use before the message of an error. */
void option_use_prefix(const struct option_use *use, GError **err);

#endif
