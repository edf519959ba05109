/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects made by -object and object-add: memory backends and sources of random numbers. An object
 * is a description until something uses it; a memory backend's memory is allocated when the machine
 * is built with it. Main
 * loop thread, machine lock held.
 */
#ifndef SYSTEM_OBJECTS_H
#define SYSTEM_OBJECTS_H

#include <glib.h>
#include <stdbool.h>

#include "qapi/qapi-types.h"
#include "system/config.h"

struct object_set;

struct object_set *object_set_new(void);
void object_set_free(struct object_set *set); /* NULL is ignored */

/* Makes an object; what Ferry lacks of its properties is refused by name (USER). */
bool object_add(struct object_set *set, const ObjectOptions *options, GError **err);
/* Refused while the object is in use, or when there is none of that name. */
bool object_del(struct object_set *set, const char *id, GError **err);

/* NULL: there is none of that name. Owned by the set; pointers stay valid until object_del(). */
struct memory_backend *object_find_memory_backend(struct object_set *set, const char *id);

/*
 * A source of random numbers, in use from now on until object_release(). *filename: where they come
 * from, owned by the caller; NULL: the host's kernel. False: there is none of that name (USER).
 */
bool object_use_rng(struct object_set *set, const char *id, char **filename, GError **err);
void object_release(struct object_set *set, const char *id);

/* In order of creation; NULL past the last. The options are as they were given. */
const ObjectOptions *object_at(struct object_set *set, unsigned index);

#endif
