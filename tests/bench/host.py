# SPDX-License-Identifier: GPL-2.0-or-later
"""What a figure depends on besides the programs: the machine, and what else it does meanwhile."""

import json
import os
import platform
import subprocess
import time


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _cpuinfo(field):
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def kvm_kind():
    """Which module stands behind /dev/kvm."""
    kinds = [name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir(f"/sys/module/{name}")]
    text = " ".join(kinds) or "unknown"
    if "kvm_pvm" in kinds:
        text += " (software: guest ring 0 is emulated)"
    elif "hypervisor" in _cpuinfo("flags").split():
        text += " (nested)"
    return text


def _version(program):
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10,
                              check=False).stdout
    except OSError:
        return "missing"
    return said.splitlines()[0] if said else "unknown"


def _build_options(build_dir):
    """How the build was made: an unoptimised or sanitized one is not to be compared."""
    try:
        options = json.loads(_read(os.path.join(build_dir, "meson-info", "intro-buildoptions.json")))
    except ValueError:
        return {}
    wanted = ("buildtype", "optimization", "b_sanitize")
    return {o["name"]: o["value"] for o in options if o["name"] in wanted}


def facts(build_dir, programs):
    memory = next((int(line.split()[1]) for line in _read("/proc/meminfo").splitlines()
                   if line.startswith("MemTotal")), 0)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpus": os.cpu_count(),
        "cpu": _cpuinfo("model name"),
        "virtual": "hypervisor" in _cpuinfo("flags").split(),
        "memory_mib": memory >> 10,
        "kernel": platform.release(),
        "kvm": kvm_kind(),
        "load": round(os.getloadavg()[0], 2),
        "build": _build_options(build_dir),
        "programs": {name: _version(path) for name, path in programs.items()},
    }


def print_facts(f):
    virtual = ", itself a virtual machine" if f["virtual"] else ""
    print(f"{f['date']}; {f['cpus']} CPUs ({f['cpu']}){virtual}; {f['memory_mib'] / 1024:.0f} GiB; "
          f"Linux {f['kernel']}")
    print(f"KVM: {f['kvm']}; load average at the begin {f['load']}")
    for name, version in f["programs"].items():
        print(f"{name}: {version}")
    build = f["build"]
    if build:
        print("build: " + ", ".join(f"{k}={v}" for k, v in sorted(build.items())))
        if build.get("b_sanitize", "none") != "none" or build.get("optimization") in ("0", "g"):
            print("NOTE: this build is sanitized or not optimised; its figures mean little.")


class OtherLoad:
    """Share of all CPU time that went to others than the measured processes."""

    def __init__(self):
        self.begun = self._busy()

    @staticmethod
    def _busy():
        fields = [int(x) for x in _read("/proc/stat").splitlines()[0].split()[1:9]]
        idle = fields[3] + fields[4]
        return sum(fields) - idle, sum(fields)

    def share(self, own_s):
        busy, total = self._busy()
        ticks = os.sysconf("SC_CLK_TCK")
        busy_s = (busy - self.begun[0]) / ticks
        total_s = (total - self.begun[1]) / ticks
        return max(busy_s - own_s, 0.0) / total_s if total_s else 0.0
