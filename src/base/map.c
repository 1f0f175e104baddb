/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"

#define FIRST_BUCKETS 16

/* FNV-1a started from a random basis, finished with a mixer: enough against accidental and blind collisions.
 */
static uint64_t hash_key(const char *key)
{
        static uint64_t seed;
        uint64_t h;

        while (!seed)
                if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
                        seed = (uintptr_t)&seed;
        h = 0xcbf29ce484222325 ^ seed;
        for (; *key; key++)
                h = (h ^ (uint8_t)*key) * 0x100000001b3;
        h ^= h >> 32;
        h *= 0xd6e8feb86659fd93;
        return h ^ (h >> 32);
}

static struct map_item **slot(const struct map *map, const char *key, uint64_t hash)
{
        struct map_item **at = &map->buckets[hash & (map->n_buckets - 1)];

        while (*at && ((*at)->hash != hash || strcmp((*at)->key, key)))
                at = &(*at)->next;
        return at;
}

static int grow(struct map *map)
{
        size_t n = map->n_buckets ? map->n_buckets * 2 : FIRST_BUCKETS;
        struct map_item **buckets, *item;

        if (map->n_items < map->n_buckets)
                return 0;
        buckets = alloc_array(n, sizeof(*buckets));
        if (!buckets)
                return -ENOMEM;
        list_for_each (item, &map->order, order) {
                struct map_item **head = &buckets[item->hash & (n - 1)];

                item->next = *head;
                *head = item;
        }
        free(map->buckets);
        map->buckets = buckets;
        map->n_buckets = n;
        return 0;
}

void map_init(struct map *map)
{
        *map = (struct map){};
        list_init(&map->order);
}

void map_deinit(struct map *map)
{
        struct map_item *item, *spare;

        if (!map->order.next)
                return;
        list_for_each_safe (item, spare, &map->order, order) {
                free(item->key);
                free(item);
        }
        free(map->buckets);
        map_init(map);
}

int map_put(struct map *map, const char *key, void *value, void **ret_old)
{
        uint64_t hash = hash_key(key);
        struct map_item *item, **at;

        if (grow(map) < 0)
                return -ENOMEM;
        at = slot(map, key, hash);
        if (*at) {
                if (ret_old)
                        *ret_old = (*at)->value;
                (*at)->value = value;
                return 0;
        }
        item = ALLOC(struct map_item);
        if (!item)
                return -ENOMEM;
        item->key = alloc_strdup(key);
        if (!item->key) {
                free(item);
                return -ENOMEM;
        }
        item->value = value;
        item->hash = hash;
        *at = item;
        list_append(&map->order, &item->order);
        map->n_items++;
        if (ret_old)
                *ret_old = NULL;
        return 0;
}

void *map_get(const struct map *map, const char *key)
{
        struct map_item *item;

        if (!map->n_buckets)
                return NULL;
        item = *slot(map, key, hash_key(key));
        return item ? item->value : NULL;
}

void *map_remove(struct map *map, const char *key)
{
        struct map_item *item, **at;
        void *value;

        if (!map->n_buckets)
                return NULL;
        at = slot(map, key, hash_key(key));
        item = *at;
        if (!item)
                return NULL;
        *at = item->next;
        list_remove(&item->order);
        map->n_items--;
        value = item->value;
        free(item->key);
        free(item);
        return value;
}
