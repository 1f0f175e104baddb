/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* drover(1), from the command table, in the man(7) language. The build writes it to man/drover.1. */

#include "base/macros.h"

void manual_write(FILE *out);
