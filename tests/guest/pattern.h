/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The content of every data page of the workload guest: word `w` of page `page` in its generation
 * `gen` under `seed`. The guest writes and verifies with it; a host program may include it to check
 * guest memory from outside (mailbox.h says where pages and the generation table are).
 *
 * A generation lives in a table apart from the page, so a page that a migration lost, and which is
 * consistent in itself, is still seen to be old.
 */
#ifndef TESTS_GUEST_PATTERN_H
#define TESTS_GUEST_PATTERN_H

#include <stdint.h>

#define PATTERN_WORDS 512u /* per page */

enum pattern_kind {
    PATTERN_RANDOM = 0, /* does not compress */
    PATTERN_ZERO = 1,   /* all zero in every generation; an old generation is not seen */
    PATTERN_TEXT = 2,   /* words of readable text, compresses well */
    PATTERN_SPARSE = 3, /* 8 words of a random page change from one generation to the next */
    PATTERN_MIXED = 4,  /* each page changes its kind from one generation to the next */
};

static inline __attribute__((always_inline)) uint64_t pattern_mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0xb5297a4d3f84d5a5u;
    x ^= x >> 29;
    return x;
}

static inline uint64_t pattern_base(uint64_t page, uint64_t gen, uint64_t seed)
{
    uint64_t x = pattern_mix(page * 0x8f1bbcdc5be0cd19u + seed);

    return pattern_mix((x ^ gen) * 0xca62c1d66ed9eba1u + gen);
}

static inline __attribute__((always_inline)) uint64_t pattern_random(uint64_t base, uint64_t w)
{
    return pattern_mix(base + w * 0x9b05688c1f83d9abu);
}

static inline __attribute__((always_inline)) uint64_t pattern_text(uint64_t base, uint64_t w)
{
    static const char text[] = "harbour ferry   current,a tide. the quay leaves mooring\nrope and"
                               " anchor on boardpilot   channel.two boats cross lantern\nat dawn ";
    const char *s = text + ((pattern_random(base, w) >> 40) & 15) * 8;
    uint64_t v;

    __builtin_memcpy(&v, s, sizeof(v));
    return v;
}

/* What PATTERN_MIXED is for this page and generation; other kinds are themselves. */
static inline enum pattern_kind pattern_kind_of(enum pattern_kind kind, uint64_t base)
{
    static const uint8_t mix[8] = {
        PATTERN_ZERO, PATTERN_ZERO,   PATTERN_TEXT,   PATTERN_TEXT,
        PATTERN_TEXT, PATTERN_RANDOM, PATTERN_RANDOM, PATTERN_RANDOM,
    };

    return kind == PATTERN_MIXED ? (enum pattern_kind)mix[(base >> 45) & 7] : kind;
}

/* First of the 8 words in which a sparse page of this generation differs from generation 0. */
static inline uint64_t pattern_window(uint64_t base)
{
    return (base >> 20) % (PATTERN_WORDS - 8);
}

static inline uint64_t pattern_word(enum pattern_kind kind, uint64_t page, uint64_t gen,
                                    uint64_t seed, uint64_t w)
{
    uint64_t base = pattern_base(page, gen, seed);

    switch (pattern_kind_of(kind, base)) {
    case PATTERN_ZERO:
        return 0;
    case PATTERN_TEXT:
        return pattern_text(base, w);
    case PATTERN_SPARSE:
        return w - pattern_window(base) < 8 ? pattern_random(base, w)
                                            : pattern_random(pattern_base(page, 0, seed), w);
    default:
        return pattern_random(base, w);
    }
}

#endif
