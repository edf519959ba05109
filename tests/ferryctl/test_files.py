# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes with the program: man page, completion, and that both know all of it."""

import os
import re
import shlex
import shutil
import subprocess
import unittest

from ctlcase import BINARY, CtlCase, Terminal, need
from test_commands import COMMANDS

SOURCE = os.environ["FERRY_SOURCE_DIR"]
PAGE = os.path.join(SOURCE, "docs", "ferryctl.1")
COMPLETION = os.path.join(SOURCE, "tools", "ferryctl", "ferryctl.bash")


class ManPage(CtlCase):
    def test_lint(self):
        need("mandoc")
        result = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", PAGE], capture_output=True,
                                text=True, check=False)
        # an empty date, as in the other page: it would be wrong after the next change
        self.assertEqual([line for line in result.stdout.splitlines() if "missing date" not in line], [])

    def test_groff(self):
        need("groff")
        result = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", PAGE], capture_output=True,
                                text=True, check=True)
        self.assertEqual(result.stderr, "")

    def test_complete(self):
        """Every command and option that --help has is on the page, and no option that none has."""
        with open(PAGE, encoding="utf-8") as f:
            text = re.sub(r"\\f.|\\-", lambda m: "-" if m[0] == "\\-" else "", f.read())
        options = {"--help"}
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^\.(B|BI|BR) \"?{command}\b")
            options |= set(re.findall(r" (--[a-z-]+)[ =\n]", self.ctl(command, "--help").out))
        options |= set(re.findall(r" (--[a-z-]+)[ =\n]", self.ctl("--help").out)) - {"--help-all"}
        on_page = set(re.findall(r"--[a-z][a-z-]+", text))
        self.assertEqual(options - {"--help-all"}, on_page)

    def test_exit_statuses(self):
        with open(PAGE, encoding="utf-8") as f:
            section = f.read().split(".SH EXIT STATUS")[1].split(".SH")[0]
        self.assertEqual(re.findall(r"(?m)^(\d)$", section), list("0123456"))


class Completion(CtlCase):
    def setUp(self):
        need("bash")
        super().setUp()
        self.bin = self.folder()
        os.symlink(BINARY, os.path.join(self.bin, "ferryctl"))
        self.env["PATH"] = f"{self.bin}:{self.env['PATH']}"

    def complete(self, *words):
        """What is offered for the last word."""
        line = " ".join(shlex.quote(w) for w in words)
        script = (f". {COMPLETION}\nCOMP_WORDS=({line})\nCOMP_CWORD={len(words) - 1}\n_ferryctl\n"
                  'printf "%s\\n" "${COMPREPLY[@]}"\n')
        result = subprocess.run(["bash", "--norc", "-u", "-c", script], env=self.env, cwd=self.tmp,
                                capture_output=True, text=True, check=True)
        self.assertEqual(result.stderr, "")
        return result.stdout.split()

    def test_syntax(self):
        subprocess.run(["bash", "-n", COMPLETION], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "-s", "bash", "-S", "error", COMPLETION], check=True)

    def test_commands(self):
        self.assertEqual(self.complete("ferryctl", ""), list(COMMANDS))
        self.assertEqual(self.complete("ferryctl", "pa"), ["pause"])
        self.assertEqual(self.complete("ferryctl", "-s", "x", "--json", "st"), ["status"])

    def test_options(self):
        self.assertEqual(self.complete("ferryctl", "--ve"), ["--version"])
        offered = self.complete("ferryctl", "migrate", "-")
        for option in ("--policy", "--auto-converge", "--timeout", "--json", "-s", "--socket", "-d"):
            self.assertIn(option, offered)
        self.assertEqual(self.complete("ferryctl", "migrate", "x:1", "--max"), ["--max-downtime"])
        self.assertEqual(self.complete("ferryctl", "report", "--o"), ["--output"])

    def test_values(self):
        for words in (("--peer", ""), ("--peer", "="), ("--peer", "=", "")):
            self.assertEqual(self.complete("ferryctl", "migrate", *words), ["ferry", "qemu"])
        self.assertEqual(self.complete("ferryctl", "policy", "min"), ["minimal-downtime"])
        self.assertEqual(self.complete("ferryctl", "migrate", "--policy", "v"), ["very-large"])
        self.assertEqual(self.complete("ferryctl", "watch", "--wait", ""), [])
        self.assertEqual(self.complete("ferryctl", "check", ""), ["tcp:", "unix:", "file:"])

    def test_machines(self):
        os.mkdir(self.path("ferry"))
        for name in ("db", "web"):
            self.fake(path=self.path(f"ferry/{name}.qmp"))
        self.assertEqual(self.complete("ferryctl", "-s", ""), ["db", "web"])
        self.assertEqual(self.complete("ferryctl", "status", "--socket", "=", "w"), ["web"])

    def test_files(self):
        with open(self.path("a picture.svg"), "w", encoding="utf-8"):
            pass
        self.assertEqual(self.complete("ferryctl", "report", "-o", "a"), ["a", "picture.svg"])
        self.assertEqual(self.complete("ferryctl", "migrate", "unix", ":", "a p"), ["a", "picture.svg"])

    def test_in_a_shell(self):
        need("tmux")
        terminal = Terminal(self, f"export PATH={self.bin}:$PATH PS1='$ '; bash --norc --noprofile -i")
        terminal.wait(r"^\$")
        terminal.keys(f". {COMPLETION}", "Enter", "ferryctl mig", "Tab", "--aut", "Tab")
        terminal.wait(r"^\$ ferryctl migrate --auto-converge")


class Installed(CtlCase):
    def test_rules(self):
        """Program, page and completion are installed."""
        build = os.environ["FERRY_BUILD_DIR"]
        plan = os.path.join(build, "meson-info", "intro-installed.json")
        if not os.path.exists(plan):
            self.skipTest("Not a build folder of meson's")
        with open(plan, encoding="utf-8") as f:
            text = f.read()
        for end in ("/bin/ferryctl", "/man/man1/ferryctl.1",
                    "/share/bash-completion/completions/ferryctl"):
            self.assertIn(f'{end}"', text)


if __name__ == "__main__":
    unittest.main()
