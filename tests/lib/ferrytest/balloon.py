# SPDX-License-Identifier: GPL-2.0-or-later
"""A balloon driver in the test, on top of virtio.py."""

import struct

from .virtio import CONFIG, VirtioMmio

PATH = "/machine/peripheral-anon/device[0]"

# queues; free page hints have the fourth, reports the one behind
INFLATE, DEFLATE, STATS, HINT = range(4)

# features
STATS_VQ, DEFLATE_ON_OOM, FREE_PAGE_HINT, PAGE_POISON, REPORTING = range(1, 6)

# words of the configuration space
NUM_PAGES, ACTUAL, COMMAND, POISON = range(4)
NONE = 0xFFFFFFFF

PAGE = 4096


class Balloon(VirtioMmio):
    def begin(self, features=None):
        """Resets and starts with these features, all by default, and all queues."""
        offered = self.device_features()
        accepted = offered if features is None else features & offered
        self.start(accepted)
        count = 3 + (offered >> FREE_PAGE_HINT & 1) + (offered >> REPORTING & 1)
        for number in range(count):
            self.add_queue(number)
        self.driver_ok()

    def config(self, word):
        return self.read(CONFIG + 4 * word)

    def _name(self, queue, numbers, wait):
        numbers = list(numbers)
        data = struct.pack(f"<{len(numbers)}I", *numbers)
        at = self.memory.take(len(data))
        self.qtest.write(at, data)
        queue.add([(at, len(data), False)])
        queue.kick()
        return queue.wait() if wait else None

    def inflate(self, numbers, wait=True):
        """Gives pages, by number, in one request."""
        return self._name(self.queues[INFLATE], numbers, wait)

    def deflate(self, numbers, wait=True):
        return self._name(self.queues[DEFLATE], numbers, wait)

    def command(self, number):
        """Sends a command id of free page hints."""
        return self._name(self.queues[HINT], [number], True)

    def hint(self, addr, length):
        queue = self.queues[HINT]
        queue.add([(addr, length, True)])
        queue.kick()
        return queue.wait()
