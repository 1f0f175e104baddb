/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a store backend provides; see store.h for the meaning of each operation. store.c does what does not depend on
 * the database: checks, documents to text and back, notification. Texts handed to the visitors are borrowed. */

#include "manager/store.h"

typedef int (*store_row_fn)(void *userdata, const char *name, uint64_t revision, const char *doc_text);

struct store_row_change {
        bool remove;
        const char *kind, *uid, *name, *doc_text;
        uint64_t expected;
};

struct store_row_event {
        uint64_t seq;
        bool removed;
        const char *kind, *uid, *name, *doc_text;
};

struct store_ops {
        /* 0 after one call of fn; -ENOENT. */
        int (*get)(struct store *store, const char *kind, const char *name_or_uid, store_row_fn fn,
                void *userdata, struct error **ret_error);
        /* In order of names until fn returns non-zero (1: enough; negative: error). */
        int (*list)(struct store *store, const char *kind, const char *after, bool descending,
                store_row_fn fn, void *userdata, struct error **ret_error);
        int (*commit)(struct store *store, const struct store_row_change *changes, size_t n_changes,
                uint64_t *ret_revision, struct error **ret_error);
        int (*revision)(struct store *store, uint64_t *ret_revision, struct error **ret_error);
        /* Checks with store_check_log() first. */
        int (*changes)(struct store *store, uint64_t after, size_t limit,
                int (*fn)(void *userdata, const struct store_row_event *event), void *userdata,
                struct error **ret_error);
        int (*trim_log)(struct store *store, uint64_t keep, struct error **ret_error);
        int (*lead)(struct store *store, const char *holder, const char *server,
                struct store_leader *ret_leader, struct error **ret_error);
        int (*renew)(struct store *store, struct error **ret_error);
        int (*resign)(struct store *store, struct error **ret_error);
        int (*dump)(struct store *store, const struct store_dump *dump, struct error **ret_error);
        int (*restore)(struct store *store, const struct store_restore *restore, struct error **ret_error);
        void (*close)(struct store *store);
};

struct store {
        const struct store_ops *ops;
        uint64_t bytes_written; /* of documents, by this process */
        void (*on_commit)(void *userdata);
        void *on_commit_userdata;
        void (*on_lost)(void *userdata);
        void *on_lost_userdata;
};

/* -ESTALE with an error unless a log whose first number is `oldest` (newest + 1 when it is empty) has everything after `after`. */
int store_check_log(uint64_t after, uint64_t oldest, uint64_t newest, struct error **ret_error);

/* The errors that both backends have in common; each returns its code. */
int store_stale(const struct store_row_change *change, uint64_t revision, struct error **ret_error);
int store_name_taken(const struct store_row_change *change, struct error **ret_error);
int store_newer_schema(size_t version, size_t known, struct error **ret_error);
