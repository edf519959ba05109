/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: drivers of virtio-blk; see fuzz-driver.c and fuzz-disk.c. */
#include "fuzz-driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fuzz_device devices[] = {
    { "{'driver': 'virtio-blk-device', 'drive': 'd0', 'serial': 'ferry-fuzz'}", &fuzz_disk },
    { "{'driver': 'virtio-blk-device', 'drive': 'd1', 'write-cache': 'on'}", &fuzz_disk },
    { "{'driver': 'virtio-blk-device', 'drive': 'd2', 'num-queues': 3, 'queue-size': 64}",
      &fuzz_disk },
    { "{'driver': 'virtio-blk-device', 'drive': 'd3', 'logical_block_size': 4096,"
      " 'max-discard-sectors': 64, 'discard_granularity': 4096, 'config-wce': false}",
      &fuzz_disk },
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
