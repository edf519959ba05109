/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object tree that clients look at: qom-list, qom-get, qom-list-types.
 *
 * Ferry has no object system. The tree is made for each question from what the vm owns, at the
 * paths where clients of QEMU look (/machine, /objects, /chardevs, /machine/unattached/device[0]),
 * and thrown away after the answer: it has some dozens of nodes. Only what devices offer as live
 * properties can be written.
 */
#include <string.h>

#include "accel/accel.h"
#include "chardev/chardev.h"
#include "hw/device.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "system/config.h"
#include "system/objects.h"
#include "system/vcpu.h"
#include "system/vm.h"
#include "util/error.h"

#define DEFAULT_CPU_MODEL "qemu64"
#define CPU_TYPE_SUFFIX   "-x86_64-cpu"

struct node {
    struct device *dev; /* NULL: not a device */
    char *name;         /* last part of the path, "" for the root */
    char *type;
    struct node *parent;
    GPtrArray *children;   /* struct node * */
    GPtrArray *properties; /* struct node_property * */
};

struct node_property {
    char *name, *type;
    json_t *value;
};

static void node_property_free(gpointer opaque)
{
    struct node_property *p = opaque;

    g_free(p->name);
    g_free(p->type);
    json_decref(p->value);
    g_free(p);
}

static void node_free(gpointer opaque)
{
    struct node *node = opaque;

    g_free(node->name);
    g_free(node->type);
    g_ptr_array_unref(node->children);
    g_ptr_array_unref(node->properties);
    g_free(node);
}

/* value is stolen. */
static void add_property(struct node *node, const char *name, const char *type, json_t *value)
{
    struct node_property *p = g_new0(struct node_property, 1);

    p->name = g_strdup(name);
    p->type = g_strdup(type);
    p->value = value;
    g_ptr_array_add(node->properties, p);
}

static struct node *node_new(struct node *parent, const char *name, const char *type)
{
    struct node *node = g_new0(struct node, 1);

    node->name = g_strdup(name);
    node->type = g_strdup(type);
    node->parent = parent;
    node->children = g_ptr_array_new_with_free_func(node_free);
    node->properties = g_ptr_array_new_with_free_func(node_property_free);
    add_property(node, "type", "string", json_string(type));
    if (parent) {
        g_ptr_array_add(parent->children, node);
    }
    return node;
}

static char *node_path(const struct node *node)
{
    g_autofree char *above = NULL;

    if (!node->parent) {
        return g_strdup("/");
    }
    above = node_path(node->parent);
    return g_strdup_printf("%s%s%s", above, node->parent->parent ? "/" : "", node->name);
}

static struct node *node_child(const struct node *node, const char *name)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        struct node *child = g_ptr_array_index(node->children, i);

        if (strcmp(child->name, name) == 0) {
            return child;
        }
    }
    return NULL;
}

static const struct live_property *live_property(const struct device *dev, const char *name)
{
    for (const struct live_property *p = dev->class->live; p && p->name; p++) {
        if (strcmp(p->name, name) == 0) {
            return p;
        }
    }
    return NULL;
}

/* Where devices are, by the path before the last slash. */
static void add_device(struct node *machine, struct device *dev)
{
    const char *slash = strrchr(dev->path, '/'), *above = dev->path + strlen("/machine/");
    g_autofree char *parent = g_strndup(above, (gsize)(slash - above));
    struct node *node = node_new(node_child(machine, parent), slash + 1, dev->class->name);

    node->dev = dev;
    for (const struct property *p = dev->class->properties; p && p->name; p++) {
        if (!live_property(dev, p->name)) {
            add_property(node, p->name, property_type_name(p->type),
                         device_get_property(dev, p->name, NULL));
        }
    }
    for (const struct live_property *p = dev->class->live; p && p->name; p++) {
        add_property(node, p->name, p->type, p->get(dev));
    }
    add_property(node, "realized", "bool", json_true());
    add_property(node, "hotplugged", "bool", json_false());
}

static char *cpu_type(const struct vm_config *config)
{
    const char *model = config->cpu ? config->cpu : DEFAULT_CPU_MODEL;

    return g_strdup_printf("%.*s" CPU_TYPE_SUFFIX, (int)strcspn(model, ","), model);
}

static void add_cpus(struct node *unattached, struct vm *vm)
{
    g_autofree char *type = cpu_type(vm->config);

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        g_autofree char *name = g_strdup_printf("cpu[%u]", i);
        struct node *node = node_new(unattached, name, type);

        add_property(node, "apic-id", "uint32", json_integer(vm->vcpus[i]->index));
        add_property(node, "realized", "bool", json_true());
        add_property(node, "hotplugged", "bool", json_false());
    }
}

static json_t *on_off_auto(enum on_off_auto value)
{
    return json_string(value == OPT_ON ? "on" : value == OPT_OFF ? "off" : "auto");
}

static json_t *string_or_empty(const char *text)
{
    return json_string(text ? text : "");
}

static void add_machine(struct node *root, struct vm *vm)
{
    const struct vm_config *c = vm->config;
    g_autofree char *type = g_strconcat(c->machine, "-machine", NULL);
    g_autofree char *backend = g_strconcat("/objects/", c->memory_backend, NULL);
    struct node *machine = node_new(root, "machine", type);
    struct node *unattached;

    node_new(machine, "peripheral", "container");
    node_new(machine, "peripheral-anon", "container");
    unattached = node_new(machine, "unattached", "container");
    add_property(machine, "kernel", "string", string_or_empty(c->kernel));
    add_property(machine, "initrd", "string", string_or_empty(c->initrd));
    add_property(machine, "append", "string", string_or_empty(c->append));
    add_property(machine, "firmware", "string", string_or_empty(c->bios));
    add_property(machine, "memory-backend", "link<memory-backend>",
                 json_string(c->memory_backend ? backend : ""));
    add_property(machine, "suppress-vmdesc", "bool", json_boolean(c->suppress_vmdesc));
    add_property(machine, "mem-merge", "bool", json_boolean(c->mem_merge));
    add_property(machine, "dump-guest-core", "bool", json_boolean(c->dump_guest_core));
    if (vm->board) {
        add_property(machine, "acpi", "OnOffAuto", on_off_auto(c->acpi));
        add_property(machine, "pit", "OnOffAuto", on_off_auto(c->pit));
        add_property(machine, "pic", "OnOffAuto", on_off_auto(c->pic));
        add_property(machine, "rtc", "OnOffAuto", on_off_auto(c->rtc));
        add_property(machine, "ioapic2", "OnOffAuto", on_off_auto(c->ioapic2));
        add_property(machine, "isa-serial", "bool", json_boolean(c->isa_serial));
        add_property(machine, "auto-kernel-cmdline", "bool", json_boolean(c->auto_kernel_cmdline));
    }
    for (unsigned i = 0; i < vm->devices->len; i++) {
        add_device(machine, g_ptr_array_index(vm->devices, i));
    }
    add_cpus(unattached, vm);
}

static void add_objects(struct node *root, struct vm *vm)
{
    struct node *objects = node_new(root, "objects", "container");
    const ObjectOptions *o;

    for (unsigned i = 0; (o = object_at(vm->objects, i)); i++) {
        struct node *node =
            node_new(objects, o->id, qapi_enum_str(&qapi_type_object_type, o->qom_type));
        json_t *json = qapi_object_options_to_json(o), *value;
        const char *key;

        json_object_del(json, "qom-type");
        json_object_del(json, "id");
        json_object_foreach(json, key, value)
        {
            add_property(node, key,
                         json_is_boolean(value)   ? "bool"
                         : json_is_integer(value) ? "int"
                                                  : "string",
                         json_incref(value));
        }
        json_decref(json);
    }
}

static void add_chardev(struct chardev *chr, void *opaque)
{
    node_new(opaque, chardev_id(chr), "chardev");
}

static struct node *tree_new(struct vm *vm)
{
    struct node *root = node_new(NULL, "", "container");

    add_objects(root, vm);
    add_machine(root, vm);
    chardev_foreach(vm->chardevs, add_chardev, node_new(root, "chardevs", "container"));
    return root;
}

static struct node *follow(struct node *from, char **parts)
{
    for (; from && *parts; parts++) {
        if (**parts) { /* doubled and trailing slashes are nothing */
            from = node_child(from, *parts);
        }
    }
    return from;
}

/* A path that does not begin at the root may begin anywhere; counts the matches. */
static unsigned follow_from_anywhere(struct node *node, char **parts, struct node **found)
{
    struct node *here = follow(node, parts);
    unsigned matches = here != NULL;

    if (here) {
        *found = here;
    }
    for (unsigned i = 0; i < node->children->len; i++) {
        matches += follow_from_anywhere(g_ptr_array_index(node->children, i), parts, found);
    }
    return matches;
}

static struct node *find_node(struct node *root, const char *path, GError **err)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    struct node *found = NULL;
    unsigned matches;

    if (path[0] == '/') {
        found = follow(root, parts);
        matches = found != NULL;
    } else {
        matches = follow_from_anywhere(root, parts, &found);
    }
    if (matches > 1) {
        error_set(err, FERRY_ERROR_USER, "Path '%s' is ambiguous", path);
        return NULL;
    }
    if (!matches) {
        error_set(err, FERRY_ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    }
    return found;
}

static void list_one(GPtrArray *list, const char *name, char *type)
{
    ObjectPropertyInfo *info = g_new0(ObjectPropertyInfo, 1);

    info->name = g_strdup(name);
    info->type = type;
    g_ptr_array_add(list, info);
}

GPtrArray *qmp_qom_list(struct vm *vm, const struct qmp_qom_list_arg *arg, GError **err)
{
    struct node *root = tree_new(vm);
    struct node *node = find_node(root, arg->path, err);
    GPtrArray *list = node ? qapi_list_new(&qapi_type_object_property_info) : NULL;

    for (unsigned i = 0; node && i < node->properties->len; i++) {
        const struct node_property *p = g_ptr_array_index(node->properties, i);

        list_one(list, p->name, g_strdup(p->type));
    }
    for (unsigned i = 0; node && i < node->children->len; i++) {
        const struct node *child = g_ptr_array_index(node->children, i);

        list_one(list, child->name, g_strdup_printf("child<%s>", child->type));
    }
    node_free(root);
    return list;
}

json_t *qmp_qom_get(struct vm *vm, const struct qmp_qom_get_arg *arg, GError **err)
{
    struct node *root = tree_new(vm);
    struct node *node = find_node(root, arg->path, err);
    struct node *child = node ? node_child(node, arg->property) : NULL;
    json_t *value = NULL;

    if (child) {
        g_autofree char *path = node_path(child);

        value = json_string(path);
    }
    for (unsigned i = 0; node && !value && i < node->properties->len; i++) {
        const struct node_property *p = g_ptr_array_index(node->properties, i);

        if (strcmp(p->name, arg->property) == 0) {
            value = json_incref(p->value);
        }
    }
    if (node && !value) {
        error_set(err, FERRY_ERROR_USER, "Property '%s.%s' not found", node->type, arg->property);
    }
    node_free(root);
    return value;
}

static bool has_property(const struct node *node, const char *name)
{
    for (unsigned i = 0; i < node->properties->len; i++) {
        if (strcmp(((struct node_property *)g_ptr_array_index(node->properties, i))->name, name) ==
            0) {
            return true;
        }
    }
    return node_child(node, name);
}

/* Options of a device are for -device; what is no option at all cannot be written anywhere. */
static bool set_property(const struct node *node, const struct qmp_qom_set_arg *arg, GError **err)
{
    struct device *dev = node->dev;
    const struct live_property *live = dev ? live_property(dev, arg->property) : NULL;

    if (live && live->set) {
        return live->set(dev, arg->value, err);
    }
    for (const struct property *p = dev && !live ? dev->class->properties : NULL; p && p->name;
         p++) {
        if (strcmp(p->name, arg->property) == 0) {
            g_autofree char *whose =
                dev->id ? g_strdup_printf("device '%s'", dev->id) : g_strdup("anonymous device");

            error_set(err, FERRY_ERROR_USER,
                      "Attempt to set property '%s' on %s (type '%s') after it was realized",
                      arg->property, whose, node->type);
            return false;
        }
    }
    error_set(err, FERRY_ERROR_USER, "Property '%s.%s' %s", node->type, arg->property,
              has_property(node, arg->property) ? "is not writable" : "not found");
    return false;
}

bool qmp_qom_set(struct vm *vm, const struct qmp_qom_set_arg *arg, GError **err)
{
    struct node *root = tree_new(vm);
    struct node *node = find_node(root, arg->path, err);
    bool ok = node && set_property(node, arg, err);

    node_free(root);
    return ok;
}

/* Types that are not device classes; parents before children. */
static const struct {
    const char *name, *parent;
    bool abstract;
} types[] = {
    { "object", NULL, true },
    { "container", "object", false },
    { "device", "object", true },
    { "cpu", "device", true },
    { "x86_64-cpu", "cpu", true },
    { "host" CPU_TYPE_SUFFIX, "x86_64-cpu", false },
    { "max" CPU_TYPE_SUFFIX, "x86_64-cpu", false },
    { DEFAULT_CPU_MODEL CPU_TYPE_SUFFIX, "x86_64-cpu", false },
    { "accel", "object", true },
    { "kvm-accel", "accel", false },
    { "qtest-accel", "accel", false },
    { "machine", "object", true },
    { "microvm-machine", "machine", false },
    { "none-machine", "machine", false },
    { "memory-backend", "object", true },
    { "memory-backend-file", "memory-backend", false },
    { "memory-backend-memfd", "memory-backend", false },
    { "memory-backend-ram", "memory-backend", false },
    { "rng-backend", "object", true },
    { "rng-builtin", "rng-backend", false },
    { "rng-random", "rng-backend", false },
    { "chardev", "object", false },
};

static const char *type_parent(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            return types[i].parent;
        }
    }
    return device_class_find(name) ? "device" : NULL;
}

struct type_query {
    const struct qmp_qom_list_types_arg *arg;
    GPtrArray *list;
};

static void add_type(struct type_query *query, const char *name, bool abstract)
{
    const char *parent = type_parent(name), *ancestor = name;
    ObjectTypeInfo *info;

    if (abstract && !(query->arg->has_abstract && query->arg->abstract)) {
        return;
    }
    while (query->arg->implements && ancestor && strcmp(ancestor, query->arg->implements) != 0) {
        ancestor = type_parent(ancestor);
    }
    if (!ancestor) {
        return;
    }
    info = g_new0(ObjectTypeInfo, 1);
    info->name = g_strdup(name);
    info->parent = g_strdup(parent);
    info->has_abstract = abstract;
    info->abstract = abstract;
    g_ptr_array_add(query->list, info);
}

static void add_device_type(const struct device_class *class, void *opaque)
{
    add_type(opaque, class->name, false);
}

GPtrArray *qmp_qom_list_types(struct vm *vm G_GNUC_UNUSED, const struct qmp_qom_list_types_arg *arg,
                              GError **err G_GNUC_UNUSED)
{
    struct type_query query = { arg, qapi_list_new(&qapi_type_object_type_info) };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        add_type(&query, types[i].name, types[i].abstract);
    }
    device_class_foreach(add_device_type, &query);
    return query.list;
}
