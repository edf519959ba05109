/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What main() does to the process itself. Main thread. */
#ifndef SYSTEM_PROCESS_H
#define SYSTEM_PROCESS_H

#include <glib.h>
#include <stdbool.h>

struct sandbox_options;
struct vm;

/*
 * Goes into the background: forks; the child returns, the parent waits until daemonize_ready() in
 * the child and exits with 0, or with 1 when the child ends before. Until then the child still
 * writes its messages to the terminal. Before any thread exists.
 */
bool daemonize_begin(GError **err);
/* Lets the parent go and leaves the terminal. Nothing happens without daemonize_begin(). */
bool daemonize_ready(GError **err);

/* Writes the process id into a file and locks it until the process ends. */
bool pidfile_create(const char *path, GError **err);
/* Removes that file, if it still is the one that was made. */
void pidfile_remove(void);

/* SIGINT, SIGHUP and SIGTERM become a request for a shutdown, carried out by the main loop in every
 * run state. */
bool signals_install(struct vm *vm, GError **err);
/* Before the vm is freed; the signals are then ignored. */
void signals_remove(void);

/* Filters the system calls of all threads from here on. */
bool sandbox_enter(const struct sandbox_options *o, GError **err);

#endif
