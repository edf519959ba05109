# SPDX-License-Identifier: GPL-2.0-or-later
"""
The command line: every option's malformed forms give one sentence that names the option or the
value, and exit status 1; what is well-formed is taken; help, man page and table agree.
"""

import os
import re
import subprocess
import unittest

import ferry_cli
from ferry_cli import NAME, run

NONE = ["-M", "none", "-accel", "qtest", "-display", "none"]
RAM = "memory-backend-ram,id=m,size=16M"

# option -> [(argument, what the sentence must contain)]; None: the argument is missing
BAD = {
    "-netdev": [
        (None, "requires an argument"),
        ("user", "'id'"),
        ("nope,id=a", "'nope'"),
        ("bridge,id=a,br=br0", "'bridge': make a tap in the bridge"),
        ('{"type":"vhost-user","id":"a"}', "'vhost-user': frames must pass"),
        ("id=a", "'type'"),
        ("user,id=1", "'id'"),
        ("user,id=a,smb=/tmp", "'smb'"),
        ("user,id=a,guestfwd=tcp::1-cmd:cat", "'guestfwd'"),
        ("user,id=a,restrict=maybe", "'restrict'"),
        ("user,id=a,net=nowhere", "'net'"),
        ("user,id=a,hostfwd=tcp::1", "'tcp::1'"),
        ("tap,id=a,vhost=on", "'vhost'"),
        ("tap,id=a,br=br0", "'br'"),
        ("tap,id=a,queues=0", "'queues'"),
        ("tap,id=a,fd=1,fds=2:3", "'fds'"),
        ("tap,id=a,fd=nofd", "'nofd'"),
        ("tap,id=a,fd=0,script=no", "script="),
        ("tap,id=a,ifname=a-name-that-is-too-long", "'ifname'"),
        ('{"type":"user"}', "'id'"),
        ('{"type":"user","id":"a","hostfwd":"tcp::1-:2"}', "'hostfwd'"),
    ],
    "-nic": [(None, "requires an argument"), ("user", "'none'")],
    "-net": [(None, "requires an argument"), ("nic", "'none'"), ("none,x=1", "'none'")],
    "-M": [
        (None, "requires an argument"),
        ("nope", "Machine type 'nope'"),
        ("pc", "Machine type 'pc'"),
        ("microvm,foo=1", "'foo'"),
        ("microvm,pit=maybe", "'pit'"),
        ("microvm,pit", "'pit'"),
        ("microvm,nopit", "'nopit'"),
        ("microvm,isa-serial=auto", "'isa-serial'"),
        ("microvm,acpi=2", "'acpi'"),
        ("microvm,usb=on", "'usb'"),
        ("microvm,pcie=on", "'pcie'"),
        ("microvm,smm=on", "'smm'"),
        ("microvm,x-option-roms=on", "'x-option-roms'"),
        ("microvm,kernel-irqchip=off", "'kernel-irqchip'"),
        ("microvm,smp.cpus=x", "'smp.cpus'"),
        ("microvm,smp.cpus=0", "'smp.cpus'"),
        ("microvm,=1", "''"),
        ("microvm,a b=1", "'a b'"),
        ("microvm,memory-backend=nope", "'nope'"),
    ],
    "-machine": [("nope", "'nope'")],
    "-accel": [
        (None, "requires an argument"),
        ("", "'accel'"),
        ("tcg", "'tcg'"),
        ("foo:bar", "'foo:bar'"),
        ("kvm,foo=1", "'foo'"),
        ("kvm,dirty-ring-size=3", "'dirty-ring-size'"),
        ("kvm,dirty-ring-size=abc", "'dirty-ring-size'"),
        ("kvm,dirty-ring-size=-1", "'dirty-ring-size'"),
        ("kvm,dirty-ring-size=4294967296", "'dirty-ring-size'"),
        ("kvm,kernel-irqchip=off", "'kernel-irqchip'"),
        ("qtest,dirty-ring-size=4", "'dirty-ring-size'"),
        ("kernel-irqchip=on", "'accel'"),
    ],
    "-cpu": [(None, "requires an argument"), ("", "CPU model"), (",+x", "CPU model"),
             ("nope", "'nope'"), ("host,+nosuch", "nosuch"), ("host,nosuch=on", "nosuch")],
    "-drive": [
        (None, "requires an argument"),
        ("", "if=none"),
        ("disk.img", "if=none"),
        ("if=none,id=d", "'file'"),
        ("file=/dev/null,format=raw,if=ide", "virtio-blk-device"),
        ("file=/dev/null,if=none", "format=raw"),
        ("file=/dev/null,format=raw,if=none", "neither a file nor a block device"),
        ("file=/nonexistent,format=raw,if=none,id=d", "No such file or directory"),
        ("file=/nonexistent,format=qcow2,if=none,id=d", "'qcow2'"),
        ("file=/nonexistent,format=raw,if=none,id=d,snapshot=on", "'snapshot'"),
    ],
    "-blockdev": [
        (None, "requires an argument"),
        ("", "'driver'"),
        ("qcow2,node-name=a", "'qcow2': images are raw"),
        ("file,filename=/nonexistent,node-name=a", "No such file or directory"),
        ("file,filename=/nonexistent", "'node-name'"),
        ("{", "JSON"),
    ],
    "-smp": [
        (None, "requires an argument"),
        ("0", "'cpus'"),
        ("-1", "'cpus'"),
        ("abc", "'cpus'"),
        ("1.5", "'cpus'"),
        ("17", "17"),
        ("4294967297", "'cpus'"),
        ("300", "300"),
        ("cpus=2,foo=3", "'foo'"),
        ("4,cores=3", "product of the hierarchy"),
        ("4,sockets=2147483647,cores=2147483647,threads=2147483647", "product of the hierarchy"),
        ("2,maxcpus=4", "maxcpus"),
        ("2,maxcpus=1", "maxcpus"),
        ("2,clusters=2", "'clusters'"),
        ("2,threads=0", "'threads'"),
        ("2,sockets", "'sockets'"),
    ],
    "-m": [
        (None, "requires an argument"),
        ("abc", "'size'"),
        ("-1", "'size'"),
        ("4Z", "'size'"),
        ("4MM", "'size'"),
        ("4 M", "'size'"),
        ("18446744073709551616", "'size'"),
        ("16E", "'size'"),
        ("9E", "'size'"),
        ("0.5B", "'size'"),
        ("size=4,foo=1", "'foo'"),
        ("64,slots=2", "slots"),
        ("64,slots=a", "'slots'"),
        ("64,maxmem=1G", "maxmem"),
        ("64,slots=2,maxmem=1G", "maxmem"),
        ("64,maxmem=x", "'maxmem'"),
    ],
    "-device": [
        (None, "requires an argument"),
        ("", "'driver'"),
        ("id=a", "'driver'"),
        ("nope", "'nope'"),
        ("virtio-blk-pci,drive=a", "on this machine it is 'virtio-blk-device'"),
        ("virtio-net", "on this machine it is 'virtio-net-device'"),
        ("ioapic", "'ioapic'"),
        ("virtio-rng-device", "'none'"),
        ("virtio-rng-device,id=1a", "'id'"),
        ("virtio-rng-device,foo=1", "'virtio-rng-device.foo'"),
        ("virtio-rng-device,period=x", "'virtio-rng-device.period'"),
        ("virtio-rng-device,max-bytes=-1", "'virtio-rng-device.max-bytes'"),
        ("virtio-rng-device,event_idx=maybe", "'virtio-rng-device.event_idx'"),
        ('{"driver":"virtio-rng-device","period":[1]}', "'period'"),
        ('{"driver":"virtio-rng-device","id":1}', "'id'"),
        ('{"driver":1}', "'driver'"),
        ('{"driver":', "JSON"),
    ],
    "-mem-path": [(None, "requires an argument")],
    "-object": [
        (None, "requires an argument"),
        ("", "'qom-type'"),
        ("id=a", "'qom-type'"),
        ("foo,id=a", "'foo'"),
        ("iothread,id=a", "'iothread': all devices share"),
        ("memory-backend-ram", "'id'"),
        ("memory-backend-ram,id=a", "'size'"),
        ("memory-backend-ram,id=a,size=0", "'size'"),
        ("memory-backend-ram,id=a,size=abc", "'size'"),
        ("rng-builtin", "'id'"),
        ("rng-builtin,id=a,opened=on", "'opened'"),
        ("rng-builtin,id=a,filename=/dev/urandom", "'filename'"),
        ("rng-random,id=a,foo=1", "'foo'"),
        ("memory-backend-ram,id=1a,size=1M", "'id'"),
        ("memory-backend-ram,id=a/b,size=1M", "'id'"),
        ("memory-backend-ram,id=a,size=1M,foo=1", "'foo'"),
        ("memory-backend-ram,id=a,size=1M,share=maybe", "'share'"),
        ("memory-backend-ram,id=a,size=1M,mem-path=/x", "'mem-path'"),
        ("memory-backend-ram,id=a,size=1M,prealloc-threads=4", "'prealloc-threads'"),
        ("memory-backend-ram,id=a,size=1M,policy=bind", "'policy'"),
        ("memory-backend-ram,id=a,size=1M,policy=foo", "'foo'"),
        ("memory-backend-ram,id=a,size=1M,reserve=off", "'reserve'"),
        ("memory-backend-ram,id=a,size=1M,x-use-canonical-path-for-ramblock-id=on",
         "'x-use-canonical-path-for-ramblock-id'"),
        ("memory-backend-file,id=a,size=1M", "'mem-path'"),
        ("memory-backend-file,id=a,size=1M,mem-path=", "'mem-path'"),
        ("memory-backend-file,id=a,size=1M,mem-path=/x,align=2M", "'align'"),
        ("memory-backend-file,id=a,size=1M,mem-path=/x,readonly=on", "'readonly'"),
        ("memory-backend-file,id=a,size=1M,mem-path=/x,discard-data=on", "'discard-data'"),
        ("memory-backend-memfd,id=a,size=1M,hugetlbsize=2M", "'hugetlbsize'"),
        ("memory-backend-memfd,id=a,size=1M,hugetlb=on,hugetlbsize=3M", "'hugetlbsize'"),
        ("memory-backend-memfd,id=a,size=1M,seal=on", "'seal'"),
        ("{}", "'qom-type'"),
        ("{bad", "JSON"),
        ('{"qom-type":"memory-backend-ram"} {', "JSON"),
        ('{"qom-type":"memory-backend-ram"}', "'id'"),
        ('{"qom-type":"memory-backend-ram","id":"a","size":"16M"}', "'size'"),
        ('{"qom-type":"memory-backend-ram","id":"a","size":-1.5}', "'size'"),
        ('{"qom-type":"memory-backend-ram","id":3,"size":4096}', "'id'"),
        ('{"qom-type":"memory-backend-ram","id":"a","size":4096,"share":"on"}', "'share'"),
    ],
    "-overcommit": [
        (None, "requires an argument"),
        ("foo=1", "'foo'"),
        ("mem-lock=maybe", "'mem-lock'"),
        ("cpu-pm=on", "'cpu-pm'"),
        ("foo", "'foo'"),
    ],
    "-global": [
        (None, "requires an argument"),
        ("foo", "'foo'"),
        ("a.b", "'a.b'"),
        ("nosuch.prop=1", "'nosuch'"),
        (".b=1", "DRIVER"),
        ("a.=1", "DRIVER"),
        ("driver=a,property=b", "property="),
        ("driver=a,property=b,value=c,foo=d", "property="),
        ("driver=nosuch,property=b,value=c", "'nosuch'"),
    ],
    "-kernel": [(None, "requires an argument")],
    "-initrd": [(None, "requires an argument"), ("/x", "-kernel")],
    "-append": [(None, "requires an argument"), ("x", "-kernel")],
    "-bios": [(None, "requires an argument")],
    "-L": [(None, "requires an argument")],
    "-boot": [
        (None, "requires an argument"),
        ("z", "'z'"),
        ("order=cz", "'z'"),
        ("foo=1", "'foo'"),
        ("strict=maybe", "'strict'"),
        ("menu=on", "'menu'"),
        ("once=d", "'once'"),
    ],
    "-chardev": [
        (None, "requires an argument"),
        ("foo,id=a", "'foo'"),
        ("id=a", "'backend'"),
        ("null", "id"),
        ("null,id=1a", "'id'"),
        ("null,id=a,foo=1", "'foo'"),
        ("socket,id=a", "'path'"),
        ("socket,id=a,path=/x,server=maybe", "'server'"),
        ("socket,id=a,path=/nonexistent/x,server=on,wait=off", "/nonexistent/x"),
        ("file,id=a", "filename"),
        ("file,id=a,path=/nonexistent/x", "/nonexistent/x"),
    ],
    "-serial": [(None, "requires an argument"), ("foo", "'foo'"), ("chardev:nope", "'nope'"),
                ("mon:stdio", "leave out 'mon:'"),
                ("file:/nonexistent/x", "/nonexistent/x")],
    "-mon": [
        (None, "requires an argument"),
        ("nope,mode=control", "'nope'"),
        ("chardev=nope,mode=control", "'nope'"),
        ("mode=control", "'chardev'"),
        ("nope", "mode=control"),
        ("nope,mode=readline", "mode=control"),
        ("nope,mode=foo", "'mode'"),
        ("nope,mode=control,pretty=maybe", "'pretty'"),
        ("nope,mode=control,foo=1", "'foo'"),
    ],
    "-qmp": [(None, "requires an argument"), ("foo", "'foo'"), ("none", "'none'"),
             ("unix:/nonexistent/x,server=on,wait=off", "/nonexistent/x"),
             ("chardev:nope", "'nope'")],
    "-qmp-pretty": [(None, "requires an argument"), ("foo", "'foo'")],
    "-monitor": [(None, "requires an argument"), ("stdio", "human-monitor-command"),
                 ("unix:/x,server=on", "human-monitor-command")],
    "-qtest": [(None, "requires an argument"), ("foo", "'foo'")],
    "-qtest-log": [(None, "requires an argument")],
    "-add-fd": [
        (None, "requires an argument"),
        ("fd=0,set=1", "standard I/O"),
        ("fd=2,set=1", "standard I/O"),
        ("fd=999,set=1", "not valid"),
        ("fd=5", "'set'"),
        ("set=1", "'fd'"),
        ("fd=x,set=1", "'fd'"),
        ("fd=-1,set=1", "'fd'"),
        ("fd=3,set=-1", "'set'"),
        ("foo=1", "'foo'"),
        ("foo", "'foo'"),
    ],
    "-incoming": [(None, "requires an argument"), ("", "URI"), ("defer", "none")],
    "-migrate-blocker": [
        (None, "requires an argument"),
        ("", "must have 1 to 500 bytes"),
        ("x" * 501, "must have 1 to 500 bytes"),
    ],
    "-rtc": [
        (None, "requires an argument"),
        ("foo=1", "'foo'"),
        ("base=foo", "'base'"),
        ("base=2020-13-01", "'base'"),
        ("base=2020-02-30", "'base'"),
        ("base=2020-01-01T25:00:00", "'base'"),
        ("base=2020-01-01T00:00:00Z", "'base'"),
        ("clock=x", "'clock'"),
        ("driftfix=x", "'driftfix'"),
    ],
    "-name": [
        (None, "requires an argument"),
        ("a,foo=b", "'foo'"),
        ("debug-threads=maybe", "'debug-threads'"),
    ],
    "-uuid": [
        (None, "requires an argument"),
        ("", "UUID"),
        ("abc", "UUID"),
        ("550e8400-e29b-41d4-a716-446655440000x", "UUID"),
        ("550e8400-e29b-41d4-a716-44665544000", "UUID"),
        ("550e8400-e29b-41d4-a716-44665544000g", "UUID"),
        ("550e8400e29b41d4a716446655440000", "UUID"),
    ],
    "-action": [
        (None, "requires an argument"),
        ("foo=bar", "'foo'"),
        ("reboot=pause", "'reboot'"),
        ("shutdown=reset", "'shutdown'"),
        ("panic=run", "'panic'"),
        ("watchdog=foo", "'watchdog'"),
    ],
    "-msg": [
        (None, "requires an argument"),
        ("foo=1", "'foo'"),
        ("timestamp=maybe", "'timestamp'"),
        ("guest-name=2", "'guest-name'"),
    ],
    "-pidfile": [(None, "requires an argument"), ("", "name of the file"),
                 ("/nonexistent/x", "/nonexistent/x")],
    "-sandbox": [
        (None, "requires an argument"),
        ("maybe", "'enable'"),
        ("on,foo=1", "'foo'"),
        ("on,obsolete=foo", "'obsolete'"),
        ("on,elevateprivileges=foo", "'elevateprivileges'"),
        ("on,spawn=children", "'spawn'"),
        ("on,resourcecontrol=foo", "'resourcecontrol'"),
    ],
    "-display": [(None, "requires an argument"), ("gtk", "display"), ("", "display")],
    "-vga": [(None, "requires an argument"), ("std", "graphics")],
    "-audiodev": [
        (None, "requires an argument"),
        ("none", "'id'"),
        ("alsa,id=a", "'alsa'"),
        ("id=a", "'driver'"),
        ("{", "JSON"),
        ('{"driver":"alsa","id":"a"}', "'alsa'"),
    ],
}

# options without an argument, and options that take any; they need no entry in BAD
NO_BAD_FORMS = {
    "-enable-kvm", "-mem-prealloc", "-no-acpi", "-only-migratable", "-S", "-no-reboot",
    "-no-shutdown", "-daemonize", "-nographic", "-nodefaults", "-no-user-config", "-help",
    "-version", "-h",
}

REFUSED = [
    "-hda", "-hdb", "-hdc", "-hdd", "-sd", "-mtdblock", "-pflash", "-fda", "-fdb", "-cdrom", "-d", "-D",
    "-soundhw", "-k", "-full-screen", "-g", "-option-rom", "-debugcon", "-watchdog", "-writeconfig",
    "-iscsi", "-seed", "-singlestep",
    "-trace", "-gdb", "-s", "-loadvm", "-numa", "-usb", "-vnc", "-spice", "-smbios", "-fw_cfg",
    "-tpmdev", "-readconfig", "-runas", "-chroot", "-icount", "-snapshot", "-set", "-dump-vmstate",
]

GOOD = [
    ["-M", "none", "-nic", "none", "-net", "none"],
    ["-M", "none", "-netdev", "user,id=a,dnssearch=x,dnssearch=y,hostfwd=udp:127.0.0.1:0-:53"],
    ["-M", "none", "-netdev", '{"type":"user","id":"a","restrict":true}'],
    ["-M", "none,"],
    ["-M", "none,pit=on", "-M", "pic=off,"],
    ["-M", "none,usb=off,pcie=auto,smm=off,graphics=off,dump-guest-core=off,mem-merge=off"],
    ["-machine", "none,kernel-irqchip=split"],
    ["-M", "type=none,type=none"],
    ["-M", "none,smp.cpus=2"],
    ["--M", "none", "--nodefaults"],
    ["-smp", "16"],
    ["-smp", "cpus=8,sockets=2,cores=2,threads=2"],
    ["-smp", "8,sockets=2,dies=2,cores=2,threads=1,maxcpus=8"],
    ["-smp", "4,cores=2"],
    ["-smp", "4", "-smp", "threads=2"],
    ["-smp", "sockets=2,cores=2"],
    ["-m", "64"],
    ["-m", "64M"],
    ["-m", "0.5G"],
    ["-m", "0x10"],
    ["-m", "size=1g,slots=0,maxmem=1G"],
    ["-m", ""],
    ["-object", RAM],
    ["-object", RAM + ",share,merge=off,dump=yes,prealloc=n"],
    ["-object", '{"qom-type":"memory-backend-ram","id":"m","size":16777216,"share":true}'],
    ["-object", "memory-backend-memfd,id=m,size=16M,hugetlb=off,seal=off"],
    ["-object", "qom-type=memory-backend-file,id=m,size=16M,mem-path=/a,,b,share=on"],
    ["-object", "rng-random,id=r,filename=/dev/urandom", "-object", "rng-builtin,id=s"],
    ["-cpu", "host,-avx,sse4.2=off"],
    ["-overcommit", "mem-lock=off,cpu-pm=off"],
    ["-boot", "strict=on"],
    ["-boot", "c"],
    ["-boot", "order=cdn,menu=off"],
    ["-chardev", "null,id=a.b_c-d"],
    ["-chardev", "null,id=a", "-mon", "a,mode=control,pretty=on,id=x"],
    ["-qmp", "null", "-qmp-pretty", "null", "-monitor", "none", "-monitor", "null"],
    ["-serial", "none"],
    ["-serial", "null"],
    ["-rtc", "base=utc,clock=host,driftfix=slew"],
    ["-rtc", "base=localtime,clock=vm,driftfix=none"],
    ["-rtc", "base=2006-06-17T16:01:21,clock=rt"],
    ["-rtc", "base=2006-06-17"],
    ["-name", "guest=a,,b,process=ferry,debug-threads=on"],
    ["-name", "x"],
    ["-uuid", "550e8400-E29B-41d4-a716-446655440000"],
    ["-msg", "timestamp=on,guest-name=off"],
    ["-action", "reboot=shutdown,shutdown=pause,panic=none,watchdog=reset"],
    ["-no-reboot", "-no-shutdown", "-only-migratable", "-nodefaults", "-no-user-config"],
    ["-vga", "none", "-audiodev", "none,id=a", "-audiodev", '{"driver":"none","id":"b"}'],
    ["-migrate-blocker", "it is bound to this host, by a licence"],
    ["-sandbox", "off"],
    ["-mem-prealloc", "-no-acpi", "-nographic", "-monitor", "none"],
]


def one_sentence(text):
    """The message without the program's name, if stderr is just that one line."""
    match = re.fullmatch(rf"{re.escape(NAME)}: ([^\n]+)\n", text)
    return match and match[1]


class Options(unittest.TestCase):
    maxDiff = None

    def refused(self, args, wanted):
        result = run(*NONE, *args)
        message = one_sentence(result.stderr)
        self.assertIsNotNone(message, f"{args}: not one line: {result.stderr!r}")
        self.assertIn(wanted, message, f"{args}")
        self.assertEqual(result.returncode, 1, f"{args}: {message}")
        self.assertEqual(result.stdout, "")
        return message

    def taken(self, args):
        # ends by itself after everything was parsed, opened and built
        result = run(*NONE, "-S", *args, "-incoming", "defer")
        self.assertRegex(result.stderr, r"Machine 'none' cannot take a guest\n$", f"{args}")

    def test_unknown(self):
        for word in ("-foo", "--foo", "---S", "-no-reboot=1", "-S=1", "--"):
            with self.subTest(word):
                self.refused([word], f"{word}: invalid option")

    def test_positional(self):
        for word in ("disk.img", "", "-"):
            with self.subTest(word):
                self.refused([word], "Disks are given with -drive")

    def test_not_offered(self):
        for word in REFUSED:
            with self.subTest(word):
                self.refused([word, "x"], f"{word}: Ferry does not offer this option")

    def test_contradictions(self):
        for args, wanted in (
            (["-M", "accel=qtest"], "incompatible"),
            (["-L", "/a", "-L", "/b"], "Only one folder"),
            (["-serial", "null", "-serial", "null"], "serial port"),
            (["-chardev", "null,id=a", "-chardev", "null,id=a"], "Duplicate ID 'a'"),
            (["-object", RAM, "-object", RAM], "'m'"),
            (["-chardev", "null,id=a", "-qmp", "chardev:a", "-qmp", "chardev:a"], "'a'"),
            (["-M", "memory-backend=m", "-mem-path", "/x"], "-mem-path"),
            (["-daemonize", "-qmp", "stdio"], "stdio"),
            (["-daemonize", "-chardev", "stdio,id=a"], "stdio"),
        ):
            with self.subTest(" ".join(args)):
                self.refused(args, wanted)

    def test_machine_accel(self):
        result = run("-M", "microvm,accel=tcg")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(one_sentence(result.stderr),
                         "Accelerator 'tcg' is not offered, Ferry has kvm and qtest")

    def test_memory_backend_size(self):
        result = run("-M", "microvm,memory-backend=m", "-accel", "qtest", "-m", "32", "-object", RAM)
        self.assertEqual(one_sentence(result.stderr),
                         "Machine memory size does not match the size of the memory backend")
        self.assertEqual(result.returncode, 1)

    def test_not_utf8(self):
        result = run(*NONE, "-name", b"\xff\xfe")
        self.assertEqual(result.returncode, 1)
        self.assertIn("-name: The argument is not valid UTF-8", result.stderr)

    def test_well_formed(self):
        for args in GOOD:
            with self.subTest(" ".join(args)):
                self.taken(args)

    def test_short_booleans_warn(self):
        with ferry_cli.Machine("-M", "none", "-accel", "qtest", "-msg", "notimestamp") as m:
            self.assertIn("warning: short-form boolean option 'notimestamp' is deprecated, "
                          "use timestamp=off instead", m.stderr())

    def test_help_and_version(self):
        for word in ("-help", "--help", "-h"):
            result = run(word)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("-machine, -M", result.stdout)
        result = run("--version")
        self.assertRegex(result.stdout, r"^Ferry version \d+\.\d+\.\d+ ")
        for args, wanted in ((["-M", "help"], "microvm"), (["-accel", "help"], "kvm\n"),
                             (["-cpu", "help"], "qemu64"),
                             (["-M", "microvm,help"], "isa-serial=on|off"),
                             (["-object", "help"], "memory-backend-memfd"),
                             (["-device", "help"], '"virtio-rng-device"'),
                             (["-device", "virtio-rng-device,help"], "max-bytes=<uint64>"),
                             (["-chardev", "help"], "socket")):
            result = run(*args)
            self.assertEqual((result.returncode, result.stderr), (0, ""), args)
            self.assertIn(wanted, result.stdout)

    def test_every_option_is_tested(self):
        listed = set(re.findall(r"^(-[\w-]+)", run("-help").stdout, re.M))
        self.assertEqual(listed - set(BAD) - NO_BAD_FORMS - {"-machine"}, set())

    def test_man_page_is_up_to_date(self):
        script = os.path.join(ferry_cli.SOURCE_DIR, "scripts", "man-options")
        result = subprocess.run([script, "--check", ferry_cli.BINARY], capture_output=True,
                                text=True, check=False)
        self.assertEqual((result.returncode, result.stderr), (0, ""))


def add_bad_cases():
    """One case for each option, so that each is counted and found by name."""
    for option, forms in BAD.items():
        def case(self, option=option, forms=forms):
            for arg, wanted in forms:
                with self.subTest(f"{option} {arg}"):
                    message = self.refused([option] if arg is None else [option, arg], wanted)
                    if arg is not None and "only allowed with" not in message:
                        self.assertTrue(option in message or arg in message
                                        or wanted in message, message)
        setattr(Options, "test_bad" + option.replace("-", "_"), case)


add_bad_cases()

if __name__ == "__main__":
    unittest.main()
