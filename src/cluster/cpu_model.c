/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/cpu_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"

#define WORD_MAX 64
#define NAMES_MAX_BYTES 65536

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

const json_t *cpu_model_find(const json_t *cpu, const char *name)
{
        json_t *model;
        size_t i;

        json_array_foreach (json_object_get(cpu, "models"), i, model)
                if (!strcmp(text_of(model, "name"), name))
                        return model;
        return NULL;
}

/* The next part of "MODEL,+a,-b"; false at the end. */
#define CPU_TEXT_MAX_BYTES 128 /* a name of a model, or of a feature */
#define CPU_LIST_MAX 4096      /* QEMU 10.0 has some 150 models and 500 features */

static bool next_word(const char **at, char ret[static WORD_MAX + 1])
{
        size_t len = strcspn(*at, ",");

        if (!**at)
                return false;
        snprintf(ret, WORD_MAX + 1, "%.*s", (int)len, *at);
        *at += len + ((*at)[len] == ',');
        return true;
}

/* In place, to the name that hosts tell: with '-', and the first of QEMU's names where it takes several
 * (target/i386/cpu.c, x86_cpu_initfn). */
static void spell(char *feature)
{
        static const char *const aliases[][2] = {{"sse3", "pni"}, {"pclmuldq", "pclmulqdq"},
                {"sse4-1", "sse4.1"}, {"sse4-2", "sse4.2"}, {"xd", "nx"}, {"i64", "lm"},
                {"ffxsr", "fxsr-opt"}};

        for (char *c = feature; *c; c++)
                if (*c == '_')
                        *c = '-';
        for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
                if (!strcmp(feature, aliases[i][0]))
                        snprintf(feature, WORD_MAX, "%s", aliases[i][1]);
}

static int add_all(json_t *set, const json_t *names, const json_t *but)
{
        json_t *name;
        size_t i;

        json_array_foreach ((json_t *)names, i, name)
                if (!doc_has_string(but, json_string_value(name)) &&
                        json_object_set_new(set, json_string_value(name), json_true()) < 0)
                        return -ENOMEM;
        return 0;
}

static int add_of_model(json_t *set, const char *model, const json_t *here, const json_t *there)
{
        const json_t *known = cpu_model_find(there, model);

        if (!strcmp(model, "host") || !strcmp(model, "max"))
                return add_all(set, json_object_get(here, "features"), json_object_get(there, "features"));
        return known ? add_all(set, json_object_get(known, "missing"), NULL) : CPU_MODEL_UNKNOWN;
}

/* "+f" is needed too, "-f" is not. */
static int apply_feature(json_t *set, char word[static WORD_MAX + 1], const json_t *there)
{
        if (*word)
                spell(word + 1);
        if (*word == '-')
                (void)json_object_del(set, word + 1);
        else if (*word == '+' && !doc_has_string(json_object_get(there, "features"), word + 1) &&
                 json_object_set_new(set, word + 1, json_true()) < 0)
                return -ENOMEM;
        return 0;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int sorted(const json_t *set, json_t **ret)
{
        _cleanup_free_ const char **names = alloc_array(json_object_size(set) + 1, sizeof(*names));
        _cleanup_json_ json_t *out = json_array();
        const char *name;
        json_t *value;
        size_t n = 0;

        if (!names || !out)
                return -ENOMEM;
        json_object_foreach ((json_t *)set, name, value)
                names[n++] = name;
        qsort(names, n, sizeof(*names), compare_names);
        for (size_t i = 0; i < n; i++)
                if (json_array_append_new(out, json_string(names[i])) < 0)
                        return -ENOMEM;
        *ret = TAKE_PTR(out);
        return 0;
}

int cpu_model_missing(const char *model, const json_t *here, const json_t *there, json_t **ret_missing)
{
        _cleanup_json_ json_t *set = json_object();
        char word[WORD_MAX + 1];
        int r;

        if (!set)
                return -ENOMEM;
        if (!next_word(&model, word))
                return CPU_MODEL_UNKNOWN;
        r = add_of_model(set, word, here, there);
        while (r == 0 && next_word(&model, word))
                r = apply_feature(set, word, there);
        return r ? r : sorted(set, ret_missing);
}

/* An alias has no features of its own told. */
static const json_t *features_of(const json_t *cpu, const char *name)
{
        const json_t *model = cpu_model_find(cpu, name);
        const char *alias_of = text_of(model, "alias_of");

        if (!strcmp(name, "host") || !strcmp(name, "max"))
                return json_object_get(cpu, "features");
        return json_object_get(*alias_of ? cpu_model_find(cpu, alias_of) : model, "features");
}

int cpu_model_features(const char *model, const json_t *there, json_t **ret_features)
{
        _cleanup_json_ json_t *set = json_object();
        char word[WORD_MAX + 1] = "";
        int r;

        if (!set)
                return -ENOMEM;
        (void)next_word(&model, word);
        r = add_all(set, features_of(there, word), NULL);
        while (r == 0 && next_word(&model, word)) {
                if (*word)
                        spell(word + 1);
                if (*word == '-')
                        (void)json_object_del(set, word + 1);
                else if (*word == '+')
                        r = json_object_set_new(set, word + 1, json_true());
        }
        return r < 0 ? -ENOMEM : sorted(set, ret_features);
}

char *cpu_model_names_text(const json_t *names)
{
        _cleanup_buf_ struct buf text;
        json_t *name;
        size_t i;

        buf_init(&text, NAMES_MAX_BYTES);
        json_array_foreach ((json_t *)names, i, name)
                if (buf_printf(&text, "%s%s", i ? ", " : "", json_string_value(name)) < 0)
                        return NULL;
        return buf_take_string(&text);
}

/* --- What came from outside ------------------------------------------------------------------------------------------- */

static bool is_text(const json_t *value)
{
        return json_is_string(value) && json_string_length(value) <= CPU_TEXT_MAX_BYTES;
}

static bool is_name(const json_t *value)
{
        return is_text(value) && *json_string_value(value);
}

static bool is_list_of_texts(const json_t *value)
{
        json_t *item;
        size_t i;

        if (!json_is_array(value) || json_array_size(value) > CPU_LIST_MAX)
                return false;
        json_array_foreach ((json_t *)value, i, item)
                if (!is_name(item))
                        return false;
        return true;
}

static bool is_absent(const json_t *value)
{
        return !value || json_is_null(value);
}

static bool is_model(const json_t *model)
{
        const json_t *missing = json_object_get(model, "missing"),
                     *features = json_object_get(model, "features");
        const json_t *alias = json_object_get(model, "alias_of"), *vendor = json_object_get(model, "vendor");

        return is_name(json_object_get(model, "name")) && (is_absent(missing) || is_list_of_texts(missing)) &&
               (is_absent(features) || is_list_of_texts(features)) && (is_absent(alias) || is_text(alias)) &&
               (is_absent(vendor) || is_text(vendor));
}

bool cpu_document_is_valid(const json_t *document)
{
        const json_t *models = json_object_get(document, "models");
        json_t *model;
        size_t i;

        if (!is_name(json_object_get(document, "id")) || !is_text(json_object_get(document, "accelerator")) ||
                !(is_absent(json_object_get(document, "vendor")) ||
                        is_text(json_object_get(document, "vendor"))) ||
                !is_list_of_texts(json_object_get(document, "features")) || !json_is_array(models) ||
                json_array_size(models) > CPU_LIST_MAX)
                return false;
        json_array_foreach ((json_t *)models, i, model)
                if (!is_model(model))
                        return false;
        return true;
}

bool cpu_model_is_of_host(const char *model)
{
        return !strncmp(model, "host", 4) && (!model[4] || model[4] == ',');
}

bool cpu_model_is_valid(const char *model)
{
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
        const char *at = model;

        for (bool first = true; first || *at == ','; first = false) {
                size_t n;

                if (!first && *++at != '+' && *at != '-')
                        return false;
                at += !first;
                n = strspn(at, letters);
                if (n == 0 || *at == '-')
                        return false;
                at += n;
        }
        return !*at;
}
