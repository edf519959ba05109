# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP about the machine: run state, vCPUs, memory, identity, objects, the object tree."""

import re
import unittest

from ferry_cli import Machine
from ferrytest import QmpError, is_sanitized

MICROVM = ["-M", "microvm", "-accel", "qtest", "-m", "16"]
UUID = "550e8400-e29b-41d4-a716-446655440000"


class Case(unittest.TestCase):
    def fails(self, qmp, klass, desc, name, **arguments):
        with self.assertRaises(QmpError) as caught:
            qmp.cmd(name, **arguments)
        self.assertEqual((caught.exception.error_class, caught.exception.desc), (klass, desc))


class RunState(Case):
    def test_stop_cont(self):
        with Machine(*MICROVM, "-nodefaults") as m:
            q = m.qmp
            self.assertEqual(q.cmd("query-status"),
                             {"running": True, "singlestep": False, "status": "running"})
            q.cmd("stop")
            q.wait_event("STOP")
            self.assertEqual(q.cmd("query-status")["status"], "paused")
            q.cmd("stop")
            self.assertEqual(q.drain_events(), ["STOP"])
            q.cmd("cont")
            q.wait_event("RESUME")
            q.cmd("cont")
            self.assertEqual(q.drain_events(), ["STOP", "RESUME"])

    def test_prelaunch(self):
        with Machine(*MICROVM, "-S") as m:
            m.qmp.cmd("stop")
            self.assertEqual(m.qmp.cmd("query-status")["status"], "prelaunch")
            m.qmp.cmd("cont")
            self.assertTrue(m.qmp.cmd("query-status")["running"])

    def test_reset_and_powerdown(self):
        with Machine(*MICROVM) as m:
            m.qmp.cmd("system_reset")
            self.assertEqual(m.qmp.wait_event("RESET")["data"],
                             {"guest": False, "reason": "host-qmp-system-reset"})
            m.qmp.cmd("system_powerdown")
            m.qmp.wait_event("POWERDOWN")
            self.assertTrue(m.qmp.cmd("query-status")["running"])

    def test_incoming(self):
        with Machine(*MICROVM, "-incoming", "defer") as m:
            q = m.qmp
            for command in ("cont", "stop"):
                q.cmd(command)
                self.assertEqual(q.cmd("query-status")["status"], "inmigrate")
            self.fails(q, "GenericError", "The guest has not arrived yet: reset it at the source, or "
                       "here once it runs", "system_reset")
            self.assertEqual(q.cmd("query-status")["status"], "inmigrate")

    def test_machine_none(self):
        with Machine("-M", "none", "-accel", "qtest", "-S") as m:
            q = m.qmp
            self.assertEqual(q.cmd("query-cpus-fast"), [])
            self.assertEqual(q.cmd("query-memory-size-summary"),
                             {"base-memory": 0, "plugged-memory": 0})
            q.cmd("cont")
            q.cmd("system_reset")
            q.wait_event("RESET")
            q.cmd("system_powerdown")
            q.wait_event("POWERDOWN")
            q.cmd("stop")


class Queries(Case):
    def test_identity(self):
        with Machine(*MICROVM, "-name", "guest one", "-uuid", UUID) as m:
            self.assertEqual(m.qmp.cmd("query-name"), {"name": "guest one"})
            self.assertEqual(m.qmp.cmd("query-uuid"), {"UUID": UUID})
            self.assertEqual(m.qmp.cmd("query-target"), {"arch": "x86_64"})
            self.assertEqual(m.qmp.cmd("query-kvm"), {"enabled": False, "present": True})

    def test_no_identity(self):
        with Machine("-M", "none", "-accel", "qtest") as m:
            self.assertEqual(m.qmp.cmd("query-name"), {})
            self.assertEqual(m.qmp.cmd("query-uuid")["UUID"],
                             "00000000-0000-0000-0000-000000000000")

    def test_machines(self):
        with Machine("-M", "none", "-accel", "qtest") as m:
            machines = {x["name"]: x for x in m.qmp.cmd("query-machines")}
        self.assertEqual(set(machines), {"microvm", "none"})
        self.assertEqual(machines["microvm"],
                         {"name": "microvm", "cpu-max": 16, "is-default": True,
                          "hotpluggable-cpus": False, "numa-mem-supported": False,
                          "deprecated": False, "default-cpu-type": "qemu64-x86_64-cpu",
                          "default-ram-id": "microvm.ram"})

    def test_cpus(self):
        with Machine(*MICROVM, "-smp", "8,sockets=2,cores=2,threads=2") as m:
            cpus = m.qmp.cmd("query-cpus-fast")
            self.assertEqual([c["cpu-index"] for c in cpus], list(range(8)))
            self.assertEqual(cpus[5]["props"], {"socket-id": 1, "core-id": 0, "thread-id": 1})
            for cpu in cpus:
                self.assertEqual(m.qmp.cmd("qom-get", path=cpu["qom-path"], property="type"),
                                 "qemu64-x86_64-cpu")

    def test_cpu_dies(self):
        with Machine(*MICROVM, "-smp", "4,dies=2,cores=2") as m:
            places = [c["props"] for c in m.qmp.cmd("query-cpus-fast")]
            self.assertEqual([(p["die-id"], p["core-id"]) for p in places],
                             [(0, 0), (0, 1), (1, 0), (1, 1)])

    def test_memory(self):
        with Machine(*MICROVM) as m:
            self.assertEqual(m.qmp.cmd("query-memory-size-summary"),
                             {"base-memory": 16 << 20, "plugged-memory": 0})

    def test_default_serial(self):
        with Machine(*MICROVM) as m:
            labels = {c["label"]: c for c in m.qmp.cmd("query-chardev")}
            self.assertTrue(labels["serial0"]["frontend-open"])
        with Machine(*MICROVM, "-nodefaults") as m:
            self.assertNotIn("serial0", [c["label"] for c in m.qmp.cmd("query-chardev")])
        with Machine(*MICROVM, "-serial", "none") as m:
            self.assertNotIn("serial0", [c["label"] for c in m.qmp.cmd("query-chardev")])


class Objects(Case):
    def test_add_and_delete(self):
        with Machine("-M", "none", "-accel", "qtest") as m:
            q = m.qmp
            q.cmd("object-add", qom_type="memory-backend-ram", id="m", size=4096, share=True)
            self.assertEqual(q.cmd("qom-get", path="/objects/m", property="size"), 4096)
            self.assertIs(q.cmd("qom-get", path="/objects/m", property="share"), True)
            self.fails(q, "GenericError",
                       "attempt to add duplicate property 'm' to object (type 'container')",
                       "object-add", qom_type="memory-backend-ram", id="m", size=4096)
            q.cmd("object-del", id="m")
            self.fails(q, "GenericError", "object 'm' not found", "object-del", id="m")

    def test_in_use(self):
        with Machine("-M", "microvm,memory-backend=ram", "-accel", "qtest", "-object",
                     "memory-backend-memfd,id=ram,size=32M") as m:
            self.assertEqual(m.qmp.cmd("query-memory-size-summary")["base-memory"], 32 << 20)
            self.assertEqual(m.qmp.cmd("qom-get", path="/machine", property="memory-backend"),
                             "/objects/ram")
            self.fails(m.qmp, "GenericError", "object 'ram' is in use, can not be deleted",
                       "object-del", id="ram")

    def test_memory_file(self):
        with Machine("-M", "microvm,memory-backend=ram", "-accel", "qtest", "-object",
                     "memory-backend-file,id=ram,size=16M,mem-path=%dir/mem,share=on") as m:
            with open(m.dir + "/mem", "rb") as f:
                self.assertEqual(f.seek(0, 2), 16 << 20)


    @unittest.skipIf(is_sanitized(), "sanitizers make mlockall() do nothing")
    def test_locked_memory(self):
        try:
            m = Machine(*MICROVM, "-overcommit", "mem-lock=on")
        except RuntimeError as err:
            if "Cannot lock memory" in str(err):
                self.skipTest("this user may not lock memory")
            raise
        with m, open(f"/proc/{m.process.pid}/status", encoding="utf-8") as f:
            locked = int(re.search(r"VmLck:\s*(\d+) kB", f.read())[1])
            self.assertGreater(locked, 16 << 10)


class Tree(Case):
    def test_list(self):
        with Machine(*MICROVM) as m:
            names = lambda path: {p["name"]: p["type"] for p in m.qmp.cmd("qom-list", path=path)}
            self.assertEqual(names("/")["machine"], "child<microvm-machine>")
            self.assertEqual(names("/machine")["unattached"], "child<container>")
            self.assertEqual(names("/machine")["acpi"], "OnOffAuto")
            devices = names("/machine/unattached")
            self.assertIn("child<fw_cfg>", {t.replace("_mem", "").replace("_io", "")
                                            for t in devices.values()})
            self.assertIn("child<qemu64-x86_64-cpu>", devices.values())
            for name, kind in devices.items():
                if kind.startswith("child<"):
                    self.assertEqual(names(f"/machine/unattached/{name}")["type"], "string")

    def test_every_property_can_be_read(self):
        def walk(path):
            for p in m.qmp.cmd("qom-list", path=path):
                value = m.qmp.cmd("qom-get", path=path, property=p["name"])
                if p["type"].startswith("child<"):
                    self.assertEqual(value, path.rstrip("/") + "/" + p["name"])
                    walk(value)
        with Machine(*MICROVM, "-object", "memory-backend-ram,id=x,size=1M") as m:
            walk("/")

    def test_paths(self):
        with Machine(*MICROVM) as m:
            q = m.qmp
            self.assertEqual(q.cmd("qom-get", path="unattached", property="type"), "container")
            self.assertEqual(q.cmd("qom-get", path="//machine/", property="type"),
                             "microvm-machine")
            self.fails(q, "DeviceNotFound", "Device '/nope' not found", "qom-list", path="/nope")
            self.fails(q, "DeviceNotFound", "Device 'nope' not found", "qom-get", path="nope",
                       property="x")
            self.fails(q, "GenericError", "Path '' is ambiguous", "qom-list", path="")
            self.fails(q, "GenericError", "Property 'microvm-machine.nope' not found", "qom-get",
                       path="/machine", property="nope")

    def test_types(self):
        with Machine("-M", "none", "-accel", "qtest") as m:
            backends = m.qmp.cmd("qom-list-types", implements="memory-backend")
            self.assertEqual({t["name"] for t in backends},
                             {"memory-backend-ram", "memory-backend-file", "memory-backend-memfd"})
            self.assertEqual({t["parent"] for t in backends}, {"memory-backend"})
            every = {t["name"]: t for t in m.qmp.cmd("qom-list-types", abstract=True)}
            self.assertTrue(every["memory-backend"]["abstract"])
            self.assertIn("isa-serial", every)
            plain = {t["name"] for t in m.qmp.cmd("qom-list-types")}
            self.assertNotIn("memory-backend", plain)
            self.assertEqual(m.qmp.cmd("qom-list-types", implements="nope"), [])


if __name__ == "__main__":
    unittest.main()
