# SPDX-License-Identifier: GPL-2.0-or-later
"""
scripts/lab where it cannot begin, and what leads to it where there is no KVM. Nothing is booted and
nothing fetched here: the emulator is one that does not work.
"""

import os
import subprocess
import sys
import tempfile
import unittest

SOURCE_DIR = os.environ["FERRY_SOURCE_DIR"]
BUILD_DIR = os.environ["FERRY_BUILD_DIR"]
LAB = os.path.join(SOURCE_DIR, "scripts", "lab")
CANNOT = 77


class Lab(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ferry-lab-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def run_with(self, emulator, *argv):
        env = {**os.environ, "FERRY_LAB_EMULATOR": emulator, "XDG_CACHE_HOME": self.folder,
               "LC_ALL": "C"}
        env.pop("FERRY_IN_LAB", None)
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=300, env=env)

    def lab(self, *args):
        return self.run_with("/bin/false", sys.executable, LAB, args[0], "-b", self.folder,
                             "--binary", os.environ["FERRY_BINARY"], *args[1:])

    def test_unknown_test(self):
        done = self.lab("run", "nonsense")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no test 'nonsense'; there are: boot", done.stderr)

    def test_emulator_that_does_not_run(self):
        done = self.lab("run", "boot")
        self.assertEqual(done.returncode, CANNOT, done.stderr)
        self.assertIn("/bin/false does not run: install the Debian package", done.stderr)

    def test_tap(self):
        """For the summary it is a skip with that reason."""
        done = self.lab("run", "--tap", "--short")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^1\.\.0 # SKIP /bin/false does not run")

    def test_shell_and_exec(self):
        for args in (("shell", "-c", "true"), ("exec", "true")):
            self.assertEqual(self.lab(*args).returncode, CANNOT)

    def test_program_that_is_missing(self):
        done = self.run_with("/bin/false", sys.executable, LAB, "run", "-b", self.folder, "boot")
        self.assertEqual(done.returncode, CANNOT)
        self.assertIn("run 'make build' first", done.stderr)

    def without_kvm(self, *argv):
        """Runs a program where /dev/kvm is something else."""
        if os.geteuid() or not os.path.exists("/dev/kvm"):
            self.skipTest("Needs to be root, and a /dev/kvm to cover up")
        done = self.run_with("/bin/false", "unshare", "-m", "sh", "-c",
                             'mount --bind /dev/null /dev/kvm || exit 99; exec "$@"', "sh",
                             sys.executable, *argv)
        if done.returncode == 99:
            self.skipTest(f"Cannot cover up /dev/kvm: {done.stderr.strip()}")
        return done

    def test_demonstrations_go_to_it(self):
        for name in ("demo", "demo-linux"):
            with self.subTest(name):
                done = self.without_kvm(os.path.join(SOURCE_DIR, "scripts", name), BUILD_DIR)
                self.assertEqual(done.returncode, CANNOT, done.stderr)
                self.assertIn("no virtual machine can be made with it", done.stderr)
                self.assertIn("So it happens in the lab", done.stderr)
                self.assertIn("lab: /bin/false does not run", done.stderr)

    def test_suites_go_to_it(self):
        """Only there, and it is said."""
        args = (LAB, "run", "--tap", "-b", self.folder, "--binary", os.environ["FERRY_BINARY"])
        self.assertIn("run in the lab too", self.without_kvm(*args).stderr)


if __name__ == "__main__":
    unittest.main()
