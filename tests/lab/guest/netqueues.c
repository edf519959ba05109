/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many frames each queue of a network device has carried, by the driver's own account (ethtool
 * statistics), in the guest:
 *
 *     netqueues DEVICE
 *
 *     QUEUES eth1 rx0=12 rx1=7 tx0=9 tx1=4
 *
 * A driver that names no queues in its statistics has none to show.
 */

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int ask(const char *device, void *what)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret;
    struct ifreq request = { 0 };

    strncpy(request.ifr_name, device, IFNAMSIZ - 1);
    request.ifr_data = what;
    ret = ioctl(fd, SIOCETHTOOL, &request);
    if (ret) {
        perror(device);
    }
    close(fd);
    return ret;
}

int main(int argc, char **argv)
{
    struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
    struct ethtool_gstrings *names;
    struct ethtool_stats *values;

    if (argc != 2) {
        fprintf(stderr, "usage: netqueues DEVICE\n");
        return 2;
    }
    if (ask(argv[1], &info)) {
        return 1;
    }
    names = calloc(1, sizeof(*names) + info.n_stats * ETH_GSTRING_LEN);
    values = calloc(1, sizeof(*values) + info.n_stats * sizeof(values->data[0]));
    if (!names || !values) {
        perror("netqueues");
        return 1;
    }
    *names = (struct ethtool_gstrings){ ETHTOOL_GSTRINGS, ETH_SS_STATS, info.n_stats };
    *values = (struct ethtool_stats){ ETHTOOL_GSTATS, info.n_stats };
    if (ask(argv[1], names) || ask(argv[1], values)) {
        return 1;
    }
    printf("QUEUES %s", argv[1]);
    for (unsigned int i = 0; i < info.n_stats; i++) {
        const char *name = (const char *)names->data + i * ETH_GSTRING_LEN;
        unsigned int queue;
        char way, end;

        /* rx_queue_0_packets, and no more behind it */
        if (sscanf(name, "%cx_queue_%u_packet%c", &way, &queue, &end) == 3 && end == 's' &&
            strlen(strrchr(name, '_')) == strlen("_packets")) {
            printf(" %cx%u=%llu", way, queue, (unsigned long long)values->data[i]);
        }
    }
    printf("\n");
    free(names);
    free(values);
    return 0;
}
