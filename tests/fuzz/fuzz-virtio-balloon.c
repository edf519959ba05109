/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzz target: drivers of virtio-balloon; see fuzz-driver.c and fuzz-balloon.c. A machine has one
 * balloon, so there are two machines; the first bit of an input says which. In the second, on
 * legacy registers, the host's pages are larger than the guest's.
 */
#include "fuzz-driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fuzz_device device = {
    "{'driver': 'virtio-balloon-device', 'free-page-hint': true, 'free-page-reporting': true,"
    " 'deflate-on-oom': true}",
    &fuzz_balloon,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_driver drivers[2] = {
        { .devices = &device, .count = 1, .legacy = 0 },
        { .devices = &device, .count = 1, .legacy = 1 },
    };

    if (!size) {
        return 0;
    }
    fuzz_driver_run(&drivers[data[0] & 1], data + 1, size - 1);
    return 0;
}
