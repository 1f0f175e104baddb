/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Where the conformance suite finds a store of each kind, and how to do to it from behind what no user of the interface can. */

#include "fixture.h"
#include "postgresql_server.h"

struct store_place {
        const char *name;
        /* Once around all tests; false when the database is not installed. */
        bool (*begin)(void);
        void (*end)(void);
        void (*where)(const struct folder *folder, char ret[static 256]); /* for store_open() */
        void (*clear)(const struct folder *folder);
        /* SQL with one %s for what stands before a table's name. */
        void (*change)(const struct folder *folder, const char *sql);
        void (*set_version)(const struct folder *folder, int version);
        /* From the next open on; false when this user cannot do it. */
        bool (*read_only)(const struct folder *folder, bool on);
        /* A store on a file system of a few MiB, with ballast that make_room() removes; false when this user cannot mount one. */
        bool (*small)(const struct folder *folder, char ret_where[static 256]);
        void (*make_room)(const struct folder *folder);
        void (*small_end)(const struct folder *folder);
};

extern const struct store_place store_place_sqlite, store_place_postgresql;

/* The server behind store_place_postgresql, between its begin() and end(). */
extern struct postgresql_server store_place_server;
