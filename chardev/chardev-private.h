/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a back end of a chardev is: a row of the table in chardev.c and a struct that begins with
 * struct chardev. Only chardev/ includes this.
 *
 * The core (chardev.c) owns the flow: it watches in_fd whenever the front end has room, calls the
 * back end to read and write, keeps the queue of unsent bytes, the log file and the front end's
 * events. A back end opens and closes descriptors and says which are in use with chardev_use_fds().
 */
#ifndef CHARDEV_PRIVATE_H
#define CHARDEV_PRIVATE_H

#include "chardev/chardev.h"

struct chardev_watch;
/* Calls fn on the main loop while fd has one of the conditions. Nothing is called after the free.
 */
struct chardev_watch *chardev_watch_new(int fd, GIOCondition condition,
                                        void (*fn)(void *opaque, GIOCondition revents),
                                        void *opaque);
void chardev_watch_set(struct chardev_watch *watch, GIOCondition condition);
void chardev_watch_free(struct chardev_watch *watch);

enum chardev_option_type {
    CHARDEV_OPTION_STRING,
    CHARDEV_OPTION_BOOL,
    CHARDEV_OPTION_NUMBER,
};

struct chardev_option {
    const char *key; /* NULL ends a table */
    enum chardev_option_type type;
};

/* True if every key is in the table or is common to all, and every value of its type. */
bool chardev_options_check(json_t *options, const struct chardev_option *table, GError **err);
/* Getters for checked options. The string is the caller's to free, NULL when absent. */
char *chardev_option_string(json_t *options, const char *key);
bool chardev_option_bool(json_t *options, const char *key, bool absent);
uint64_t chardev_option_number(json_t *options, const char *key, uint64_t absent);

struct chardev_ops {
    const char *name;
    size_t size;
    const struct chardev_option *options;
    /* false: close() is called, then the struct freed */
    bool (*open)(struct chardev *chr, json_t *options, GError **err);
    void (*close)(struct chardev *chr);
    /* As read(2) and write(2) with a non-blocking descriptor; NULL: these. */
    ssize_t (*read)(struct chardev *chr, void *buf, size_t len);
    ssize_t (*write)(struct chardev *chr, const void *buf, size_t len);
    /* The end of the input was read or it failed. NULL: the input ends, the output goes on. */
    void (*hangup)(struct chardev *chr);
    /* A front end without room still learns of a hang-up (and unread bytes are lost). */
    bool watch_hangup;
    int (*take_fd)(struct chardev *chr);
    char *(*describe)(const struct chardev *chr);
};

struct chardev {
    const struct chardev_ops *ops;
    struct chardev_set *set;
    char *id;
    const struct chardev_frontend *fe;
    void *fe_opaque;
    bool fe_closed; /* chardev_set_frontend_open() */
    bool open_tried;
    bool connected;
    bool output_failed; /* said so once */
    int in_fd;          /* -1: no input */
    int out_fd;         /* -1: written bytes are swallowed */
    int log_fd;         /* -1: no log */
    struct chardev_watch *in_watch;
    struct chardev_watch *out_watch;
    GByteArray *queue; /* bytes of chardev_write_queued() from queue_start on are unsent */
    size_t queue_start;
    GSource *writable_idle; /* calls writable_fn where there is no descriptor to wait for */
    void (*writable_fn)(void *opaque);
    void *writable_opaque;
};

/* Which descriptors carry bytes from now on (-1: none); they stay the back end's. */
void chardev_use_fds(struct chardev *chr, int in_fd, int out_fd);
/* Sends the front end its event when that is a change; a disconnect drops the queue. */
void chardev_set_connected(struct chardev *chr, bool connected);
/* open(2) with close-on-exec for a path of an option, by way of the fdset opener where it applies;
 * -1 with *err. */
int chardev_open_path(struct chardev_set *set, const char *path, int flags, const char *verb,
                      GError **err);
/* One chardev of a set may use the process's stdin and stdout. */
bool chardev_claim_stdio(struct chardev *chr, GError **err);

extern const struct chardev_ops chardev_null_ops;
extern const struct chardev_ops chardev_file_ops;
extern const struct chardev_ops chardev_stdio_ops;
extern const struct chardev_ops chardev_pty_ops;
extern const struct chardev_ops chardev_socket_ops;

#endif
