/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XBZRLE; see migration/ram/xbzrle.h.
 *
 * Encoding is two passes. The first compares in vectors, which is what a page costs when little has
 * changed, and is there once for each instruction set. It finds the lines of 64 bytes that differ,
 * and then reads those once more, to take them over into the copy and to leave a bit for each byte
 * that differs: what the guest writes to a line between the two looks is taken or left as a whole,
 * and is sent again in any case. The second pass walks the bits and is the same for all; the bytes
 * come from the copy, which nobody else writes.
 *
 * Decoding trusts nothing: every length is compared with what is left of the page and of the data
 * before it is used.
 */
#include "migration/ram/xbzrle.h"

#include <immintrin.h>
#include <string.h>

#define WORDS (TARGET_PAGE_SIZE / 64)
/* Unchanged bytes between two changed runs that cost less as changed ones than as a run. */
#define JOIN 2u
/* Most lengths are of one byte, none is of more than two. */
#define LENGTHS_MAX 4u
#define SHORT_RUN   16u

/* The bytes of a page that differ, a bit each. */
struct changes {
    uint64_t words;        /* which of `bytes` are not 0; the others are not set */
    uint64_t bytes[WORDS]; /* by lines of 64 */
};

/* --- first pass: what differs --- */

/* The value stays what was read now: the compiler must not read guest memory again for it. */
#define READ_ONCE(v) __asm__("" : "+x"(v))

static inline bool differs_sse2(const uint8_t *old, const uint8_t *page)
{
    const __m128i *o = (const __m128i *)(const void *)old, *p = (const __m128i *)(const void *)page;
    __m128i equal = _mm_set1_epi8(-1);

    for (unsigned i = 0; i < 4; i++) {
        equal =
            _mm_and_si128(equal, _mm_cmpeq_epi8(_mm_loadu_si128(p + i), _mm_loadu_si128(o + i)));
    }
    return _mm_movemask_epi8(equal) != 0xffff;
}

static inline uint64_t take_64_sse2(uint8_t *old, const uint8_t *page)
{
    uint64_t same = 0;

    for (unsigned i = 0; i < 4; i++) {
        __m128i *o = (__m128i *)(void *)(old + 16 * i);
        __m128i fresh = _mm_loadu_si128((const __m128i *)(const void *)(page + 16 * i));

        READ_ONCE(fresh);
        same |= (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(fresh, _mm_loadu_si128(o))) << 16 * i;
        _mm_storeu_si128(o, fresh);
    }
    return ~same;
}

__attribute__((target("avx2"))) static inline bool differs_avx2(const uint8_t *old,
                                                                const uint8_t *page)
{
    const __m256i *o = (const __m256i *)(const void *)old, *p = (const __m256i *)(const void *)page;
    __m256i low = _mm256_xor_si256(_mm256_loadu_si256(p), _mm256_loadu_si256(o));
    __m256i high = _mm256_xor_si256(_mm256_loadu_si256(p + 1), _mm256_loadu_si256(o + 1));
    __m256i both = _mm256_or_si256(low, high);

    return !_mm256_testz_si256(both, both);
}

__attribute__((target("avx2"))) static inline uint64_t take_64_avx2(uint8_t *old,
                                                                    const uint8_t *page)
{
    __m256i *o = (__m256i *)(void *)old;
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)page);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(page + 32));

    READ_ONCE(low);
    READ_ONCE(high);
    __m256i low_equal = _mm256_cmpeq_epi8(low, _mm256_loadu_si256(o));
    __m256i high_equal = _mm256_cmpeq_epi8(high, _mm256_loadu_si256(o + 1));

    _mm256_storeu_si256(o, low);
    _mm256_storeu_si256(o + 1, high);
    return ~((uint64_t)(uint32_t)_mm256_movemask_epi8(low_equal) |
             (uint64_t)(uint32_t)_mm256_movemask_epi8(high_equal) << 32);
}

/* Without a branch in the first loop: which lines have changed cannot be foretold. */
#define TAKE_PAGE(differs, take_64)                                                                \
    do {                                                                                           \
        uint64_t candidates = 0;                                                                   \
                                                                                                   \
        for (unsigned i = 0; i < WORDS; i++) {                                                     \
            candidates |= (uint64_t)differs(old + 64 * i, page + 64 * i) << i;                     \
        }                                                                                          \
        c->words = 0;                                                                              \
        for (; candidates; candidates &= candidates - 1) {                                         \
            unsigned i = (unsigned)__builtin_ctzll(candidates);                                    \
                                                                                                   \
            c->bytes[i] = take_64(old + 64 * i, page + 64 * i);                                    \
            c->words |= (uint64_t)(c->bytes[i] != 0) << i;                                         \
        }                                                                                          \
    } while (0)

static void take_page_sse2(struct changes *c, uint8_t *old, const uint8_t *page)
{
    TAKE_PAGE(differs_sse2, take_64_sse2);
}

__attribute__((target("avx2"))) static void take_page_avx2(struct changes *c, uint8_t *old,
                                                           const uint8_t *page)
{
    TAKE_PAGE(differs_avx2, take_64_avx2);
}

/* --- second pass --- */

/* The first changed byte at or after `at`; TARGET_PAGE_SIZE when there is none. */
static inline unsigned next_changed(const struct changes *c, unsigned at)
{
    unsigned word = at / 64;
    uint64_t left;

    if (at >= TARGET_PAGE_SIZE) {
        return TARGET_PAGE_SIZE;
    }
    left = c->words >> word;
    if (left & 1 && c->bytes[word] >> at % 64) {
        return at + (unsigned)__builtin_ctzll(c->bytes[word] >> at % 64);
    }
    left &= ~UINT64_C(1); /* words behind this one */
    if (!left) {
        return TARGET_PAGE_SIZE;
    }
    word += (unsigned)__builtin_ctzll(left);
    return 64 * word + (unsigned)__builtin_ctzll(c->bytes[word]);
}

/* The end of the changed run that `at` is in. */
static inline unsigned end_of_changed(const struct changes *c, unsigned at)
{
    unsigned word = at / 64;
    uint64_t same = ~c->bytes[word] & UINT64_MAX << at % 64;

    while (!same) {
        if (++word == WORDS) {
            return TARGET_PAGE_SIZE;
        }
        same = c->words >> word & 1 ? ~c->bytes[word] : UINT64_MAX;
    }
    return 64 * word + (unsigned)__builtin_ctzll(same);
}

static inline uint8_t *put_length(uint8_t *out, unsigned length)
{
    if (length >= 0x80) {
        *out++ = (uint8_t)(length | 0x80);
        length >>= 7;
    }
    *out++ = (uint8_t)length;
    return out;
}

static int put_changes(const struct changes *c, const uint8_t *page, uint8_t *out)
{
    uint8_t *begin = out;
    unsigned done = 0, start = next_changed(c, 0);

    while (start < TARGET_PAGE_SIZE) {
        unsigned end = end_of_changed(c, start), next = next_changed(c, end), length;

        while (next < TARGET_PAGE_SIZE && next - end <= JOIN) {
            end = end_of_changed(c, next);
            next = next_changed(c, end);
        }
        length = end - start;
        if (out - begin + LENGTHS_MAX + length > XBZRLE_MAX) {
            return XBZRLE_OVERFLOW;
        }
        out = put_length(out, start - done);
        out = put_length(out, length);
        if (length <= SHORT_RUN && start <= TARGET_PAGE_SIZE - SHORT_RUN) {
            memcpy(out, page + start, SHORT_RUN);
        } else {
            memcpy(out, page + start, length);
        }
        out += length;
        done = end;
        start = next;
    }
    return (int)(out - begin);
}

/* --- encoders --- */

static int encode_sse2(uint8_t *old, const uint8_t *page, uint8_t *out)
{
    struct changes c;

    take_page_sse2(&c, old, page);
    return put_changes(&c, old, out);
}

static int encode_avx2(uint8_t *old, const uint8_t *page, uint8_t *out)
{
    struct changes c;

    take_page_avx2(&c, old, page);
    return put_changes(&c, old, out);
}

static bool have_sse2(void)
{
    return true; /* all of x86-64 */
}

static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

const struct xbzrle_encoder xbzrle_encoders[] = {
    { "sse2", have_sse2, encode_sse2 },
    { "avx2", have_avx2, encode_avx2 },
    { NULL, NULL, NULL },
};

xbzrle_encode_fn xbzrle_encoder_best(void)
{
    xbzrle_encode_fn best = NULL;

    for (const struct xbzrle_encoder *e = xbzrle_encoders; e->name; e++) {
        best = e->usable() ? e->encode : best;
    }
    return best;
}

/* --- decoding --- */

/* Takes a length off the data; false when there is none, or one of three bytes. */
static bool get_length(const uint8_t **data, const uint8_t *end, unsigned *length)
{
    const uint8_t *p = *data;

    if (p == end) {
        return false;
    }
    *length = *p++;
    if (*length & 0x80) {
        if (p == end || *p & 0x80) {
            return false;
        }
        *length = (*length & 0x7f) | (unsigned)*p++ << 7;
    }
    *data = p;
    return true;
}

bool xbzrle_decode(uint8_t *page, const uint8_t *data, size_t len)
{
    const uint8_t *end = data + len;
    unsigned at = 0, unchanged, changed;

    while (data < end) {
        if (!get_length(&data, end, &unchanged) || (at && !unchanged) ||
            unchanged > TARGET_PAGE_SIZE - at) {
            return false;
        }
        at += unchanged;
        if (!get_length(&data, end, &changed) || !changed || changed > TARGET_PAGE_SIZE - at ||
            changed > end - data) {
            return false;
        }
        memcpy(page + at, data, changed);
        data += changed;
        at += changed;
    }
    return true;
}
