/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the command line says about the machine, parsed and checked for form, before anything is
 * built. system/options.c fills it, the board and the accelerator read it. It lives as long as the
 * vm.
 */
#ifndef SYSTEM_CONFIG_H
#define SYSTEM_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "system/memory.h"

enum on_off_auto { OPT_OFF, OPT_ON, OPT_AUTO };

#define VM_MAX_CPUS    16
#define VM_MAX_SERIALS 4

/* A memory-backend-{ram,memfd,file} object. */
struct memory_backend {
    char *id;
    uint64_t size;              /* bytes */
    struct ram_backing backing; /* strings owned */
    char *path;
    bool in_use;
};

struct vm_config {
    /* -machine / -M */
    char *machine;                  /* "microvm" */
    enum on_off_auto pit, pic, rtc; /* microvm: default auto */
    bool isa_serial;                /* default on */
    enum on_off_auto acpi;          /* default auto = on */
    enum on_off_auto ioapic2;       /* default auto = on where acpi is on */
    bool auto_kernel_cmdline;       /* default on */
    char *memory_backend;           /* object id, NULL: the default RAM */
    bool suppress_vmdesc;
    bool mem_merge, dump_guest_core;
    enum { IRQCHIP_ON, IRQCHIP_SPLIT } kernel_irqchip;

    /* -m, -mem-path, -mem-prealloc */
    uint64_t ram_size;                  /* bytes */
    struct memory_backend *ram_backend; /* resolved memory_backend, or NULL */
    struct ram_backing default_backing;

    /* -smp */
    unsigned cpus, sockets, dies, cores, threads;

    char *cpu;                                        /* -cpu as given, NULL: the default */
    char *kernel, *initrd, *append, *bios, *bios_dir; /* -kernel -initrd -append -bios -L */
    struct chardev *serials[VM_MAX_SERIALS];          /* NULL: no such port is connected */
    unsigned serial_count;

    /* -rtc */
    enum { RTC_BASE_UTC, RTC_BASE_LOCALTIME, RTC_BASE_DATETIME } rtc_base;
    int64_t rtc_base_seconds; /* RTC_BASE_DATETIME: seconds since 1970 of the start */
    enum { RTC_CLOCK_HOST, RTC_CLOCK_RT, RTC_CLOCK_VM } rtc_clock;
    bool rtc_driftfix_slew;

    char *incoming; /* -incoming URI, "defer", or NULL */
    bool qtest;     /* -accel qtest */
};

/*
 * The machine type microvm (hw/i386/microvm.c). Builds memory, devices, firmware and kernel for
 * cfg. vm->accel exists but is not started; after this main calls accel->ops->start.
 */
bool microvm_build(struct vm *vm, const struct vm_config *cfg, GError **err);
/* Puts every device to its power-on state and reloads firmware and kernel (skipped while a stream
 * comes in). */
void board_reset(struct vm *vm);
void board_free(struct vm *vm);
/* Machine type name on the wire. */
const char *board_name(const struct vm *vm);
/* Calls fn for each option of -machine that decides what the guest finds, with what became of it.
 * Constant once the machine is built: any thread. */
void board_options(const struct vm *vm,
                   void (*fn)(void *opaque, const char *name, const char *value), void *opaque);

#endif
