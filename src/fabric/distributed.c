/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/distributed.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "fabric/ifname.h"

#define WHAT_MAX 10 /* sentences that are kept */
#define FIGHT_MS (60 * 1000)

struct distributed {
        uint64_t version;
        json_t *uplinks;
        enum ovs_uplink_policy policy;
        char *adopts;     /* NULL: a bridge of drover's own */
        uint64_t applied; /* 0: not yet */
        json_t *drift;
        json_t *mended; /* what, the last time; NULL: never */
        uint64_t n_mended;
        int64_t mended_unix_ms;
        json_t *recent; /* {sentence: [how often, when last]}: what was mended within FIGHT_MS */
};

void distributed_free(struct distributed *distributed)
{
        if (!distributed)
                return;
        json_decref(distributed->uplinks);
        json_decref(distributed->drift);
        json_decref(distributed->mended);
        json_decref(distributed->recent);
        free(distributed->adopts);
        free(distributed);
}

static bool is_nic(const char *name)
{
        return name && text_is_name(name) && strlen(name) < IFNAMSIZ &&
               strncmp(name, IFNAME_TAP_PREFIX, strlen(IFNAME_TAP_PREFIX)) != 0;
}

static int check_uplinks(const json_t *uplinks, struct error **ret_error)
{
        json_t *uplink;
        size_t i;

        json_array_foreach ((json_t *)uplinks, i, uplink) {
                if (!is_nic(json_string_value(uplink)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Name network interfaces of the host.",
                                "switch.uplinks[%zu]: this interface cannot be an uplink", i);
                for (size_t k = 0; k < i; k++)
                        if (json_equal(json_array_get(uplinks, k), uplink))
                                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                        "switch.uplinks names %s twice", json_string_value(uplink));
        }
        return 0;
}

static int check_bridge(const char *bridge, const json_t *uplinks, struct error **ret_error)
{
        if (bridge && !text_is_name(bridge))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "switch.bridge is no name of a bridge");
        if (bridge && json_array_size(uplinks))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Leave out the uplinks: a bridge that is used as it is keeps its own.",
                        "switch.bridge and switch.uplinks cannot be given together");
        return 0;
}

int distributed_new(const json_t *body, struct distributed **ret_distributed, struct error **ret_error)
{
        static const char *const keys[] = {
                "name", "type", "version", "uplinks", "uplink_policy", "bridge", "mtu", NULL};
        _cleanup_(distributed_freep) struct distributed *distributed = ALLOC(struct distributed);
        const char *policy = "active-backup", *bridge = NULL;
        json_t *uplinks = NULL;
        int r = doc_only_keys(body, "switch", keys, ret_error);

        if (!distributed)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r == 0)
                r = doc_need_u64(body, "switch", "version", 1, INT64_MAX, &distributed->version, ret_error);
        if (r == 0)
                r = doc_opt_array(body, "switch", "uplinks", OVS_UPLINKS_MAX, &uplinks, ret_error);
        if (r == 0)
                r = check_uplinks(uplinks, ret_error);
        if (r == 0)
                r = doc_opt_string(body, "switch", "uplink_policy", NAME_MAX_CHARS, &policy, ret_error);
        if (r == 0 && ovs_uplink_policy_from_string(policy, &distributed->policy) < 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Use active-backup, balance-slb or lacp.",
                        "switch.uplink_policy: there is no policy %s", policy);
        if (r == 0)
                r = doc_opt_string(body, "switch", "bridge", IFNAMSIZ - 1, &bridge, ret_error);
        if (r == 0)
                r = check_bridge(bridge, uplinks, ret_error);
        if (r < 0)
                return r;
        distributed->uplinks = uplinks ? json_deep_copy(uplinks) : json_array();
        distributed->drift = json_array();
        distributed->recent = json_object();
        if (!distributed->uplinks || !distributed->drift || !distributed->recent ||
                alloc_replace(&distributed->adopts, bridge) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_distributed = TAKE_PTR(distributed);
        return 0;
}

/* Takes the added document over. */
static int merge(json_t *document, json_t *added)
{
        int r = added ? json_object_update(document, added) : -1;

        json_decref(added);
        return r < 0 ? -ENOMEM : 0;
}

int distributed_describe(const struct distributed *distributed, json_t *document)
{
        return merge(document,
                json_pack("{s:s, s:I, s:O, s:s, s:s?}", "type", "distributed", "version",
                        (json_int_t)distributed->version, "uplinks", distributed->uplinks, "uplink_policy",
                        ovs_uplink_policy_to_string(distributed->policy), "bridge", distributed->adopts));
}

const char *distributed_adopts(const struct distributed *distributed)
{
        return distributed->adopts;
}

const json_t *distributed_uplinks(const struct distributed *distributed)
{
        return distributed->uplinks;
}

void distributed_fill(const struct distributed *distributed, struct ovs_spec *spec)
{
        spec->adopted = distributed->adopts != NULL;
        spec->version = distributed->version;
        spec->uplinks = distributed->uplinks;
        spec->policy = distributed->policy;
}

bool distributed_same_version(const struct distributed *distributed, const struct distributed *other)
{
        return distributed->version == other->version;
}

static void forget_old(json_t *recent, int64_t unix_ms)
{
        const char *sentence;
        json_t *times;
        void *spare;

        json_object_foreach_safe(recent, spare, sentence, times)
        {
                if (unix_ms - json_integer_value(json_array_get(times, 1)) > FIGHT_MS)
                        json_object_del(recent, sentence);
        }
}

/* How often it was mended, this time included. Without memory it is forgotten. */
static json_int_t count_mended(json_t *recent, const char *sentence, int64_t unix_ms)
{
        json_int_t n = json_integer_value(json_array_get(json_object_get(recent, sentence), 0)) + 1;

        (void)json_object_set_new(recent, sentence, json_pack("[I, I]", n, (json_int_t)unix_ms));
        return n;
}

/* It is in the log as long as that is news. */
static void log_mended(const char *sentence, json_int_t n)
{
        if (n < DISTRIBUTED_FIGHT)
                log_notice("mended on a distributed switch: %s", sentence);
        else if (n == DISTRIBUTED_FIGHT)
                log_warning("mended on a distributed switch for the %d. time, from now on without a word: %s",
                        DISTRIBUTED_FIGHT, sentence);
}

static void tell_fights(const struct distributed *distributed)
{
        const char *sentence;
        json_t *times;

        json_object_foreach (distributed->recent, sentence, times) {
                json_int_t n = json_integer_value(json_array_get(times, 0));

                if (n >= DISTRIBUTED_FIGHT)
                        (void)json_array_append_new(distributed->drift,
                                json_sprintf("mended %lld times within a minute each, and something changes "
                                             "it again: %s",
                                        (long long)n, sentence));
        }
}

void distributed_note(
        struct distributed *distributed, json_t *differences, json_t *left, bool meant, int64_t unix_ms)
{
        _cleanup_json_ json_t *mended = json_array();
        json_t *what;
        size_t i;

        distributed->applied = distributed->version;
        json_decref(distributed->drift);
        distributed->drift = left;
        forget_old(distributed->recent, unix_ms);
        json_array_foreach (differences, i, what) {
                if (meant || doc_has_string(left, json_string_value(what)))
                        continue;
                log_mended(json_string_value(what),
                        count_mended(distributed->recent, json_string_value(what), unix_ms));
                if (json_array_size(mended) < WHAT_MAX)
                        (void)json_array_append(mended, what);
        }
        json_decref(differences);
        tell_fights(distributed);
        if (!json_array_size(mended))
                return;
        json_decref(distributed->mended);
        distributed->mended = TAKE_PTR(mended);
        distributed->mended_unix_ms = unix_ms;
        distributed->n_mended++;
}

void distributed_inherit(struct distributed *distributed, struct distributed *old)
{
        if (distributed->mended) { /* by putting the document */
                distributed->n_mended += old->n_mended;
                return;
        }
        json_decref(distributed->mended);
        distributed->mended = json_incref(old->mended);
        distributed->n_mended = old->n_mended;
        distributed->mended_unix_ms = old->mended_unix_ms;
}

int distributed_add_status(const struct distributed *distributed, json_t *status)
{
        json_t *mended = distributed->mended
                                 ? json_pack("{s:I, s:I, s:O}", "count", (json_int_t)distributed->n_mended,
                                           "at_unix_ms", (json_int_t)distributed->mended_unix_ms, "what",
                                           distributed->mended)
                                 : json_null();

        return merge(status, json_pack("{s:s, s:I, s:O, s:s, s:O, s:o}", "type", "distributed", "version",
                                     (json_int_t)distributed->applied, "uplinks", distributed->uplinks,
                                     "uplink_policy", ovs_uplink_policy_to_string(distributed->policy),
                                     "drift", distributed->drift, "mended", mended));
}
