# SPDX-License-Identifier: GPL-2.0-or-later
"""
Debian packages by name, fetched with `apt-get download` and unpacked with `dpkg -x` into a cache.
Nothing is installed on the host: the lab's kernel is not the host's business.

A package is fetched once. `scripts/lab update` asks for newer versions; without it, a cache that is
filled needs no network. Whoever fills the cache holds its lock.
"""

import glob
import os
import re
import shutil
import sys

from debcache.cache import Missing, cache_dir, locked, run  # noqa: F401

KERNEL = "linux-image-cloud-amd64"
# What each package is for: busybox-static is both machines' user space, the other two work in the
# inner guest. The kernel's real package is what KERNEL depends on.
PACKAGES = (KERNEL, "busybox-static", "memtester", "stress-ng")


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def is_installed(package):
    status = run("dpkg-query", "-W", "-f", "${db:Status-Status}", package)
    return status is not None and status.strip() == "installed"


def depends(package):
    """Names of the packages it depends on, alternatives included."""
    text = run("apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-conflicts",
               "--no-breaks", "--no-replaces", "--no-enhances", package)
    return re.findall(r"^[ |]*(?:Pre)?Depends: ([^<\s]+)$", text or "", re.M)


class Packages:
    def __init__(self, folder):
        self.folder = os.path.join(folder, "packages")
        self.refreshed = False

    def unpacked(self, package):
        """Its folder, when it is in the cache."""
        found = [d for d in glob.glob(os.path.join(self.folder, f"{package}_*"))
                 if not d.endswith(".new")]
        return max(found, key=os.path.getmtime) if found else None

    def get(self, package):
        """Folder with the files of a package."""
        return self.unpacked(package) or self.fetch(package)

    def refresh_lists(self):
        """apt's lists may be missing or stale; only root can do something about it."""
        if self.refreshed:
            return
        self.refreshed = True
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        say("apt-get update")
        run(*sudo, "apt-get", "-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120",
            "update", timeout=300)

    def fetch(self, package):
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise Missing(f"The lab needs the Debian package {package}, and apt-get and dpkg to "
                          "fetch and unpack it")
        work = os.path.join(self.folder, f"{package}.{os.getpid()}.new")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        try:
            say(f"fetching {package}")
            if not self._download(package, work):
                self.refresh_lists()
                if not self._download(package, work):
                    raise Missing(f"Cannot fetch the Debian package {package}: run "
                                  f"'apt-get update' and look at 'apt-get download {package}'")
            return self._unpack(package, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @staticmethod
    def _download(package, work):
        # as root, apt would rather be a user who may not write here; it then only warns
        return run("apt-get", "-q", "-o", "Acquire::Retries=3", "download", package, cwd=work,
                   timeout=600) is not None and glob.glob(os.path.join(work, "*.deb"))

    def _unpack(self, package, work):
        deb = glob.glob(os.path.join(work, "*.deb"))[0]
        version = run("dpkg-deb", "-f", deb, "Version")
        root = os.path.join(work, "root")
        if not version or run("dpkg", "-x", deb, root, timeout=300) is None:
            raise Missing(f"Cannot unpack {os.path.basename(deb)}: dpkg -x fails")
        final = os.path.join(self.folder, f"{package}_{version.strip().replace('/', '_')}")
        shutil.rmtree(final, ignore_errors=True)
        for old in glob.glob(os.path.join(self.folder, f"{package}_*")):
            shutil.rmtree(old)
        os.rename(root, final)
        return final

    def kernel(self):
        """Folder of the real kernel package."""
        name = re.compile(r"linux-image-\d.*-cloud-amd64$")
        have = [d for d in os.listdir(self.folder) if name.match(d.split("_")[0])] \
            if os.path.isdir(self.folder) else []
        if have:
            newest = max(have, key=lambda d: os.path.getmtime(os.path.join(self.folder, d)))
            return os.path.join(self.folder, newest)
        for attempt in (1, 2):
            real = [d for d in depends(KERNEL) if name.match(d)]
            if real:
                return self.get(real[0])
            if attempt == 1:
                self.refresh_lists()
        raise Missing(f"apt does not know the package {KERNEL}: run 'apt-get update'")

    def forget(self):
        """The next get() fetches anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
