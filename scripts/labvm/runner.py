# SPDX-License-Identifier: GPL-2.0-or-later
"""
Runs the cases of tests/lab, all in one process so that they share one outer machine.

Each file is loaded as tests/run loads it, and TAP is printed by the same code. The whole run has a
deadline; each case has its own (tests/lab/labcase.py). Whatever hangs, the outer machine is killed
then, and who waited for it says so.
"""

import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
import traceback
import unittest

from . import packages, session

LONG = "lab_long"  # attribute of cases that --short leaves out
SUITES = "test_suites.py"  # instead of what a host without KVM skips


def _tests_run(source_dir):
    path = os.path.join(source_dir, "tests", "run")
    loader = importlib.machinery.SourceFileLoader("tests_run", path)
    spec = importlib.util.spec_from_loader("tests_run", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def host_has_kvm(source_dir):
    """Whether the other suites and the demonstration find a usable /dev/kvm; says why not."""
    sys.path.insert(0, os.path.join(source_dir, "scripts", "demo-lib"))
    import place
    try:
        place.check_kvm()
    except place.NoKvm as why:
        packages.say(f"{str(why).split('. ')[0]}; so parts of the suites machine and migration run in "
                     "the lab too")
        return False
    return True


def _files(source_dir, names):
    folder = os.path.join(source_dir, "tests", "lab")
    have = sorted(f for f in os.listdir(folder) if f.startswith("test_") and f.endswith(".py"))
    # what the others build on comes first
    have.sort(key=lambda f: f != "test_boot.py")
    if not names:
        return [os.path.join(folder, f) for f in have if f != SUITES or not host_has_kvm(source_dir)]
    found = []
    for name in names:
        if os.sep in name and os.path.exists(name):
            found.append(os.path.abspath(name))
            continue
        base = os.path.basename(name)
        wanted = base if base.startswith("test_") else f"test_{base}"
        wanted = wanted if wanted.endswith(".py") else wanted + ".py"
        if wanted not in have:
            raise SystemExit(f"lab: There is no test '{name}'; there are: "
                             + ", ".join(f[5:-3] for f in have))
        found.append(os.path.join(folder, wanted))
    return found


def _cases(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _cases(test)
        else:
            yield test


def _is_long(case):
    method = getattr(case, getattr(case, "_testMethodName", ""), None)
    return getattr(method, LONG, False) or getattr(case, LONG, False)


class _Timed(unittest.TextTestResult):
    """For people: a line for each case, with its duration."""

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self.stream.writeln(f"ok  {time.monotonic() - self.began:.1f} s")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.stream.writeln(self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.stream.writeln(self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.stream.writeln("".join(traceback.format_exception(*err)))


def _load(args, tests_run, source_dir):
    suite = unittest.TestSuite()
    sys.path.insert(0, os.path.join(source_dir, "tests", "lab"))
    files = _files(source_dir, args.tests)
    session.configure(with_tree=any(os.path.basename(path) == SUITES for path in files))
    for path in files:
        cases = [case for case in _cases(tests_run.load(path, args.patterns))
                 if not (args.short and _is_long(case))]
        suite.addTests(cases)
    return suite


def _expire(seconds):
    outer = session.current()
    if outer:
        outer.kill(f"The run took longer than its {seconds:.0f} s")


def run(args):
    source_dir = session.defaults()["source_dir"]
    os.environ.setdefault("FERRY_TEST_TIMEOUT_FACTOR", "3")
    out = os.fdopen(os.dup(1), "w")
    if args.tap:
        os.dup2(2, 1)  # whatever a case prints must not look like TAP
    tests_run = _tests_run(source_dir)
    suite = _load(args, tests_run, source_dir)
    began = time.monotonic()
    timer = threading.Timer(args.timeout, _expire, [args.timeout])
    timer.daemon = True
    timer.start()
    try:
        outer = session.outer()
    except packages.Missing as missing:
        if not args.tap:
            raise
        print(f"1..0 # SKIP {str(missing).splitlines()[0]}", file=out, flush=True)
        return 0
    print(f"lab: up after {outer.boot_seconds:.1f} s; logs in {session.run_dir()}", file=sys.stderr,
          flush=True)
    # after the deadline nothing is begun any more
    result = tests_run.TapResult(out) if args.tap else _Timed(
        unittest.runner._WritelnDecorator(sys.stderr), True, 2)
    for case in suite:
        left = args.timeout - (time.monotonic() - began)
        if left <= 0:
            result.stop()
        if result.shouldStop:
            break
        unittest.TestSuite([case]).run(result)
    timer.cancel()
    well = result.wasSuccessful() and not result.shouldStop
    if args.tap:
        # a run that was cut off has fewer lines than its plan, which counts as a failure
        print(f"1..{max(result.count, suite.countTestCases())}", file=out, flush=True)
    else:
        print(f"{result.testsRun} of {suite.countTestCases()} cases, "
              f"{len(result.failures) + len(result.errors)} failed, {len(result.skipped)} skipped, "
              f"{time.monotonic() - began:.0f} s", file=out, flush=True)
    return 0 if well else 1
