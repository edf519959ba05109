/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison of two sides without machines: each rule, once broken and once kept; what a peer
 * may send instead of a description; and the bounds of what is answered.
 */
#include <string.h>

#include "migration/check/compare.h"
#include "migration/check/wire.h"
#include "qapi/json.h"

/* A side as text, with single quotes. */
static const char base[] =
    "{'program':'ferry 0','machine':'microvm','accelerator':'kvm',"
    "'options':[{'name':'pit','value':'on'},{'name':'rtc','value':'off'}],"
    "'vcpus':2,'topology':'sockets=1,dies=1,cores=2,threads=1',"
    "'uuid':'00000000-0000-0000-0000-000000000000',"
    "'blocks':[{'name':'ram0','size':1073741824,'max-size':1073741824,'page-size':4096,"
    "'shared':false,'address':0},"
    "{'name':'acpi','size':4096,'max-size':65536,'page-size':4096,'shared':false,'address':0}],"
    "'populated':536870912,"
    "'cpu':{'vendor':'GenuineIntel','host-vendor':'GenuineIntel','signature':1,'brand':'b',"
    "'phys-bits':46,'features':['fpu','avx2'],'host-features':['fpu','avx2','avx512f'],"
    "'msrs':['PAT','IA32_XSS'],'tsc-khz':2000000,'tsc-scaling':false},"
    "'devices':[{'name':'timer','instance':0,'version':2,'min-version':2,'optional':false},"
    "{'name':'cpu','instance':0,'version':12,'min-version':12,'optional':false},"
    "{'name':'kvmclock','instance':0,'version':1,'min-version':1,'optional':true}],"
    "'capabilities':[{'name':'x-ignore-shared','value':'off'},"
    "{'name':'validate-uuid','value':'off'}],"
    "'blockers':[],"
    "'host':{'cpus':8,'load':0.5,'memory':8589934592,'swap':0}}";

/* The same with a disk, on one host. */
static const char disk[] =
    "'swap':0,'boot':'b0'},'disks':[{'device':'virtio-mmio@1/virtio-blk','name':'d0',"
    "'path':'/a','size':1048576,'read-only':false,'direct':true,'no-flush':false,"
    "'file-device':1,'file-inode':2,'host-alone':true,'deleted':false}]}";

/* With a network (features csum, mrg_rxbuf, version 1), a disk, and ports. */
static const char virtio[] =
    "'swap':0},'virtio':[{'device':'virtio-mmio@1/virtio-net','name':'n0','offered':4295000065,"
    "'accepted':4295000064,'started':true,'queues':9,'settings':["
    "{'name':'force-legacy','value':'off'},{'name':'queues','value':'4'},"
    "{'name':'vnet_hdr','value':'on'},{'name':'ufo','value':'on'},"
    "{'name':'mac','value':'52:54:00:12:34:56'}]},"
    "{'device':'virtio-mmio@2/virtio-blk','name':'d0','offered':516,'accepted':516,"
    "'started':true,'queues':2,'settings':[{'name':'num-queues','value':'2'},"
    "{'name':'logical_block_size','value':'512'}]},"
    "{'device':'virtio-mmio@3/virtio-console','name':'s0','offered':2,'accepted':0,"
    "'started':false,'queues':64,'settings':[{'name':'max_ports','value':'31'},"
    "{'name':'ports','value':'0 1'},{'name':'names','value':'console a'}]}]}";

static MigrationSide *side(const char *text)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    MigrationSide *s;

    g_byte_array_append(bytes, (const guint8 *)text, (guint)strlen(text));
    s = check_side_from_text(bytes, &error);
    g_assert_no_error(error);
    return s;
}

/* The base with one thing changed. */
static MigrationSide *changed(const char *from, const char *to)
{
    g_autoptr(GString) text = g_string_new(base);

    if (from) {
        g_assert_cmpuint(g_string_replace(text, from, to, 1), ==, 1);
    }
    return side(text->str);
}

static char *findings_text(const GPtrArray *list)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < list->len; i++) {
        const MigrationFinding *f = g_ptr_array_index(list, i);

        g_string_append_printf(s, "%s %s %s: %s\n",
                               qapi_migration_finding_severity_str(f->severity),
                               qapi_migration_finding_kind_str(f->kind), f->subject, f->reason);
    }
    return g_string_free(s, FALSE);
}

struct rule {
    bool at_source;          /* what is changed is the source, else the destination */
    const char *from, *to;   /* in the base */
    const char *finding;     /* how the only finding begins; NULL: none */
    const char *and_finding; /* how a second one begins; NULL: none */
};

static const struct rule rules[] = {
    { false, NULL, NULL, NULL, NULL },
    /* machine */
    { true, "'microvm'", "'pc'", "obstacle machine machine: The source's machine type is 'pc' and ",
      NULL },
    { false, "'kvm'", "'qtest'", "obstacle machine accel: ", NULL },
    { false, "'pit','value':'on'", "'pit','value':'off'",
      "obstacle machine pit: The source's machine has pit=on and the destination's off", NULL },
    { true, "{'name':'pit'", "{'name':'new','value':'on'},{'name':'pit'",
      "obstacle machine new: The source's machine has new=on and the destination's no such option",
      NULL },
    { true, "'vcpus':2", "'vcpus':4", "obstacle machine smp: The source has 4 vCPUs", NULL },
    { true, "cores=2,threads=1", "cores=1,threads=2", "warning machine smp: ", NULL },
    /* memory */
    { false, "'ram0','size':1073741824,'max-size':1073741824",
      "'ram0','size':2147483648,'max-size':2147483648",
      "obstacle memory ram0: Memory 'ram0' has 1073741824 bytes on the source and 2147483648",
      NULL },
    { true, "'acpi','size':4096", "'acpi','size':65536", NULL, NULL },
    { true, "'acpi','size':4096", "'acpi','size':131072", "obstacle memory acpi: ", NULL },
    { true, "'ram0'", "'pc.ram'",
      "obstacle memory pc.ram: The destination's machine has no memory 'pc.ram'",
      "obstacle memory ram0: The source's machine has no memory 'ram0'" },
    { false, "'memory':8589934592", "'memory':1048576",
      "obstacle memory host: The guest uses 0.5 GiB", NULL },
    { false, "'memory':8589934592,'swap':0", "'memory':1048576,'swap':8589934592",
      "warning memory host: The guest may come to need 1.0 GiB", NULL },
    { false, "'memory':8589934592,'swap':0}",
      "'memory':8589934592,'swap':8589934592,'memory-limit':4096}",
      "obstacle memory host: The guest uses 0.5 GiB of memory that the destination has yet to "
      "find, "
      "and its host has 0.0 GiB left below the limit of its control group",
      NULL },
    { false, "'page-size':4096,'shared':false,'address':0},{'name':'acpi'",
      "'page-size':4096,'shared':false,'address':0,'room':4096},{'name':'acpi'",
      "obstacle memory ram0: Memory 'ram0' needs 0.5 GiB more, and the file system", NULL },
    { false, "'page-size':4096,'shared':false,'address':0},{'name':'acpi'",
      "'page-size':2097152,'shared':false,'address':0,'room':4096},{'name':'acpi'", NULL, NULL },
    /* processors */
    { false, "'host-vendor':'GenuineIntel'", "'host-vendor':'AuthenticAMD'",
      "obstacle cpu vendor: The source's host has a processor of GenuineIntel and the "
      "destination's one of AuthenticAMD",
      NULL },
    { false, "'vendor':'GenuineIntel'", "'vendor':'AuthenticAMD'",
      "obstacle cpu vendor: The guest sees a processor of GenuineIntel", NULL },
    { false, "'features':['fpu','avx2']", "'features':['fpu']",
      "obstacle cpu avx2: The guest uses the CPU feature 'avx2' (CPUID.07H:EBX bit 5), which the "
      "destination's host has and its -cpu leaves out",
      NULL },
    { true, "'features':['fpu','avx2']", "'features':['fpu','avx2','amx-tile']",
      "obstacle cpu amx-tile: The guest uses the CPU feature 'amx-tile' (CPUID.07H:EDX bit 24), "
      "which the destination's host does not have",
      NULL },
    { true, "'features':['fpu','avx2']", "'features':['fpu','avx2','later']",
      "obstacle cpu later: The guest uses the CPU feature 'later', which", NULL },
    { false, "'features':['fpu','avx2']", "'features':['fpu','avx2','avx512f','mpx']",
      "warning cpu features: The guest would see CPU features that it has not now, avx512f, mpx",
      NULL },
    { true, "'msrs':['PAT'", "'msrs':['PAT','IA32_TSX_CTRL'", "warning cpu IA32_TSX_CTRL: ", NULL },
    { true, "'tsc-khz':2000000", "'tsc-khz':2100000", "warning cpu tsc: ", NULL },
    { true, "'tsc-khz':2000000", "'tsc-khz':2000100", NULL, NULL },
    { true, "'tsc-khz':2000000", "'tsc-khz':2001000", "warning cpu tsc: ", NULL },
    { true, "'tsc-khz':2000000", "'tsc-khz':-9223372036854775808", NULL, NULL },
    { false, "'tsc-khz':2000000,'tsc-scaling':false", "'tsc-khz':2100000,'tsc-scaling':true", NULL,
      NULL },
    { false, "'phys-bits':46", "'phys-bits':39", "warning cpu phys-bits: ", NULL },
    { false, "'phys-bits':46", "'phys-bits':52", NULL, NULL },
    { false, "'signature':1", "'signature':2", "warning cpu model: ", NULL },
    /* devices */
    { false, "'timer','instance':0", "'timer','instance':1",
      "obstacle device timer: The destination's machine has no device 'timer' (instance 0)",
      "obstacle device timer: The source's machine has no device 'timer' (instance 1)" },
    { true, "'version':2,'min-version':2", "'version':3,'min-version':2",
      "obstacle device timer: The source saves version 3 of device 'timer' and the destination "
      "knows up to 2",
      NULL },
    { true, "'version':2,'min-version':2", "'version':1,'min-version':1",
      "obstacle device timer: The source saves version 1 of device 'timer' and the destination "
      "knows none before 2",
      NULL },
    { true, ",{'name':'kvmclock','instance':0,'version':1,'min-version':1,'optional':true}", "",
      NULL, NULL },
    { false, ",{'name':'kvmclock','instance':0,'version':1,'min-version':1,'optional':true}", "",
      "obstacle device kvmclock: The destination's machine has no", NULL },
    /* capabilities, UUID, blockers */
    { true, "'x-ignore-shared','value':'off'", "'x-ignore-shared','value':'on'",
      "obstacle capability x-ignore-shared: Capability 'x-ignore-shared' is on on the source and "
      "off on the destination",
      NULL },
    { true, "'capabilities':[", "'capabilities':[{'name':'later','value':'on'},",
      "obstacle capability later: ", NULL },
    { true, "'capabilities':[", "'capabilities':[{'name':'later','value':'off'},", NULL, NULL },
    { true, "'uuid':'00", "'uuid':'10", NULL, NULL },
    { false, "'blockers':[]", "'blockers':['One','Two']",
      "obstacle blocker destination: The destination takes no guest: One",
      "obstacle blocker destination: The destination takes no guest: Two" },
    /* the host */
    { false, "'cpus':8", "'cpus':1", "warning host cpus: The guest has 2 vCPUs", NULL },
    { false, "'load':0.5", "'load':7.5", "warning host cpus: Of the 8 CPUs", NULL },
    /* a newer peer */
    { true, "{'program'", "{'later':{'x':[1,{'y':2}]},'program'", NULL, NULL },
    { true, "'phys-bits':46", "'phys-bits':46,'later':'x'", NULL, NULL },
};

static void test_rules(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        const struct rule *r = &rules[i];
        g_autoptr(MigrationSide) here = changed(NULL, NULL);
        g_autoptr(MigrationSide) other = changed(r->from, r->to);
        g_autoptr(GPtrArray) found = findings_new();
        g_autofree char *text = NULL;
        unsigned wanted = !!r->finding + !!r->and_finding;

        if (r->at_source) {
            here->populated = 0;
        } else {
            other->populated = 0;
        }
        sides_compare(r->at_source ? other : here, r->at_source ? here : other, found);
        findings_sort(found);
        text = findings_text(found);
        g_test_message("%s -> %s: %s", r->from ? r->from : "the same", r->to ? r->to : "", text);
        g_assert_cmpuint(found->len, ==, wanted);
        if (r->finding) {
            g_assert_true(g_str_has_prefix(text, r->finding));
        }
        if (r->and_finding) {
            g_assert_nonnull(strstr(text, r->and_finding));
        }
    }
}

static void test_uuid(void)
{
    static const struct {
        bool there, here;
        const char *severity;
    } cases[] = {
        { false, false, NULL },
        { true, false, "warning" },
        { false, true, "warning" },
        { true, true, "obstacle" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        static const char off[] = "'validate-uuid','value':'off'",
                          on[] = "'validate-uuid','value':'on'";
        g_autoptr(MigrationSide) s = changed(off, cases[i].there ? on : off);
        g_autoptr(MigrationSide) d = changed(off, cases[i].here ? on : off);
        g_autoptr(GPtrArray) found = findings_new();

        s->uuid[0] = '1';
        sides_compare(s, d, found);
        g_assert_cmpuint(found->len, ==, cases[i].severity ? 1 : 0);
        if (cases[i].severity) {
            g_autofree char *text = findings_text(found);

            g_assert_true(g_str_has_prefix(text, cases[i].severity));
            g_assert_nonnull(strstr(text, " uuid uuid: "));
        }
    }
}

static void test_disks(void)
{
    static const struct {
        const char *from, *to; /* in the destination's disk; NULL: nothing */
        const char *both;      /* what else is so on both sides, put for */
        const char *instead;
        const char *finding; /* NULL: none */
    } cases[] = {
        { NULL, NULL, NULL, NULL, NULL },
        { "'/a'", "'/b'", NULL, NULL, NULL },
        { "'direct':true", "'direct':false", NULL, NULL, NULL },
        { "'size':1048576", "'size':512", NULL, NULL,
          "obstacle disk d0: Disk 'd0' has 1048576 bytes on the source and 512 on the" },
        { "'read-only':false", "'read-only':true", NULL, NULL,
          "obstacle disk d0: Disk 'd0' is written on the source and only read on the dest" },
        { "'deleted':false", "'deleted':true", NULL, NULL, "warning disk d0: The file '/a' of " },
        { "'file-inode':2", "'file-inode':3", NULL, NULL,
          "obstacle disk d0: Disk 'd0' is '/a' on the source and '/a', another file" },
        { "'file-inode':2", "'file-inode':3", "'read-only':false", "'read-only':true", NULL },
        { "'file-device':1", "'file-device':2", NULL, NULL,
          "warning disk d0: Disk 'd0' is '/a' on the source and '/a' on the destination of the "
          "sa" },
        /* block devices */
        { "'file-device':1", "'file-device':2", "'file-inode':2", "'file-inode':0",
          "warning disk d0: Disk 'd0' is the block device '/a' on the source and '/a' on the" },
        { "virtio-mmio@1", "virtio-mmio@2", NULL, NULL, NULL }, /* found among the devices */
        { "'boot':'b0'", "'boot':'b1'", NULL, NULL,
          "warning disk d0: Disk 'd0' is '/a' in a filesystem of the source's host alone" },
        { "'boot':'b0'", "'boot':'b1'", "'host-alone':true", "'host-alone':false", NULL },
        { "'boot':'b0'", "'boot':'b1'",
          "'direct':true,'no-flush':false,'file-device':1,'file-inode':2,'host-alone':true",
          "'direct':false,'no-flush':false,'file-device':1,'file-inode':2,'host-alone':false",
          "warning disk d0: Disk 'd0' goes through the page cache of the source's host" },
        { "'boot':'b0'", "'boot':'b1'", "'read-only':false", "'read-only':true", NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) there = g_string_new(base);
        g_autoptr(GString) here = NULL;
        g_autoptr(GPtrArray) found = findings_new();

        g_string_replace(there, "'swap':0}}", disk, 1);
        if (cases[i].both) {
            g_assert_cmpuint(g_string_replace(there, cases[i].both, cases[i].instead, 1), ==, 1);
        }
        here = g_string_new(there->str);
        if (cases[i].from) {
            g_assert_cmpuint(g_string_replace(here, cases[i].from, cases[i].to, 1), ==, 1);
        }
        g_autoptr(MigrationSide) s = side(there->str);
        g_autoptr(MigrationSide) d = side(here->str);

        sides_compare(s, d, found);
        g_autofree char *text = findings_text(found);
        const char *want = cases[i].finding;

        if (found->len != (want ? 1 : 0) || (want && !g_str_has_prefix(text, want))) {
            g_error("case %zu: %s", i, text);
        }
    }
}

static void test_virtio(void)
{
    static const struct {
        bool at_source; /* what is changed is the source, else the destination */
        const char *from, *to;
        const char *finding; /* how the only finding begins; NULL: none */
    } cases[] = {
        { false, NULL, NULL, NULL },
        { true, "'accepted':4295000064", "'accepted':4563435520",
          "obstacle device n0: The guest's driver of device 'n0' uses indirect_desc, which the" },
        { false, "'offered':4295000065", "'offered':4294967297",
          "obstacle device n0: The guest's driver of device 'n0' uses mrg_rxbuf, which the" },
        { true, "'accepted':4295000064", "'accepted':1152921508901847040",
          "obstacle device n0: The guest's driver of device 'n0' uses bit 60, which the" },
        /* not used: nothing to say of one that runs, and something of one that does not */
        { false, "'offered':4295000065", "'offered':4295000064", NULL },
        { true, "'accepted':4295000064,'started':true", "'accepted':0,'started':false", NULL },
        { false, "'offered':4295000065,'accepted':4295000064,'started':true",
          "'offered':4295000065,'accepted':0,'started':false", NULL },
        { true, "'offered':4295000065,'accepted':4295000064,'started':true",
          "'offered':4295262209,'accepted':0,'started':false",
          "warning device n0: Device 'n0' offers ctrl_rx, which the destination's does not" },
        { true, "'started':true,'queues':9", "'started':true,'queues':10",
          "obstacle device n0: Device 'n0' has 10 queues on the source and 9 on the" },
        { false, "'started':true,'queues':9", "'started':true,'queues':10", NULL },
        /* settings */
        { false, "'force-legacy','value':'off'", "'force-legacy','value':'on'",
          "obstacle device n0: Device 'n0' has force-legacy=off on the source and force-legacy=on "
          "on "
          "the destination: give both sides the same -global virtio-mmio.force-legacy" },
        { true, "'queues','value':'4'", "'queues','value':'1'",
          "obstacle device n0: Device 'n0' has queues=1 on the source and queues=4 on the" },
        { false, "'vnet_hdr','value':'on'", "'vnet_hdr','value':'off'",
          "obstacle device n0: Device 'n0' has vnet_hdr=on on the source and vnet_hdr=off on" },
        { true, "'vnet_hdr','value':'on'", "'vnet_hdr','value':'off'", NULL },
        { false, "'ufo','value':'on'", "'ufo','value':'off'",
          "obstacle device n0: Device 'n0' has ufo=on on the source and ufo=off on" },
        { false, "'mac','value':'52:54:00:12:34:56'", "'mac','value':'52:54:00:12:34:57'",
          "warning device n0: Device 'n0' has mac=52:54:00:12:34:56 on the source and mac=" },
        { false, "'num-queues','value':'2'", "'num-queues','value':'1'",
          "obstacle device d0: Device 'd0' has num-queues=2 on the source and num-queues=1 on" },
        { false, "'num-queues','value':'2'", "'num-queues','value':'4'",
          "warning device d0: Device 'd0' has num-queues=2 on the source and num-queues=4 on" },
        { true, "'logical_block_size','value':'512'", "'logical_block_size','value':'4096'",
          "obstacle device d0: Device 'd0' has logical_block_size=4096 on the source and" },
        { false, "'ports','value':'0 1'", "'ports','value':'1'",
          "obstacle device s0: Device 's0' has ports=0 1 on the source and ports=1 on" },
        { false, "'names','value':'console a'", "'names','value':'console b'",
          "warning device s0: Device 's0' has names=console a on the source and names=console b" },
        { false, "'max_ports','value':'31'", "'max_ports','value':'8'",
          "obstacle device s0: Device 's0' has max_ports=31 on the source and max_ports=8" },
        /* found among the disks, the sections; of a newer peer */
        { true, "'offered':516,'accepted':516", "'offered':548,'accepted':548", NULL },
        { true, "@2/virtio-blk", "@3/virtio-blk", NULL },
        { true, "'name':'mac'", "'name':'later'", NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) text = g_string_new(base);
        g_autoptr(GString) other = NULL;
        g_autoptr(GPtrArray) found = findings_new();
        const char *want = cases[i].finding;

        g_string_replace(text, "'swap':0}}", virtio, 1);
        other = g_string_new(text->str);
        if (cases[i].from) {
            g_assert_cmpuint(g_string_replace(other, cases[i].from, cases[i].to, 1), ==, 1);
        }
        g_autoptr(MigrationSide) same = side(text->str);
        g_autoptr(MigrationSide) changed_side = side(other->str);

        sides_compare(cases[i].at_source ? changed_side : same,
                      cases[i].at_source ? same : changed_side, found);
        g_autofree char *said = findings_text(found);

        if (found->len != (want ? 1 : 0) || (want && !g_str_has_prefix(said, want))) {
            g_error("case %zu: %s", i, said);
        }
    }
}

/* An obstacle that explains others stands alone; two that do not are both said. */
static void test_virtio_explained(void)
{
    g_autoptr(GString) text = g_string_new(base);
    g_autoptr(GString) other = NULL;
    g_autoptr(GPtrArray) found = findings_new();

    g_string_replace(text, "'swap':0}}", virtio, 1);
    g_string_replace(text, "'accepted':4295000064", "'accepted':4295000065", 1);
    other = g_string_new(text->str);
    g_string_replace(other, "'offered':4295000065", "'offered':4294967296", 1);
    g_string_replace(other, "'vnet_hdr','value':'on'", "'vnet_hdr','value':'off'", 1);
    g_autoptr(MigrationSide) s = side(text->str);
    g_autoptr(MigrationSide) d = side(other->str);

    sides_compare(s, d, found);
    g_autofree char *said = findings_text(found);
    g_assert_cmpuint(found->len, ==, 2);
    g_assert_nonnull(strstr(said, "vnet_hdr=on on the source"));
    g_assert_nonnull(strstr(said, "'n0' uses mrg_rxbuf, which"));
}

/* invtsc makes an obstacle of another TSC frequency */
static void test_invtsc(void)
{
    g_autoptr(MigrationSide) s =
        changed("'features':['fpu','avx2']", "'features':['fpu','invtsc']");
    g_autoptr(MigrationSide) d =
        changed("'features':['fpu','avx2']", "'features':['fpu','invtsc']");
    g_autoptr(GPtrArray) found = findings_new();

    s->cpu->tsc_khz = 2500000;
    sides_compare(s, d, found);
    g_assert_cmpuint(found->len, ==, 1);
    g_assert_true(findings_have_obstacle(found));
}

static void test_x_ignore_shared(void)
{
    static const char off[] = "'x-ignore-shared','value':'off'";
    static const char on[] = "'x-ignore-shared','value':'on'";
    g_autoptr(MigrationSide) s = changed(off, on);
    g_autoptr(MigrationSide) d = changed(off, on);
    MigrationSideBlock *b = g_ptr_array_index(d->blocks, 0);
    g_autoptr(GPtrArray) found = findings_new();

    b->shared = true;
    b->address = 0x1000;
    d->host->memory = 0; /* it does not travel, so it needs no room */
    sides_compare(s, d, found);
    g_autofree char *text = findings_text(found);
    g_assert_cmpuint(found->len, ==, 1);
    g_assert_true(g_str_has_prefix(text, "obstacle memory ram0: Memory 'ram0' is at 0x0 of"));
}

/* Huge pages are there from the start; what they hold is no room for other memory. */
static void test_huge_pages(void)
{
    g_autoptr(MigrationSide) s = changed("'acpi','size':4096,'max-size':65536",
                                         "'acpi','size':1073741824,'max-size':1073741824");
    g_autoptr(MigrationSide) d = changed("'acpi','size':4096,'max-size':65536",
                                         "'acpi','size':1073741824,'max-size':1073741824");
    g_autoptr(GPtrArray) found = findings_new();
    MigrationSideBlock *b = g_ptr_array_index(d->blocks, 0);

    b->page_size = 2 << 20;
    d->populated = b->size;
    d->host->memory = 1 << 20;
    sides_compare(s, d, found);
    g_assert_true(findings_have_obstacle(found));
}

/* ---- what peers may send ---- */

static void test_nonsense(void)
{
    static const char *const texts[] = {
        "",
        " ",
        "{}",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{",
        "{'program':1}",
        "\xff\xfe",
        "{'program':'x','program':'y'}",
        "{'program':{}}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();
        g_autoptr(GError) error = NULL;

        g_byte_array_append(bytes, (const guint8 *)texts[i], (guint)strlen(texts[i]));
        g_assert_null(check_side_from_text(bytes, &error));
        g_assert_nonnull(error);
        g_assert_true(g_str_has_prefix(error->message, "The peer's description makes no sense: "));
        g_clear_error(&error);
        g_assert_null(check_answer_from_text(bytes, &error));
        g_assert_nonnull(error);
    }
}

/* Each member in turn is missing, is of another type, or is huge. */
static void test_members(void)
{
    g_autoptr(json_t) whole = qapi_json_parse(base, NULL);
    const char *key;
    json_t *unused;

    json_object_foreach(whole, key, unused)
    {
        for (unsigned how = 0; how < 4; how++) {
            g_autoptr(json_t) copy = json_deep_copy(whole);
            g_autoptr(GByteArray) bytes = g_byte_array_new();
            g_autoptr(GError) error = NULL;
            g_autofree char *text = NULL;

            if (how == 0) {
                json_object_del(copy, key);
            } else {
                json_object_set_new(copy, key,
                                    how == 1   ? json_null()
                                    : how == 2 ? json_true()
                                               : json_pack("[[[]]]"));
            }
            text = qapi_json_dump(copy, false);
            g_byte_array_append(bytes, (const guint8 *)text, (guint)strlen(text));
            g_autoptr(MigrationSide) s = check_side_from_text(bytes, &error);
            if (!g_str_equal(key, "cpu") || how) {
                g_assert_null(s);
                g_assert_nonnull(error);
            }
        }
    }
}

/* A newer destination may know more kinds of findings, and say more about them. */
static void test_newer(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    static const char text[] =
        "{'program':'ferry 9','more':1,'findings':["
        "{'severity':'warning','kind':'weather','subject':'s','reason':'It rains','cloud':[1]},"
        "{'severity':'disaster','kind':'cpu','subject':'s','reason':'It burns'}]}";

    g_byte_array_append(bytes, (const guint8 *)text, sizeof(text) - 1);
    g_autoptr(MigrationCheckAnswer) a = check_answer_from_text(bytes, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(a->findings->len, ==, 2);
    const MigrationFinding *rain = a->findings->pdata[0], *fire = a->findings->pdata[1];
    g_assert_cmpint(rain->severity, ==, MIGRATION_FINDING_SEVERITY_WARNING);
    g_assert_cmpstr(rain->reason, ==, "It rains");
    g_assert_cmpint(fire->severity, ==, MIGRATION_FINDING_SEVERITY_OBSTACLE);
}

static void test_depth(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < CHECK_MAX_BYTES; i++) {
        g_byte_array_append(bytes, (const guint8 *)"[", 1);
    }
    g_assert_null(check_side_from_text(bytes, &error));
    g_assert_nonnull(error);
}

static void test_chunks(void)
{
    g_autoptr(GByteArray) text = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *big = g_malloc0(65536);
    bool last = false, ok = true;
    unsigned taken = 0;

    g_assert_true(check_collect(text, (const uint8_t *)"\0abc", 4, &last, &error) && !last);
    g_assert_true(check_collect(text, (const uint8_t *)"\1", 1, &last, &error) && last);
    g_assert_cmpuint(text->len, ==, 3);
    /* pieces of nothing would be a way to keep the other side busy for ever */
    g_assert_false(check_collect(text, (const uint8_t *)"\0", 1, &last, &error));
    g_clear_error(&error);
    g_assert_false(check_collect(text, (const uint8_t *)"\2abc", 4, &last, &error));
    g_clear_error(&error);
    while (ok && taken < 100) {
        ok = check_collect(text, big, 65536, &last, &error);
        taken++;
    }
    g_assert_false(ok);
    g_assert_cmpuint(text->len, <=, CHECK_MAX_BYTES);
    g_assert_nonnull(strstr(error->message, "more than"));
}

/* Names of a peer come back in findings: printable, short, and not without end. */
static void test_bounds(void)
{
    g_autoptr(MigrationSide) s = changed(NULL, NULL);
    g_autoptr(MigrationSide) d = changed(NULL, NULL);
    g_autoptr(GPtrArray) found = findings_new();
    g_autofree char *name = g_strnfill(5000, 'x');
    g_autoptr(MigrationCheckAnswer) answer = g_new0(MigrationCheckAnswer, 1);
    g_autoptr(json_t) json = NULL;
    g_autofree char *text = NULL;
    const MigrationFinding *f;

    g_ptr_array_add(s->cpu->features, g_strdup("a\x1b[31m\nb\xe2\x80\xaeü\xff"));
    for (unsigned i = 0; i < 2000; i++) {
        g_ptr_array_add(s->cpu->features, g_strdup_printf("üü%u%s", i, name));
    }
    sides_compare(s, d, found);
    f = g_ptr_array_index(found, 0);
    g_assert_cmpstr(f->subject, ==, "a [31m b???ü\xef\xbf\xbd");
    g_assert_cmpuint(found->len, ==, FINDINGS_MAX);
    f = g_ptr_array_index(found, FINDINGS_MAX - 1);
    g_assert_cmpstr(f->reason, ==, "There are more findings than can be listed");
    for (unsigned i = 0; i < found->len; i++) {
        f = g_ptr_array_index(found, i);
        g_assert_cmpuint(strlen(f->subject), <=, FINDING_MAX_SUBJECT);
        g_assert_cmpuint(strlen(f->reason), <=, FINDING_MAX_SENTENCE);
        g_assert_true(g_utf8_validate(f->subject, -1, NULL));
    }
    answer->program = g_strdup("p");
    answer->findings = g_ptr_array_ref(found);
    json = qapi_migration_check_answer_to_json(answer);
    text = qapi_json_dump(json, false);
    g_assert_cmpuint(strlen(text), <=, CHECK_MAX_BYTES);
}

static void test_list(void)
{
    g_autoptr(GPtrArray) list = findings_new();
    g_autoptr(GPtrArray) more = findings_new();
    g_autofree char *text = NULL;

    finding_warning(list, MIGRATION_FINDING_KIND_HOST, "a", "A");
    g_assert_false(findings_have_obstacle(list));
    finding_obstacle(more, MIGRATION_FINDING_KIND_HOST, "b", "B");
    finding_obstacle(more, MIGRATION_FINDING_KIND_HOST, "c", "C");
    findings_append(list, more);
    g_assert_cmpuint(more->len, ==, 0);
    findings_sort(list);
    g_assert_true(findings_have_obstacle(list));
    text = findings_obstacles_text(list);
    g_assert_cmpstr(text, ==, "B; C");
    /* an obstacle that does not fit any more is one all the same */
    g_ptr_array_set_size(list, 0);
    for (unsigned i = 0; i < FINDINGS_MAX; i++) {
        finding_warning(list, MIGRATION_FINDING_KIND_HOST, "a", "A");
    }
    finding_obstacle(list, MIGRATION_FINDING_KIND_HOST, "b", "B");
    g_assert_true(findings_have_obstacle(list));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/check/rules", test_rules);
    g_test_add_func("/check/uuid", test_uuid);
    g_test_add_func("/check/disks", test_disks);
    g_test_add_func("/check/virtio", test_virtio);
    g_test_add_func("/check/virtio-explained", test_virtio_explained);
    g_test_add_func("/check/invtsc", test_invtsc);
    g_test_add_func("/check/x-ignore-shared", test_x_ignore_shared);
    g_test_add_func("/check/huge-pages", test_huge_pages);
    g_test_add_func("/check/nonsense", test_nonsense);
    g_test_add_func("/check/members", test_members);
    g_test_add_func("/check/newer", test_newer);
    g_test_add_func("/check/depth", test_depth);
    g_test_add_func("/check/chunks", test_chunks);
    g_test_add_func("/check/bounds", test_bounds);
    g_test_add_func("/check/list", test_list);
    return g_test_run();
}
