/* SPDX-License-Identifier: Apache-2.0 */

/* What an agent takes for a specification of a migration: a real agent, called as the manager and as another host. The VM is not here, so a specification
 * that is accepted leads to "not-found", and as the destination's to a refusal of its document; nothing moves. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "io/pki.h"
#include "rig.h"

#define ID "44444444-4444-4444-8444-444444444444"
#define MINUTE_MS 60000

static struct rig rig;
static bool possible;

struct signer {
        char *cert, *key;
};

static struct signer manager, impostor, stranger;

static int group_setup(void **state)
{
        _cleanup_(pki_key_freep) char *ca_key = NULL;
        _cleanup_free_ char *ca = NULL, *csr = NULL;
        const char *const names[] = {"manager.drover", NULL};

        possible = rig_setup(&rig);
        if (!possible)
                return 0;
        rig_configure(&rig);
        rig_issue(&rig, "manager.drover", &manager.cert, &manager.key);
        rig_issue(&rig, RIG_OTHER_UID ".host.drover", &impostor.cert, &impostor.key);
        assert_int_equal(pki_ca_new("another CA", 1, &ca, &ca_key, NULL), 0);
        assert_int_equal(pki_key_new(&stranger.key, NULL), 0);
        assert_int_equal(pki_csr_new(stranger.key, "x", &csr, NULL), 0);
        assert_int_equal(pki_sign(ca, ca_key, csr, names, NULL, 1, &stranger.cert, NULL), 0);
        return 0;
}

static int group_teardown(void **state)
{
        struct signer *all[] = {&manager, &impostor, &stranger};

        for (size_t i = 0; i < 3; i++) {
                free(all[i]->cert);
                pki_key_free(all[i]->key);
        }
        rig_teardown(&rig);
        return 0;
}

/* of the two hosts, this one is the source */
static json_t *make_spec(const char *source, const char *destination, int64_t age_ms)
{
        return json_pack("{s:s, s:o, s:i, s:{s:s, s:s}, s:{s:s, s:s}, s:{s:i, s:s, s:I, s:s, s:b}}", "id", ID,
                "vm", rig_vm_document(), "epoch", 1, "source", "host", source, "address", "127.0.0.1:1",
                "destination", "host", destination, "address", "127.0.0.1:1", "handshake", "format", 1,
                "purpose", "drover migration specification", "issued_unix_ms",
                (json_int_t)(clock_realtime_ns() / 1000000) - age_ms, "nonce", "00", "both", 1);
}

static json_t *sign(const struct signer *by, json_t *spec)
{
        _cleanup_free_ char *text = doc_to_text(spec), *signature = NULL;

        json_decref(spec);
        assert_int_equal(pki_sign_data(by->key, text, strlen(text), &signature, NULL), 0);
        return json_pack("{s:s, s:s, s:s}", "spec", text, "signature", signature, "certificate", by->cert);
}

/* The code with which the agent refuses to be the source for it. */
static const char *start(json_t *signed_spec)
{
        static char code[64];
        _cleanup_json_ json_t *answer = NULL;

        (void)rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations",
                json_pack("{s:o}", "signed", signed_spec), &answer);
        snprintf(code, sizeof(code), "%s", json_string_value(json_object_get(answer, "code")) ?: "");
        return code;
}

static const char *prepare(json_t *body)
{
        static char code[64];
        _cleanup_json_ json_t *answer = NULL;

        (void)rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", body, &answer);
        snprintf(code, sizeof(code), "%s", json_string_value(json_object_get(answer, "code")) ?: "");
        return code;
}

static json_t *here_to_there(int64_t age_ms)
{
        return make_spec(RIG_HOST_UID, RIG_OTHER_UID, age_ms);
}

static json_t *there_to_here(void)
{
        return make_spec(RIG_OTHER_UID, RIG_HOST_UID, 0);
}

/* It is known by its certificate; an earlier version of it may lead again at any time. */
static void what_the_manager_itself_brings_unsigned_is_taken(void **state)
{
        _cleanup_json_ json_t *spec = here_to_there(0), *answer = NULL, *again = NULL;

        if (!possible)
                skip();
        json_object_del(spec, "handshake");
        (void)rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", json_incref(spec), &answer);
        assert_string_equal(json_string_value(json_object_get(answer, "code")), "not-found");
        assert_string_equal(start(sign(&manager, here_to_there(0))), "not-found");
        (void)rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", json_incref(spec), &again);
        assert_string_equal(json_string_value(json_object_get(again, "code")), "not-found");
}

static void that_the_manager_signs_is_known_after_a_restart(void **state)
{
        _cleanup_json_ json_t *spec = there_to_here();

        if (!possible)
                skip();
        assert_string_equal(start(sign(&manager, here_to_there(0))), "not-found");
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        json_object_del(spec, "handshake");
        assert_string_equal(prepare(json_incref(spec)), "unauthenticated");
}

static void only_the_clusters_manager_signs(void **state)
{
        if (!possible)
                skip();
        assert_string_equal(start(sign(&impostor, here_to_there(0))), "unauthenticated");
        assert_string_equal(start(sign(&stranger, here_to_there(0))), "unauthenticated");
}

static void each_byte_is_signed(void **state)
{
        json_t *signed_spec;
        char *text;

        if (!possible)
                skip();
        signed_spec = sign(&manager, here_to_there(0));
        text = alloc_printf("%s ", json_string_value(json_object_get(signed_spec, "spec")));
        json_object_set_new(signed_spec, "spec", json_string(text)); /* the same document, by one space */
        free(text);
        assert_string_equal(start(signed_spec), "unauthenticated");
}

static const char *prepare_signed(int64_t age_ms)
{
        json_t *signed_spec = sign(&manager, make_spec(RIG_OTHER_UID, RIG_HOST_UID, age_ms));

        return prepare(json_pack("{s:o, s:o}", "signed", signed_spec, "vm", rig_vm_document()));
}

static void a_signature_that_a_host_brings_ages(void **state)
{
        if (!possible)
                skip();
        assert_string_not_equal(prepare_signed(5 * MINUTE_MS), "unauthenticated");
        assert_string_equal(prepare_signed(11 * MINUTE_MS), "unauthenticated");
        assert_string_equal(prepare_signed(-11 * MINUTE_MS), "unauthenticated");
}

/* It was signed with the check, and may have waited in the queue since. */
static void what_the_manager_brings_or_told_may_be_old(void **state)
{
        _cleanup_json_ json_t *told = NULL, *answer = NULL;

        if (!possible)
                skip();
        assert_string_not_equal(start(sign(&manager, here_to_there(300 * MINUTE_MS))), "unauthenticated");
        told = sign(&manager, make_spec(RIG_OTHER_UID, RIG_HOST_UID, 300 * MINUTE_MS));
        assert_int_equal(rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/spec",
                                 json_incref(told), &answer),
                200);
        assert_string_not_equal(
                prepare(json_pack("{s:O, s:o}", "signed", told, "vm", rig_vm_document())), "unauthenticated");
}

/* What is signed for something else is no specification. */
static void another_purpose_is_refused(void **state)
{
        json_t *spec = here_to_there(0);

        json_object_set_new(json_object_get(spec, "handshake"), "purpose", json_string("backup"));
        if (!possible)
                skip();
        assert_string_equal(start(sign(&manager, spec)), "bad-document");
}

/* A leader that comes after the one that signed may be of an earlier version: it begins anew. */
static void a_newer_leader_that_does_not_sign_is_not_held_up(void **state)
{
        _cleanup_json_ json_t *answer = NULL, *spec = make_spec(RIG_OTHER_UID, RIG_HOST_UID, 0);

        if (!possible)
                skip();
        json_object_del(spec, "handshake");
        json_object_set_new(spec, "id", json_string("66666666-6666-4666-8666-666666666666"));
        assert_string_not_equal(start(sign(&manager, here_to_there(0))), "unauthenticated");
        assert_string_equal(prepare(json_incref(spec)), "unauthenticated");
        rig.epoch = "2";
        (void)rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", here_to_there(0), &answer);
        assert_string_not_equal(prepare(json_incref(spec)), "unauthenticated");
        /* Until it signs itself. */
        assert_string_not_equal(start(sign(&manager, here_to_there(0))), "unauthenticated");
        assert_string_equal(prepare(json_incref(spec)), "unauthenticated");
}

static void it_has_to_name_this_host(void **state)
{
        if (!possible)
                skip();
        assert_string_equal(start(sign(&manager, there_to_here())), "bad-document");
}

static void unknown_fields_are_refused(void **state)
{
        json_t *signed_spec, *spec;

        if (!possible)
                skip();
        signed_spec = sign(&manager, here_to_there(0));
        json_object_set_new(signed_spec, "more", json_true());
        assert_string_equal(start(signed_spec), "bad-document");
        spec = here_to_there(0);
        json_object_set_new(spec, "more", json_true());
        assert_string_equal(start(sign(&manager, spec)), "bad-document");
        spec = here_to_there(0);
        json_object_del(spec, "handshake");
        assert_string_equal(start(sign(&manager, spec)), "bad-document");
}

static void the_source_cannot_give_another_vm_than_was_signed(void **state)
{
        json_t *vm = NULL;

        if (!possible)
                skip();
        vm = rig_vm_document();
        json_object_set_new(json_object_get(vm, "spec"), "memory_bytes", json_integer(1 << 30));
        assert_string_equal(
                prepare(json_pack("{s:o, s:o}", "signed", sign(&manager, there_to_here()), "vm", vm)),
                "conflict");
}

static json_t *vm_with_disk(const char *path, json_int_t size_bytes)
{
        json_t *vm = rig_vm_document();

        json_object_set_new(json_object_get(vm, "spec"), "disks",
                json_pack("[{s:s, s:s, s:s, s:s, s:I}]", "name", "disk0", "datastore", "local", "path", path,
                        "format", "qcow2", "size_bytes", size_bytes));
        return vm;
}

static bool is_another_vm(json_t *vm)
{
        _cleanup_json_ json_t *answer = NULL;
        json_t *spec = there_to_here();

        json_object_set_new(spec, "vm", vm_with_disk("t1/disk0.qcow2", 1 << 20));
        (void)rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations",
                json_pack("{s:o, s:o}", "signed", sign(&manager, spec), "vm", vm), &answer);
        return strstr(json_string_value(json_object_get(answer, "detail")) ?: "",
                       "not the one of the signed specification") != NULL;
}

/* The agent looked at the image, the manager did not hear of it. */
static void disk_that_grew_since_is_no_other_vm(void **state)
{
        if (!possible)
                skip();
        assert_true(is_another_vm(vm_with_disk("t1/disk1.qcow2", 1 << 20)));
        assert_false(is_another_vm(vm_with_disk("t1/disk0.qcow2", 2 << 20)));
}

/* The manager told the destination one specification, and the source brings another one that was signed too. */
static void the_source_has_to_bring_what_the_manager_told(void **state)
{
        _cleanup_json_ json_t *answer = NULL;
        json_t *told, *other;

        if (!possible)
                skip();
        told = sign(&manager, there_to_here());
        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/spec", told, &answer), 200);
        assert_int_equal(strlen(json_string_value(json_object_get(answer, "digest"))), 64);
        other = there_to_here();
        json_object_set_new(other, "max_pause_ms", json_integer(17));
        assert_string_equal(
                prepare(json_pack("{s:o, s:o}", "signed", sign(&manager, other), "vm", rig_vm_document())),
                "unauthenticated");
        /* The very document, without its signature: a source that takes it signed passes it on signed. */
        other = there_to_here();
        json_object_del(other, "handshake");
        assert_string_equal(prepare(other), "unauthenticated");
        /* One of an earlier version brings the document alone: another epoch than the manager told. */
        other = there_to_here();
        json_object_set_new(json_object_get(other, "handshake"), "both", json_false());
        json_decref(TAKE_PTR(answer));
        assert_int_equal(rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/spec",
                                 sign(&manager, other), &answer),
                200);
        other = there_to_here();
        json_object_del(other, "handshake");
        json_object_set_new(other, "epoch", json_integer(7));
        assert_string_equal(prepare(other), "unauthenticated");
        other = there_to_here();
        json_object_del(other, "handshake");
        assert_string_not_equal(prepare(other), "unauthenticated");
}

static void a_told_specification_has_to_be_of_that_migration(void **state)
{
        _cleanup_json_ json_t *answer = NULL;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.manager, "POST",
                                 "/agent/v1/migrations/55555555-5555-4555-8555-555555555555/spec",
                                 sign(&manager, there_to_here()), &answer),
                422);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_the_manager_itself_brings_unsigned_is_taken),
                cmocka_unit_test(that_the_manager_signs_is_known_after_a_restart),
                cmocka_unit_test(only_the_clusters_manager_signs),
                cmocka_unit_test(each_byte_is_signed),
                cmocka_unit_test(a_signature_that_a_host_brings_ages),
                cmocka_unit_test(what_the_manager_brings_or_told_may_be_old),
                cmocka_unit_test(another_purpose_is_refused),
                cmocka_unit_test(it_has_to_name_this_host),
                cmocka_unit_test(unknown_fields_are_refused),
                cmocka_unit_test(the_source_cannot_give_another_vm_than_was_signed),
                cmocka_unit_test(disk_that_grew_since_is_no_other_vm),
                cmocka_unit_test(the_source_has_to_bring_what_the_manager_told),
                cmocka_unit_test(a_told_specification_has_to_be_of_that_migration),
                cmocka_unit_test(a_newer_leader_that_does_not_sign_is_not_held_up),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
