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
    "migration/test_precopy.py": ("*.test_unix", "*.test_file", "statistics", "memory_is_equal"),
    "migration/test_cancel.py": ("while_memory_is_sent", "refused_after_go", "twice"),
}


class Suites(LabCase):
    limit = 300

    def suite(self, file, patterns):
        argv = ["/usr/bin/python3", "tests/run", "--tap", f"tests/{file}"]
        for pattern in patterns or ():
            argv += ["-k", pattern]
        env = {**tree.ENVIRONMENT, "FERRY_TEST_TIMEOUT_FACTOR": "6"}
        said = self.outer.link.run(["sh", "-c", f'cd /{tree.ROOT} && exec "$@"', "sh", *argv],
                                   self.limit, check=False, env=env)
        with open(self.log("tap"), "w", encoding="utf-8") as f:
            f.write(said)
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
