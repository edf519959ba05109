/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content that can be checked by whoever knows where it belongs: files.c writes it to disks,
 * streamer.c and download.c send it through networks.
 */
#ifndef FERRY_LAB_CONTENT_H
#define FERRY_LAB_CONTENT_H

#include <stdint.h>

/* The word at this place; neighbours have nothing in common. */
static inline uint64_t content_word(uint64_t seed, uint64_t at)
{
    uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u + at * 0xd1342543de82ef95u;

    x ^= x >> 31;
    x *= 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 29);
}

#endif
