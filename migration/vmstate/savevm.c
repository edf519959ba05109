/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The registry of what is saved, and the two halves of its life: save() -> table -> stream, and
 * stream -> table -> checked states -> load().
 *
 * Loading never touches a device before the last byte of the last section was read and checked; so
 * a stream that ends early, or that has one bad field, leaves the machine as it was.
 *
 * Trust: none in what a stream says. Names and instances must be of the registry, a version within
 * its table, each section comes once, and sizes are the tables'.
 */
#include "migration/vmstate/savevm.h"

#include <string.h>

#include "migration/stream/format.h"
#include "migration/vmstate/table.h"
#include "system/vm.h"
#include "util/error.h"

struct entry {
    char *idstr;
    uint32_t instance_id;
    unsigned order;
    const struct vmstate *vmstate;
    void *opaque;
};

struct savevm {
    struct vm *vm;
    GPtrArray *entries; /* in stream order */
    /* test aid: sections, by idstr, whose save (load) is made to fail once; from FERRY_FAIL_SAVE
     * and FERRY_FAIL_LOAD */
    char *fail_save, *fail_load;
};

struct loaded {
    const struct entry *entry;
    void *state;
    int version;
};

struct savevm_load {
    struct savevm *savevm;
    GArray *sections; /* struct loaded */
};

static void entry_free(gpointer p)
{
    struct entry *e = p;

    g_free(e->idstr);
    g_free(e);
}

struct savevm *savevm_new(struct vm *vm)
{
    struct savevm *s = g_new0(struct savevm, 1);

    s->vm = vm;
    s->entries = g_ptr_array_new_with_free_func(entry_free);
    s->fail_save = g_strdup(g_getenv("FERRY_FAIL_SAVE"));
    s->fail_load = g_strdup(g_getenv("FERRY_FAIL_LOAD"));
    return s;
}

void savevm_free(struct savevm *s)
{
    if (s) {
        g_ptr_array_free(s->entries, TRUE);
        g_free(s->fail_save);
        g_free(s->fail_load);
        g_free(s);
    }
}

/* True once for the section that a test named. */
static bool injected(char **section, const struct entry *e, GError **err)
{
    if (!*section || !g_str_equal(*section, e->idstr)) {
        return false;
    }
    g_clear_pointer(section, g_free);
    error_set(err, FERRY_ERROR_HOST, "A failure was injected by the environment");
    return true;
}

void savevm_register(struct savevm *s, const char *idstr, uint32_t instance_id,
                     const struct vmstate *vmstate, void *opaque, unsigned order)
{
    struct entry *e = g_new0(struct entry, 1);
    unsigned at = s->entries->len;

    *e = (struct entry){ .idstr = g_strdup(idstr ? idstr : vmstate->name),
                         .instance_id = instance_id,
                         .order = order,
                         .vmstate = vmstate,
                         .opaque = opaque };
    while (at && ((struct entry *)g_ptr_array_index(s->entries, at - 1))->order > order) {
        at--;
    }
    g_ptr_array_insert(s->entries, (int)at, e);
}

void savevm_unregister(struct savevm *s, void *opaque)
{
    for (unsigned i = s->entries->len; i-- > 0;) {
        if (((struct entry *)g_ptr_array_index(s->entries, i))->opaque == opaque) {
            g_ptr_array_remove_index(s->entries, i);
        }
    }
}

void savevm_foreach(struct savevm *s,
                    void (*fn)(const char *idstr, uint32_t instance_id,
                               const struct vmstate *vmstate, void *opaque),
                    void *opaque)
{
    for (unsigned i = 0; i < s->entries->len; i++) {
        const struct entry *e = g_ptr_array_index(s->entries, i);

        fn(e->idstr, e->instance_id, e->vmstate, opaque);
    }
}

static void state_free(const struct entry *e, void *state)
{
    if (e->vmstate->custom && e->vmstate->custom->clear) {
        e->vmstate->custom->clear(state);
    }
    g_free(state);
}

static bool save_entry(struct savevm *s, const struct entry *e, uint32_t section_id,
                       struct stream_out *o, json_t *desc, GError **err)
{
    g_autofree void *state = g_malloc0(e->vmstate->size);
    json_t *d = NULL;

    if (injected(&s->fail_save, e, err) || !e->vmstate->save(e->opaque, state, err)) {
        g_prefix_error(err, "Device '%s' cannot be saved: ", e->idstr);
        return false;
    }
    if (desc) {
        d = json_object();
        json_object_set_new(d, "name", json_string(e->idstr));
        json_object_set_new(d, "instance_id", json_integer(e->instance_id));
        json_object_set_new(d, "vmsd_name", json_string(e->vmstate->name));
        json_object_set_new(d, "version", json_integer(e->vmstate->version));
        json_array_append_new(desc, d);
    }
    out_u8(o, STREAM_SECTION_FULL);
    out_be32(o, section_id);
    out_pstr(o, e->idstr);
    out_be32(o, e->instance_id);
    out_be32(o, (uint32_t)e->vmstate->version);
    vmstate_encode(e->vmstate, state, o, d);
    out_u8(o, STREAM_FOOTER);
    out_be32(o, section_id);
    return true;
}

bool savevm_save(struct savevm *s, struct stream_out *o, json_t *desc, GError **err)
{
    for (unsigned i = 0; i < s->entries->len; i++) {
        if (!save_entry(s, g_ptr_array_index(s->entries, i), SECTION_ID_FIRST_DEVICE + i, o, desc,
                        err)) {
            return false;
        }
    }
    return true;
}

struct savevm_load *savevm_load_new(struct savevm *s)
{
    struct savevm_load *l = g_new0(struct savevm_load, 1);

    l->savevm = s;
    l->sections = g_array_new(FALSE, TRUE, sizeof(struct loaded));
    return l;
}

void savevm_load_free(struct savevm_load *l)
{
    if (l) {
        for (unsigned i = 0; i < l->sections->len; i++) {
            struct loaded *s = &g_array_index(l->sections, struct loaded, i);

            state_free(s->entry, s->state);
        }
        g_array_free(l->sections, TRUE);
        g_free(l);
    }
}

static const struct entry *entry_find(const struct savevm *s, const char *idstr,
                                      uint32_t instance_id)
{
    for (unsigned i = 0; i < s->entries->len; i++) {
        const struct entry *e = g_ptr_array_index(s->entries, i);

        if (e->instance_id == instance_id && g_str_equal(e->idstr, idstr)) {
            return e;
        }
    }
    return NULL;
}

static struct loaded *loaded_find(struct savevm_load *l, const struct entry *e)
{
    for (unsigned i = 0; i < l->sections->len; i++) {
        struct loaded *s = &g_array_index(l->sections, struct loaded, i);

        if (s->entry == e) {
            return s;
        }
    }
    return NULL;
}

bool savevm_load_section(struct savevm_load *l, struct stream_in *in, const char *idstr,
                         uint32_t instance_id, uint32_t version, GError **err)
{
    const struct entry *e = entry_find(l->savevm, idstr, instance_id);
    struct loaded section = { .entry = e };

    if (!e) {
        error_set(err, FERRY_ERROR_PEER,
                  "Unknown savevm section or instance '%s' %u. Make sure that your current VM "
                  "setup matches your saved VM "
                  "setup, including any hotplugged devices",
                  idstr, instance_id);
        return false;
    }
    if (version > (uint32_t)e->vmstate->version) {
        error_set(err, FERRY_ERROR_PEER, "savevm: unsupported version %u for '%s' v%d", version,
                  idstr, e->vmstate->version);
        return false;
    }
    if (loaded_find(l, e)) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream has section '%s' instance %u twice",
                  idstr, instance_id);
        return false;
    }
    section.version = (int)version;
    section.state = g_malloc0(e->vmstate->size);
    if (e->vmstate->defaults) {
        e->vmstate->defaults(e->opaque, section.state);
    }
    if (!vmstate_decode(e->vmstate, section.state, section.version, in, idstr, err) ||
        (e->vmstate->check && !e->vmstate->check(e->opaque, section.state, err))) {
        state_free(e, section.state);
        return false;
    }
    g_array_append_val(l->sections, section);
    return true;
}

bool savevm_load_complete(struct savevm_load *l, GError **err)
{
    for (unsigned i = 0; i < l->savevm->entries->len; i++) {
        const struct entry *e = g_ptr_array_index(l->savevm->entries, i);

        if (!e->vmstate->optional && !loaded_find(l, e)) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream lacks the state of '%s' instance %u: give both sides "
                      "the same machine options",
                      e->idstr, e->instance_id);
            return false;
        }
    }
    return true;
}

bool savevm_load_commit(struct savevm_load *l, GError **err)
{
    for (unsigned i = 0; i < l->savevm->entries->len; i++) {
        const struct entry *e = g_ptr_array_index(l->savevm->entries, i);
        const struct loaded *s = loaded_find(l, e);

        if (s && (injected(&l->savevm->fail_load, e, err) ||
                  !e->vmstate->load(e->opaque, s->state, s->version, err))) {
            g_prefix_error(err, "Device '%s' cannot be loaded: ", e->idstr);
            return false;
        }
    }
    return true;
}
