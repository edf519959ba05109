/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * net-send INTERFACE MAC BYTES RATE: sends numbered frames, as tests/guest/nic.c wants them, into a
 * tap from the host's side, RATE of them a second, until it is killed. What the tap has no room for
 * is lost and not made up for.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define HEAD  30
#define MAGIC UINT64_C(0x6672727966726d65)

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void number_frame(uint8_t *frame, size_t len, uint64_t number)
{
    memcpy(frame + 22, &number, sizeof(number));
    for (size_t i = HEAD; i < len; i++) {
        frame[i] = (uint8_t)(number + i);
    }
}

int main(int argc, char **argv)
{
    static uint8_t frames[BATCH][ETH_FRAME_LEN];
    struct sockaddr_ll to = { .sll_family = AF_PACKET };
    struct mmsghdr messages[BATCH] = { 0 };
    struct iovec pieces[BATCH];
    uint64_t mac, magic = MAGIC, number = 0, begun, rate;
    size_t len;
    int one = 1, fd;

    if (argc != 5) {
        fprintf(stderr, "Usage: net-send INTERFACE MAC BYTES RATE\n");
        return 2;
    }
    mac = strtoull(argv[2], NULL, 16);
    len = strtoul(argv[3], NULL, 10);
    rate = strtoull(argv[4], NULL, 10);
    to.sll_ifindex = (int)if_nametoindex(argv[1]);
    fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0 || !to.sll_ifindex || len < 60 || len > ETH_FRAME_LEN || !rate) {
        fprintf(stderr, "net-send: cannot send to %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
    for (int i = 0; i < BATCH; i++) {
        for (int b = 0; b < 6; b++) {
            frames[i][b] = (uint8_t)(mac >> (40 - 8 * b));
        }
        frames[i][6] = 2;
        frames[i][12] = 0x88;
        frames[i][13] = 0xb5;
        memcpy(frames[i] + 14, &magic, sizeof(magic));
        pieces[i] = (struct iovec){ frames[i], len };
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &pieces[i], .msg_iovlen = 1
        };
    }
    begun = now_ns();
    for (;;) {
        uint64_t due = begun + number * 1000000000u / rate, now = now_ns();
        struct timespec pause = { 0, 50000 };

        if (due > now) {
            nanosleep(&pause, NULL);
            continue;
        }
        for (int i = 0; i < BATCH; i++) {
            number_frame(frames[i], len, ++number);
        }
        for (int done = 0; done < BATCH;) {
            int n = sendmmsg(fd, messages + done, (unsigned)(BATCH - done), 0);

            done += n > 0 ? n : 1; /* lost */
        }
    }
}
