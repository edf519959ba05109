# SPDX-License-Identifier: GPL-2.0-or-later
"""
Test suites that need KVM, where this host has none: they run in the outer machine, a file a case.
Not all of them, because everything takes ten times as long there: what a change breaks most likely.
Elsewhere they run on the host, and this file has no cases (its name on the command line of
`scripts/lab run` gives it some nevertheless).
"""

import re

from labcase import LabCase
from labvm import tree

# file: cases by pattern, or None for all of it
FILES = {
    "machine/test_boot.py": ("*.test_1", "*.test_2"),
    "machine/test_qmp.py": None,
    "migration/test_precopy.py": ("*.test_unix", "*.test_file"),
    "migration/test_cancel.py": ("while_memory_is_sent", "refused_after_go", "twice"),
}


class Suites(LabCase):
    def suite(self, file, patterns):
        argv = ["/usr/bin/python3", "tests/run", "--tap", f"tests/{file}"]
        for pattern in patterns or ():
            argv += ["-k", pattern]
        env = {**tree.ENVIRONMENT, "FERRY_TEST_TIMEOUT_FACTOR": "6"}
        with open(self.log("tap"), "wb") as log:  # as it comes, for a file that does not end
            def arrived(_kind, data, _stamp):
                log.write(data)
                log.flush()
            channel = self.outer.link.spawn(["sh", "-c", f'cd /{tree.ROOT} && exec "$@" 2>&1', "sh",
                                             *argv], self.limit, env, on_data=arrived)
            channel.send_eof()
            channel.wait_end(self.limit)
        with open(self.log("tap"), encoding="utf-8", errors="replace") as log:
            said = log.read()
        plan = re.search(r"^1\.\.(\d+)", said, re.M)
        self.assertTrue(plan, said[-2000:])
        passed = re.findall(r"^ok \d+ - [^#\n]*$", said, re.M)
        skipped = re.findall(r"^ok \d+ - .*# SKIP (.*)$", said, re.M)
        self.note(f"{file}: {len(passed)} passed, {len(skipped)} skipped {sorted(set(skipped))}")
        self.assertNotRegex(said, r"(?m)^not ok")
        self.assertEqual(len(passed) + len(skipped), int(plan.group(1)), said[-2000:])
        self.assertTrue(passed, "Nothing ran")


def _case(file, patterns):
    def test(self):
        self.suite(file, patterns)
    test.__doc__ = f"tests/{file} in the outer machine"
    return test


for _file, _patterns in FILES.items():
    setattr(Suites, "test_" + re.sub(r"\W", "_", _file[:-3]).replace("_test_", "_"),
            _case(_file, _patterns))
