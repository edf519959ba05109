# SPDX-License-Identifier: GPL-2.0-or-later
"""
Capabilities and parameters, and what is refused: with QEMU's words, which clients match. Texts were
taken from QEMU 7.2's answers.
"""

from ferrytest import QmpError, TestCase, migrate

MISSING_URI = "Parameter 'uri' is missing"
BAD_URI = "Parameter 'uri' expects a valid migration protocol"


class Options(TestCase):
    def vm(self, *extra, **options):
        return self.ferry(*extra, **{"accel": "qtest", "serial": None, **options})

    def fails(self, vm, command, desc, **arguments):
        with self.subTest(command=command, arguments=arguments):
            self.refused(desc, vm, command, **arguments)

    # ---- capabilities ----

    def capabilities(self, vm):
        return {c["capability"]: c["state"] for c in vm.cmd("query-migrate-capabilities")}

    def test_capabilities_default(self):
        self.assertEqual(self.capabilities(self.vm()), {
            "xbzrle": False, "events": False, "return-path": False, "pause-before-switchover": False,
            "late-block-activate": False, "x-ignore-shared": False, "auto-converge": False,
            "dirty-limit": False, "validate-uuid": False, "postcopy-ram": False,
            "postcopy-preempt": False, "postcopy-blocktime": False, "release-ram": False})

    def test_capabilities_set(self):
        vm = self.vm()
        for name in self.capabilities(vm):
            if name == "dirty-limit":
                continue  # not here, and not with auto-converge
            if name == "postcopy-ram":
                migrate.set_capabilities(vm, x_ignore_shared=False)
            with self.subTest(capability=name):
                before = self.capabilities(vm)
                migrate.set_capabilities(vm, **{name: True})
                self.assertEqual(self.capabilities(vm), {**before, name: True})
        migrate.set_capabilities(vm, events=False, validate_uuid=False)
        self.assertEqual([n for n, on in self.capabilities(vm).items() if not on],
                         ["events", "x-ignore-shared", "dirty-limit", "validate-uuid"])

    def test_capabilities_refused(self):
        vm = self.vm()
        for name in ("nope", "", "EVENTS"):
            self.fails(vm, "migrate-set-capabilities",
                       f"Parameter 'capability' does not accept value '{name}'",
                       capabilities=[{"capability": name, "state": True}])
        # what QEMU has and Ferry lacks is refused in the same words
        for name in ("multifd", "rdma-pin-all", "background-snapshot"):
            self.fails(vm, "migrate-set-capabilities",
                       f"Parameter 'capability' does not accept value '{name}'",
                       capabilities=[{"capability": name, "state": True}])
        self.fails(vm, "migrate-set-capabilities", "Parameter 'capabilities' is missing")

    def test_postcopy_refused(self):
        vm = self.vm()
        for message, on in (("Postcopy preempt requires postcopy-ram", ["postcopy-preempt"]),
                            ("Postcopy is not compatible with ignore-shared",
                             ["postcopy-ram", "x-ignore-shared"])):
            before = self.capabilities(vm)
            self.fails(vm, "migrate-set-capabilities", message,
                       capabilities=[{"capability": name, "state": True} for name in on])
            self.assertEqual(self.capabilities(vm), before)

    def test_dirty_limit_refused(self):
        vm = self.vm()
        both = [{"capability": "auto-converge", "state": True},
                {"capability": "dirty-limit", "state": True}]
        self.fails(vm, "migrate-set-capabilities",
                   "dirty-limit conflicts with auto-converge either of then available currently",
                   capabilities=both)
        self.fails(vm, "migrate-set-capabilities",
                   "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set",
                   capabilities=both[1:])
        self.assertFalse(self.capabilities(vm)["auto-converge"])

    def test_one_bad_capability_changes_nothing(self):
        vm = self.vm()
        with self.assertRaises(QmpError):
            vm.cmd("migrate-set-capabilities",
                   capabilities=[{"capability": "events", "state": True},
                                 {"capability": "nope", "state": True}])
        self.assertFalse(self.capabilities(vm)["events"])

    # ---- parameters ----

    def parameters(self, vm):
        return vm.cmd("query-migrate-parameters")

    def test_parameters_default(self):
        self.assertEqual(self.parameters(self.vm()), {
            "max-bandwidth": 0, "downtime-limit": 300, "avail-switchover-bandwidth": 0,
            "max-postcopy-bandwidth": 0, "xbzrle-cache-size": 64 << 20,
            "announce-initial": 50, "announce-max": 550, "announce-rounds": 5, "announce-step": 100,
            "throttle-trigger-threshold": 50, "cpu-throttle-initial": 20,
            "cpu-throttle-increment": 10, "cpu-throttle-tailslow": False, "max-cpu-throttle": 99,
            "x-vcpu-dirty-limit-period": 1000, "vcpu-dirty-limit": 1, "connect-timeout": 30000,
            "greeting-timeout": 20000, "link-timeout": 30000, "pre-switchover-timeout": 0,
            "ready-timeout": 30000, "confirm-timeout": 30000, "begin-timeout": 60000,
            "stream-timeout": 120000, "go-timeout": 60000, "reconnect-addresses": [],
            "reconnect-interval": 20, "reconnect-timeout": 0})

    def test_parameters_set(self):
        vm = self.vm()
        for name, value in (("max-bandwidth", 1), ("max-bandwidth", 1 << 40),
                            ("downtime-limit", 0), ("downtime-limit", 2000000),
                            ("avail-switchover-bandwidth", 12345), ("max-postcopy-bandwidth", 5),
                            ("xbzrle-cache-size", 4096), ("xbzrle-cache-size", 1 << 30),
                            ("throttle-trigger-threshold", 1), ("throttle-trigger-threshold", 100),
                            ("cpu-throttle-initial", 1), ("max-cpu-throttle", 1),
                            ("max-cpu-throttle", 99), ("cpu-throttle-initial", 99),
                            ("cpu-throttle-increment", 1), ("cpu-throttle-increment", 99),
                            ("cpu-throttle-tailslow", True), ("x-vcpu-dirty-limit-period", 1),
                            ("reconnect-listen", "tcp:127.0.0.1:1"), ("reconnect-interval", 60000),
                            ("reconnect-addresses", ["unix:/a", "tcp:[::1]:1"]),
                            ("reconnect-addresses", []), ("reconnect-timeout", 86400000),
                            ("announce-initial", 0), ("announce-max", 100000),
                            ("announce-rounds", 1000), ("announce-step", 1),
                            ("vcpu-dirty-limit", 100)):
            with self.subTest(parameter=name, value=value):
                before = self.parameters(vm)
                migrate.set_parameters(vm, **{name: value})
                self.assertEqual(self.parameters(vm), {**before, name: value})

    def test_reconnect(self):
        vm = self.vm()
        migrate.set_parameters(vm, reconnect_listen="unix:/a")
        migrate.set_parameters(vm, reconnect_listen="")
        self.assertNotIn("reconnect-listen", self.parameters(vm))
        for uri, message in (("nope:x", "expects a valid migration protocol"),
                             ("exec:cat", "Parameter '%s' expects tcp: or unix: addresses, not "
                                          "'exec:cat'"), ("fd:a", "not 'fd:a'")):
            for name, value in (("reconnect-listen", uri), ("reconnect-addresses", ["unix:/a", uri])):
                with self.assertRaises(QmpError) as refused:
                    migrate.set_parameters(vm, **{name: value})
                self.assertIn(message.replace("%s", name), str(refused.exception))
        self.assertEqual(self.parameters(vm)["reconnect-addresses"], [])

    def test_bandwidth_beyond_an_integer(self):
        """As QEMU: -1 is 2^64-1."""
        vm = self.vm()
        migrate.set_parameters(vm, max_bandwidth=-1)
        self.assertEqual(self.parameters(vm)["max-bandwidth"], (1 << 64) - 1)

    def test_parameters_refused(self):
        vm = self.vm()
        self.fails(vm, "migrate-set-parameters",
                   "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms",
                   downtime_limit=2000001)
        for size in (0, 1, 4095, 5000, (1 << 26) + 4096, -1):
            self.fails(vm, "migrate-set-parameters",
                       "Parameter 'xbzrle_cache_size' expects a power of two no less than the target "
                       "page size", xbzrle_cache_size=size)
        # QEMU finds out when a migration begins
        self.fails(vm, "migrate-set-parameters",
                   f"Cannot allocate the xbzrle cache of {1 << 62} bytes: give a smaller "
                   "xbzrle-cache-size", xbzrle_cache_size=1 << 62)
        for name, low, high in (("throttle-trigger-threshold", 1, 100), ("cpu-throttle-initial", 1, 99),
                                ("cpu-throttle-increment", 1, 99)):
            for value in (low - 1, high + 1, 255):
                self.fails(vm, "migrate-set-parameters",
                           f"Parameter '{name.replace('-', '_')}' expects an integer in the range of "
                           f"{low} to {high}", **{name: value})
            for value in (-1, 256):
                self.fails(vm, "migrate-set-parameters", f"Parameter '{name}' expects uint8_t",
                           **{name: value})
        for arguments in ({"max-cpu-throttle": 0}, {"max-cpu-throttle": 19},
                          {"max-cpu-throttle": 100},
                          {"cpu-throttle-initial": 30, "max-cpu-throttle": 25}):
            self.fails(vm, "migrate-set-parameters", "Parameter 'max_cpu_throttle' expects an integer "
                       "in the range of cpu_throttle_initial to 99", **arguments)
        for value in (0, 1001):
            self.fails(vm, "migrate-set-parameters", "Parameter 'x-vcpu-dirty-limit-period' expects a "
                       "value between 1 and 1000", **{"x-vcpu-dirty-limit-period": value})
        self.fails(vm, "migrate-set-parameters", "Parameter 'vcpu_dirty_limit' must be greater than "
                   "1 MB/s", **{"vcpu-dirty-limit": 0})
        self.fails(vm, "migrate-set-parameters", "Parameter 'nope' is unexpected", nope=1)
        self.fails(vm, "migrate-set-parameters", "Parameter 'max-bandwidth' expects uint64",
                   max_bandwidth="fast")
        # all or nothing
        with self.assertRaises(QmpError):
            migrate.set_parameters(vm, max_bandwidth=5, downtime_limit=2000001)
        self.assertEqual(self.parameters(vm)["max-bandwidth"], 0)

    # ---- commands ----

    def test_migrate_refused(self):
        vm = self.vm()
        self.fails(vm, "migrate", MISSING_URI)
        for uri in ("bogus:1", "", "unix", "tcp", "/a/path", "rdma:host:1"):
            self.fails(vm, "migrate", BAD_URI, uri=uri)
        self.fails(vm, "migrate", "Cannot resume if there is no paused migration", uri="unix:/x",
                   resume=True)
        self.assertEqual(migrate.info(vm), {})

    def test_addresses_refused(self):
        """Each names what is wrong; none starts a migration."""
        vm = self.vm()
        for uri in ("tcp:host", "tcp::", "tcp:host:1,ipv4=perhaps", "tcp:host:1,nope=1", "unix:",
                    "file:", "file:/x,offset=-1", "exec:", "fd:", "fd:nobody", "fd:99999"):
            with self.subTest(uri=uri):
                with self.assertRaises(QmpError) as caught:
                    vm.cmd("migrate", uri=uri)
                self.assertEqual(caught.exception.error_class, "GenericError")
                self.assertRegex(caught.exception.desc, "^[A-Zae]")
                self.assertEqual(migrate.info(vm), {})

    def test_channels_refused(self):
        vm = self.vm()
        good = {"channel-type": "main",
                "addr": {"transport": "socket", "type": "unix", "path": "/nonexistent/x"}}
        self.fails(vm, "migrate", "'uri' and 'channels' arguments are mutually exclusive; exactly one of "
                   "the two should be present in 'migrate' qmp command", uri="unix:/x", channels=[good])
        for channels in ([], [good, good]):
            self.fails(vm, "migrate", "Channel list must have exactly one entry, of type 'main'",
                       channels=channels)
        self.fails(vm, "migrate", "Parameter 'args' of an exec channel names no program",
                   channels=[{"channel-type": "main", "addr": {"transport": "exec", "args": []}}])
        with self.assertRaises(QmpError):
            vm.cmd("migrate", channels=[{"channel-type": "multifd", "addr": good["addr"]}])

    def test_failed_connection(self):
        """migrate itself says nothing; query-migrate does, in QEMU's words."""
        vm = self.vm()
        vm.cmd("migrate", uri="unix:/nonexistent/x")
        self.assertEqual(migrate.wait_status(vm, "failed"), {
            "status": "failed",
            "policy": "legacy",
            "error-desc": "Failed to connect to '/nonexistent/x': No such file or directory, at the "
                          "source in phase 'connect'"})
        # and another attempt may be made
        vm.cmd("migrate", uri="exec:cat > /dev/null")
        migrate.wait_status(vm, "completed")

    def test_nobody_listens(self):
        vm = self.vm()
        vm.cmd("migrate", uri="tcp:127.0.0.1:1")
        self.assertIn("Connection refused", migrate.wait_status(vm, "failed")["error-desc"])
        self.assertEqual(vm.status(), "running")

    def test_command_that_fails(self):
        """A program that does not take the stream has not saved it."""
        vm = self.vm()
        for command in ("exec:exit 3", "exec:head -c 10 > /dev/null", "exec:/nonexistent/program"):
            with self.subTest(command=command):
                vm.cmd("migrate", uri=command)
                self.assertTrue(migrate.wait_status(vm, "failed")["error-desc"])
                # a stream that had been sent whole may be in use already
                self.assertIn(vm.status(), ("running", "postmigrate"))
                if vm.status() == "postmigrate":
                    vm.cmd("cont")

    def test_outside_their_states(self):
        vm = self.vm()
        self.assertEqual(vm.cmd("migrate_cancel"), {})
        self.fails(vm, "migrate-incoming", "'-incoming' was not specified on the command line",
                   uri="unix:/x")
        self.fails(vm, "migrate-start-postcopy",
                   "Enable postcopy with migrate_set_capability before the start of migration")
        self.fails(vm, "migrate-continue", "Migration not in expected state: none",
                   state="pre-switchover")
        self.fails(vm, "migrate-recover", "Migrate recover can only be run when postcopy is paused.",
                   uri="unix:/x")
        self.fails(vm, "migrate-pause",
                   "migrate-pause is currently only supported during postcopy-active state")
        vm.cmd("migrate", uri="unix:/nonexistent/x")
        migrate.wait_status(vm, "failed")
        self.fails(vm, "migrate-continue", "Migration not in expected state: failed",
                   state="pre-switchover")

    def test_incoming_refused(self):
        vm = self.vm(incoming="defer")
        self.fails(vm, "migrate", "Guest is waiting for an incoming migration", uri="unix:/x")
        self.fails(vm, "migrate-incoming", MISSING_URI)
        self.fails(vm, "migrate-incoming", BAD_URI, uri="bogus:1")
        with self.assertRaises(QmpError):
            vm.cmd("migrate-incoming", uri="unix:/nonexistent/x")
        vm.cmd("migrate-incoming", uri="unix:" + self.path("m"))
        self.fails(vm, "migrate-incoming", "The incoming migration has already been started",
                   uri="unix:" + self.path("n"))

    def test_incoming_on_the_command_line_refused(self):
        for uri in ("bogus:1", "unix:/nonexistent/x", "fd:77", "exec:", "tcp:host"):
            with self.subTest(uri=uri):
                vm = self.vm(incoming=uri, wait=False)
                vm.wait(1)
                self.assertIn(f"-incoming {uri}: ", vm.stderr())
                self.assertEqual(len(vm.stderr().splitlines()), 1)

    def test_incoming_file_that_is_not_there(self):
        vm = self.vm(incoming="file:" + self.path("nothing"), wait=False)
        vm.wait(1)
        self.assertIn("No such file or directory", vm.stderr())

    def test_socket_is_removed(self):
        """The path on which a destination listened is gone when it is."""
        import os
        vm = self.vm(incoming="unix:" + self.path("m"))
        self.assertTrue(os.path.exists(self.path("m")))
        vm.quit()
        self.assertFalse(os.path.exists(self.path("m")))
