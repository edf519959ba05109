# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest moves: over every kind of transport, by URI and by channels, and as it was."""

import os
import socket

from ferrytest import DEVSTATE, QmpError, migrate, wait_for
from migrationcase import MigrationCase

# A guest that uses no clock of KVM's, whose page a destination writes anew.
QUIET = "report=100 pv=0 "


def socket_channel(**addr):
    return [{"channel-type": "main", "addr": {"transport": "socket", **addr}}]


class Transports(MigrationCase):
    def run_pair(self, out_uri=None, out_channels=None, in_uri=None, in_channels=None,
                 return_path=True, before=None):
        """Destination deferred; outgoing and incoming side given each in its own form."""
        self.pair(destination={"incoming": "defer"}, return_path=return_path)
        incoming = {"uri": in_uri} if in_uri else {"channels": in_channels}
        self.dst.cmd("migrate-incoming", **incoming)
        if before:
            out_uri, out_channels = before()
        outgoing = {"uri": out_uri} if out_uri else {"channels": out_channels}
        migrate.set_parameters(self.src, max_bandwidth=1 << 30)
        self.src.cmd("migrate", **outgoing)
        migrate.finish(self.src, self.dst)
        self.dst.guest.check()

    def test_unix(self):
        path = self.path("m")
        self.run_pair(out_uri="unix:" + path, in_uri="unix:" + path)

    def test_unix_without_return_path(self):
        path = self.path("m")
        self.run_pair(out_uri="unix:" + path, in_uri="unix:" + path, return_path=False)

    def test_unix_channels(self):
        channel = socket_channel(type="unix", path=self.path("m"))
        self.run_pair(out_channels=channel, in_channels=channel)

    def listening(self):
        """Where the destination listens, as it says itself."""
        (address,) = migrate.info(self.dst)["socket-address"]
        self.assertEqual(address["type"], "inet")
        self.assertNotEqual(address["port"], "0")
        return address

    def test_tcp(self):
        def before():
            address = self.listening()
            return f"tcp:{address['host']}:{address['port']}", None
        self.run_pair(in_uri="tcp:127.0.0.1:0", before=before)

    def test_tcp_channels(self):
        def before():
            address = self.listening()
            return None, socket_channel(type="inet", host=address["host"], port=address["port"])
        self.run_pair(in_channels=socket_channel(type="inet", host="127.0.0.1", port="0"),
                      before=before)

    def test_tcp_range_of_ports(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            def before():
                address = self.listening()
                self.assertGreater(int(address["port"]), port)
                return f"tcp:127.0.0.1:{address['port']}", None
            self.run_pair(in_channels=socket_channel(type="inet", host="127.0.0.1", port=str(port),
                                                     to=min(port + 20, 65535)), before=before)

    def test_fd(self):
        """Descriptors that came over QMP, both ends of one socket pair."""
        left, right = socket.socketpair()
        self.pair(destination={"incoming": "defer"})
        self.src.qmp.execute("getfd", {"fdname": "out"}, fds=[left.fileno()])
        self.dst.qmp.execute("getfd", {"fdname": "in"}, fds=[right.fileno()])
        left.close()
        right.close()
        self.dst.cmd("migrate-incoming", uri="fd:in")
        migrate.start(self.src, "fd:out")
        migrate.finish(self.src, self.dst)
        self.dst.guest.check()
        with self.assertRaises(QmpError):  # it was taken
            self.src.cmd("closefd", fdname="out")

    def test_fd_inherited_and_pipe(self):
        """-incoming fd:N, on a pipe, which carries nothing back."""
        read, write = os.pipe()
        os.set_inheritable(read, True)
        src = self.vm(name="source")
        dst = self.vm(name="destination", incoming=f"fd:{read}", pass_fds=[read])
        os.close(read)
        src.guest.wait_ready()
        src.qmp.execute("getfd", {"fdname": "out"}, fds=[write])
        os.close(write)
        migrate.start(src, "fd:out")
        migrate.finish(src, dst)
        dst.guest.check()

    def test_pipe_with_return_path(self):
        """A return path needs a way back; without one the migration fails and says so."""
        read, write = os.pipe()
        src = self.vm(name="source")
        src.guest.wait_ready()
        migrate.set_capabilities(src, return_path=True)
        src.qmp.execute("getfd", {"fdname": "out"}, fds=[write])
        os.close(write)
        src.cmd("migrate", uri="fd:out")
        self.assertIn("return-path", migrate.wait_status(src, "failed")["error-desc"])
        os.close(read)
        self.check_source_goes_on(src)

    def save_and_load(self, out, into, return_path=False, capabilities=None):
        """To something that keeps the stream, then from there into a new machine."""
        src = self.vm(name="source")
        src.guest.wait_ready()
        migrate.set_parameters(src, max_bandwidth=1 << 30)
        src.cmd("migrate", **out)
        migrate.wait_status(src, "completed")
        self.assertEqual(src.status(), "postmigrate")
        saved = src.guest.header("seq")
        src.quit()
        if isinstance(into, str):
            dst = self.vm(name="destination", incoming=into)
        else:
            dst = self.vm(name="destination", incoming="defer")
            dst.cmd("migrate-incoming", **into)
        dst.wait_state("running")
        dst.guest.check()
        self.assertGreaterEqual(dst.guest.header("seq"), saved)

    def test_exec(self):
        path = self.path("stream")
        self.save_and_load({"uri": f"exec:cat > {path}"}, f"exec:cat {path}")

    def test_exec_channels(self):
        path = self.path("stream")

        def channel(*args):
            return {"channels": [{"channel-type": "main",
                                  "addr": {"transport": "exec", "args": list(args)}}]}
        self.save_and_load(channel("/bin/sh", "-c", f"cat > {path}"), channel("/bin/cat", path))

    def test_exec_compressed(self):
        path = self.path("stream")
        self.save_and_load({"uri": f"exec:gzip -1 > {path}"}, f"exec:gzip -d < {path}")

    def test_file(self):
        path = self.path("stream")
        self.save_and_load({"uri": f"file:{path}"}, f"file:{path}")

    def test_file_offset(self):
        path = self.path("stream")
        with open(path, "wb") as f:
            f.write(b"x" * 5000)
        self.save_and_load({"uri": f"file:{path},offset=4096"}, f"file:{path},offset=4096")
        with open(path, "rb") as f:
            self.assertEqual(f.read(4100), b"x" * 4096 + b"QEVM")

    def test_file_channels(self):
        channel = [{"channel-type": "main", "addr": {"transport": "file", "offset": 0x1000,
                                                     "filename": self.path("stream")}}]
        self.save_and_load({"channels": channel}, {"channels": channel})

    def test_file_in_fdset(self):
        """What a manager does that opens files for a confined VMM."""
        path = self.path("stream")
        src = self.vm(name="source")
        src.guest.wait_ready()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        fdset = src.qmp.execute("add-fd", fds=[fd])["fdset-id"]
        os.close(fd)
        migrate.start(src, f"file:/dev/fdset/{fdset}")
        migrate.wait_status(src, "completed")
        dst = self.vm(name="destination", incoming="defer")
        fd = os.open(path, os.O_RDONLY)
        fdset = dst.qmp.execute("add-fd", fds=[fd])["fdset-id"]
        os.close(fd)
        dst.cmd("migrate-incoming", uri=f"file:/dev/fdset/{fdset}")
        dst.wait_state("running")
        dst.guest.check()

    def test_incoming_on_command_line(self):
        path = self.path("m")
        src = self.vm(name="source")
        dst = self.vm(name="destination", incoming=f"unix:{path}")
        src.guest.wait_ready()
        self.move_and_check(src, dst, f"unix:{path}")


class Guests(MigrationCase):
    def test_busy_guest_with_all_devices(self):
        """Memory of every kind, written all over, and device state that the guest watches."""
        self.pair(guest=f"report=100 rate=20000 pattern=random data=mixed {DEVSTATE}",
                  memory=48, smp=2)
        self.src.serial_line("DEV ok")
        pauses = [self.move_and_check(self.src, self.dst)["downtime"]]
        checks = self.dst.guest.header("dev_checks")
        wait_for("device checks", lambda: self.dst.guest.header("dev_checks") > checks)
        self.assertEqual(self.dst.guest.header("dev_bad"), 0)
        # a host that is busy with others just then may keep it longer, and not each time
        while pauses[-1] >= 300 and len(pauses) < 5:
            self.src.quit()
            self.src = self.dst
            migrate.set_capabilities(self.src, return_path=True)
            self.another_destination(memory=48, smp=2)
            pauses.append(self.move_and_check(self.src, self.dst)["downtime"])
        self.assertLess(pauses[-1], 300, pauses)

    def test_statistics(self):
        self.pair(guest="report=100 rate=0 data=random", memory=32)
        ram = self.move_and_check(self.src, self.dst)["ram"]
        # main memory, firmware and the ACPI blobs
        self.assertGreaterEqual(ram["total"], 32 << 20)
        self.assertLess(ram["total"], 33 << 20)
        self.assertEqual(ram["remaining"], 0)
        self.assertEqual(ram["page-size"], 4096)
        self.assertGreaterEqual(ram["dirty-sync-count"], 2)
        self.assertEqual(ram["normal-bytes"], ram["normal"] * 4096)
        self.assertGreater(ram["normal"], 7000)  # the pages with data
        self.assertGreaterEqual(ram["transferred"], ram["normal-bytes"])
        self.assertLess(ram["transferred"], ram["normal-bytes"] * 1.02 + 200000)

    def test_memory_is_equal(self):
        """Both sides stopped: every byte of RAM is the same, also in an idle guest's."""
        for guest in ("rate=20000 pattern=random data=mixed", "idle=1 mem=2M"):
            with self.subTest(guest=guest):
                src, dst = self.pair(guest=QUIET + guest, memory=24, destination={"paused": True})
                migrate.start(src, self.uri)
                migrate.finish(src, dst, running=False)
                dst.wait_state("paused")
                self.assert_memory_equal(src, dst)
                dst.guest.verify_from_outside()
                dst.cmd("cont")
                dst.guest.check()

    def test_destination_with_garbage_in_its_memory(self):
        """A backing file that has been used before: pages that are zero at the source become so."""
        src, _ = self.pair(guest=QUIET + "idle=1 mem=2M")
        self.dst.quit()
        path = os.path.join(self.shm, "used.ram")
        with open(path, "wb") as f:
            f.write(b"\xa5" * (16 << 20))
        dst = self.vm("-object", f"memory-backend-file,id=ram0,size=16M,share=on,mem-path={path}",
                      "-machine", "memory-backend=ram0", name="destination", ram=None,
                      incoming="defer", paused=True)
        dst.ram_path = path
        self.uri = self.link()
        dst.cmd("migrate-incoming", uri=self.uri)
        migrate.set_capabilities(src, return_path=False)
        migrate.start(src, self.uri)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        self.assert_memory_equal(src, dst)

    def test_paused_guest_stays_paused(self):
        src, dst = self.pair(guest=QUIET + "rate=2000")
        src.cmd("stop")
        migrate.start(src, self.uri)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        self.assertFalse(dst.guest.is_alive(0.2))
        self.assert_memory_equal(src, dst)
        dst.cmd("cont")
        dst.guest.check()

    def test_never_started_guest(self):
        src, dst = self.pair(source={"paused": True}, ready=False)
        migrate.start(src, self.uri)
        migrate.finish(src, dst, running=False)
        dst.wait_state("prelaunch")
        dst.cmd("cont")
        dst.guest.wait_ready()
        dst.guest.check()

    def test_cont_and_stop_while_it_comes_in(self):
        """They only say what is to be done once the guest is there."""
        for commands, state in ((("cont",), "running"), (("cont", "stop"), "paused"),
                                (("stop",), "paused")):
            with self.subTest(commands=commands):
                paused = commands[0] == "cont"
                src, dst = self.pair(destination={"paused": paused})
                for command in commands:
                    dst.cmd(command)
                    self.assertEqual(dst.status(), "inmigrate")
                migrate.start(src, self.uri)
                migrate.finish(src, dst, running=False)
                dst.wait_state(state)

    def test_stop_of_the_guest_while_it_goes_out(self):
        """The state it is in at the switch counts."""
        src, dst = self.pair(guest=QUIET + "rate=30000 pattern=random", memory=32)
        migrate.start(src, self.uri, max_bandwidth=4 << 20)
        migrate.wait_status(src, "active")
        src.cmd("stop")
        migrate.set_parameters(src, max_bandwidth=1 << 30)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        self.assert_memory_equal(src, dst)

    def test_bootrom(self):
        """A guest in real mode, on a machine with nothing but a serial port."""
        from ferrytest.machine import guest_image
        src, dst = self.pair(guest=None, bios=guest_image("bootrom.bin"), ready=False, smp=1,
                             machine="pit=off,pic=off,rtc=off,isa-serial=on")
        src.serial_line("TICK 40 ")
        migrate.start(src, self.uri)
        migrate.finish(src, dst)
        first = int(dst.serial_line(r"TICK (\d+) bad=0").group(1))
        self.assertGreaterEqual(first, 40)
        dst.serial_line(f"TICK {first + 40} bad=0")

    def test_serial_output_is_whole(self):
        """What the guest printed before and after the move are one text without a gap."""
        src, dst = self.pair(guest="report=30 rate=1000")
        src.guest.wait_ticks(3)
        migrate.move(src, dst, self.uri)
        dst.guest.wait_ticks(4)
        dst.cmd("stop")
        text = src.serial() + dst.serial()
        seqs = [int(line.split("seq=")[1].split()[0]) for line in text.splitlines()
                if line.startswith("T ")]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))


class Refused(MigrationCase):
    """Two machines that do not fit: the destination says why, the source goes on."""

    def check_refused(self, checked, loaded, **destination):
        src, dst = self.pair(destination=destination)
        migrate.start(src, self.uri)
        self.check_refused_twice(src, dst, checked, loaded)

    def test_memory_size(self):
        self.check_refused("Memory 'ram0' has 16777216 bytes on the source and 33554432",
                           "(?i)length.*ram0|ram0.*(length|size)", memory=32)

    def test_machine_options(self):
        self.check_refused("ioapic2=on", "ioapic", machine="pit=on,pic=on,rtc=on,ioapic2=off")

    def test_no_acpi(self):
        self.check_refused("acpi=on", "(?i)ramblock|acpi", machine="pit=on,pic=on,rtc=on,acpi=off")

    def test_no_rtc(self):
        self.check_refused("rtc=on", "rtc", machine="pit=on,pic=on,rtc=off")

    def test_no_serial_port(self):
        self.check_refused("isa-serial=on", "serial", serial=None)

    def test_fewer_cpus(self):
        self.check_refused("2 vCPUs and the destination 1", "cpu|apic", smp=1)

    def test_name_of_memory(self):
        self.check_refused("no memory 'ram0'", "(?i)ramblock", ram=None)

    def test_exit_on_error_off(self):
        """The destination stays and tells the reason."""
        src, _ = self.pair(return_path=False)
        self.dst.quit()
        dst = self.vm(name="destination", incoming="defer", memory=32)
        self.uri = self.link()
        dst.cmd("migrate-incoming", uri=self.uri, exit_on_error=False)
        migrate.start(src, self.uri)
        self.assertRegex(migrate.wait_status(dst, "failed")["error-desc"], "ram0")
        self.assertEqual(dst.status(), "inmigrate")

    def test_not_a_stream(self):
        path = self.path("garbage")
        for content, reason in ((b"", "ended early"), (b"GET / HTTP/1.0\r\n\r\n", "Not a migration stream"),
                                (b"QEVM\0\0\0\2", "(?i)v2"), (b"QEVM\0\0\0\3\4", "Configuration")):
            with self.subTest(content=content):
                with open(path, "wb") as f:
                    f.write(content)
                dst = self.vm(name="destination", incoming=f"exec:cat {path}", wait=False)
                dst.wait(1)
                self.assertRegex(dst.stderr(), reason)
