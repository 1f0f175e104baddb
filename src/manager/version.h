/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* DROVER_VERSION comes from the build (project version). */
#ifndef DROVER_VERSION
#define DROVER_VERSION "unknown"
#endif
