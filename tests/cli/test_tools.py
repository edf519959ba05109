# SPDX-License-Identifier: GPL-2.0-or-later
"""What people and CI start: configure, make, scripts/install-deps, scripts/test-summary."""

import json
import os
import subprocess
import tempfile
import unittest

from ferry_cli import SOURCE_DIR


def run(*command, env=None, cwd=SOURCE_DIR):
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, timeout=300)


class Configure(unittest.TestCase):
    def refused(self, wanted, *args, env=None):
        with tempfile.TemporaryDirectory() as folder:
            result = run("./configure", f"--build-dir={folder}/b", *args, env=env)
            self.assertEqual(result.returncode, 1, result.stdout)
            self.assertIn(wanted, result.stderr)
            self.assertFalse(os.path.exists(folder + "/b"))

    def test_help(self):
        result = run("./configure", "--help")
        self.assertEqual(result.returncode, 0)
        for option in ("--prefix", "--cc", "--build-dir", "--enable-sanitizers"):
            self.assertIn(option, result.stdout)

    def test_bad_options(self):
        self.refused("'--foo'", "--foo")
        self.refused("'relative'", "--prefix=relative")
        self.refused("'memory'", "--enable-sanitizers=memory")

    def test_missing_compiler(self):
        self.refused("the C compiler 'no-such-gcc' (Debian package gcc)", "--cc=no-such-gcc")
        self.refused("(Debian package clang)", "--cc=no-such-clang")

    def test_missing_library(self):
        self.refused("glib 2.66 or later (Debian package libglib2.0-dev)",
                     env={"PKG_CONFIG_LIBDIR": "/nonexistent", "PKG_CONFIG_PATH": "/nonexistent"})


class Make(unittest.TestCase):
    def test_lists_only_what_is_there(self):
        listed = [line.split()[1] for line in run("make").stdout.split("\n")
                  if line.startswith("  make ")]
        for target in ("help", "build", "check", "asan", "tsan", "format", "clean", "install"):
            self.assertIn(target, listed)
        for target, script in (("demo", "scripts/demo"), ("bench", "tests/bench/run"),
                               ("fuzz", "tests/fuzz/run"), ("soak", "tests/soak/run"),
                               ("lab", "tests/lab/run")):
            self.assertEqual(target in listed, os.path.exists(os.path.join(SOURCE_DIR, script)))


class InstallDeps(unittest.TestCase):
    def test_list(self):
        packages = run("scripts/install-deps", "--list").stdout.split()
        for package in ("gcc", "clang", "meson", "libglib2.0-dev", "libjansson-dev",
                        "qemu-system-x86", "qemu-system-data"):
            self.assertIn(package, packages)

    def test_bad_argument(self):
        result = run("scripts/install-deps", "--foo")
        self.assertEqual(result.returncode, 1)
        self.assertIn("usage:", result.stderr)


class Summary(unittest.TestCase):
    def summary(self, *tests, args=()):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(folder + "/meson-logs")
            with open(folder + "/meson-logs/testlog.json", "w", encoding="utf-8") as f:
                for test in tests:
                    f.write(json.dumps(test) + "\n")
            return run("scripts/test-summary", *args, folder)

    def test_counts_cases(self):
        result = self.summary(
            {"name": "ferry:unit / a", "result": "OK", "duration": 1.0,
             "stdout": "1..3\nok 1 - x\nok 2 - y # SKIP no KVM\nok 3\n"},
            {"name": "ferry:cli / b", "result": "OK", "stdout": "no protocol"})
        self.assertEqual(result.returncode, 0)
        lines = result.stdout.rstrip().split("\n")
        self.assertEqual(lines[-1], "3 passed, 0 failed, 1 skipped")
        self.assertIn("skipped 1: no KVM", lines)
        self.assertIn("unit  2 passed, 0 failed, 1 skipped  (1.0 s)", lines)

    def test_shows_failures(self):
        result = self.summary({"name": "ferry:unit / a", "result": "FAIL", "returncode": 1,
                               "stdout": "ok 1\nnot ok 2 - y\n1..2\n", "stderr": "because"})
        self.assertEqual(result.returncode, 1)
        self.assertIn("not ok 2 - y", result.stdout)
        self.assertIn("because", result.stdout)
        self.assertTrue(result.stdout.endswith("\n1 passed, 1 failed, 0 skipped\n"))

    def test_crash_and_timeout_count(self):
        result = self.summary(
            {"name": "ferry:unit / a", "result": "ERROR", "stdout": "1..2\nok 1 - x\n"},
            {"name": "ferry:unit / b", "result": "TIMEOUT", "stdout": ""})
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stdout.endswith("\n1 passed, 2 failed, 0 skipped\n"))

    def failed(self, **test):
        """What is said of the failures of a test, just before the last line."""
        lines = self.summary({"name": "ferry:unit / a", **test}).stdout.rstrip().split("\n")[:-1]
        first = next(i for i, line in enumerate(lines) if line.startswith("failed: "))
        self.assertTrue(all(line.startswith("failed: ferry:unit / a: ") for line in lines[first:]), lines)
        return [line[24:] for line in lines[first:]]

    def test_names_what_failed(self):
        trace = "#   Traceback (most recent call last):\n#     File \"x.py\", line 1, in test_b\n"
        self.assertEqual(self.failed(result="ERROR", returncode=1, stdout=(
            "ok 1 - m.A.test_a\nnot ok 2 - m.A.test_b\n#   test_b (m.A.test_b) (at=5, what='cut')\n" +
            trace + "#   AssertionError: 1 != 2\n#   and more\n" +
            trace + "#   ValueError: later\nnot ok 3 - m.A.test_c\n" + trace +
            "#   ferrytest.deadline.Timeout: No end within 90 s\n1..3\n")),
            ["m.A.test_b: (at=5, what='cut'): AssertionError: 1 != 2",
             "m.A.test_c: ferrytest.deadline.Timeout: No end within 90 s"])

    def test_says_how_it_ended(self):
        self.assertEqual(self.failed(
            result="ERROR", returncode=-6, stdout="1..3\nok 1 /a\nnot ok /b - ERROR:x.c:7\n"
            "Bail out! ERROR:x.c:7:b: assertion failed\n"),
            ["/b - ERROR:x.c:7: ERROR:x.c:7:b: assertion failed", "ERROR (status -6) after case "
             "'/b - ERROR:x.c:7'"])
        self.assertEqual(self.failed(
            result="ERROR", returncode=-6, stdout="1..2\nok 1 /a\n", stderr="==1==ERROR: "
            "AddressSanitizer: heap-use-after-free on address 0x1\n"),
            ["ERROR (status -6) after case '/a': ERROR: AddressSanitizer: heap-use-after-free on "
             "address 0x1"])
        self.assertEqual(self.failed(
            result="TIMEOUT", returncode=-15, stdout="ok 1 - m.A.test_a\n", stderr="Current thread:\n"
            "  File \"/x/ferrytest/deadline.py\", line 4 in wait_for\n"
            "  File \"/x/test_m.py\", line 8 in test_b\n"),
            ["TIMEOUT (status -15) after case 'm.A.test_a': File \"/x/test_m.py\", line 8 in test_b"])

    def test_nothing_ran(self):
        result = self.summary()
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stdout.endswith("0 passed, 0 failed, 0 skipped\n"))

    def test_only_skipped_is_no_success(self):
        result = self.summary({"name": "ferry:x / a", "result": "SKIP",
                               "stdout": "1..0 # SKIP no lab\n"})
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stdout.endswith("0 passed, 0 failed, 1 skipped\n"))

    def test_failed_build_and_missing_log(self):
        result = self.summary({"name": "ferry:x / a", "result": "OK", "stdout": ""},
                              args=("--failed-builds=1", "asan=/nonexistent"))
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stdout.endswith("1 passed, 2 failed, 0 skipped\n"))


if __name__ == "__main__":
    unittest.main()
