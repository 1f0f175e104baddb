/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Intrusive doubly linked list. A `struct list` is both the head and the link inside an item. */

#include "base/macros.h"

struct list {
        struct list *next;
        struct list *prev;
};

#define LIST_INIT(head) ((struct list){&(head), &(head)})

static inline void list_init(struct list *head)
{
        head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
        return head->next == head;
}

static inline void list_append(struct list *head, struct list *link)
{
        link->prev = head->prev;
        link->next = head;
        head->prev->next = link;
        head->prev = link;
}

static inline void list_prepend(struct list *head, struct list *link)
{
        list_append(head->next, link);
}

/* Unlinks; harmless for a link that is in no list (initialised with list_init, or removed before). */
static inline void list_remove(struct list *link)
{
        if (!link->next)
                return;
        link->prev->next = link->next;
        link->next->prev = link->prev;
        list_init(link);
}

/* Unlinks the first one of a list that is not empty. */
static inline struct list *list_pop(struct list *head)
{
        struct list *first = head->next;

        head->next = first->next;
        head->next->prev = head;
        list_init(first);
        return first;
}

#define LIST_FIRST(head, type, member) (list_empty(head) ? NULL : CONTAINER_OF((head)->next, type, member))

#define list_for_each(item, head, member) \
        for (item = CONTAINER_OF((head)->next, __typeof__(*item), member); &item->member != (head); \
                item = CONTAINER_OF(item->member.next, __typeof__(*item), member))

/* `item` may be removed and freed inside; `spare` is another pointer of its type. */
#define list_for_each_safe(item, spare, head, member) \
        for (item = CONTAINER_OF((head)->next, __typeof__(*item), member), \
            spare = CONTAINER_OF(item->member.next, __typeof__(*item), member); \
                &item->member != (head); \
                item = spare, spare = CONTAINER_OF(item->member.next, __typeof__(*item), member))
