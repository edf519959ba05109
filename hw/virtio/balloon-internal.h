/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of virtio-balloon; balloon.c says how they fit. Machine lock held for everything. */
#ifndef HW_VIRTIO_BALLOON_INTERNAL_H
#define HW_VIRTIO_BALLOON_INTERNAL_H

#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"
#include "migration/page-hints.h"
#include "system/vm.h"

#define BALLOON_TYPE "virtio-balloon-device"

/* Feature bits: VIRTIO 1.2, 5.5.3. */
#define BALLOON_F_STATS_VQ       1
#define BALLOON_F_DEFLATE_ON_OOM 2
#define BALLOON_F_FREE_PAGE_HINT 3
#define BALLOON_F_PAGE_POISON    4
#define BALLOON_F_REPORTING      5

/* Statistics: 5.5.6.4. Tags from here on are not kept. */
#define BALLOON_STATS 10

/* How the asking for free pages stands; the numbers are the wire's. */
enum balloon_hint_status {
    BALLOON_HINT_STOP,      /* the driver has named all, or nobody has asked */
    BALLOON_HINT_REQUESTED, /* asked, the driver has not begun */
    BALLOON_HINT_START,     /* it names pages */
    BALLOON_HINT_DONE,      /* it may have them back */
};
#define BALLOON_HINT_ID_MIN UINT32_C(0x80000000)

struct virtio_balloon {
    struct virtio_device vdev;                                             /* first */
    bool deflate_on_oom, page_poison, free_page_hint, free_page_reporting; /* properties */
    uint32_t stats_interval; /* property; seconds, 0: statistics come when the driver likes */
    struct virtqueue *inflate, *deflate, *stats, *hints, *reports; /* the last two may be NULL */

    uint32_t num_pages; /* that the guest is asked for */
    uint32_t actual;    /* that it says it has given; may be any number */
    uint32_t poison; /* what the guest fills free pages with; 0 unless PAGE_POISON was accepted */
    bool refusal_told;

    /* The host's huge page of which the guest has given parts: see balloon-pages.c. */
    struct ram_block *part_block; /* NULL: none */
    uint64_t part_offset, part_pages;
    unsigned long *part_given;

    struct virtqueue_element *stats_elem; /* of the driver's, until new ones are wanted */
    uint64_t stat[BALLOON_STATS];         /* UINT64_MAX: not told */
    int64_t stats_time;                   /* seconds since 1970; 0: never */
    struct vm_timer *stats_timer;
    bool stats_due;  /* stats_elem is to go back for new ones */
    bool stats_back; /* after a load: what the source held is popped again */

    struct page_hinter hinter;
    enum balloon_hint_status hint_status;
    uint32_t hint_id;
    bool hint_tell; /* after a load: the driver is to hear that it may have its pages back */

    gint64 event_time; /* monotonic us; of the last BALLOON_CHANGE */
    guint event_timer; /* 0: none is due */
};

static inline struct virtio_balloon *balloon_of(struct virtio_device *v)
{
    return (struct virtio_balloon *)v;
}

static inline uint64_t balloon_bits_of(bool on, unsigned feature)
{
    return (uint64_t)on << feature;
}

/* ---- balloon-pages.c ---- */
void balloon_handle_pages(struct virtio_device *v, struct virtqueue *vq); /* inflate, deflate */
void balloon_handle_reports(struct virtio_device *v, struct virtqueue *vq);
void balloon_pages_reset(struct virtio_balloon *b);
/* The RAM that the guest may give at gpa: block, offset in it and how far it goes. False: none. */
bool balloon_find_ram(struct virtio_balloon *b, uint64_t gpa, struct ram_block **block,
                      uint64_t *offset, uint64_t *length);

/* ---- balloon-stats.c ---- */
void balloon_stats_init(struct virtio_balloon *b);
void balloon_stats_free(struct virtio_balloon *b);
void balloon_stats_reset(struct virtio_balloon *b);
void balloon_handle_stats(struct virtio_device *v, struct virtqueue *vq);
extern const struct live_property balloon_live_properties[];

/* ---- balloon-hints.c ---- */
void balloon_hints_init(struct virtio_balloon *b);
void balloon_hints_free(struct virtio_balloon *b);
void balloon_hints_reset(struct virtio_balloon *b);
void balloon_handle_hints(struct virtio_device *v, struct virtqueue *vq);
uint32_t balloon_hint_command(const struct virtio_balloon *b); /* as the driver reads it */

/* ---- balloon-qmp.c ---- */
struct virtio_balloon *balloon_find(struct vm *vm); /* NULL: there is none */
void balloon_tell_change(struct virtio_balloon *b); /* BALLOON_CHANGE, now or soon */
void balloon_event_free(struct virtio_balloon *b);

#endif
