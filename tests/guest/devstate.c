/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guest.h"
const u32 dev_item_count = 0;
void dev_start(struct cpu *c){(void)c;}
int dev_step(struct cpu *c, u64 now){(void)c;(void)now;return 0;}
int dev_init_r0(struct cpu *c, u32 item){(void)c;(void)item;return 0;}
u32 dev_check_r0(struct cpu *c, u32 item){(void)c;(void)item;return 0;}
const char *dev_name(u32 item){(void)item;return "";}
