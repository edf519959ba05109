# SPDX-License-Identifier: GPL-2.0-or-later
"""
Where the processes of a demonstration or a measurement live: folders that go away, processes that
end, also after Ctrl-C; and whether this host can run a guest at all.

tests/lib/ferrytest starts the processes; a Place stands where its machines expect a test case.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile

SOURCE_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path[0:0] = [os.path.join(SOURCE_DIR, "tests", "lib"), os.path.join(SOURCE_DIR, "tests", "guest")]

SHM = "/dev/shm"
MIB = 1 << 20

# linux/kvm.h
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_API_VERSION = 12

LOG_BYTES = 1500  # of each log, shown after a failure


class Trouble(Exception):
    """What a person has to know, in words for people; the program ends with status 1."""


class NoKvm(Trouble):
    """This host cannot run a guest, the lab can."""


def in_lab():
    """Whether this runs in the emulated host already."""
    return "FERRY_IN_LAB" in os.environ


def go_to_lab(name, why, script, build_dir, binary, rest):
    """
    The same script in the lab, instead of here, with the arguments `rest` after the build's folder;
    exit status. `binary` is the program to show.
    """
    print(f"{name}: {why}\n{name}: So it happens in the lab, an emulated host with a complete KVM: "
          "everything is slower there, the first time some Debian packages are fetched "
          "(docs/lab.md).", file=sys.stderr, flush=True)
    lab = os.path.join(SOURCE_DIR, "scripts", "lab")
    argv = [sys.executable, lab, "exec", "-b", build_dir, "--binary", binary, script, "build"]
    return subprocess.run(argv + rest).returncode


def without(argv, option, build_dir):
    """A command line's arguments but for build_dir and an option with its value."""
    rest = [word for i, word in enumerate(argv)
            if word != option and not word.startswith(option + "=") and argv[i - 1:i] != [option]]
    rest.remove(build_dir)
    return rest


def use_build(build_dir):
    """Says which build the machines come from; before ferrytest is imported."""
    os.environ["FERRY_SOURCE_DIR"] = SOURCE_DIR
    os.environ["FERRY_BUILD_DIR"] = os.path.abspath(build_dir)


def check_kvm():
    """Raises NoKvm when /dev/kvm cannot be used, with what to do about it."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoKvm("There is no /dev/kvm. Load the module (modprobe kvm_intel or kvm_amd); in a "
                    "virtual machine, switch nested virtualization on in its host; in a container, "
                    "pass the device in (--device /dev/kvm).") from None
    except PermissionError:
        raise NoKvm("You may not use /dev/kvm. Join the group that owns it (sudo usermod -aG kvm "
                    "$USER, then log in again), or run this as root.") from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise NoKvm("/dev/kvm is there but nothing answers: load the module kvm_intel or "
                        "kvm_amd, and look whether virtualization is on in the firmware set-up "
                        "(dmesg says).") from None
        raise NoKvm(f"/dev/kvm cannot be opened: {error.strerror}.") from None
    try:
        version = fcntl.ioctl(kvm, KVM_GET_API_VERSION)
        if version != KVM_API_VERSION:
            raise NoKvm(f"/dev/kvm speaks API version {version}; needed is {KVM_API_VERSION}.")
        os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
    except OSError as error:
        raise NoKvm("/dev/kvm opens, but no virtual machine can be made with it (KVM_CREATE_VM: "
                    f"{error.strerror}). Another hypervisor may hold the processor, or the host "
                    "of this virtual machine offers no nested virtualization.") from None
    finally:
        os.close(kvm)


def check_shm(needed):
    """Raises Trouble when so many bytes do not fit into /dev/shm, or into memory."""
    try:
        stat = os.statvfs(SHM)
    except OSError:
        raise Trouble(f"There is no {SHM}; guest memory is kept there: mount a tmpfs.") from None
    with open("/proc/meminfo", encoding="ascii") as f:
        available = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))
    free = min(stat.f_bavail * stat.f_frsize, available)
    if free < needed:
        raise Trouble(f"{needed // MIB} MiB are needed in {SHM}, and {free // MIB} MiB are free: "
                      "choose a smaller guest with --size.")


def check_program(path, hint):
    if not os.access(path, os.X_OK):
        raise Trouble(f"{path} is missing: {hint}.")


class Place:
    """Use it in a `with` statement; everything made in it is gone at the end of that."""

    def __init__(self, keep_logs=False):
        self.keep_logs = keep_logs
        self.machines = []
        self.helpers = []

    def __enter__(self):
        self.tmp = tempfile.mkdtemp(prefix="ferry-")
        self.shm = tempfile.mkdtemp(prefix="ferry-", dir=SHM)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
        return self

    def __exit__(self, *unused):
        # a second Ctrl-C must not leave half of it behind
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in self.helpers:
            process.kill()
            process.wait()
        for vm in list(self.machines):
            self.end(vm)
        shutil.rmtree(self.shm, ignore_errors=True)
        if not self.keep_logs:
            shutil.rmtree(self.tmp, ignore_errors=True)

    # what ferrytest's machines ask of a test case

    def path(self, name):
        return os.path.join(self.tmp, name)

    def adopt(self, vm):
        self.machines.append(vm)

    # ends

    def end(self, vm):
        """The machine ends, orderly if it can; its memory file goes. Logs stay."""
        vm.process.terminate()
        try:
            vm.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        vm.kill()
        vm.end()
        if vm.ram_path and os.path.exists(vm.ram_path):
            os.unlink(vm.ram_path)

    def helper(self, argv, **options):
        """A process that is killed at the end if it still runs."""
        process = subprocess.Popen(argv, **options)
        self.helpers.append(process)
        return process

    def logs(self):
        """The ends of what the machines said on standard error, for a failure's report."""
        parts = []
        for vm in self.machines:
            text = vm.stderr().strip()[-LOG_BYTES:]
            if text:
                parts.append(f"---- {vm.name} ({vm.binary}) said:\n{text}")
        return "\n".join(parts)
