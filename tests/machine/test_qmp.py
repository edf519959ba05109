# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP as clients of a whole process see it."""

import json
import os
import re
import socket

from ferrytest import Qmp, QmpError, TestCase, scaled


class QmpCase(TestCase):
    def start(self, *extra, **options):
        return self.ferry(*extra, **{"accel": "qtest", "serial": None, **options})

    def server(self):
        """A machine with a QMP server to which clients can connect and connect again."""
        self.socket = self.path("server")
        return self.start("-qmp", f"unix:{self.socket},server=on,wait=off")

    def client(self, vm, negotiate=True, oob=False):
        qmp = Qmp(vm.connect_to(self.socket))
        self.addCleanup(qmp.close)
        return qmp.negotiate(oob) if negotiate else qmp


class Session(QmpCase):
    def test_greeting(self):
        vm = self.start()
        version = vm.qmp.greeting["QMP"]["version"]
        self.assertEqual(set(version["qemu"]), {"major", "minor", "micro"})
        self.assertRegex(version["package"], "^ferry-")
        self.assertEqual(vm.qmp.greeting["QMP"]["capabilities"], ["oob"])
        self.assertEqual(vm.cmd("query-version"), version)

    def test_nothing_before_negotiation(self):
        vm = self.server()
        qmp = self.client(vm, negotiate=False)
        qmp.read_message()
        with self.assertRaises(QmpError) as caught:
            qmp.cmd("query-status")
        self.assertEqual(caught.exception.error_class, "CommandNotFound")
        qmp.cmd("qmp_capabilities")
        self.assertEqual(qmp.cmd("query-status")["status"], "running")

    def test_second_client(self):
        """It waits until the first has gone, and is greeted then."""
        vm = self.server()
        first = self.client(vm)
        second = self.client(vm, negotiate=False)
        self.assertEqual(first.cmd("query-status")["status"], "running")
        first.close()
        second.negotiate()
        self.assertEqual(second.cmd("query-status")["status"], "running")

    def test_two_servers(self):
        """Each client is answered, and both are told of events."""
        vm = self.server()
        other = self.client(vm)
        vm.cmd("stop")
        vm.qmp.wait_event("STOP")
        other.wait_event("STOP")
        other.cmd("cont")
        vm.qmp.wait_event("RESUME")

    def test_oob(self):
        vm = self.server()
        qmp = self.client(vm, oob=True)
        with self.assertRaises(QmpError) as caught:
            qmp.execute("query-status", oob=True)
        self.assertEqual(caught.exception.desc, "The command query-status does not support OOB")
        with self.assertRaises(QmpError) as caught:
            qmp.execute("migrate-pause", oob=True)
        self.assertIn("postcopy-active", caught.exception.desc)
        # not without having asked for it
        with self.assertRaises(QmpError):
            vm.qmp.execute("migrate-pause", oob=True)

    def test_ids(self):
        vm = self.start()
        for ident in (5, "five", [1, {"a": None}], {"x": 1.5}):
            vm.qmp.send_raw(json.dumps({"execute": "query-status", "id": ident}) + "\n")
            self.assertEqual(vm.qmp.read_message()["id"], ident)

    def test_garbage(self):
        vm = self.start()
        for text in ("nonsense\n", "{]\n", "[]\n", "5\n", '{"execute": 5}\n', '{"arguments": {}}\n',
                     '{"execute": "query-status", "nope": 1}\n', '{"execute": "nope"}\n',
                     "\xff\xfe\n", '{"execute": "query-status", "arguments": {"nope": 1}}\n'):
            with self.subTest(text=text):
                vm.qmp.send_raw(text)
                self.assertIn("error", vm.qmp.read_message())
                while vm.qmp.buffer:
                    vm.qmp.read_message()
        vm.qmp.send_raw("\n")
        self.assertEqual(vm.status(), "running")

    def test_many_commands_at_once(self):
        vm = self.start()
        count = 500
        vm.qmp.send_raw("".join(json.dumps({"execute": "query-status", "id": i}) for i in range(count)))
        self.assertEqual([vm.qmp.read_message()["id"] for _ in range(count)], list(range(count)))

    def test_events_have_times(self):
        vm = self.start()
        vm.cmd("stop")
        stamp = vm.qmp.wait_event("STOP")["timestamp"]
        self.assertEqual(set(stamp), {"seconds", "microseconds"})
        import time
        self.assertLess(abs(stamp["seconds"] - time.time()), 60)

    def test_client_dies_in_the_middle_of_a_command(self):
        vm = self.server()
        qmp = self.client(vm, negotiate=False)
        qmp.send_raw('{"execute": "qmp_capa')
        qmp.close()
        again = self.client(vm)
        self.assertEqual(again.cmd("query-status")["status"], "running")

    def test_pretty(self):
        path = self.path("pretty")
        vm = self.start("-qmp-pretty", f"unix:{path},server=on,wait=off")
        sock = vm.connect_to(path)
        sock.settimeout(scaled())
        text = b""
        while not text.endswith(b"}\r\n"):
            text += sock.recv(4096)
        self.assertRegex(text.decode(), r'^\{\r\n    "QMP"')
        sock.close()


class Descriptors(QmpCase):
    def test_getfd(self):
        vm = self.start()
        left, right = socket.socketpair()
        vm.qmp.execute("getfd", {"fdname": "x"}, fds=[right.fileno()])
        right.close()
        # it is kept: no end of file at the other end
        left.settimeout(0.1)
        with self.assertRaises(TimeoutError):
            left.recv(1)
        vm.cmd("closefd", fdname="x")
        left.settimeout(scaled())
        self.assertEqual(left.recv(1), b"")
        left.close()
        self.refused("File descriptor named 'x' not found", vm, "closefd", fdname="x")

    def test_getfd_replaces(self):
        vm = self.start()
        pairs = [socket.socketpair() for _ in range(2)]
        for _, right in pairs:
            vm.qmp.execute("getfd", {"fdname": "x"}, fds=[right.fileno()])
            right.close()
        pairs[0][0].settimeout(scaled())
        self.assertEqual(pairs[0][0].recv(1), b"")
        for left, _ in pairs:
            left.close()

    def test_getfd_without_one(self):
        vm = self.start()
        self.refused("No file descriptor supplied via SCM_RIGHTS", vm, "getfd", fdname="x")
        self.refused("No file descriptor supplied via SCM_RIGHTS", vm, "add-fd")
        read, write = os.pipe()
        with self.assertRaises(QmpError):
            vm.qmp.execute("getfd", {"fdname": "5"}, fds=[read])
        os.close(read)
        os.close(write)

    def test_fdsets(self):
        vm = self.start()
        read, write = os.pipe()
        info = vm.qmp.execute("add-fd", {"fdset-id": 7, "opaque": "rd:a"}, fds=[read])
        self.assertEqual(info["fdset-id"], 7)
        (fdset,) = vm.cmd("query-fdsets")
        self.assertEqual((fdset["fdset-id"], fdset["fds"][0]["opaque"]), (7, "rd:a"))
        vm.cmd("remove-fd", fdset_id=7)
        self.assertEqual(vm.cmd("query-fdsets"), [])
        os.close(read)
        os.close(write)

    def test_nothing_leaks(self):
        """Descriptors that came and were not taken are closed when the client goes."""
        vm = self.server()
        folder = f"/proc/{vm.process.pid}/fd"
        vm.status()
        before = len(os.listdir(folder))
        for _ in range(20):
            qmp = self.client(vm)
            read, write = os.pipe()
            qmp.start("query-status", fds=[read, write])
            os.close(read)
            os.close(write)
            qmp.read_message()
            qmp.close()
            self.client(vm).close()
        vm.status()
        self.assertLessEqual(len(os.listdir(folder)), before + 1)


class Introspection(QmpCase):
    def test_every_query_answers(self):
        """No query of the command list needs arguments or fails on a plain machine, but for those
        named here."""
        vm = self.start()
        names = [c["name"] for c in vm.cmd("query-commands")]
        queries = [n for n in names if re.match("(x-)?query-", n)]
        self.assertGreater(len(queries), 15)
        for name in queries:
            if name in ("query-command-line-options", "x-query-dirty-tracking",
                        "query-balloon"):  # without a balloon an error, as QEMU's
                continue
            with self.subTest(name=name):
                vm.cmd(name)

    def test_schema_and_commands_agree(self):
        vm = self.start()
        commands = {c["name"] for c in vm.cmd("query-commands")}
        schema = {e["name"] for e in vm.cmd("query-qmp-schema") if e["meta-type"] == "command"}
        self.assertEqual(schema, commands)
