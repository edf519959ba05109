/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is the same for every accelerator. */
#include "accel/accel.h"

void accel_free(struct accel *a)
{
    if (a) {
        a->ops->free(a);
    }
}
