# SPDX-License-Identifier: GPL-2.0-or-later
"""Stop and go, reset, power off, and the end of the process in every state a machine can have."""

import os
import signal
import time
import unittest

from ferrytest import Relay, TestCase, have_kvm, migrate, wait_for

DEVICES = "pit=on,pic=on,rtc=on,isa-serial=on"


@unittest.skipUnless(have_kvm(), "No /dev/kvm")
class LifeCase(TestCase):
    def start(self, *extra, guest="report=100 rate=2000", **options):
        vm = self.ferry(*extra, **{"guest": guest, "machine": DEVICES, "ram": "shm", "smp": 2,
                                   **options})
        if not options.get("paused") and not options.get("incoming"):
            vm.guest.wait_ready()
        return vm


class StopAndGo(LifeCase):
    def test_stop_cont(self):
        vm = self.start()
        for _ in range(10):
            vm.cmd("stop")
            self.assertEqual(vm.status(), "paused")
            self.assertFalse(vm.guest.is_alive(0.03))
            vm.guest.verify_from_outside(step=101)
            vm.cmd("cont")
            self.assertEqual(vm.status(), "running")
            vm.guest.wait_alive()
        vm.guest.check()
        self.assertEqual(vm.qmp.drain_events(), ["STOP", "RESUME"] * 10)

    def test_twice_is_once(self):
        vm = self.start()
        vm.cmd("cont")
        vm.cmd("stop")
        vm.cmd("stop")
        vm.cmd("cont")
        vm.cmd("cont")
        vm.guest.wait_alive()
        self.assertEqual(vm.qmp.drain_events(), ["STOP", "RESUME"])

    def test_stopped_machine_has_no_time(self):
        """A pause is not in the guest's own time (it is in a move's), and nothing ticks."""
        vm = self.start(guest="report=100 rate=2000 halt=0", smp=1)
        vm.cmd("stop")
        before = vm.guest.header("clock_ns")
        time.sleep(3)
        vm.cmd("cont")
        vm.guest.wait_alive()
        self.assertLess(vm.guest.header("clock_ns") - before, 2.5e9)
        vm.guest.check()

    def test_while_it_boots(self):
        vm = self.start(paused=True)
        for _ in range(20):
            vm.cmd("cont")
            time.sleep(0.01)
            vm.cmd("stop")
        vm.cmd("cont")
        vm.guest.wait_ready()
        vm.guest.check()


class Reset(LifeCase):
    def boots(self, vm):
        return vm.serial().count("READY ")

    def test_by_qmp(self):
        vm = self.start(no_reboot=False)
        for count in range(2, 5):
            vm.cmd("system_reset")
            wait_for("another start", lambda: self.boots(vm) == count)
        vm.guest.check()
        vm.qmp.drain_events()
        resets = [e["data"] for e in vm.qmp.events if e["event"] == "RESET"]
        self.assertEqual(resets, [{"guest": False, "reason": "host-qmp-system-reset"}] * 3)

    def test_by_qmp_with_no_reboot(self):
        """-no-reboot is about the guest's own resets."""
        vm = self.start()
        vm.cmd("system_reset")
        wait_for("another start", lambda: self.boots(vm) == 2)

    def test_while_stopped(self):
        vm = self.start()
        vm.cmd("stop")
        vm.cmd("system_reset")
        vm.qmp.wait_event("RESET")
        self.assertEqual(vm.status(), "paused")
        self.assertEqual(self.boots(vm), 1)
        vm.cmd("cont")
        wait_for("another start", lambda: self.boots(vm) == 2)

    def test_triple_fault(self):
        vm = self.start(guest="report=100 rate=2000 exit=reset", no_reboot=False)
        vm.guest.box.command("q")
        vm.qmp.wait_event("RESET", guest=True)
        wait_for("another start", lambda: self.boots(vm) == 2)
        vm.guest.check()

    def test_triple_fault_with_no_reboot(self):
        vm = self.start(guest="report=100 rate=2000 exit=reset")
        vm.guest.box.command("q")
        vm.qmp.wait_event("SHUTDOWN", guest=True, reason="guest-reset")
        vm.wait()

    def test_triple_fault_with_no_reboot_and_no_shutdown(self):
        vm = self.start("-no-shutdown", guest="report=100 rate=2000 exit=reset")
        vm.guest.box.command("q")
        vm.qmp.wait_event("SHUTDOWN", guest=True)
        vm.wait_state("shutdown")
        vm.cmd("system_reset")
        vm.wait_state("prelaunch", "paused")
        vm.cmd("cont")
        wait_for("another start", lambda: self.boots(vm) == 2)

    def test_by_acpi(self):
        vm = self.start(guest="report=100 rate=2000 exit=acpireset", no_reboot=False)
        vm.guest.box.command("q")
        vm.qmp.wait_event("RESET", guest=True, reason="guest-reset")
        wait_for("another start", lambda: self.boots(vm) == 2)

    def test_memory_stays(self):
        """A warm reset does not clear memory, and the machine's images are put back."""
        vm = self.start()
        vm.guest.box.memory[0x7000:0x7008] = b"unharmed"
        vm.cmd("system_reset")
        wait_for("another start", lambda: self.boots(vm) == 2)
        self.assertEqual(bytes(vm.guest.box.memory[0x7000:0x7008]), b"unharmed")


class PowerOff(LifeCase):
    def test_by_the_guest(self):
        vm = self.start(guest="report=100 rate=2000 exit=off")
        vm.guest.box.command("q")
        vm.qmp.wait_event("SHUTDOWN", guest=True, reason="guest-shutdown")
        vm.wait()
        self.assertIn("BYE", vm.serial())

    def test_by_the_guest_with_no_shutdown(self):
        vm = self.start("-no-shutdown", guest="report=100 rate=2000 exit=off")
        vm.guest.box.command("q")
        vm.qmp.wait_event("SHUTDOWN")
        vm.wait_state("shutdown")
        self.assertEqual(vm.qmp.drain_events(), ["SHUTDOWN", "STOP"])
        self.assertFalse(vm.guest.is_alive(0.1))

    def test_by_the_guest_after_a_while(self):
        vm = self.start(guest="report=100 rate=2000 run=300 exit=off")
        vm.wait()

    def test_quit(self):
        vm = self.start()
        vm.qmp.start("quit")
        vm.qmp.wait_event("SHUTDOWN", guest=False, reason="host-qmp-quit")
        vm.wait()


class Terminate(LifeCase):
    """SIGTERM ends the process with status 0, whatever it is doing."""

    def ends(self, vm):
        vm.terminate()
        vm.qmp.wait_event("SHUTDOWN", guest=False, reason="host-signal")
        vm.wait()
        self.assertIn(f"terminating on signal 15 from pid {os.getpid()} ", vm.stderr())

    def test_running(self):
        self.ends(self.start())

    def test_paused(self):
        vm = self.start()
        vm.cmd("stop")
        self.ends(vm)

    def test_prelaunch(self):
        self.ends(self.start(paused=True))

    def test_shutdown(self):
        vm = self.start("-no-shutdown", guest="report=100 rate=2000 exit=off")
        vm.guest.box.command("q")
        vm.qmp.wait_event("SHUTDOWN", guest=True)
        vm.wait_state("shutdown")
        self.ends(vm)

    def test_incoming(self):
        self.ends(self.start(incoming="defer"))
        self.ends(self.start(incoming="unix:" + self.path("m")))

    def migrating(self, hold_source=None, hold_destination=None):
        src = self.start()
        uri = "unix:" + self.path(f"m{len(self.machines)}")
        dst = self.start(incoming="defer")
        migrate.set_capabilities(src, dst, return_path=True)
        dst.cmd("migrate-incoming", uri=uri)
        if hold_source:
            migrate.hold(src, hold_source)
        if hold_destination:
            migrate.hold(dst, hold_destination)
        migrate.start(src, uri)
        if hold_source:
            migrate.wait_held(src, hold_source)
        else:
            migrate.wait_held(dst, hold_destination)
        return src, dst

    def test_source_in_each_state(self):
        """The guest ends with it, the destination knows."""
        for point in ("setup", "active", "device", "ready"):
            with self.subTest(point=point):
                src, dst = self.migrating(hold_source=point)
                self.ends(src)
                if point != "setup":
                    dst.wait(1)
                else:
                    self.ends(dst)

    def test_source_after_go(self):
        src, dst = self.migrating(hold_source="go")
        self.ends(src)
        dst.wait_state("running")
        dst.guest.check()

    def test_destination_in_each_state(self):
        """The guest runs on at the source."""
        for point in ("incoming-setup", "incoming-active", "incoming-loaded", "incoming-ready"):
            with self.subTest(point=point):
                src, dst = self.migrating(hold_destination=point)
                self.ends(dst)
                migrate.wait_status(src, "failed")
                src.guest.check()

    def test_postmigrate(self):
        src, dst = self.migrating(hold_source="active")
        migrate.release(src)
        migrate.finish(src, dst)
        self.assertEqual(src.status(), "postmigrate")
        self.ends(src)
        dst.guest.check()
        self.ends(dst)

    def test_source_that_waits_for_the_link(self):
        src = self.start(guest="report=100 rate=1000 data=random", memory=32)
        dst = self.start(incoming="unix:" + self.path("m"), memory=32)
        relay = Relay(self, self.path("m"))
        relay.stall("fwd")
        migrate.start(src, relay.uri)
        relay.wait_connected()
        time.sleep(0.1)
        start = time.monotonic()
        self.ends(src)
        self.assertLess(time.monotonic() - start, migrate.scaled(migrate.PROMPT))
        relay.close()
        self.ends(dst)  # nothing came to it: it waits on

    def test_with_a_command_that_hangs(self):
        src = self.start()
        migrate.start(src, "exec:sleep 1000")
        time.sleep(0.2)
        self.ends(src)

    def test_interrupt_and_hangup(self):
        for number in (signal.SIGINT, signal.SIGHUP):
            vm = self.start()
            vm.process.send_signal(number)
            vm.qmp.wait_event("SHUTDOWN", guest=False, reason="host-signal")
            vm.wait()


class Background(LifeCase):
    @staticmethod
    def wait_gone(pid):
        def look():
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                    return f.read().rpartition(")")[2].split()[0] == "Z"  # nobody may wait for it
            except FileNotFoundError:
                return True
        wait_for("end of the daemon", look)

    def daemon(self, pidfile):
        """The process in the background; it ends with the case whatever happens."""
        with open(pidfile, encoding="ascii") as f:
            pid = int(f.read())

        def end():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.addCleanup(end)
        return pid

    def test_daemonize(self):
        """The parent returns when QMP answers; the guest runs in the background."""
        pidfile, qmp = self.path("pid"), self.path("qmp")
        parent = self.start("-daemonize", "-pidfile", pidfile, "-qmp", f"unix:{qmp},server=on,wait=off",
                            qmp=False, incoming="defer")
        parent.wait()
        pid = self.daemon(pidfile)
        try:
            from ferrytest import Qmp
            import socket
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(qmp)
            client = Qmp(sock).negotiate()
            self.assertEqual(client.cmd("query-status")["status"], "inmigrate")
            self.assertEqual(os.getsid(pid), pid)
        finally:
            os.kill(pid, signal.SIGTERM)
        client.wait_event("SHUTDOWN", reason="host-signal")
        self.wait_gone(pid)
        client.close()
        self.assertFalse(os.path.exists(pidfile))
        self.assertFalse(os.path.exists(qmp))

    def test_daemon_runs_its_guest(self):
        pidfile = self.path("pid")
        parent = self.ferry("-daemonize", "-pidfile", pidfile, guest="report=100 rate=2000",
                            machine=DEVICES, ram="shm", qmp=False)
        parent.wait()
        pid = self.daemon(pidfile)
        # the parent is gone, its guest is not
        box = parent.guest.box
        wait_for("guest", box.alive)
        loops = box.cpu(0)["loops"]
        wait_for("sign of life", lambda: box.cpu(0)["loops"] != loops)
        os.kill(pid, signal.SIGTERM)
        self.wait_gone(pid)
