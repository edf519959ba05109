/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: drivers of virtio-rng and virtio-serial; see fuzz-driver.c. */
#include "fuzz-driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fuzz_device devices[] = {
    { "{'driver': 'virtio-rng-device'}", &fuzz_ports },
    { "{'driver': 'virtio-serial-device', 'max_ports': 2, 'id': 's0'}", &fuzz_ports },
    { "{'driver': 'virtio-rng-device'}", &fuzz_ports },
    { "{'driver': 'virtio-serial-device', 'max_ports': 2, 'id': 's1'}", &fuzz_ports },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_driver d = {
        .devices = devices,
        .count = G_N_ELEMENTS(devices),
        .legacy = 2,
    };

    fuzz_driver_run(&d, data, size);
    return 0;
}
