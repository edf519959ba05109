# SPDX-License-Identifier: GPL-2.0-or-later
"""
Whether a guest can move, found out before a byte moves: migrate-check and the check that is part of
every migration between Ferries. Neither side changes.
"""

import contextlib
import json
import os
import socket
import struct
import time

from checkpeer import (CHECK, CMD_CHECK, CMD_FEATURES, CMD_OPEN, CMD_PING, FEATURE_CHECK, HEADER, MAGIC,
                       Destination, Source, answer_of, chunks, command, message)
from ferrytest import Relay, migrate, scaled
from ferrytest.qmp import Qmp, QmpError
from migrationcase import DEVICES, MigrationCase

GUEST = "report=100 rate=100"
UUID = "11111111-2222-3333-4444-55555555555%d"


def kinds(findings, severity="obstacle"):
    return [(f["kind"], f["subject"]) for f in findings if f["severity"] == severity]


class CheckCase(MigrationCase):
    def two(self, *extra, **options):
        """A source and a destination that waits at self.uri; options are of the destination."""
        src_options = options.pop("source", {})
        src_extra = options.pop("source_extra", ())
        self.uri = self.link()
        self.src = self.vm(*src_extra, **{"name": "source", "guest": GUEST, **src_options})
        self.dst = self.vm(*extra, **{"name": "destination", "guest": GUEST, "incoming": self.uri,
                                      **options})
        migrate.set_capabilities(self.src, self.dst, return_path=True)
        self.src.guest.wait_ready()
        return self.src, self.dst

    def check(self, src=None, uri=None, peer="ferry"):
        return (src or self.src).cmd("migrate-check", uri=self.uri if uri is None else uri,
                                     peer=peer)

    def assert_unchanged(self):
        self.check_source_goes_on(self.src)
        self.assertEqual(migrate.status(self.src), None)
        self.assertEqual(self.dst.status(), "inmigrate")
        info = migrate.info(self.dst)
        self.assertNotIn("status", info)
        self.assertEqual(info["socket-address"], [{"type": "unix", "path": self.uri[5:]}])

    def obstacle(self, kind, subject, reason, *extra, **options):
        """The one obstacle; migrate refuses with it, and the guest and the destination stay."""
        src, dst = self.two(*extra, **options)
        result = self.check()
        self.assertEqual((result["possible"], result["peer-asked"]), (False, True), result)
        self.assertIn((kind, subject), kinds(result["findings"]))
        found = [f["reason"] for f in result["findings"] if f["subject"] == subject]
        self.assertRegex(found[0], reason)
        self.assert_unchanged()
        migrate.start(src, self.uri)
        said = migrate.wait_status(src, "failed")["error-desc"]
        obstacles = [f["reason"] for f in result["findings"] if f["severity"] == "obstacle"]
        self.assertEqual(migrate.cause(said),
                         "The destination cannot take the guest: " + "; ".join(obstacles))
        self.check_source_goes_on(src)
        self.assertEqual(dst.status(), "inmigrate")
        return result


class Obstacles(CheckCase):
    """Each kind of them between two real machines."""

    def test_none(self):
        src, dst = self.two()
        result = self.check()
        self.assertTrue(result["possible"], result)
        self.assertTrue(result["peer-asked"])
        self.assertRegex(result["peer-version"], r"^ferry \d")
        self.assertEqual(kinds(result["findings"]), [])
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_machine_option(self):
        self.obstacle("machine", "pit", "pit=on and the destination's off",
                      machine=DEVICES.replace("pit=on", "pit=off"))

    def test_vcpus(self):
        result = self.obstacle("machine", "smp", "2 vCPUs and the destination 1", smp=1)
        self.assertEqual([k for k, _ in kinds(result["findings"])], ["machine"])

    def test_topology(self):
        self.two("-smp", "cpus=2,sockets=2", smp=None)
        result = self.check()
        self.assertTrue(result["possible"])
        self.assertIn(("machine", "smp"), kinds(result["findings"], "warning"))

    def test_accelerator(self):
        self.obstacle("machine", "accel", "'kvm' and the destination has 'qtest'", accel="qtest")

    def test_memory_size(self):
        self.obstacle("memory", "ram0", "16777216 bytes on the source and 33554432", memory=32)

    def test_memory_name(self):
        result = self.obstacle("memory", "ram0", "no memory 'ram0'", ram=None)
        self.assertIn(("memory", "microvm.ram"), kinds(result["findings"]))

    def host(self, **facts):
        """A folder that stands for the host's /proc and /sys."""
        root = self.folder()
        for path, text in {"proc/meminfo": "MemAvailable: 100000000 kB\nSwapFree: 0 kB\n",
                           "proc/loadavg": "0.00 0.00 0.00 1/1 1\n",
                           "proc/self/cgroup": "0::/a/b\n", **facts}.items():
            path = os.path.join(root, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
        return {"env": {"FERRY_HOST_FACTS": root}}

    def setUp(self):
        super().setUp()
        if "memory_" in self.id() and "thread" in os.environ.get("FERRY_SANITIZERS", ""):
            self.skipTest("The thread sanitizer's own memory counts as the guest's")

    # memory that the destination does not have yet, under the name of the source's
    FRESH = ("-object", "memory-backend-ram,id=ram0,size=16M", "-machine", "memory-backend=ram0")

    def test_memory_free(self):
        result = self.obstacle(
            "memory", "host", "has 0.0 GiB left:", *self.FRESH, ram=None,
            **self.host(**{"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\nSwapFree: 8 kB\n"}))
        self.assertEqual(len(kinds(result["findings"])), 1)

    def test_memory_free_with_swap(self):
        self.two(*self.FRESH, ram=None, **self.host(
            **{"proc/meminfo": "MemAvailable: 4 kB\nSwapFree: 100000000 kB\n"}))
        result = self.check()
        self.assertTrue(result["possible"])
        self.assertIn(("memory", "host"), kinds(result["findings"], "warning"))

    def test_memory_limit(self):
        group = "sys/fs/cgroup/a"
        self.obstacle("memory", "host", "below the limit of its control group", *self.FRESH, ram=None,
                      **self.host(**{
                          f"{group}/b/memory.max": "max\n", f"{group}/b/memory.current": "1\n",
                          f"{group}/memory.max": "8388608\n", f"{group}/memory.current": "8380000\n",
                          f"{group}/memory.stat": "anon 1\ninactive_file 1000\n"}))

    def test_memory_limit_of_an_old_group(self):
        group = "sys/fs/cgroup/memory/x"
        self.obstacle("memory", "host", "below the limit", *self.FRESH, ram=None,
                      **self.host(**{"proc/self/cgroup": "2:cpu:/y\n3:memory:/x\n0::/z\n",
                                     f"{group}/memory.limit_in_bytes": "8388608\n",
                                     f"{group}/memory.usage_in_bytes": "8388608\n"}))

    def test_busy_host(self):
        cpus = len(os.sched_getaffinity(0))
        self.two(smp=1, source={"smp": 1},
                      **self.host(**{"proc/loadavg": f"0.00 {cpus}.10 0.00 1/1 1\n"}))
        result = self.check()
        self.assertTrue(result["possible"])
        self.assertIn(("host", "cpus"), kinds(result["findings"], "warning"))
        self.dst.quit()
        self.two(smp=1, source={"smp": 1}, **self.host())
        self.assertNotIn(("host", "cpus"), kinds(self.check()["findings"], "warning"))

    def test_more_vcpus_than_cpus(self):
        self.two(smp=16, source={"smp": 16}, **self.host())
        found = self.check()["findings"]
        wanted = len(os.sched_getaffinity(0)) < 16
        self.assertEqual(("host", "cpus") in kinds(found, "warning"), wanted)

    def test_cpu_feature(self):
        probe = self.vm(guest=GUEST, name="probe")
        have = probe.cmd("x-query-migrate-side")["cpu"]["features"]
        probe.quit()
        feature = next(f for f in ("rdrand", "gfni", "umip", "clwb", "arat") if f in have)
        result = self.obstacle("cpu", feature, f"'{feature}' .CPUID.*bit.*its -cpu leaves out",
                               cpu=f"host,-{feature}")
        self.assertEqual(len(kinds(result["findings"])), 1)
        self.dst.quit()
        # the other way round the guest gets more than it had
        self.two(source={"cpu": f"host,-{feature}"})
        result = self.check()
        self.assertTrue(result["possible"])
        self.assertIn(("cpu", "features"), kinds(result["findings"], "warning"))

    def test_cpu_vendor(self):
        vendor = "GenuineIntel" if "AMD" in open("/proc/cpuinfo", encoding="ascii").read() \
            else "AuthenticAMD"
        self.obstacle("cpu", "vendor", f"would see one of {vendor}", cpu=f"host,vendor={vendor}")

    def test_capability(self):
        self.two()
        migrate.set_capabilities(self.src, x_ignore_shared=True)
        self.assertIn(("capability", "x-ignore-shared"), kinds(self.check()["findings"]))
        migrate.set_capabilities(self.dst, x_ignore_shared=True)
        self.assertTrue(self.check()["possible"])

    def test_return_path_off(self):
        self.two()
        migrate.set_capabilities(self.src, return_path=False)
        result = self.check()
        self.assertTrue(result["possible"])
        self.assertIn(("capability", "return-path"), kinds(result["findings"], "warning"))

    def test_uuid(self):
        self.two("-uuid", UUID % 1, source_extra=("-uuid", UUID % 2))
        self.assertTrue(self.check()["possible"])
        migrate.set_capabilities(self.src, self.dst, validate_uuid=True)
        result = self.check()
        self.assertEqual(kinds(result["findings"]), [("uuid", "uuid")])

    def test_device(self):
        src, dst = self.two()
        side = src.cmd("x-query-migrate-side")
        side["devices"][0]["version"] += 1
        side["devices"][1]["instance"] = 77
        found = Source(self, self.uri[5:]).greet().check(side)
        self.assertEqual([k for k, _ in kinds(found)], ["device"] * 3, found)
        self.assert_unchanged()

    def test_other_hosts(self):
        """What takes another host: the description is changed on its way."""
        src, dst = self.two()
        side = src.cmd("x-query-migrate-side")
        cpu = side["cpu"]
        other = "AuthenticAMD" if "Intel" in cpu["vendor"] else "GenuineIntel"
        changes = (
            ({"vendor": other, "host-vendor": other}, ("cpu", "vendor"), "obstacle"),
            ({"features": cpu["features"] + ["sgx"]}, ("cpu", "sgx"), "obstacle"),
            ({"msrs": cpu["msrs"] + ["IA32_OTHER"]}, ("cpu", "IA32_OTHER"), "warning"),
            ({"phys-bits": 57}, ("cpu", "phys-bits"), "warning"),
        )
        for change, wanted, severity in changes:
            with self.subTest(change=str(change)[:60]):
                found = Source(self, self.uri[5:]).greet().check({**side, "cpu": {**cpu, **change}})
                self.assertIn(wanted, kinds(found, severity))
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_blocker_of_the_destination(self):
        result = self.obstacle("blocker", "destination", "takes no guest: .*: not here",
                               "-migrate-blocker", "not here")
        self.assertEqual(len(kinds(result["findings"])), 1)

    def test_everything_at_once(self):
        """The whole list, not only the first."""
        self.two("-uuid", UUID % 1, machine=DEVICES.replace("pit=on", "pit=off"), memory=32,
                      smp=1, source_extra=("-uuid", UUID % 2))
        migrate.set_capabilities(self.src, self.dst, validate_uuid=True)
        migrate.set_capabilities(self.dst, x_ignore_shared=True)
        found = kinds(self.check()["findings"])
        for kind in ("machine", "memory", "uuid", "capability", "device"):
            self.assertIn(kind, [k for k, _ in found])
        migrate.start(self.src, self.uri)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        for word in ("pit=on", "ram0", UUID % 2, "x-ignore-shared", "i8254", "vCPUs"):
            self.assertIn(word, said)
        self.assertEqual(self.dst.status(), "inmigrate")

    def test_paused_guest(self):
        src, dst = self.two()
        src.cmd("stop")
        self.assertTrue(self.check()["possible"])
        self.assertEqual(src.status(), "paused")
        migrate.start(src, self.uri)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        dst.cmd("cont")
        dst.guest.check()


class Blocker(CheckCase):
    """A guest that its operator keeps."""

    def test_set_and_clear(self):
        src, dst = self.two(source_extra=("-name", "web1"))
        reason = "Guest 'web1' is kept here by its operator: until the backup is done"
        src.cmd("migrate-set-blocker", reason="another one")
        src.cmd("migrate-set-blocker", reason="until the backup is done")
        self.assertEqual(migrate.info(src)["blocked-reasons"], [reason])
        self.refused(reason, src, "migrate", uri=self.uri)
        for peer in ("ferry", "qemu"):
            result = self.check(peer=peer)
            self.assertEqual((result["possible"], result["findings"][0]["kind"]), (False, "blocker"))
            self.assertEqual(result["findings"][0]["reason"], reason)
        src.cmd("migrate-clear-blocker")
        src.cmd("migrate-clear-blocker")
        self.assertNotIn("blocked-reasons", migrate.info(src))
        self.move_and_check(src, dst)

    def test_option(self):
        src, dst = self.two(source_extra=("-migrate-blocker", "a licence, bound to this host"))
        self.assertEqual(migrate.info(src)["blocked-reasons"],
                         ["The guest is kept here by its operator: a licence, bound to this host"])
        src.cmd("migrate-clear-blocker")
        self.move_and_check(src, dst)

    def test_refused(self):
        src, dst = self.two(source_extra=("-only-migratable",))
        self.refused("Disallowing migration blocker (--only-migratable) for: The guest is kept here by "
                     "its operator: x", src, "migrate-set-blocker", reason="x")
        for reason in ("", "y" * 501, "a\nb"):
            with self.assertRaises(QmpError):
                dst.cmd("migrate-set-blocker", reason=reason)
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.refused("There's a migration process in progress", src, "migrate-check", uri=self.uri,
                     peer="ferry")
        migrate.release(src)
        migrate.finish(src, dst)
        self.refused("Can't migrate the vm that was paused due to previous migration", src,
                     "migrate-check", uri=self.uri, peer="ferry")

    def test_only_migratable_and_option(self):
        vm = self.vm("-only-migratable", "-migrate-blocker", "x", guest=GUEST, wait=False)
        vm.wait(1)
        self.assertIn("-migrate-blocker x: Disallowing migration blocker", vm.stderr())


class Connection(CheckCase):
    def connection(self, result, reason):
        self.assertFalse(result["possible"])
        self.assertFalse(result["peer-asked"])
        self.assertEqual([f["kind"] for f in result["findings"]], ["connection"])
        self.assertRegex(result["findings"][0]["reason"], reason)

    def test_nobody_there(self):
        self.src = self.vm(name="source", guest=GUEST)
        migrate.set_capabilities(self.src, return_path=True)
        self.connection(self.check(uri=self.link()), "Failed to connect")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.connection(self.check(uri=f"tcp:127.0.0.1:{port}"), "(?i)refused")
        for uri in ("nope:1", ""):
            with self.assertRaises(QmpError):
                self.check(uri=uri)
        with self.assertRaises(QmpError):
            self.src.cmd("migrate-check", peer="ferry")

    def test_taken(self):
        """A destination that another guest has reached."""
        src, dst = self.two()
        other = self.vm(name="other", guest=GUEST)
        migrate.set_capabilities(other, return_path=True)
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        migrate.wait_status(dst, "active")
        self.connection(self.check(other), "Failed to connect|closed")
        migrate.release(src)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_without_asking(self):
        """Towards a QEMU, a file or a command only this side is looked at; nothing is touched."""
        self.src = self.vm(name="source", guest=GUEST)
        migrate.set_capabilities(self.src, return_path=True)
        peer = Destination(self, self.path("q"), b"", hello=b"")
        result = self.check(uri="unix:" + self.path("q"), peer="qemu")
        self.assertEqual((result["possible"], result["peer-asked"], result["findings"]), (True, False, []))
        time.sleep(0.1)
        self.assertEqual(peer.connections, 0)
        result = self.check(uri="unix:" + self.path("nothing"), peer="qemu")
        self.connection(result, "There is no socket")
        for uri in ("exec:touch " + self.path("made"), "file:" + self.path("made")):
            result = self.check(uri=uri)
            self.assertEqual((result["possible"], result["peer-asked"]), (True, False))
            self.assertEqual(kinds(result["findings"], "warning"), [("connection", uri)]
                             if uri.startswith("file") else
                             [("connection", result["findings"][0]["subject"])])
            self.assertFalse(os.path.exists(self.path("made")))

    def test_channels(self):
        src, dst = self.two()
        result = src.cmd("migrate-check", peer="ferry", channels=[
            {"channel-type": "main",
             "addr": {"transport": "socket", "type": "unix", "path": self.uri[5:]}}])
        self.assertTrue(result["possible"])

    def test_tcp(self):
        self.uri = "tcp:127.0.0.1:0"
        self.src = self.vm(name="source", guest=GUEST)
        self.dst = self.vm(name="destination", guest=GUEST, incoming=self.uri)
        migrate.set_capabilities(self.src, self.dst, return_path=True)
        port = migrate.info(self.dst)["socket-address"][0]["port"]
        self.uri = f"tcp:127.0.0.1:{port}"
        for _ in range(3):
            self.assertTrue(self.check()["possible"])
        self.src.guest.wait_ready()
        self.move_and_check(self.src, self.dst)

    def test_fd_of_the_source(self):
        """A connection that the manager made; the destination listens and takes another."""
        src, dst = self.two()
        for command_name in ("migrate-check", "migrate"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.uri[5:])
                src.qmp.execute("getfd", {"fdname": "f"}, fds=[sock.fileno()])
                arguments = {"uri": "fd:f"}
                if command_name == "migrate-check":
                    result = src.qmp.execute(command_name, {**arguments, "peer": "ferry"})
                    self.assertTrue(result["possible"], result)
                else:
                    src.qmp.execute(command_name, arguments)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_only_connection(self):
        """A destination that has one connection is used up by a check, and says so."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.src = self.vm(name="source", guest=GUEST)
            migrate.set_capabilities(self.src, return_path=True)
            dst = self.vm(name="destination", guest=GUEST, incoming=f"fd:{theirs.fileno()}",
                          pass_fds=[theirs.fileno()])
            theirs.close()
            self.src.qmp.execute("getfd", {"fdname": "f"}, fds=[ours.fileno()])
            ours.close()
            self.assertTrue(self.check(uri="fd:f")["possible"])
            dst.wait(1)
            self.assertIn("was used up by a check", dst.stderr())

    def test_checks_over_the_only_connection(self):
        """Several on the same one."""
        src, dst = self.two()
        side = src.cmd("x-query-migrate-side")
        source = Source(self, self.uri[5:])
        for _ in range(5):
            self.assertEqual(kinds(source.greet().check(side)), [])
        self.assert_unchanged()

    def test_hundred_checks(self):
        src, dst = self.two()
        for _ in range(100):
            self.assertTrue(self.check()["possible"])
        self.move_and_check(src, dst)

    def test_at_once(self):
        """More than a client could ask one after the other: from several sources."""
        src, dst = self.two()
        others = [self.vm(name=f"other{i}", guest=GUEST) for i in range(3)]
        migrate.set_capabilities(*others, return_path=True)
        idents = [(vm, vm.qmp.start("migrate-check", {"uri": self.uri, "peer": "ferry"}))
                  for vm in [*others, src] for _ in range(4)]
        for vm, ident in idents:
            self.assertTrue(vm.qmp.answer(ident)["possible"])
        self.move_and_check(src, dst)


class Monitor(CheckCase):
    """While an answer is waited for."""

    def stalled(self, *extra):
        self.src = self.vm("-qmp", f"unix:{self.path('second')},server=on,wait=off", *extra,
                           name="source", guest=GUEST)
        migrate.set_capabilities(self.src, return_path=True)
        self.uri = self.link()
        Destination(self, self.uri[5:], b"")
        self.begun = time.monotonic()
        return self.src.qmp.start("migrate-check", {"uri": self.uri, "peer": "ferry"})

    def test_others_are_served(self):
        ident = self.stalled()
        second = Qmp(self.src.connect_to(self.path("second")))
        self.addCleanup(second.close)
        second.negotiate()
        # the first client's next command waits, in its turn
        after = self.src.qmp.start("query-name")
        slowest = 0
        for _ in range(200):
            start = time.monotonic()
            second.cmd("query-migrate")
            slowest = max(slowest, time.monotonic() - start)
        self.assertLess(slowest, 2.5)  # the answer would come after 5 s
        result = self.src.qmp.answer(ident)
        self.assertGreater(time.monotonic() - self.begun, 4.5)
        self.assertEqual(kinds(result["findings"]), [("connection", self.uri)])
        self.assertIn("has not answered the check within 5 s", result["findings"][0]["reason"])
        self.src.qmp.answer(after)
        self.check_source_goes_on(self.src)

    def test_client_gone(self):
        self.stalled()
        self.src.qmp.close()
        second = Qmp(self.src.connect_to(self.path("second")))
        self.src.qmp = second
        second.negotiate()
        time.sleep(5.5)
        self.assertEqual(self.src.status(), "running")

    def test_process_ends(self):
        self.stalled()
        begin = time.monotonic()
        self.src.terminate()
        self.src.wait(0)
        self.assertLess(time.monotonic() - begin, scaled(3))


class HostileSource(CheckCase):
    """The destination waits on, and takes the guest at once."""

    def test_nonsense(self):
        src, dst = self.two()
        side = src.cmd("x-query-migrate-side")
        text = json.dumps(side).encode()
        for words in (b"", b"{}", b"[" * 200000, b'{"program":' + b'{"a":' * 50000, b"\xff" * 100,
                      text[:-10], text.replace(b'"vcpus"', b'"vcpuz"'), b"\0" * 10, b'"x"',
                      text.replace(b'"populated": ', b'"populated": "x",  "y": '),
                      json.dumps({**side, "vcpus": -1}).encode(),
                      json.dumps({**side, "blocks": [{}]}).encode(),
                      json.dumps({**side, "cpu": []}).encode()):
            with self.subTest(words=words[:40]):
                source = Source(self, self.uri[5:]).greet()
                source.ask(words)
                self.assertRegex(source.answer(), "^The peer's description makes no sense: ")
                self.assertTrue(source.ended())
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_lies(self):
        """Numbers and names that no machine has."""
        src, dst = self.two()
        side = src.cmd("x-query-migrate-side")
        big = (1 << 64) - 1
        many = [{"name": f"{i:04}\u202e\n", "instance": i, "version": 1, "min-version": 1,
                 "optional": False} for i in range(1500)]
        for change in ({"populated": big}, {"vcpus": (1 << 32) - 1}, {"devices": many},
                       {"blocks": [{**b, "size": big, "max-size": big, "page-size": 0}
                                   for b in side["blocks"]]},
                       {"cpu": {**side["cpu"], "tsc-khz": -(1 << 63)}},
                       {"machine": "x" * 100000}, {"uuid": ""}, {"blockers": ["x"] * 10000}):
            with self.subTest(change=list(change)):
                found = Source(self, self.uri[5:]).greet().check({**side, **change})
                self.assertLessEqual(len(found), 128)
                for f in found:
                    self.assertLess(len(f["reason"]), 600)
                    self.assertNotIn("\n", f["reason"] + f["subject"])
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_pieces(self):
        src, dst = self.two()
        for parts in ([command(CMD_CHECK, b"\2x")], [command(CMD_CHECK, b"\0")], [command(CMD_CHECK)],
                      [command(CMD_CHECK, b"\0" + b" " * 60000)] * 5,
                      [command(CMD_FEATURES, struct.pack(">Q", 0xff))],
                      [command(3, b"x")], [b"\0"], [b"QEVM\0\0\0\2"]):
            with self.subTest(parts=parts[0][:12]):
                source = Source(self, self.uri[5:]).greet()
                with contextlib.suppress(BrokenPipeError):  # it has heard enough
                    source.send(*parts)
                self.assertTrue(source.ended())
        source = Source(self, self.uri[5:])
        source.send(HEADER, command(CMD_OPEN), command(CMD_CHECK, b"\1{}"))
        self.assertTrue(source.ended())
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_stalls(self):
        """More of them than are greeted at a time, silent from different places on."""
        src, dst = self.two()
        side = json.dumps(src.cmd("x-query-migrate-side")).encode()
        stalled = []
        for i in range(20):
            source = Source(self, self.uri[5:])
            if i % 4:
                source.greet()
            if i % 4 > 1:
                source.send(*(command(CMD_CHECK, c) for c in chunks(side[:500], 100, last=False)))
            if i % 4 > 2:
                source.send(command(CMD_CHECK)[:4])
            stalled.append(source)
        begin = time.monotonic()
        self.assertTrue(self.check()["possible"])
        self.move_and_check(src, dst)
        self.assertLess(time.monotonic() - begin, scaled(25))  # each may keep silent for a minute
        for source in stalled:
            self.assertTrue(source.ended())

    def test_one_that_drips(self):
        """It is heard for ten seconds, however often it says a word."""
        src, dst = self.two()
        source = Source(self, self.uri[5:]).greet()
        begin = time.monotonic()
        with self.assertRaises(OSError):
            while time.monotonic() - begin < 30:
                source.send(command(CMD_CHECK, b"\0 "))
                time.sleep(0.2)
        self.assertLess(time.monotonic() - begin, 25)
        self.assert_unchanged()

    def test_connections_that_come_to_nothing(self):
        src, dst = self.two()
        for words in (b"", HEADER + command(CMD_OPEN), HEADER + command(CMD_OPEN) + command(CMD_PING)):
            source = Source(self, self.uri[5:])
            source.send(words)
            source.sock.shutdown(socket.SHUT_WR)
            self.assertTrue(source.ended())
        self.assert_unchanged()
        self.move_and_check(src, dst)

    def test_second_source(self):
        """Two guests at one destination: one gets in, the other stays where it is."""
        src, dst = self.two()
        other = self.vm(name="other", guest=GUEST)
        migrate.set_capabilities(other, return_path=True)
        other.guest.wait_ready()
        relay = Relay(self, self.uri[5:])
        relay.stall("ret")
        migrate.start(other, relay.uri)  # stuck in its greeting
        relay.wait_connected()
        self.move_and_check(src, dst)
        relay.resume()
        self.assertTrue(migrate.wait_status(other, "failed")["error-desc"])
        self.check_source_goes_on(other)


class HostileDestination(CheckCase):
    def prepare(self):
        self.src = self.vm(name="source", guest=GUEST)
        migrate.set_capabilities(self.src, return_path=True)
        self.src.guest.wait_ready()

    def attempt(self, answer, **options):
        self.uri = self.link()
        Destination(self, self.uri[5:], answer, **options)
        return self.check()

    def test_words(self):
        self.prepare()
        finding = {"severity": "obstacle", "kind": "host", "subject": "s", "reason": "r"}
        flood = answer_of([finding] * 2000)
        for answer, reason in ((b"", "closed the connection"), (message(0x777), "nothing asked for"),
                               (message(CHECK, b"\1{}"), "makes no sense"),
                               (message(CHECK, b"\1"), "makes no sense"),
                               (message(CHECK, b"\1" + b"[" * 1000), "makes no sense"),
                               (message(CHECK, b"\0" + b" " * 1000) * 300, "more than"),
                               (message(CHECK, b"\0") * 3, "malformed"),
                               (message(CHECK), "of 0 bytes"),
                               (message(CHECK, bytes(1025)), "1025 bytes")):
            with self.subTest(answer=answer[:20]):
                result = self.attempt(answer, close=True)
                self.assertEqual((result["possible"], result["peer-asked"]), (False, False))
                self.assertRegex(result["findings"][0]["reason"], reason)
        # a newer destination may know more kinds of finding
        result = self.attempt(answer_of([{**finding, "kind": "later"}]))
        self.assertEqual((result["possible"], result["peer-asked"]), (False, True))
        result = self.attempt(flood)
        self.assertEqual((result["possible"], result["peer-asked"]), (False, True))
        self.assertEqual(len(result["findings"]), 128)
        self.check_source_goes_on(self.src)

    def test_text(self):
        """It may say what it likes, on one line and in print."""
        self.prepare()
        result = self.attempt(answer_of(
            [{"severity": "warning", "kind": "host", "subject": "a\x1b[2J\n", "reason": "b\r" * 400,
              "later": {}}], program="\x07p"))
        self.assertEqual((result["possible"], result["peer-version"]), (True, " p"))
        f = result["findings"][0]
        self.assertEqual(f["subject"], "a [2J ")
        self.assertEqual(f["reason"], "b " * 250)

    def test_no_ferry(self):
        """Whoever does not greet as one, by whatever it says."""
        self.prepare()
        for hello, reason in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", "message"),
                              (message(2, struct.pack(">I", 1)) + message(2, struct.pack(">I", MAGIC)),
                               "no Ferry that answers checks"),
                              (answer_of([]), "nobody asked for")):
            with self.subTest(hello=hello[:20]):
                result = self.attempt(b"", hello=hello, close=True)
                self.assertEqual((result["possible"], result["peer-asked"]), (False, False))
                self.assertRegex(result["findings"][0]["reason"], reason)

    def test_answer_nobody_asked_for(self):
        """In the middle of a migration."""
        self.prepare()
        self.uri = self.link()
        hello = (message(2, struct.pack(">I", 1)) + message(0x4652, struct.pack(">IQ", 1, 3) + b"\1f")
                 + message(2, struct.pack(">I", MAGIC)))
        Destination(self, self.uri[5:], b"", hello=hello + answer_of([]))
        migrate.start(self.src, self.uri)
        self.assertIn("nobody asked for", migrate.wait_status(self.src, "failed")["error-desc"])
        self.check_source_goes_on(self.src)
