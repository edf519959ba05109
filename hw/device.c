/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of devices: classes that register themselves, properties by table, -global, realisation,
 * and the savevm entry of each device. See include/hw/device.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "hw/device.h"
#include "system/vm.h"
#include "util/error.h"

/* Filled by constructors before main(), constant afterwards. */
static GPtrArray *device_classes;

void device_class_register(const struct device_class *class)
{
    if (!device_classes) {
        device_classes = g_ptr_array_new();
    }
    g_ptr_array_add(device_classes, (gpointer) class);
}

const struct device_class *device_class_find(const char *name)
{
    for (unsigned i = 0; device_classes && i < device_classes->len; i++) {
        const struct device_class *c = g_ptr_array_index(device_classes, i);

        if (g_str_equal(c->name, name)) {
            return c;
        }
    }
    return NULL;
}

void device_class_foreach(void (*fn)(const struct device_class *class, void *opaque), void *opaque)
{
    for (unsigned i = 0; device_classes && i < device_classes->len; i++) {
        fn(g_ptr_array_index(device_classes, i), opaque);
    }
}

struct global {
    char *driver, *property, *value;
};

/* -global is about device classes of the process, like the class list itself. */
static GArray *globals;

void device_global_add(const char *driver, const char *property, const char *value)
{
    struct global g = { g_strdup(driver), g_strdup(property), g_strdup(value) };

    if (!globals) {
        globals = g_array_new(FALSE, FALSE, sizeof(struct global));
    }
    g_array_append_val(globals, g);
}

void device_globals_free(void)
{
    for (unsigned i = 0; globals && i < globals->len; i++) {
        struct global *g = &g_array_index(globals, struct global, i);

        g_free(g->driver);
        g_free(g->property);
        g_free(g->value);
    }
    g_clear_pointer(&globals, g_array_unref);
}

static const struct property *property_find(const struct device_class *class, const char *name)
{
    for (const struct property *p = class->properties; p && p->name; p++) {
        if (g_str_equal(p->name, name)) {
            return p;
        }
    }
    return NULL;
}

const char *property_type_name(enum property_type type)
{
    static const char *const names[] = {
        [PROPERTY_BOOL] = "bool",
        [PROPERTY_UINT8] = "uint8",
        [PROPERTY_UINT16] = "uint16",
        [PROPERTY_UINT32] = "uint32",
        [PROPERTY_UINT64] = "uint64",
        [PROPERTY_STRING] = "str",
        [PROPERTY_ON_OFF_AUTO] = "OnOffAuto",
    };

    return names[type];
}

static bool parse_on_off(const char *value, bool *out)
{
    static const char *const on[] = { "on", "true", "yes", "y", NULL };
    static const char *const off[] = { "off", "false", "no", "n", NULL };

    *out = g_strv_contains(on, value);
    return *out || g_strv_contains(off, value);
}

static unsigned property_bits(enum property_type type)
{
    return type == PROPERTY_UINT8    ? 8
           : type == PROPERTY_UINT16 ? 16
           : type == PROPERTY_UINT32 ? 32
                                     : 64;
}

static void property_put(struct device *dev, const struct property *p, uint64_t v)
{
    void *at = (char *)dev + p->offset;

    switch (p->type) {
    case PROPERTY_BOOL:
        *(bool *)at = v;
        break;
    case PROPERTY_UINT8:
        *(uint8_t *)at = (uint8_t)v;
        break;
    case PROPERTY_UINT16:
        *(uint16_t *)at = (uint16_t)v;
        break;
    case PROPERTY_UINT32:
        *(uint32_t *)at = (uint32_t)v;
        break;
    case PROPERTY_UINT64:
        *(uint64_t *)at = v;
        break;
    case PROPERTY_ON_OFF_AUTO:
        *(int *)at = (int)v;
        break;
    case PROPERTY_STRING:
        break;
    }
}

bool device_set_property(struct device *dev, const char *name, const char *value, GError **err)
{
    const struct property *p = property_find(dev->class, name);
    bool on;
    guint64 n;

    if (!p) {
        error_set(err, FERRY_ERROR_USER, "Property '%s.%s' not found", dev->class->name, name);
        return false;
    }
    switch (p->type) {
    case PROPERTY_BOOL:
        if (!parse_on_off(value, &on)) {
            error_set(err, FERRY_ERROR_USER,
                      "Invalid parameter '%s' for '%s.%s', expected 'on' or 'off'", value,
                      dev->class->name, name);
            return false;
        }
        property_put(dev, p, on);
        return true;
    case PROPERTY_ON_OFF_AUTO:
        if (g_str_equal(value, "auto")) {
            property_put(dev, p, 2);
        } else if (parse_on_off(value, &on)) {
            property_put(dev, p, on);
        } else {
            error_set(err, FERRY_ERROR_USER,
                      "Invalid parameter '%s' for '%s.%s', expected 'on', 'off' or 'auto'", value,
                      dev->class->name, name);
            return false;
        }
        return true;
    case PROPERTY_STRING: {
        char **at = (char **)(void *)((char *)dev + p->offset);

        g_free(*at);
        *at = g_strdup(value);
        return true;
    }
    default: {
        unsigned bits = property_bits(p->type);
        guint64 max = bits == 64 ? G_MAXUINT64 : (UINT64_C(1) << bits) - 1;
        const char *digits = g_str_has_prefix(value, "0x") ? value + 2 : value;

        if (!g_ascii_string_to_unsigned(digits, digits == value ? 10 : 16, 0, max, &n, NULL)) {
            error_set(err, FERRY_ERROR_USER,
                      "Invalid parameter '%s' for '%s.%s', expected a number from 0 to %" PRIu64,
                      value, dev->class->name, name, (uint64_t)max);
            return false;
        }
        property_put(dev, p, n);
        return true;
    }
    }
}

json_t *device_get_property(struct device *dev, const char *name, GError **err)
{
    const struct property *p = property_find(dev->class, name);
    const char *at = (const char *)dev + (p ? p->offset : 0);

    if (!p) {
        error_set(err, FERRY_ERROR_USER, "Property '%s.%s' not found", dev->class->name, name);
        return NULL;
    }
    switch (p->type) {
    case PROPERTY_BOOL:
        return json_boolean(*(const bool *)at);
    case PROPERTY_UINT8:
        return json_integer(*(const uint8_t *)at);
    case PROPERTY_UINT16:
        return json_integer(*(const uint16_t *)(const void *)at);
    case PROPERTY_UINT32:
        return json_integer(*(const uint32_t *)(const void *)at);
    case PROPERTY_UINT64:
        return json_integer((json_int_t) * (const uint64_t *)(const void *)at);
    case PROPERTY_ON_OFF_AUTO: {
        int v = *(const int *)(const void *)at;

        return json_string(v == 2 ? "auto" : v ? "on" : "off");
    }
    case PROPERTY_STRING: {
        const char *s = *(char *const *)(const void *)at;

        return json_string(s ? s : "");
    }
    }
    return json_null();
}

struct device *device_new(struct vm *vm, const struct device_class *class, const char *id,
                          GError **err)
{
    struct device *dev = g_malloc0(class->size);

    dev->class = class;
    dev->vm = vm;
    dev->id = g_strdup(id);
    for (const struct property *p = class->properties; p && p->name; p++) {
        property_put(dev, p, p->def);
    }
    for (unsigned i = 0; globals && i < globals->len; i++) {
        const struct global *g = &g_array_index(globals, struct global, i);

        if (g_str_equal(g->driver, class->name) &&
            !device_set_property(dev, g->property, g->value, err)) {
            device_free(dev);
            return NULL;
        }
    }
    return dev;
}

bool device_realize(struct device *dev, GError **err)
{
    struct vm *vm = dev->vm;

    if (!dev->path) {
        unsigned n = 0;

        for (unsigned i = 0; i < vm->devices->len; i++) {
            n += !((struct device *)g_ptr_array_index(vm->devices, i))->id;
        }
        dev->path = dev->id ? g_strdup_printf("/machine/peripheral/%s", dev->id)
                            : g_strdup_printf("/machine/unattached/device[%u]", n);
    }
    if (dev->class->realize && !dev->class->realize(dev, err)) {
        device_free(dev);
        return false;
    }
    g_ptr_array_add(vm->devices, dev);
    if (dev->class->vmstate) {
        savevm_register(vm->savevm, NULL, dev->instance_id, dev->class->vmstate, dev,
                        dev->savevm_order);
    }
    return true;
}

void device_free(struct device *dev)
{
    if (!dev) {
        return;
    }
    if (g_ptr_array_remove(dev->vm->devices, dev)) {
        savevm_unregister(dev->vm->savevm, dev);
        if (dev->class->unrealize) {
            dev->class->unrealize(dev);
        }
    }
    for (const struct property *p = dev->class->properties; p && p->name; p++) {
        if (p->type == PROPERTY_STRING) {
            g_free(*(char **)(void *)((char *)dev + p->offset));
        }
    }
    g_free(dev->id);
    g_free(dev->path);
    g_free(dev);
}
