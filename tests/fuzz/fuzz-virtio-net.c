/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: drivers of virtio-net, and what is behind it; see fuzz-driver.c and fuzz-nic.c. */
#include "fuzz-driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fuzz_device devices[] = {
    { "{'driver': 'virtio-net-device', 'netdev': 't0', 'mq': true}", &fuzz_nic },
    { "{'driver': 'virtio-net-device', 'netdev': 'u0'}", &fuzz_nic },
    { "{'driver': 'virtio-net-device', 'netdev': 't1', 'mq': true, 'host_mtu': 1500}", &fuzz_nic },
    { "{'driver': 'virtio-net-device', 'netdev': 'u1', 'ctrl_rx': false}", &fuzz_nic },
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
