/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the manager's unit tests share: a temporary folder, checks of documents. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"
#include "io/file.h"
#include "manager/json.h"
#include "manager/store.h"

struct folder {
        char path[64];
};

static inline void folder_make(struct folder *folder)
{
        snprintf(folder->path, sizeof(folder->path), "/tmp/drover-test-XXXXXX");
        assert_non_null(mkdtemp(folder->path));
}

static inline void folder_remove(struct folder *folder)
{
        assert_int_equal(file_remove_tree(folder->path), 0);
}

static inline struct store *store_open_in(const struct folder *folder)
{
        struct store *store = NULL;
        char path[128];

        snprintf(path, sizeof(path), "%s/test.db", folder->path);
        assert_int_equal(store_open_sqlite(path, &store, NULL), 0);
        return store;
}

static inline json_t *object_new(const char *kind, const char *name, const char *value)
{
        json_t *doc = json_pack(
                "{s:s, s:s, s:s+, s:s}", "kind", kind, "name", name, "uid", "uid-", name, "value", value);

        assert_non_null(doc);
        return doc;
}
