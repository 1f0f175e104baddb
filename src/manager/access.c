/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/access.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"

#define NAMES_MAX 128
#define SELECTORS_MAX 16
#define LABEL_MAX_CHARS 255
#define EVERYTHING ((UINT64_C(1) << N_PERMISSIONS) - 1)

static const struct {
        const char *wire, *help;
} permissions[] = {
#define X(name, wire, help) {wire, help},
        PERMISSIONS(X)
#undef X
};
static_assert(ARRAY_SIZE(permissions) == N_PERMISSIONS, "each permission has its name");
static_assert(N_PERMISSIONS < 64, "a set of permissions is one number");

static uint64_t bit(enum permission permission)
{
        return UINT64_C(1) << permission;
}

const char *permission_to_string(enum permission permission)
{
        return permissions[permission].wire;
}

json_t *permission_documents(void)
{
        json_t *docs = json_array();

        for (size_t i = 0; docs && i < N_PERMISSIONS; i++)
                if (json_array_append_new(docs, json_pack("{s:s, s:s}", "name", permissions[i].wire,
                                                        "description", permissions[i].help)) < 0) {
                        json_decref(docs);
                        return NULL;
                }
        return docs;
}

/* "vm.read", "vm.*", "*.read", "*" */
static uint64_t set_of(const char *pattern)
{
        const char *dot = strchr(pattern, '.');
        uint64_t set = 0;

        if (!strcmp(pattern, "*"))
                return EVERYTHING;
        for (size_t i = 0; dot && i < N_PERMISSIONS; i++) {
                const char *wire = permissions[i].wire, *wire_dot = strchr(wire, '.');
                bool kind = !strncmp(pattern, "*.", 2) ||
                            !strncmp(pattern, wire, (size_t)MAX(dot - pattern, wire_dot - wire) + 1);

                if (kind && (!strcmp(dot, ".*") || !strcmp(dot, wire_dot)))
                        set |= bit((enum permission)i);
        }
        return set;
}

int permission_set_read(
        const json_t *names, const char *where, uint64_t *ret_permissions, struct error **ret_error)
{
        uint64_t set = 0;
        json_t *name;
        size_t i;

        if (!json_is_array(names) || !json_array_size(names) || json_array_size(names) > NAMES_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover role permissions`.",
                        "field %s must be an array of 1 to %d permissions", where, NAMES_MAX);
        json_array_foreach (names, i, name) {
                const char *text = json_string_value(name);
                uint64_t more = text ? set_of(text) : 0;

                if (!more)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover role permissions`.",
                                "field %s: there is no permission %.64s", where, text ?: "that is no string");
                set |= more;
        }
        *ret_permissions = set;
        return 0;
}

void access_deinit(struct access *access)
{
        for (size_t i = 0; i < access->n_grants; i++)
                json_decref(access->grants[i].scope);
        free(access->grants);
        *access = (struct access){};
}

int access_add(struct access *access, uint64_t permissions_set, json_t *scope)
{
        bool wide = !json_object_size(json_object_get(scope, "vms")) &&
                    !json_object_size(json_object_get(scope, "hosts"));
        void *bigger = alloc_resize(access->grants, access->n_grants + 1, sizeof(*access->grants));

        if (!bigger)
                return -ENOMEM;
        access->grants = bigger;
        access->grants[access->n_grants++] = (struct access_grant){
                .permissions = permissions_set,
                .scope = wide ? NULL : json_incref(scope),
        };
        return 0;
}

static int check_selectors(const json_t *scope, const char *where, const char *key, struct error **ret_error)
{
        json_t *selectors = NULL, *value;
        const char *label;
        int r;

        r = doc_opt_object(scope, where, key, &selectors, ret_error);
        if (r < 0)
                return r;
        if (json_object_size(selectors) > SELECTORS_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s.%s has more than %d labels",
                        where, key, SELECTORS_MAX);
        json_object_foreach (selectors, label, value)
                if (!text_is_name(label) || !json_is_string(value) || !json_string_length(value) ||
                        json_string_length(value) > LABEL_MAX_CHARS)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Write labels as {\"pool\": \"east\"}.", "field %s.%s.%.64s is no label",
                                where, key, label);
        return 0;
}

int access_scope_check(const json_t *scope, const char *where, struct error **ret_error)
{
        static const char *const keys[] = {"vms", "hosts", NULL};
        int r = doc_only_keys(scope, where, keys, ret_error);

        for (size_t i = 0; r >= 0 && keys[i]; i++)
                r = check_selectors(scope, where, keys[i], ret_error);
        return r;
}

/* A folder has itself and what is below it; anything else only itself. */
static bool value_matches(const char *wanted, const char *value)
{
        size_t len = strlen(wanted);

        if (!value)
                return false;
        if (len < 2 || wanted[len - 1] != '/')
                return !strcmp(wanted, value);
        return !strncmp(wanted, value, len) || (strlen(value) == len - 1 && !strncmp(wanted, value, len - 1));
}

static bool selects(const json_t *selectors, const json_t *labels)
{
        const char *label;
        json_t *wanted;

        json_object_foreach ((json_t *)selectors, label, wanted)
                if (!value_matches(
                            json_string_value(wanted), json_string_value(json_object_get(labels, label))))
                        return false;
        return true;
}

/* A label that the scope does not speak of may mean something elsewhere: another pool, another tenant. */
static bool only_selected_labels(const json_t *selectors, const json_t *labels)
{
        const char *label;
        json_t *value;

        json_object_foreach ((json_t *)labels, label, value)
                if (!json_object_get(selectors, label))
                        return false;
        return true;
}

static bool reaches(const json_t *scope, const struct access_target *target)
{
        const json_t *vms = json_object_get(scope, "vms"), *hosts = json_object_get(scope, "hosts");

        if (!scope)
                return true;
        /* A host as such is reached only by what speaks of hosts; a VM by what speaks of VMs, or by the host where it is. */
        if (!target->has_vm && (!target->n_hosts || !json_object_size(hosts)))
                return false;
        if (target->has_vm && !json_object_size(vms) && !target->n_hosts)
                return false;
        if (target->has_vm && !selects(vms, target->vm_labels))
                return false;
        if (target->is_new && !only_selected_labels(vms, target->vm_labels))
                return false;
        for (size_t i = 0; i < target->n_hosts; i++)
                if (!selects(hosts, target->host_labels[i]))
                        return false;
        return true;
}

bool access_permits(
        const struct access *access, enum permission permission, const struct access_target *target)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if ((access->grants[i].permissions & bit(permission)) &&
                        reaches(access->grants[i].scope, target))
                        return true;
        return false;
}

bool access_anywhere(const struct access *access, enum permission permission)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if (access->grants[i].permissions & bit(permission))
                        return true;
        return false;
}

bool access_everywhere(const struct access *access, enum permission permission)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if ((access->grants[i].permissions & bit(permission)) && !access->grants[i].scope)
                        return true;
        return false;
}

bool access_any_host(
        const struct access *access, enum permission permission, const struct access_target *target)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if ((access->grants[i].permissions & bit(permission)) &&
                        reaches(access->grants[i].scope, target) &&
                        !json_object_size(json_object_get(access->grants[i].scope, "hosts")))
                        return true;
        return false;
}

bool access_tells_hosts_apart(const struct access *access, const json_t *labels, const json_t *others)
{
        for (size_t i = 0; i < access->n_grants; i++) {
                const json_t *hosts = json_object_get(access->grants[i].scope, "hosts");

                if (selects(hosts, labels) != selects(hosts, others))
                        return true;
        }
        return false;
}

bool access_looks_at_hosts(const struct access *access)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if (json_object_size(json_object_get(access->grants[i].scope, "hosts")))
                        return true;
        return false;
}

/* Whatever `narrow` selects, `wide` selects too. */
static bool selectors_cover(const json_t *wide, const json_t *narrow)
{
        const char *label;
        json_t *wanted;

        json_object_foreach ((json_t *)wide, label, wanted)
                if (!value_matches(
                            json_string_value(wanted), json_string_value(json_object_get(narrow, label))))
                        return false;
        return true;
}

static bool scope_covers(const json_t *wide, const json_t *narrow)
{
        if (!wide)
                return true;
        return narrow && selectors_cover(json_object_get(wide, "vms"), json_object_get(narrow, "vms")) &&
               selectors_cover(json_object_get(wide, "hosts"), json_object_get(narrow, "hosts"));
}

bool access_covers(const struct access *access, const struct access_grant *grant)
{
        uint64_t missing = grant->permissions;

        for (size_t i = 0; i < access->n_grants; i++)
                if (scope_covers(access->grants[i].scope, grant->scope))
                        missing &= ~access->grants[i].permissions;
        return !missing;
}

static json_t *names_of(uint64_t set)
{
        json_t *names = json_array();

        for (size_t i = 0; names && i < N_PERMISSIONS; i++)
                if ((set & bit((enum permission)i)) &&
                        json_array_append_new(names, json_string(permissions[i].wire)) < 0) {
                        json_decref(names);
                        return NULL;
                }
        return names;
}

json_t *access_document(const struct access *access)
{
        json_t *docs = json_array();

        for (size_t i = 0; docs && i < access->n_grants; i++)
                if (json_array_append_new(docs,
                            json_pack("{s:o, s:O?}", "permissions", names_of(access->grants[i].permissions),
                                    "scope", access->grants[i].scope)) < 0) {
                        json_decref(docs);
                        return NULL;
                }
        return docs;
}
