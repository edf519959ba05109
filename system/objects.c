/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The set of objects: memory backends and sources of random numbers by id. Their properties come
 * from the schema (qapi/qom.json); here is what follows from them, and what Ferry does not do and
 * therefore refuses.
 */
#include "system/objects.h"

#include <inttypes.h>
#include <string.h>

#include "system/keyval.h"
#include "util/error.h"

struct object {
    ObjectOptions *options;
    struct memory_backend backend; /* of the memory backends */
    bool in_use;                   /* of the others */
};

struct object_set {
    GPtrArray *objects; /* struct object * */
};

static void object_free(gpointer opaque)
{
    struct object *object = opaque;

    qapi_object_options_free(object->options);
    g_free(object->backend.id);
    g_free(object->backend.path);
    g_free(object);
}

struct object_set *object_set_new(void)
{
    struct object_set *set = g_new0(struct object_set, 1);

    set->objects = g_ptr_array_new_with_free_func(object_free);
    return set;
}

void object_set_free(struct object_set *set)
{
    if (set) {
        g_ptr_array_unref(set->objects);
        g_free(set);
    }
}

static struct object *find(struct object_set *set, const char *id)
{
    for (unsigned i = 0; i < set->objects->len; i++) {
        struct object *object = g_ptr_array_index(set->objects, i);

        if (strcmp(object->options->id, id) == 0) {
            return object;
        }
    }
    return NULL;
}

static bool refuse(const char *property, const char *why, GError **err)
{
    error_set(err, FERRY_ERROR_USER, "Property '%s' is not offered: %s", property, why);
    return false;
}

static bool set_common(struct memory_backend *m, const ObjectOptions *o, GError **err)
{
    /* all variants begin with these members, so that C lets any of them be read through this one */
    const MemoryBackendProperties *p = &o->u.memory_backend_ram;

    if (!p->size) {
        error_set(err, FERRY_ERROR_USER, "property 'size' doesn't take value '0'");
        return false;
    }
    if (p->host_nodes && p->host_nodes->len) {
        return refuse("host-nodes", "use numactl to bind the whole process", err);
    }
    if (p->has_policy && p->policy != HOST_MEM_POLICY_DEFAULT) {
        return refuse("policy", "use numactl to bind the whole process", err);
    }
    if (p->has_prealloc_threads && p->prealloc_threads > 1) {
        return refuse("prealloc-threads", "the kernel populates the memory in one call", err);
    }
    if (p->has_reserve && !p->reserve) {
        return refuse("reserve", "memory is reserved as the kernel does by default", err);
    }
    if (p->has_x_use_canonical_path_for_ramblock_id && p->x_use_canonical_path_for_ramblock_id) {
        return refuse("x-use-canonical-path-for-ramblock-id",
                      "machine 'microvm' names its memory by the id alone", err);
    }
    m->size = p->size;
    m->backing.share = p->has_share && p->share;
    m->backing.prealloc = p->has_prealloc && p->prealloc;
    m->backing.madvise_merge = p->has_merge ? p->merge : -1;
    m->backing.madvise_dump = p->has_dump ? p->dump : -1;
    m->backing.madvise_hugepage = -1;
    return true;
}

static bool make_ram(struct memory_backend *m, const ObjectOptions *o, GError **err)
{
    m->backing.type = RAM_ANON;
    return set_common(m, o, err);
}

static bool make_memfd(struct memory_backend *m, const ObjectOptions *o, GError **err)
{
    const MemoryBackendMemfdProperties *p = &o->u.memory_backend_memfd;

    m->backing.type = RAM_MEMFD;
    if (!set_common(m, o, err)) {
        return false;
    }
    if (p->has_hugetlbsize && (!p->has_hugetlb || !p->hugetlb)) {
        error_set(err, FERRY_ERROR_USER, "Property 'hugetlbsize' needs hugetlb=on");
        return false;
    }
    if (p->has_hugetlbsize && (!p->hugetlbsize || (p->hugetlbsize & (p->hugetlbsize - 1)))) {
        error_set(err, FERRY_ERROR_USER, "Property 'hugetlbsize' must be a power of two");
        return false;
    }
    if (p->has_seal && p->seal) {
        return refuse("seal", "whoever gets the descriptor may resize it", err);
    }
    m->backing.hugetlb = p->has_hugetlb && p->hugetlb;
    m->backing.hugetlbsize = p->has_hugetlbsize ? p->hugetlbsize : 0;
    /* a memfd is there to be handed out */
    m->backing.share = p->has_share ? p->share : true;
    return true;
}

static bool make_file(struct memory_backend *m, const ObjectOptions *o, GError **err)
{
    const MemoryBackendFileProperties *p = &o->u.memory_backend_file;

    m->backing.type = RAM_FILE;
    if (!set_common(m, o, err)) {
        return false;
    }
    if (!p->mem_path[0]) {
        error_set(err, FERRY_ERROR_USER, "Property 'mem-path' needs the name of a file or folder");
        return false;
    }
    if (p->has_align && p->align > TARGET_PAGE_SIZE) {
        return refuse("align", "memory is aligned to its page size", err);
    }
    if (p->has_discard_data && p->discard_data) {
        return refuse("discard-data", "the contents of the file are kept", err);
    }
    if (p->has_readonly && p->readonly) {
        return refuse("readonly", "guests write to their memory", err);
    }
    m->path = g_strdup(p->mem_path);
    m->backing.path = m->path;
    return true;
}

static bool make_rng(struct memory_backend *m G_GNUC_UNUSED, const ObjectOptions *o, GError **err)
{
    /* both kinds begin with these members */
    const RngProperties *p = &o->u.rng_builtin;

    if (p->has_opened && p->opened) {
        return refuse("opened", "a source is opened by the device that uses it", err);
    }
    return true;
}

static bool (*const makers[])(struct memory_backend *m, const ObjectOptions *o, GError **err) = {
    [OBJECT_TYPE_MEMORY_BACKEND_RAM] = make_ram,   [OBJECT_TYPE_MEMORY_BACKEND_MEMFD] = make_memfd,
    [OBJECT_TYPE_MEMORY_BACKEND_FILE] = make_file, [OBJECT_TYPE_RNG_BUILTIN] = make_rng,
    [OBJECT_TYPE_RNG_RANDOM] = make_rng,
};

/* The schema is also how to copy a value of one of its types. */
static ObjectOptions *copy_options(const ObjectOptions *options)
{
    json_t *json = qapi_object_options_to_json(options);
    ObjectOptions *copy = qapi_object_options_from_json(json, NULL);

    json_decref(json);
    g_assert(copy);
    return copy;
}

bool object_add(struct object_set *set, const ObjectOptions *options, GError **err)
{
    struct object *object;

    if (!keyval_is_identifier(options->id)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'id' expects an identifier: letters, digits, '-', '.' and '_', "
                  "starting with a letter");
        return false;
    }
    if (find(set, options->id)) {
        error_set(err, FERRY_ERROR_USER,
                  "attempt to add duplicate property '%s' to object (type 'container')",
                  options->id);
        return false;
    }
    object = g_new0(struct object, 1);
    object->options = copy_options(options);
    object->backend.id = g_strdup(options->id);
    if (!makers[options->qom_type](&object->backend, options, err)) {
        object_free(object);
        return false;
    }
    g_ptr_array_add(set->objects, object);
    return true;
}

bool object_del(struct object_set *set, const char *id, GError **err)
{
    struct object *object = find(set, id);

    if (!object) {
        error_set(err, FERRY_ERROR_USER, "object '%s' not found", id);
        return false;
    }
    if (object->backend.in_use || object->in_use) {
        error_set(err, FERRY_ERROR_USER, "object '%s' is in use, can not be deleted", id);
        return false;
    }
    g_ptr_array_remove(set->objects, object);
    return true;
}

struct memory_backend *object_find_memory_backend(struct object_set *set, const char *id)
{
    struct object *object = find(set, id);

    return object && object->backend.size ? &object->backend : NULL;
}

bool object_use_rng(struct object_set *set, const char *id, char **filename, GError **err)
{
    struct object *object = find(set, id);
    ObjectType type = object ? object->options->qom_type : OBJECT_TYPE_MEMORY_BACKEND_RAM;

    if (type != OBJECT_TYPE_RNG_BUILTIN && type != OBJECT_TYPE_RNG_RANDOM) {
        error_set(err, FERRY_ERROR_USER, "Device '%s' not found: it takes the id of an rng object",
                  id);
        return false;
    }
    object->in_use = true;
    *filename = NULL;
    if (type == OBJECT_TYPE_RNG_RANDOM) {
        const char *name = object->options->u.rng_random.filename;

        *filename = g_strdup(name ? name : "/dev/urandom");
    }
    return true;
}

void object_release(struct object_set *set, const char *id)
{
    struct object *object = find(set, id);

    if (object) {
        object->in_use = false;
    }
}

const ObjectOptions *object_at(struct object_set *set, unsigned index)
{
    struct object *object;

    if (index >= set->objects->len) {
        return NULL;
    }
    object = g_ptr_array_index(set->objects, index);
    return object->options;
}
