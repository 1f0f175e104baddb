/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Hash map from strings (copied) to pointers (not owned). Keys from outside are hashed with a seed that is
 * random per process. Iteration is in order of insertion and stands no change other than removal of the
 * current item. */

#include "base/list.h"
#include "base/macros.h"

struct map_item {
        char *key;
        void *value;
        struct list order;     /* in struct map */
        struct map_item *next; /* in its bucket */
        uint64_t hash;
};

struct map {
        struct list order;
        struct map_item **buckets;
        size_t n_buckets;
        size_t n_items;
};

void map_init(struct map *map);
/* Frees the map's own memory; the values are the caller's business. */
void map_deinit(struct map *map);

/* Adds or replaces. 0 or -ENOMEM; *ret_old (may be NULL) gets the replaced value or NULL. */
int map_put(struct map *map, const char *key, void *value, void **ret_old);
/* NULL if absent. */
void *map_get(const struct map *map, const char *key);
/* Removes and returns the value; NULL if absent. */
void *map_remove(struct map *map, const char *key);

static inline size_t map_size(const struct map *map)
{
        return map->n_items;
}

/* `item` and `spare` are struct map_item pointers. */
#define map_for_each(item, spare, map) list_for_each_safe (item, spare, &(map)->order, order)
