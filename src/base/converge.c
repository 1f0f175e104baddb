/* SPDX-License-Identifier: Apache-2.0 */
#include "base/converge.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/doc.h"

static const char *const step_names[] = {
#define X(name, text) text,
        CONVERGE_STEPS(X)
#undef X
};
static_assert(ARRAY_SIZE(step_names) == N_CONVERGE_STEPS);

struct converge_policy converge_policy_without(const struct converge_policy *policy, enum converge_step step)
{
        struct converge_policy less = *policy;

        less.n_steps = 0;
        for (size_t i = 0; i < policy->n_steps; i++)
                if (policy->steps[i] != step)
                        less.steps[less.n_steps++] = policy->steps[i];
        return less;
}

const char *converge_step_to_string(enum converge_step step)
{
        return step_names[step];
}

int converge_step_from_string(const char *s, enum converge_step *ret_step)
{
        for (size_t i = 0; i < N_CONVERGE_STEPS; i++)
                if (!strcmp(s, step_names[i])) {
                        *ret_step = (enum converge_step)i;
                        return 0;
                }
        return -EINVAL;
}

bool converge_policy_has(const struct converge_policy *policy, enum converge_step step)
{
        for (size_t i = 0; i < policy->n_steps; i++)
                if (policy->steps[i] == step)
                        return true;
        return false;
}

static int read_wait(
        const json_t *item, const char *where, struct converge_policy *policy, struct error **ret_error)
{
        static const char *const keys[] = {"step", "ms", NULL};
        int r = doc_only_keys(item, where, keys, ret_error);

        return r < 0 ? r
                     : doc_opt_u64(item, where, "ms", 1, CONVERGE_MAX_WAIT_MS, &policy->wait_ms, ret_error);
}

static int read_pause(
        const json_t *item, const char *where, struct converge_policy *policy, struct error **ret_error)
{
        static const char *const keys[] = {"step", "max_ms", NULL};
        int r = doc_only_keys(item, where, keys, ret_error);

        if (r == 0)
                r = doc_need_u64(
                        item, where, "max_ms", 1, CONVERGE_MAX_PAUSE_MS, &policy->max_pause_ms, ret_error);
        return r == -ENOENT ? error_set(ret_error, ERROR_BAD_DOCUMENT,
                                      "Say how long the pause may become at most.",
                                      "field %s.max_ms is missing", where)
                            : r;
}

static int read_throttle(
        const json_t *item, const char *where, struct converge_policy *policy, struct error **ret_error)
{
        static const char *const keys[] = {"step", "max_percent", NULL};
        uint64_t percent = CONVERGE_MAX_THROTTLE_PERCENT;
        int r = doc_only_keys(item, where, keys, ret_error);

        if (r == 0)
                r = doc_opt_u64(item, where, "max_percent", CONVERGE_MIN_THROTTLE_PERCENT,
                        CONVERGE_MAX_THROTTLE_PERCENT, &percent, ret_error);
        policy->max_throttle_percent = (unsigned int)percent;
        return r;
}

static int read_post_copy(const json_t *item, const char *where, struct converge_policy *policy _unused_,
        struct error **ret_error)
{
        static const char *const keys[] = {"step", NULL};

        return doc_only_keys(item, where, keys, ret_error);
}

static int read_step(
        const json_t *item, const char *where, struct converge_policy *policy, struct error **ret_error)
{
        static int (*const readers[])(
                const json_t *, const char *, struct converge_policy *, struct error **) = {
                [CONVERGE_WAIT] = read_wait,
                [CONVERGE_PAUSE] = read_pause,
                [CONVERGE_THROTTLE] = read_throttle,
                [CONVERGE_POST_COPY] = read_post_copy,
        };
        const char *word = NULL;
        enum converge_step step;
        int r;

        if (!json_is_object(item))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s is not an object", where);
        r = doc_need_string(item, where, "step", 32, &word, ret_error);
        if (r < 0)
                return r;
        if (converge_step_from_string(word, &step) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use wait, pause, throttle or post-copy.",
                        "field %s.step is \"%s\", which is not known", where, word);
        if (converge_policy_has(policy, step))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name each step once.",
                        "field %s.step is \"%s\" for the second time", where, word);
        if (converge_policy_has(policy, CONVERGE_POST_COPY))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name post-copy last: it has no way back.",
                        "field %s.step is \"%s\", which comes after post-copy", where, word);
        policy->steps[policy->n_steps++] = step;
        return readers[step](item, where, policy, ret_error);
}

int converge_policy_read(
        const json_t *document, uint64_t max_pause_ms, struct converge_policy *ret, struct error **ret_error)
{
        struct converge_policy policy = CONVERGE_POLICY_DEFAULT;
        json_t *list = NULL;
        int r = doc_opt_array(document, "", "converge", N_CONVERGE_STEPS, &list, ret_error);

        if (r < 0)
                return r;
        if (list)
                policy = (struct converge_policy){.n_steps = 0};
        for (size_t i = 0; i < json_array_size(list); i++) {
                char where[40];

                snprintf(where, sizeof(where), "converge[%zu]", i);
                r = read_step(json_array_get(list, i), where, &policy, ret_error);
                if (r < 0)
                        return -EINVAL;
        }
        if (converge_policy_has(&policy, CONVERGE_POST_COPY) &&
                json_is_true(json_object_get(document, "verify")))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Leave one of the two out.",
                        "field verify cannot be true with the step post-copy: the guest changes its memory "
                        "before all of it has come");
        for (size_t i = 0; i < policy.n_steps; i++)
                if (policy.steps[i] == CONVERGE_PAUSE && policy.max_pause_ms <= max_pause_ms)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Give a longer one, or leave the step out.",
                                "field converge[%zu].max_ms is %llu, which is not above the bound to begin "
                                "with (%llu)",
                                i, (unsigned long long)policy.max_pause_ms, (unsigned long long)max_pause_ms);
        *ret = policy;
        return 0;
}
