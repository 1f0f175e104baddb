/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A client of ovsdb-server, Open vSwitch's database (RFC 7047), over its Unix socket. Calls are synchronous and each ends within
 * a limit, also when the server answers nothing, or endlessly; then the connection is closed, and nothing is tried for a
 * moment, so that the event loop goes on. A lost connection is made anew by the next call. A call that was cut off may have been
 * carried out: callers look at what is there before they change it. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"

#define OVSDB_DEFAULT_PATH "/var/run/openvswitch/db.sock"
#define OVSDB_CALL_MS UINT64_C(1000)  /* one call, with its connection */
#define OVSDB_APPLY_MS UINT64_C(2000) /* until ovs-vswitchd has done what was written */
#define OVSDB_AGAIN_MS UINT64_C(2000) /* after a call that ran out of time */
/* An ovs-vswitchd that did not follow in time is given this much only, for as long. */
#define OVSDB_HURRY_MS UINT64_C(100)
#define OVSDB_BEHIND_MS UINT64_C(10000)
#define OVSDB_MESSAGE_MAX (16 * 1024 * 1024) /* bytes of one answer: some 5,000 ports */

struct ovsdb;

/* Nothing is opened yet. `clock` is borrowed. 0 or -ENOMEM. */
int ovsdb_new(const char *path, const struct clock *clock, struct ovsdb **ret_db);
void ovsdb_free(struct ovsdb *db);
DEFINE_CLEANUP(struct ovsdb *, ovsdb_free)

const char *ovsdb_path(const struct ovsdb *db);

/* One transaction on the database "Open_vSwitch". `operations` (array, RFC 7047 section 5.2; taken over, NULL means no memory) are
 * carried out as one. *ret_results (may be NULL): a result an operation, the caller's. UNREACHABLE: no server; TIMED_OUT; PROTOCOL: what
 * came is no answer; PEER_FAILED: the database refused, with its words; CONFLICT: an operation `wait` did not find what it is to find. */
int ovsdb_transact(struct ovsdb *db, json_t *operations, json_t **ret_results, struct error **ret_error);
/* The same, and ovs-vswitchd has taken it in (next_cfg and cur_cfg, ovs-vswitchd.conf.db(5)). TIMED_OUT: it is written, but
 * ovs-vswitchd does not follow; see OVSDB_BEHIND_MS. */
int ovsdb_apply(struct ovsdb *db, json_t *operations, json_t **ret_results, struct error **ret_error);

/* Values as the database writes them (section 5.1): a set of one may stand without its ["set", [...]]. The caller's; NULL without
 * memory. `value` is borrowed; what is neither form gives an empty set or map. */
json_t *ovsdb_set_items(const json_t *value);
json_t *ovsdb_map_object(const json_t *value);
/* ["map", [[KEY, VALUE], ...]] of an object of strings. */
json_t *ovsdb_map_from_object(const json_t *object);
/* The uuid of ["uuid", "..."], or "". Borrowed. */
const char *ovsdb_uuid(const json_t *value);
