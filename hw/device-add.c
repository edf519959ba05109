/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -device: finds the class by name, sets what was given, realizes. Which bus a device goes to is
 * its realize's business. Before the first reset of the machine; machine lock held.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hw/device.h"
#include "system/keyval.h"
#include "system/vm.h"
#include "util/error.h"

#define ANON "/machine/peripheral-anon/"

struct device *device_find(struct vm *vm, const char *id)
{
    for (unsigned i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (dev->id && g_str_equal(dev->id, id)) {
            return dev;
        }
    }
    return NULL;
}

/* "virtio-blk", "virtio-blk-pci": what it is called on a machine without PCI; or NULL. */
static char *similar_name(const char *driver)
{
    static const char *const endings[] = { "-pci", "-pci-transitional", "-pci-non-transitional",
                                           "-ccw", "" };

    for (unsigned i = 0; i < G_N_ELEMENTS(endings); i++) {
        g_autofree char *name = NULL;

        if (g_str_has_suffix(driver, endings[i])) {
            name =
                g_strdup_printf("%.*s-device", (int)(strlen(driver) - strlen(endings[i])), driver);
            if (device_class_find(name)) {
                return g_steal_pointer(&name);
            }
        }
    }
    return NULL;
}

static const struct device_class *find_creatable(const char *driver, GError **err)
{
    const struct device_class *class = device_class_find(driver);

    if (!class) {
        g_autofree char *similar = similar_name(driver);

        error_set(err, FERRY_ERROR_USER, "'%s' is not a valid device model name%s%s%s", driver,
                  similar ? ": on this machine it is '" : "", similar ? similar : "",
                  similar ? "'" : "");
        return NULL;
    }
    if (!class->user_creatable) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'driver' expects a pluggable device type: '%s' is part of the machine",
                  driver);
        return NULL;
    }
    return class;
}

/* A value as -device would spell it; NULL: it has another form. g_free(). */
static char *value_text(const json_t *value)
{
    if (json_is_string(value)) {
        return g_strdup(json_string_value(value));
    }
    if (json_is_boolean(value)) {
        return g_strdup(json_is_true(value) ? "on" : "off");
    }
    if (json_is_integer(value)) {
        return g_strdup_printf("%" PRId64, (int64_t)json_integer_value(value));
    }
    return NULL;
}

static bool set_properties(struct device *dev, const json_t *opts, GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)opts, key, value)
    {
        g_autofree char *text = value_text(value);

        if (strcmp(key, "driver") == 0 || strcmp(key, "id") == 0) {
            continue;
        }
        if (!text) {
            error_set(err, FERRY_ERROR_USER,
                      "Invalid parameter type for '%s', expected: string, number or boolean", key);
            return false;
        }
        if (!device_set_property(dev, key, text, err)) {
            return false;
        }
    }
    return true;
}

/* A string member; NULL: it is not there. */
static bool get_string(const json_t *opts, const char *key, const char **text, GError **err)
{
    const json_t *value = json_object_get(opts, key);

    *text = json_string_value(value);
    if (value && !*text) {
        error_set(err, FERRY_ERROR_USER, "Invalid parameter type for '%s', expected: string", key);
        return false;
    }
    return true;
}

static bool check_id(struct vm *vm, const char *id, GError **err)
{
    if (!keyval_is_identifier(id)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'id' expects an identifier: letters, digits, '-', '.' and '_', "
                  "starting with a letter");
        return false;
    }
    if (device_find(vm, id)) {
        error_set(err, FERRY_ERROR_USER, "Duplicate device ID '%s'", id);
        return false;
    }
    return true;
}

static char *path_of(struct vm *vm, const char *id)
{
    unsigned n = 0;

    if (id) {
        return g_strdup_printf("/machine/peripheral/%s", id);
    }
    for (unsigned i = 0; i < vm->devices->len; i++) {
        n += g_str_has_prefix(((struct device *)g_ptr_array_index(vm->devices, i))->path, ANON);
    }
    return g_strdup_printf(ANON "device[%u]", n);
}

struct device *device_add(struct vm *vm, const json_t *opts, GError **err)
{
    const struct device_class *class;
    const char *driver, *id;
    struct device *dev;

    if (!get_string(opts, "driver", &driver, err) || !get_string(opts, "id", &id, err)) {
        return NULL;
    }
    if (!driver) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'driver' is missing");
        return NULL;
    }
    class = find_creatable(driver, err);
    if (!class || (id && !check_id(vm, id, err))) {
        return NULL;
    }
    dev = device_new(vm, class, id, err);
    if (!dev) {
        return NULL;
    }
    dev->path = path_of(vm, id);
    if (!set_properties(dev, opts, err)) {
        device_free(dev);
        return NULL;
    }
    if (!vm->board) {
        error_set(err, FERRY_ERROR_USER, "No bus for device '%s': machine 'none' has none", driver);
        device_free(dev);
        return NULL;
    }
    return device_realize(dev, err) ? dev : NULL;
}

static void print_class(const struct device_class *class, void *opaque G_GNUC_UNUSED)
{
    if (class->user_creatable) {
        printf("name \"%s\", desc \"%s\"\n", class->name, class->description);
    }
}

void device_print_list(void)
{
    device_class_foreach(print_class, NULL);
}

bool device_print_properties(const char *driver, GError **err)
{
    const struct device_class *class = find_creatable(driver, err);

    if (!class) {
        return false;
    }
    printf("%s options:\n", driver);
    for (const struct property *p = class->properties; p && p->name; p++) {
        g_autofree char *form = g_strdup_printf("%s=<%s>", p->name, property_type_name(p->type));

        printf("  %-22s - %s\n", form, p->help ? p->help : "");
    }
    return true;
}
