/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The option table: names, arguments, help, handlers. It gives parsing, -help and the list in the
 * man page (scripts/man-options); a new option is a new row.
 *
 * An option that QEMU has and Ferry does not is a row with a reason, so that it is refused by name
 * instead of being taken for a spelling mistake. Handlers check form only; the first error ends the
 * program with status 1 before anything was opened.
 */
#include "options-internal.h"

#include <stdio.h>
#include <string.h>

#include "util/error.h"

static option_fn option_help, option_version;

struct option_row {
    const char *name, *alias; /* without the dash */
    const char *form;         /* the argument; NULL: takes none */
    const char *help;         /* lines; NULL: not listed */
    option_fn *set;
    const char *refused; /* why it is not offered */
};

static const struct option_row option_table[] = {
    { "machine", "M", "[type=]NAME[,PROP=VALUE...]",
      "the machine, `microvm` or `none`; -M help lists machines, -M microvm,help its\n"
      "properties; given several times, the properties add up",
      option_machine, NULL },
    { "accel", NULL, "[accel=]NAME[,PROP=VALUE...]",
      "what runs the vCPUs: kvm (the default) or qtest; kvm takes dirty-ring-size=N\n"
      "(entries per vCPU, a power of two; 0, the default, uses the dirty log) and\n"
      "kernel-irqchip=on",
      option_accel, NULL },
    { "enable-kvm", NULL, NULL, "the same as -accel kvm", option_enable_kvm, NULL },
    { "cpu", NULL, "MODEL[,+FEATURE][,-FEATURE][,PROP=VALUE...]",
      "the vCPUs: host, max or qemu64 (the default)", option_cpu, NULL },
    { "smp", NULL, "[cpus=]N[,sockets=N][,dies=N][,cores=N][,threads=N][,maxcpus=N]",
      "number of vCPUs, up to 16, and how they are grouped", option_smp, NULL },
    { "m", NULL, "[size=]SIZE[,slots=N][,maxmem=SIZE]",
      "size of the guest's memory, in MiB or with a suffix (default 128M); none can be\n"
      "added later, so slots must be 0 and maxmem equal to size",
      option_m, NULL },
    { "mem-path", NULL, "PATH", "take the guest's memory from this file or folder", option_mem_path,
      NULL },
    { "mem-prealloc", NULL, NULL, "touch all of the guest's memory before it starts",
      option_mem_prealloc, NULL },
    { "object", NULL, "TYPE,id=ID[,PROP=VALUE...] | JSON",
      "make an object: memory-backend-ram, memory-backend-memfd or memory-backend-file,\n"
      "rng-builtin or rng-random",
      option_object, NULL },
    { "overcommit", NULL, "[mem-lock=on|off][,cpu-pm=off]",
      "mem-lock=on keeps all memory of the process from being swapped", option_overcommit, NULL },
    { "global", NULL, "DRIVER.PROP=VALUE", "default of a property of all devices of a kind",
      option_global, NULL },

    { "kernel", NULL, "FILE", "boot this kernel (bzImage, or ELF with a PVH entry)", option_kernel,
      NULL },
    { "initrd", NULL, "FILE", "with this initial RAM disk", option_initrd, NULL },
    { "append", NULL, "TEXT", "and this command line", option_append, NULL },
    { "bios", NULL, "FILE", "the firmware (default bios-microvm.bin)", option_bios, NULL },
    { "L", NULL, "DIR", "look for firmware here first", option_L, NULL },
    { "boot", NULL, "[order=DRIVES][,strict=on|off][,menu=off]",
      "accepted without effect, as on QEMU's microvm, whose firmware has nothing to\n"
      "choose from",
      option_boot, NULL },
    { "no-acpi", NULL, NULL, "the same as -machine acpi=off", option_no_acpi, NULL },

    { "device", NULL, "DRIVER[,id=ID][,PROP=VALUE...] | JSON",
      "add a device; -device help lists drivers, -device DRIVER,help its properties", option_device,
      NULL },
    { "chardev", NULL, "BACKEND,id=ID[,PROP=VALUE...]",
      "make a character device: socket, file, stdio, pty or null; all take logfile= and\n"
      "logappend=",
      option_chardev, NULL },
    { "netdev", NULL, "user|tap,id=ID[,PROP=VALUE...] | JSON",
      "make a network back end for a device: user networking inside the process, or a\n"
      "tap interface of the host",
      option_netdev, NULL },
    { "nic", NULL, "none", "accepted; no network device is made that was not asked for", option_net,
      NULL },
    { "net", NULL, "none", "the same", option_net, NULL },
    { "drive", NULL,
      "file=PATH,format=raw,if=none,id=ID[,cache=MODE][,aio=threads|native|io_uring]\n"
      "[,readonly=on|off][,discard=ignore|unmap][,werror=ACTION][,rerror=ACTION]...",
      "open a disk image for drive=ID of a device; -drive help lists everything", option_drive,
      NULL },
    { "blockdev", NULL, "[driver=]DRIVER,node-name=NAME[,PROP=VALUE...] | JSON",
      "the same as a node: file, host_device or raw, as of the QMP command blockdev-add",
      option_blockdev, NULL },
    { "serial", NULL, "DEV",
      "connect a serial port, in order: stdio, null, none, pty, file:PATH, unix:PATH,\n"
      "tcp:HOST:PORT (with ,server=on,wait=off) or chardev:ID",
      option_serial, NULL },
    { "mon", NULL, "[chardev=]ID,mode=control[,pretty=on|off]", "serve QMP on a character device",
      option_mon, NULL },
    { "qmp", NULL, "DEV", "serve QMP, forms as of -serial", option_qmp, NULL },
    { "qmp-pretty", NULL, "DEV", "the same, with indented answers", option_qmp_pretty, NULL },
    { "monitor", NULL, "none | null", "QEMU's monitor for people is not offered, only its absence",
      option_monitor, NULL },
    { "qtest", NULL, "DEV", "serve the qtest protocol, forms as of -serial", option_qtest, NULL },
    { "qtest-log", NULL, "FILE", "log that protocol; none is the default", option_qtest_log, NULL },
    { "add-fd", NULL, "fd=N,set=N[,opaque=TEXT]",
      "put an inherited descriptor into a set, to be opened as /dev/fdset/N", option_add_fd, NULL },

    { "incoming", NULL, "URI | defer",
      "wait for a guest that migrates in: tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND,\n"
      "file:PATH[,offset=N]; defer: as the QMP command migrate-incoming will say",
      option_incoming, NULL },
    { "only-migratable", NULL, NULL, "refuse whatever would keep the guest from migrating",
      option_only_migratable, NULL },
    { "migrate-blocker", NULL, "REASON",
      "keep the guest from migrating; the text says why to whoever tries (not in QEMU;\n"
      "the QMP command migrate-clear-blocker takes it back)",
      option_migrate_blocker, NULL },
    { "S", NULL, NULL, "do not start the guest, the QMP command cont does", option_S, NULL },
    { "rtc", NULL, "[base=utc|localtime|DATETIME][,clock=host|rt|vm][,driftfix=none|slew]",
      "start and source of the real-time clock", option_rtc, NULL },
    { "name", NULL, "[guest=]NAME[,process=NAME][,debug-threads=on|off]",
      "name of the guest and of the process; threads always have names", option_name, NULL },
    { "uuid", NULL, "UUID", "UUID of the guest", option_uuid, NULL },

    { "no-reboot", NULL, NULL, "end instead of rebooting", option_no_reboot, NULL },
    { "no-shutdown", NULL, NULL, "stop instead of ending when the guest shuts down",
      option_no_shutdown, NULL },
    { "action", NULL,
      "[reboot=reset|shutdown][,shutdown=poweroff|pause][,panic=...][,watchdog=...]",
      "what to do at these events; without a panic device or watchdog the last two never\n"
      "matter",
      option_action, NULL },
    { "msg", NULL, "[timestamp=on|off][,guest-name=on|off]", "what begins a line on stderr",
      option_msg, NULL },
    { "daemonize", NULL, NULL, "go into the background when everything is ready", option_daemonize,
      NULL },
    { "pidfile", NULL, "FILE", "write the process id here and keep the file locked", option_pidfile,
      NULL },
    { "sandbox", NULL,
      "on|off[,obsolete=allow|deny][,elevateprivileges=allow|deny|children]\n"
      "[,spawn=allow|deny][,resourcecontrol=allow|deny]",
      "system call filter", option_sandbox, NULL },

    { "display", NULL, "none", "there is no display", option_display, NULL },
    { "vga", NULL, "none", "there is no graphics card", option_vga, NULL },
    { "nographic", NULL, NULL, "no display, and the first serial port on the terminal",
      option_nographic, NULL },
    { "nodefaults", NULL, NULL, "no serial port connected that was not asked for",
      option_nodefaults, NULL },
    { "no-user-config", NULL, NULL, "accepted; Ferry reads no configuration files",
      option_no_user_config, NULL },
    { "audiodev", NULL, "none,id=ID | JSON", "accepted; there is no sound", option_audiodev, NULL },

    { "help", "h", NULL, "this list", option_help, NULL },
    { "version", NULL, NULL, "the version", option_version, NULL },

#define NOT_OFFERED(name, reason)                                                                  \
    {                                                                                              \
        name, NULL, NULL, NULL, NULL, reason                                                       \
    }
    NOT_OFFERED("hda", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("hdb", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("hdc", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("hdd", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("sd", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("mtdblock", "use -drive if=none and -device virtio-blk-device"),
    NOT_OFFERED("pflash", "firmware is given with -bios"),
    NOT_OFFERED("fda", "there are no floppy disks"),
    NOT_OFFERED("fdb", "there are no floppy disks"),
    NOT_OFFERED("cdrom", "there are no CD-ROM drives"),
    NOT_OFFERED("snapshot", "run the guest on a copy of the image"),
    NOT_OFFERED("d", "there is no log of the guest's instructions"),
    NOT_OFFERED("D", "there is no log of the guest's instructions"),
    NOT_OFFERED("trace", "trace points are for perf and bpftrace"),
    NOT_OFFERED("gdb", "there is no debugger server"),
    NOT_OFFERED("s", "there is no debugger server"),
    NOT_OFFERED("loadvm", "snapshots inside disk images are not offered, use -incoming file:"),
    NOT_OFFERED("icount", "vCPUs run on KVM, instructions are not counted"),
    NOT_OFFERED("numa", "guests have one NUMA node"),
    NOT_OFFERED("usb", "there is no USB"),
    NOT_OFFERED("usbdevice", "there is no USB"),
    NOT_OFFERED("soundhw", "there is no sound"),
    NOT_OFFERED("k", "there is no display"),
    NOT_OFFERED("full-screen", "there is no display"),
    NOT_OFFERED("g", "there is no display"),
    NOT_OFFERED("vnc", "there is no display"),
    NOT_OFFERED("spice", "there is no display"),
    NOT_OFFERED("parallel", "there is no parallel port"),
    NOT_OFFERED("smbios", "there are no SMBIOS tables"),
    NOT_OFFERED("acpitable", "tables cannot be added"),
    NOT_OFFERED("fw_cfg", "files cannot be added"),
    NOT_OFFERED("tpmdev", "there is no TPM"),
    NOT_OFFERED("option-rom", "the firmware runs none, use -kernel"),
    NOT_OFFERED("debugcon", "use -serial"),
    NOT_OFFERED("watchdog", "there is no watchdog"),
    NOT_OFFERED("writeconfig", "configuration files are not written"),
    NOT_OFFERED("iscsi", "images are files and block devices of the host"),
    NOT_OFFERED("seed", "nothing that the guest sees is drawn by lot"),
    NOT_OFFERED("singlestep", "vCPUs run on KVM"),
    NOT_OFFERED("fsdev", "there is no file sharing"),
    NOT_OFFERED("virtfs", "there is no file sharing"),
    NOT_OFFERED("readconfig", "configuration files are not read"),
    NOT_OFFERED("runas", "start the program as the user it shall run as"),
    NOT_OFFERED("chroot", "start the program in the root it shall have"),
    NOT_OFFERED("preconfig", "the machine is built from the command line only"),
    NOT_OFFERED("dtb", "x86 guests have no device tree"),
    NOT_OFFERED("set", "give the property where the thing is made"),
    NOT_OFFERED("compat", "deprecated interfaces are not marked"),
    NOT_OFFERED("plugin", "there are no plugins"),
    NOT_OFFERED("dump-vmstate", "scripts/stream-decode.py shows what a stream holds"),
    NOT_OFFERED("watchdog-action", "there is no watchdog"),
    NOT_OFFERED("win2k-hack", "there are no IDE disks"),
    NOT_OFFERED("no-hpet", "there is no HPET"),
    NOT_OFFERED("no-fd-bootchk", "there are no floppy disks"),
    NOT_OFFERED("xen-domid", "Ferry does not run on Xen"),
};

static bool option_version(struct options *o, const char *arg G_GNUC_UNUSED,
                           GError **err G_GNUC_UNUSED)
{
    printf("Ferry version " FERRY_VERSION " (options and QMP of QEMU 7.2)\n");
    o->done = true;
    return true;
}

static void print_indented(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line; line++) {
        printf("      %s\n", *line);
    }
}

static bool option_help(struct options *o, const char *arg G_GNUC_UNUSED,
                        GError **err G_GNUC_UNUSED)
{
    printf("Ferry " FERRY_VERSION ", a virtual machine monitor made for live migration\n"
           "usage: ferry-system-x86_64 [OPTION]...\n"
           "Options begin with one or two dashes. A comma inside a value is written twice.\n\n");
    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        const struct option_row *row = &option_table[i];

        if (!row->help) {
            continue;
        }
        printf("-%s%s%s%s%s\n", row->name, row->alias ? ", -" : "", row->alias ? row->alias : "",
               row->form ? " " : "", row->form ? row->form : "");
        print_indented(row->help);
    }
    o->done = true;
    return true;
}

void option_set_string(char **at, const char *value)
{
    char *old = *at;

    *at = g_strdup(value);
    g_free(old);
}

static void option_use_free(gpointer opaque)
{
    struct option_use *use = opaque;

    g_free(use->text);
    g_free(use->arg);
    json_decref(use->opts);
    g_free(use);
}

void option_remember(GPtrArray *list, const char *option, const char *arg, json_t *opts,
                     bool is_json)
{
    struct option_use *use = g_new0(struct option_use, 1);

    use->text = g_strdup_printf("-%s %s", option, arg);
    use->arg = g_strdup(arg);
    use->opts = opts;
    use->is_json = is_json;
    g_ptr_array_add(list, use);
}

void option_use_prefix(const struct option_use *use, GError **err)
{
    g_prefix_error(err, "%s: ", use->text);
}

static const struct option_row *option_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(option_table); i++) {
        const struct option_row *row = &option_table[i];

        if (strcmp(row->name, name) == 0 || (row->alias && strcmp(row->alias, name) == 0)) {
            return row;
        }
    }
    return NULL;
}

/* Handles argv[*i], and argv[*i + 1] when the option takes an argument. */
static bool parse_one(struct options *o, int argc, char **argv, int *i, GError **err)
{
    const char *word = argv[*i];
    const struct option_row *row;
    const char *arg = NULL;

    if (word[0] != '-' || !word[1]) {
        error_set(err, FERRY_ERROR_USER,
                  "%s: Disks are given with -drive if=none and -device virtio-blk-device", word);
        return false;
    }
    row = option_find(word + (word[1] == '-' ? 2 : 1));
    if (!row) {
        error_set(err, FERRY_ERROR_USER, "%s: invalid option", word);
        return false;
    }
    if (row->refused) {
        error_set(err, FERRY_ERROR_USER, "%s: Ferry does not offer this option: %s", word,
                  row->refused);
        return false;
    }
    if (row->form) {
        if (*i + 1 >= argc) {
            error_set(err, FERRY_ERROR_USER, "%s: requires an argument", word);
            return false;
        }
        arg = argv[++*i];
        if (!g_utf8_validate(arg, -1, NULL)) {
            error_set(err, FERRY_ERROR_USER, "%s: The argument is not valid UTF-8", word);
            return false;
        }
    }
    if (!row->set(o, arg, err)) {
        g_prefix_error(err, "%s%s%s: ", word, arg ? " " : "", arg ? arg : "");
        return false;
    }
    return true;
}

static struct options *options_new(void)
{
    struct options *o = g_new0(struct options, 1);
    struct vm_config *c = &o->config;

    c->pit = c->pic = c->rtc = c->acpi = c->ioapic2 = OPT_AUTO;
    c->isa_serial = c->auto_kernel_cmdline = true;
    c->mem_merge = c->dump_guest_core = true;
    c->default_backing.madvise_merge = c->default_backing.madvise_hugepage =
        c->default_backing.madvise_dump = -1;
    o->accels = g_ptr_array_new_with_free_func(g_free);
    o->warnings = g_ptr_array_new_with_free_func(g_free);
    o->objects = g_ptr_array_new_with_free_func(option_use_free);
    o->fds = g_ptr_array_new_with_free_func(option_use_free);
    o->chardevs = g_ptr_array_new_with_free_func(option_use_free);
    o->blockdevs = g_ptr_array_new_with_free_func(option_use_free);
    o->drives = g_ptr_array_new_with_free_func(option_use_free);
    o->serials = g_ptr_array_new_with_free_func(option_use_free);
    o->monitors = g_ptr_array_new_with_free_func(option_use_free);
    o->globals = g_ptr_array_new_with_free_func(option_use_free);
    o->devices = g_ptr_array_new_with_free_func(option_use_free);
    o->netdevs = g_ptr_array_new_with_free_func(option_use_free);
    return o;
}

struct options *options_parse(int argc, char **argv, GError **err)
{
    g_autoptr(options) o = options_new();

    for (int i = 1; i < argc; i++) {
        if (!parse_one(o, argc, argv, &i, err)) {
            return NULL;
        }
        if (o->done) {
            return g_steal_pointer(&o);
        }
    }
    if (!options_complete_machine(o, err)) {
        return NULL;
    }
    return g_steal_pointer(&o);
}

void options_free(struct options *o)
{
    if (!o) {
        return;
    }
    char *strings[] = {
        o->config.machine,  o->config.memory_backend,
        o->config.cpu,      o->config.kernel,
        o->config.initrd,   o->config.append,
        o->config.bios,     o->config.bios_dir,
        o->config.incoming, (char *)o->config.default_backing.path,
        o->machine_accel,   o->name,
        o->process_name,    o->qtest,
        o->qtest_log,       o->pidfile,
        o->migrate_blocker,
    };
    GPtrArray *lists[] = { o->accels,  o->objects,   o->fds,     o->chardevs,
                           o->serials, o->monitors,  o->globals, o->devices,
                           o->netdevs, o->blockdevs, o->drives,  o->warnings };

    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++) {
        g_free(strings[i]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_ptr_array_unref(lists[i]);
    }
    g_free(o);
}
