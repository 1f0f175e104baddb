/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of the inventory share; nobody else includes this.
 *
 *   inventory.c        documents of hosts and VMs as recorded, questions about them, following the store
 *   inventory_index.c  ways to what is asked for often
 *   inventory_poll.c   one host's agent: heartbeat, lists, event stream; when it counts as reachable
 *   inventory_merge.c  reports about VMs, made into each VM's status; two hosts that run the same one
 */

#include "base/list.h"
#include "base/map.h"
#include "manager/inventory.h"
#include "manager/manager.h"

/* Lists of hosts that every agent is given (docs/internals/agent-api.md). */
enum host_list_kind {
        HOST_LIST_REMOVED, /* their certificates count no more */
        HOST_LIST_FENCED,  /* confirmed down: migrations do not wait for them */
        N_HOST_LISTS
};

struct host_list {
        json_t *uids; /* array */
        uint64_t generation;
};

/* The calls of one round, in order. The lists from POLL_DATASTORES on are asked for in full rounds only, the VMs also
 * while the event stream is down; a list of hosts is sent when the agent does not have the newest one. */
enum poll_step {
        POLL_HOST,
        POLL_CPU,           /* when it has changed */
        POLL_REMOVED_HOSTS, /* the lists in the order of host_list_kind */
        POLL_FENCED_HOSTS,
        POLL_VMS,
        POLL_DATASTORES,
        POLL_SWITCHES,
        POLL_PORT_GROUPS,
        N_POLL_STEPS
};

/* What one host said about one VM. */
struct report {
        json_t *doc;    /* NULL: it does not have it (any more) */
        uint64_t at_ms; /* not older than this: when it was asked, or told by itself */
        uint64_t
                qemu_since_ms; /* when it was first told, without a break, that it has a QEMU there; 0: it has none */
        struct list of_vm; /* in struct reported */
        struct host *host;
};

/* All reports about one VM. */
struct reported {
        struct list reports;
};

struct host {
        json_t *doc; /* as recorded; first, see inventory_index.c */
        struct inventory *inventory;
        json_t *facts;         /* what its agent said last: the keys of HostStatus */
        uint64_t facts_ms;     /* when the agent was asked for the newest of POLL_HOST */
        json_t *live;          /* inventory_live_host() of it; NULL: something has changed since */
        struct list vms;       /* struct vm_entry: recorded here */
        struct map reports;    /* VM uid -> struct report */
        uint64_t vms_asked_ms; /* when the last whole list of its VMs was asked for; 0: never */
        struct http_call *call;
        struct loop_source *timer;
        enum poll_step step;
        unsigned int n_rounds;
        unsigned int n_failures; /* since the last round that ended well */
        unsigned int n_excused;  /* since then or the last failure, calls for which inventory_excuses() */
        double busy_s;           /* metrics.loop_seconds.sum when the call under way began */
        uint64_t call_began_ms;
        uint64_t round_began_ms;
        uint64_t full_round_began_ms;      /* of the last one that ended well; 0: none */
        uint64_t lists_sent[N_HOST_LISTS]; /* generation that the agent has; 0: none */
        uint64_t list_sending;             /* of the list that is under way */
        bool want_full;
        bool this_full;
        bool connected;
        bool returning;      /* it has one of the places of hosts that are being connected to */
        struct list waiting; /* for such a place */
        bool sync_missed;    /* it connected while a task held it: to be brought in line later */

        /* inventory_merge.c: VMs that nobody here has made are taken in within bounds */
        size_t n_room;    /* so many more are, since these were counted */
        size_t n_unheard; /* of its last list: more than a host has */
        size_t n_refused; /* in the last merge of all that it reports */
        bool alerted;     /* of these */

        struct http_call *stream; /* NULL: down */
        bool stream_works;        /* its first event or comment has come */
        uint64_t stream_not_before_ms;
        char event[32];
};

struct vm_entry {
        json_t *doc;         /* as recorded; first, see inventory_index.c */
        char *text;          /* of `doc`, inventory_vm_text(); NULL: nobody has asked for it */
        struct list at_host; /* in the VMs of its host, or `elsewhere` */
        struct list *at;     /* which of the lists that is */
        json_t *keys;        /* under which it is in `users`; NULL: not yet */
        uint64_t
                changed_ms; /* when this process learned of it: lists asked for before do not prove absence */
};

/* By name. */
struct sorted {
        const void **items;
        size_t n_items;
        bool good;
};

#define INVENTORY_N_KEPT 5

struct inventory {
        struct manager *manager;
        struct map hosts; /* uid -> struct host */
        struct map vms;   /* uid -> struct vm_entry */
        /* inventory_index.c */
        struct map hosts_by_name, vms_by_name;
        struct map users;      /* "mac/...", "image/..." or "reads/..." -> struct users */
        struct map reported;   /* VM uid -> struct reported */
        struct list elsewhere; /* VMs on no host, or on one that is not known */
        struct sorted hosts_sorted, vms_sorted;
        json_t *kept[INVENTORY_N_KEPT]; /* lists of other kinds; NULL: to be read (again) */
        json_t *provisioned;            /* inventory_provisioned(); NULL: to be summed up (again) */
        struct map cpus;                /* cpu_id -> what guests can be given on such hosts (json_t) */
        struct map suspects;            /* VM uid -> struct suspicion */
        struct host_list lists[N_HOST_LISTS];
        /* inventory_poll.c: hosts that are being connected to, and those that wait for their turn */
        struct list waiting[2]; /* [1]: those that were tried before, in vain */
        size_t n_returning;
        uint64_t window_ms; /* since when this is measured: */
        double window_busy_s;
        bool saturated;    /* most of the loop's time was used in the last window */
        uint64_t followed; /* change log position */
        bool lags;         /* the newest try to follow failed */
        bool half_applied; /* ... on the way of taking a change up: what has its revision may not be in every index */
        struct loop_source *follow_again;
};

static inline const char *host_uid_of(const struct host *host)
{
        return json_string_value(json_object_get(host->doc, "uid")) ?: "";
}

static inline const char *host_name_of(const struct host *host)
{
        return json_string_value(json_object_get(host->doc, "name")) ?: "";
}

/* The host's document says that it is known to be down, with all that ran there. */
static inline bool host_is_confirmed_down(const json_t *doc)
{
        return json_is_object(json_object_get(json_object_get(doc, "status"), "confirmed_down"));
}

static inline uint64_t inventory_now_ms(const struct inventory *inventory)
{
        return clock_now_ms(inventory->manager->clock);
}

/* The id of what guests can be given on the host, as it told last, perhaps to an earlier start; "": it never did. */
static inline const char *host_cpu_id(const struct host *host)
{
        return json_string_value(json_object_get(host->facts, "cpu_id"))
                       ?: json_string_value(json_object_get(json_object_get(host->doc, "status"), "cpu_id")) ?: "";
}

/* inventory.c: takes up what hosts of the document's id offer (recorded, so that it is known also when they are away). */
void inventory_take_cpu(struct inventory *inventory, const char *id, json_t *document);
/* Records the host's state and lasting facts when they differ from what is recorded. */
void host_record(struct host *host, const char *state, const char *message);
/* Its agent answers: that it was confirmed down is withdrawn, on record. Without effect unless it was. */
void host_came_back(struct host *host);
/* The keys of a host's status that its agent tells. */
extern const char *const inventory_live_keys[];
extern const size_t inventory_n_live_keys;

/* inventory_index.c: each is told what came, changed or went; 0 or -ENOMEM, then it is to be told again. */
void index_init(struct inventory *inventory);
void index_deinit(struct inventory *inventory);
int index_host_put(struct inventory *inventory, struct host *host);
void index_host_removed(struct inventory *inventory, struct host *host);
/* before: its document until now; NULL: it is new. */
int index_vm_put(struct inventory *inventory, struct vm_entry *vm, const json_t *before);
void index_vm_removed(struct inventory *inventory, struct vm_entry *vm);
int index_report_added(struct inventory *inventory, const char *vm_uid, struct report *report);
void index_report_removed(struct inventory *inventory, const char *vm_uid, struct report *report);
/* NULL: no host has said anything of it. */
struct reported *index_reported(const struct inventory *inventory, const char *vm_uid);
/* An object of the kind (NULL: of any) was changed. */
void index_changed(struct inventory *inventory, const char *kind);

/* Its live document does not hold any more. */
static inline void host_touched(struct host *host)
{
        json_decref(host->live);
        host->live = NULL;
}

/* inventory_poll.c */
/* Whether a call of a host that was not answered in time counts for nothing, because its answer may be waiting in the socket.
 * busy_share: which part of the call's time our loop was busy; saturated: it was until just now. */
bool inventory_excuses(const struct host *host, double busy_share, bool saturated);
int host_poll_init(struct host *host);
void host_poll_deinit(struct host *host);
/* It was asked again after it had not answered, in vain, and does not answer now either. */
bool host_is_unreachable(const struct host *host);
/* A round now, or right after the one under way. */
void host_poll_soon(struct host *host);

/* inventory_merge.c */
void host_reports_deinit(struct host *host);
/* Takes a whole list (array) that was asked for at asked_ms. 0 or -ENOMEM. */
int host_take_list(struct host *host, const json_t *list, uint64_t asked_ms);
/* Takes what it said of one VM just now (NULL: gone). 0 or -ENOMEM. */
int host_take_report(struct host *host, const char *vm_uid, const json_t *doc);
/* Brings the status of one VM, or of each that the host reports or that is recorded there, in line with the reports. */
void inventory_merge_vm(struct inventory *inventory, const char *uid);
void inventory_merge_host(struct host *host);
/* The same for VMs whose host is not in the inventory any more. */
void inventory_merge_elsewhere(struct inventory *inventory);
/* A VM is in the inventory no more: neither is what was raised about it. */
void inventory_merge_forget(struct inventory *inventory, const char *uid);
/* Takes up the alerts of an earlier start. */
int inventory_merge_load(struct inventory *inventory, struct error **ret_error);
void inventory_merge_deinit(struct inventory *inventory);
