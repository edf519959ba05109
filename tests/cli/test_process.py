# SPDX-License-Identifier: GPL-2.0-or-later
"""The program as a process: how it ends, how it goes into the background, what it inherits."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from ferry_cli import BINARY, Machine, leaked, run
from ferrytest import QmpError, scaled, wait_for

NONE = ["-M", "none", "-accel", "qtest"]
MICROVM = ["-M", "microvm", "-accel", "qtest", "-m", "16", "-nodefaults"]


class Signals(unittest.TestCase):
    def ends(self, args, number):
        with Machine(*args) as m:
            m.process.send_signal(number)
            data = m.qmp.wait_event("SHUTDOWN")["data"]
            self.assertEqual(data, {"guest": False, "reason": "host-signal"})
            self.assertEqual(m.wait(), 0, m.stderr())
            self.assertRegex(m.stderr(), rf"terminating on signal {int(number)} from pid "
                                         rf"{os.getpid()} \(.+\)\n$")
            self.assertIsNone(leaked(m.stderr()))
            self.assertFalse(os.path.exists(m.qmp_path), "the socket file is left behind")

    def test_each_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name):
                self.ends(NONE, number)

    def test_prelaunch(self):
        self.ends([*MICROVM, "-S"], signal.SIGTERM)

    def test_running(self):
        self.ends(MICROVM, signal.SIGTERM)

    def test_running_no_shutdown(self):
        self.ends([*MICROVM, "-no-shutdown"], signal.SIGTERM)

    def test_incoming_deferred(self):
        self.ends([*MICROVM, "-incoming", "defer"], signal.SIGTERM)

    def test_incoming_waits(self):
        self.ends([*MICROVM, "-incoming", "unix:%dir/in"], signal.SIGTERM)

    def test_incoming_silent_source(self):
        with Machine(*MICROVM, "-incoming", "unix:%dir/in") as m:
            source = socket.socket(socket.AF_UNIX)
            source.connect(os.path.join(m.dir, "in"))
            source.sendall(b"QEVM")
            time.sleep(0.2)
            m.process.terminate()
            self.assertEqual(m.qmp.wait_event("SHUTDOWN")["data"]["reason"], "host-signal")
            self.assertEqual(m.wait(), 0, m.stderr())
            source.close()

    def test_migrating(self):
        for point in ("setup", "active", "device"):
            with self.subTest(point), Machine(*MICROVM) as m:
                m.qmp.cmd("x-migrate-hold", point=point)
                m.qmp.cmd("migrate", uri="exec:cat >/dev/null")
                wait_for("held migration", lambda: m.qmp.cmd("x-query-migrate-hold")["held"])
                m.process.terminate()
                m.qmp.wait_event("SHUTDOWN", reason="host-signal")
                self.assertEqual(m.wait(), 0, m.stderr())
                self.assertIsNone(leaked(m.stderr()))

    def test_ignored_hangup_stays_ignored(self):
        old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with Machine(*NONE) as m:
                m.process.send_signal(signal.SIGHUP)
                time.sleep(0.2)
                m.qmp.cmd("query-status")
        finally:
            signal.signal(signal.SIGHUP, old)

    def test_quit(self):
        with Machine(*NONE) as m:
            m.qmp.cmd("quit")
            self.assertEqual(m.qmp.wait_event("SHUTDOWN")["data"],
                             {"guest": False, "reason": "host-qmp-quit"})
            self.assertEqual(m.wait(), 0)


class Messages(unittest.TestCase):
    def test_timestamp_and_name(self):
        with Machine(*NONE, "-name", "guest one", "-msg", "timestamp=on,guest-name=on") as m:
            m.process.terminate()
            m.wait()
            self.assertRegex(m.stderr(), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z guest one "
                                         r"ferry-system-x86_64: terminating on signal 15 ")

    def test_process_name(self):
        with Machine(*NONE, "-name", "a,process=ferry-a,debug-threads=on") as m:
            with open(f"/proc/{m.process.pid}/comm", encoding="utf-8") as f:
                self.assertEqual(f.read(), "ferry-a\n")


class Background(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.pidfile = os.path.join(self.folder.name, "pid")

    @staticmethod
    def has_ended(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                return f.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    def wait_gone(self, pid):
        wait_for("end of the daemon", lambda: self.has_ended(pid))

    def start(self, *args):
        result = run(*NONE, "-display", "none", "-daemonize", "-pidfile", self.pidfile, *args,
                     cwd=self.folder.name)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        with open(self.pidfile, encoding="utf-8") as f:
            pid = int(f.read())
        self.addCleanup(self.stop, pid)
        return pid

    def stop(self, pid):
        if os.path.exists(self.pidfile):
            os.kill(pid, signal.SIGTERM)
            self.wait_gone(pid)

    def test_daemonize(self):
        # a relative name means the folder in which the command was given
        pid = self.start("-qmp", "unix:qmp,server=on,wait=off")
        self.assertTrue(os.path.exists(os.path.join(self.folder.name, "qmp")))
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
        for fd in range(3):
            self.assertEqual(os.readlink(f"/proc/{pid}/fd/{fd}"), "/dev/null")
        self.assertEqual(os.getsid(pid), pid)
        os.kill(pid, signal.SIGTERM)
        self.wait_gone(pid)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_error_reaches_the_parent(self):
        result = run(*NONE, "-daemonize", "-pidfile", self.pidfile, "-chardev",
                     "file,id=a,path=/nonexistent/x")
        self.assertEqual(result.returncode, 1)
        self.assertIn("/nonexistent/x", result.stderr)
        self.assertFalse(os.path.exists(self.pidfile))

    def test_pidfile_is_locked(self):
        pid = self.start()
        result = run(*NONE, "-pidfile", self.pidfile)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "cannot create PID file: Cannot lock .*\n$")
        with open(self.pidfile, encoding="utf-8") as f:
            self.assertEqual(int(f.read()), pid)

    def test_stale_pidfile_is_taken_over(self):
        with open(self.pidfile, "w", encoding="utf-8") as f:
            f.write("123456789\n")
        self.start()


class Descriptors(unittest.TestCase):
    def test_add_fd(self):
        # a descriptor serves only who wants its very access mode
        with tempfile.NamedTemporaryFile() as file, open(file.name, "wb") as out:
            fd = out.fileno()
            with Machine(*NONE, "-add-fd", f"fd={fd},set=7,opaque=log", "-chardev",
                         "file,id=c,path=/dev/fdset/7", pass_fds=[fd]) as m:
                sets = m.qmp.cmd("query-fdsets")
                self.assertEqual([s["fdset-id"] for s in sets], [7])
                self.assertEqual(sets[0]["fds"][0]["opaque"], "log")
                self.assertIn("c", [c["label"] for c in m.qmp.cmd("query-chardev")])

    def test_add_fd_twice(self):
        with tempfile.TemporaryFile() as file:
            fd = file.fileno()
            result = run(*NONE, "-add-fd", f"fd={fd},set=1", "-add-fd", f"fd={fd},set=2",
                         pass_fds=[fd])
            self.assertEqual(result.returncode, 1)
            self.assertIn("not valid or already in use", result.stderr)

    def test_too_few(self):
        """A device with more queues than there may be descriptors says so."""
        result = subprocess.run(["prlimit", "--nofile=600", BINARY, *MICROVM, "-display", "none",
                                 "-device", "virtio-serial-device,max_ports=511"],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=scaled(), check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("1024 queues, each of which takes a descriptor: raise the limit of open files",
                      result.stderr)

    def test_monitor_on_a_listening_descriptor(self):
        with tempfile.TemporaryDirectory() as folder:
            server = socket.socket(socket.AF_UNIX)
            server.bind(os.path.join(folder, "s"))
            server.listen(1)
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(scaled())
            client.connect(os.path.join(folder, "s"))
            with Machine(*NONE, "-chardev", f"socket,id=m,fd={server.fileno()},server=on,wait=off",
                         "-mon", "chardev=m,mode=control", qmp=False,
                         pass_fds=[server.fileno()]):
                self.assertIn(b'"QMP"', client.recv(4096))
            server.close()
            client.close()


class Sandbox(unittest.TestCase):
    def start(self, options):
        # the leak sanitizer makes a process of its own, which the filter forbids
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        try:
            return Machine(*MICROVM, "-sandbox", options, env=env)
        except RuntimeError as err:
            if "built without libseccomp" in str(err):
                self.skipTest("the build has no libseccomp")
            raise

    def test_all_denied(self):
        with self.start("on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                        "resourcecontrol=deny") as m:
            for thread in os.listdir(f"/proc/{m.process.pid}/task"):
                path = f"/proc/{m.process.pid}/task/{thread}/status"
                with open(path, encoding="utf-8") as f:
                    self.assertIn("Seccomp:\t2\n", f.read())
            self.assertEqual(m.qmp.cmd("query-status")["status"], "running")
            m.qmp.cmd("stop")
            m.qmp.cmd("cont")
            m.qmp.cmd("system_reset")

    def test_spawn_denied_fails_the_command_only(self):
        with self.start("on,spawn=deny") as m:
            # refused at once, or with the migration's failure
            try:
                m.qmp.cmd("migrate", uri="exec:cat >/dev/null")
                wait_for("failure of the migration",
                         lambda: m.qmp.cmd("query-migrate").get("status") == "failed")
            except QmpError:
                pass
            self.assertTrue(m.qmp.cmd("query-status")["running"])

    def test_off(self):
        with Machine(*NONE, "-sandbox", "off"):
            pass


class Shutdown(unittest.TestCase):
    def test_stdio_end_of_file(self):
        # a terminal that has gone does not take the guest with it
        process = subprocess.Popen([BINARY, *NONE, "-display", "none", "-chardev", "stdio,id=c",
                                    "-mon", "c,mode=control"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertIn(b'"QMP"', process.stdout.readline())
        time.sleep(0.2)
        self.assertIsNone(process.poll())
        process.terminate()
        self.assertEqual(process.wait(scaled()), 0)
        process.stdout.close()


if __name__ == "__main__":
    unittest.main()
