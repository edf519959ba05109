/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What reading (read.c) and writing and freeing (type.c) of QAPI values share. */
#ifndef QAPI_TYPE_INTERNAL_H
#define QAPI_TYPE_INTERNAL_H

#include "qapi/type.h"

/* Is a member of this type a pointer? */
static inline bool qapi_held_by_pointer(const struct qapi_type *type)
{
    return type->kind == QAPI_KIND_STR || type->kind == QAPI_KIND_ANY ||
           type->kind == QAPI_KIND_OBJECT || type->kind == QAPI_KIND_ARRAY ||
           type->kind == QAPI_KIND_ALTERNATE;
}

static inline void *qapi_at(void *base, size_t offset)
{
    return (char *)base + offset;
}

static inline const void *qapi_at_const(const void *base, size_t offset)
{
    return (const char *)base + offset;
}

/* The struct of the case that the tag of a union selects, or NULL when it adds no members. */
const struct qapi_type *qapi_selected_variant(const struct qapi_type *type, const void *value);

#endif
