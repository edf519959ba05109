/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices. A device is one file: its state, its registers, its vmstate table, and one struct
 * device_class at the bottom that DEVICE_CLASS() makes known. Nothing else lists devices.
 *
 *   struct serial { struct device dev; ...own state... };
 *   static const struct device_class serial_class = { .name = "isa-serial", .size = sizeof(struct
 * serial), ... }; DEVICE_CLASS(serial_class);
 *
 * Life: device_new() allocates zeroed memory, sets properties to their defaults and then to what
 * -global says; the board sets what it knows (base address, interrupt); device_realize() checks,
 * registers I/O regions and the savevm entry. reset puts the registers to their power-on values;
 * the machine calls it once before the first start and at each system reset. All with the machine
 * lock held.
 */
#ifndef HW_DEVICE_H
#define HW_DEVICE_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/vmstate.h"

struct vm;
struct device;

enum property_type {
    PROPERTY_BOOL, /* bool */
    PROPERTY_UINT8,
    PROPERTY_UINT16,
    PROPERTY_UINT32,
    PROPERTY_UINT64,
    PROPERTY_STRING,      /* char *, owned by the device */
    PROPERTY_ON_OFF_AUTO, /* int: 0 off, 1 on, 2 auto */
};

/* As QOM names it: "bool". */
const char *property_type_name(enum property_type type);

struct property {
    const char *name;
    enum property_type type;
    size_t offset; /* in the device struct */
    uint64_t def;  /* default; strings start as NULL */
    const char *help;
};

/* A property that is more than a field of the device: what it says is made when somebody asks. */
struct live_property {
    const char *name, *type; /* as qom-list shows them */
    json_t *(*get)(struct device *dev);
    /* NULL: read-only. USER errors say what is wrong with the value. */
    bool (*set)(struct device *dev, const json_t *value, GError **err);
};

struct device_class {
    const char *name; /* QOM type name, "isa-serial" */
    const char *description;
    size_t size;                       /* of the whole struct; struct device is its first member */
    const struct property *properties; /* ends with {} ; may be NULL */
    const struct live_property *live;  /* ends with {} ; may be NULL; goes before properties */
    bool (*realize)(struct device *dev, GError **err); /* may be NULL */
    void (*reset)(struct device *dev);                 /* may be NULL */
    void (*unrealize)(struct device *dev);             /* frees what realize made; may be NULL */
    /* Saved state; NULL where the device has none. */
    const struct vmstate *vmstate;
    unsigned reset_order; /* lower first; 0 usual */
    bool user_creatable;  /* by -device; realize then finds the bus */
};

struct device {
    const struct device_class *class;
    struct vm *vm;
    char *id;   /* from the command line; NULL for the machine's own */
    char *path; /* qom path, "/machine/unattached/device[3]" */
    /* in the stream: 0, 1, ... per idstr; the board may set it before realize */
    uint32_t instance_id;
    /* position in the stream, see savevm_register(); the board sets it before realize */
    unsigned savevm_order;
};

struct device *device_new(struct vm *vm, const struct device_class *class, const char *id,
                          GError **err);
/* On failure frees the device, without calling unrealize: a realize that fails cleans up after
 * itself. */
bool device_realize(struct device *dev, GError **err);
void device_free(struct device *dev);
bool device_set_property(struct device *dev, const char *name, const char *value, GError **err);
json_t *device_get_property(struct device *dev, const char *name, GError **err);

/*
 * -device: makes and realizes a device of a user-creatable class. opts is a flat object: driver,
 * id, and properties; values are strings, or JSON booleans
 * and numbers. Its path is below
 * /machine/peripheral, or peripheral-anon without an id. USER errors name what is wrong.
 */
struct device *device_add(struct vm *vm, const json_t *opts, GError **err);
struct device *device_find(struct vm *vm, const char *id); /* NULL: none */
/* The lines of -device help, and of -device DRIVER,help. False: no such driver. */
void device_print_list(void);
bool device_print_properties(const char *driver, GError **err);

void device_class_register(const struct device_class *class);
const struct device_class *device_class_find(const char *name);
void device_class_foreach(void (*fn)(const struct device_class *class, void *opaque), void *opaque);
#define DEVICE_CLASS(c)                                                                            \
    static void __attribute__((constructor)) c##_register(void)                                    \
    {                                                                                              \
        device_class_register(&c);                                                                 \
    }

/* -global DRIVER.PROP=VALUE, remembered for later device_new(). */
void device_global_add(const char *driver, const char *property, const char *value);
/* Forgets them, for exit. */
void device_globals_free(void);

#endif
