/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Requests that go through the whole audit log do it in slices of a few milliseconds, between which the event loop does all else. */

#include "base/error.h"

struct audit_scans;
struct loop;

struct audit_scans *audit_scans_new(struct loop *loop);
/* Requests under way are answered with an error. */
void audit_scans_free(struct audit_scans *scans);
