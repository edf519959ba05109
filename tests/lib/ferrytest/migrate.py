# SPDX-License-Identifier: GPL-2.0-or-later
"""Moving a guest from one machine to another, and looking at it on the way."""

import re

from .deadline import PROMPT, scaled, wait_for  # noqa: F401

# Nothing follows these.
FINAL = ("completed", "failed", "cancelled")

# How long a step of a move may take, seconds.
MOVE = 90.0


def info(vm):
    return vm.cmd("query-migrate")


def status(vm):
    """Status of the vm's migration, None before any."""
    return info(vm).get("status")


def wait_status(vm, *wanted, timeout=MOVE):
    """Until the migration has one of these states; what query-migrate says. A final state that is
    not wanted ends the wait."""
    def look():
        now = info(vm)
        have = now.get("status")
        if have in wanted:
            return now
        if have in FINAL:
            raise AssertionError(f"{vm.name}: migration is {have}, not {' or '.join(wanted)}: "
                                 f"{now.get('error-desc', '')}")
        return None
    return wait_for(f"migration status {' or '.join(wanted)} of {vm.name}", look, timeout)


def cause(said):
    """What an error-desc says without the side and the phase behind it, which must be there."""
    found = re.fullmatch(r"(.*), at the (source|destination) in phase '[a-z]+'", said, re.S)
    if not found:
        raise AssertionError(f"No side and phase in: {said}")
    return found.group(1)


def set_parameters(vm, **parameters):
    vm.cmd("migrate-set-parameters", **parameters)


def set_capabilities(*vms, **capabilities):
    """set_capabilities(src, dst, events=True)"""
    listed = [{"capability": k.replace("_", "-"), "state": v} for k, v in capabilities.items()]
    for vm in vms:
        vm.cmd("migrate-set-capabilities", capabilities=listed)


def start(src, uri, **parameters):
    """Starts a migration; fast unless the parameters say otherwise."""
    set_parameters(src, **{"max_bandwidth": 1 << 30, **parameters})
    src.cmd("migrate", uri=uri)


def finish(src, dst, running=True):
    """Waits for both ends of a migration; what the source's query-migrate says."""
    done = wait_status(src, "completed")
    if running:
        dst.wait_state("running")
    return done


def move(src, dst, uri, **parameters):
    """Moves a running guest; what the source's query-migrate says."""
    start(src, uri, **parameters)
    done = finish(src, dst)
    assert src.status() == "postmigrate", src.status()
    return done


def hold(vm, point):
    """The vm's next migration that gets to this point waits there."""
    vm.cmd("x-migrate-hold", point=point)


def wait_held(vm, point):
    def look():
        vm.check_alive()
        have = vm.cmd("x-query-migrate-hold")
        return have["held"] and have["point"] == point
    wait_for(f"migration of {vm.name} held at {point}", look)


def release(vm):
    vm.cmd("x-migrate-hold", point="none")
