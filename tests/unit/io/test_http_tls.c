/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "unit/io/http_fixture.h"

/* Mutual TLS as the cluster uses it: two authorities, of which the server trusts the first only. */

struct identity {
        char *cert;
        char *key;
};

static struct identity ca, other_ca, server_id, client_id, foreign_id, other_server_id;

#define SERVER_NAME "host1.host.drover"

static void issue(const struct identity *from, const char *const *names, struct identity *ret)
{
        _cleanup_free_ char *csr = NULL;

        assert_int_equal(pki_key_new(&ret->key, NULL), 0);
        assert_int_equal(pki_csr_new(ret->key, "x", &csr, NULL), 0);
        assert_int_equal(pki_sign(from->cert, from->key, csr, names, NULL, 10, &ret->cert, NULL), 0);
}

static int make_identities(void **state _unused_)
{
        static const char *const server[] = {SERVER_NAME, NULL};
        static const char *const client[] = {"manager.drover", "second.drover", NULL};

        assert_int_equal(pki_ca_new("one", 10, &ca.cert, &ca.key, NULL), 0);
        assert_int_equal(pki_ca_new("two", 10, &other_ca.cert, &other_ca.key, NULL), 0);
        issue(&ca, server, &server_id);
        issue(&ca, client, &client_id);
        issue(&other_ca, client, &foreign_id);
        issue(&other_ca, server, &other_server_id);
        return 0;
}

static int free_identities(void **state _unused_)
{
        struct identity *all[] = {&ca, &other_ca, &server_id, &client_id, &foreign_id, &other_server_id};

        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                free(all[i]->cert);
                pki_key_free(all[i]->key);
        }
        return 0;
}

static void start_server(struct fixture *f, bool cert_required)
{
        struct http_server_config config = {.cert_pem = server_id.cert,
                .key_pem = server_id.key,
                .client_ca_pem = ca.cert,
                .client_cert_required = cert_required};
        _cleanup_error_ struct error *e = NULL;

        *f = (struct fixture){};
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(fixture_start_server(f, &config, &e), 0);
}

/* A new client, so that no connection is reused. */
static void call_as(struct fixture *f, const struct identity *trust, const struct identity *me,
        const char *peer_name, struct answer *ret)
{
        const struct http_client_config config = {
                .ca_pem = trust->cert, .cert_pem = me ? me->cert : NULL, .key_pem = me ? me->key : NULL};
        const struct http_call_spec spec = {.method = "GET",
                .address = f->address,
                .peer_name = peer_name,
                .path = "/who",
                .timeout_ms = WAIT_MS};

        http_client_free(TAKE_PTR(f->client));
        assert_int_equal(http_client_new(f->loop, &config, &f->client, NULL), 0);
        fixture_call_spec(f, &spec, ret);
}

static void a_client_of_the_cluster_is_known_by_its_first_name(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, true);
        call_as(&f, &ca, &client_id, SERVER_NAME, &a);
        assert_int_equal(a.status, 200);
        assert_string_equal(answer_text(&a, "peer"), "manager.drover");
}

static void a_client_without_a_certificate_is_refused_in_the_handshake(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, true);
        call_as(&f, &ca, NULL, SERVER_NAME, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_UNREACHABLE);
        assert_int_equal(f.n_handled, 0);
}

static void where_no_certificate_is_needed_the_client_has_no_name(void **state _unused_)
{
        _cleanup_answer_ struct answer without = {}, with = {};
        _cleanup_(fixture_deinit) struct fixture f;

        start_server(&f, false);
        call_as(&f, &ca, NULL, SERVER_NAME, &without);
        assert_int_equal(without.status, 200);
        assert_string_equal(answer_text(&without, "peer"), "(none)");
        call_as(&f, &ca, &client_id, SERVER_NAME, &with);
        assert_string_equal(answer_text(&with, "peer"), "manager.drover");
}

static void a_client_of_another_authority_is_refused(void **state _unused_)
{
        _cleanup_answer_ struct answer required = {}, optional = {};
        _cleanup_(fixture_deinit) struct fixture f, g;

        start_server(&f, true);
        call_as(&f, &ca, &foreign_id, SERVER_NAME, &required);
        assert_int_equal(required.status, 0);
        assert_int_equal(f.n_handled, 0);
        start_server(&g, false);
        call_as(&g, &ca, &foreign_id, SERVER_NAME, &optional);
        assert_int_equal(optional.status, 0);
        assert_int_equal(g.n_handled, 0);
}

static void a_server_with_another_name_is_refused(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, true);
        call_as(&f, &ca, &client_id, "host2.host.drover", &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_UNREACHABLE);
        assert_non_null(strstr(a.message, "host2.host.drover"));
        assert_int_equal(f.n_handled, 0);
}

static void a_server_of_another_authority_is_refused(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, false);
        call_as(&f, &other_ca, NULL, SERVER_NAME, &a);
        assert_int_equal(a.status, 0);
        assert_non_null(strstr(a.message, "identity"));
}

static void plain_http_is_not_answered_on_a_tls_port(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, false);
        call_as(&f, &ca, NULL, NULL, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(f.n_handled, 0);
}

static void a_new_certificate_is_used_from_then_on(void **state _unused_)
{
        _cleanup_answer_ struct answer before = {}, after = {}, old = {};
        _cleanup_(fixture_deinit) struct fixture f;

        start_server(&f, true);
        call_as(&f, &ca, &client_id, SERVER_NAME, &before);
        assert_int_equal(before.status, 200);
        assert_int_equal(
                http_server_set_certificate(f.server, other_server_id.cert, other_server_id.key, NULL), 0);
        call_as(&f, &other_ca, &client_id, SERVER_NAME, &after);
        assert_int_equal(after.status, 200);
        call_as(&f, &ca, &client_id, SERVER_NAME, &old);
        assert_int_equal(old.status, 0);
}

static void a_certificate_that_does_not_fit_its_key_is_refused(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL, *again = NULL;
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};

        start_server(&f, true);
        assert_int_equal(http_server_set_certificate(f.server, server_id.cert, client_id.key, &e), -EINVAL);
        assert_int_equal(e->code, ERROR_BAD_DOCUMENT);
        assert_int_equal(http_server_set_certificate(f.server, "x", "y", &again), -EINVAL);
        call_as(&f, &ca, &client_id, SERVER_NAME, &a); /* the old pair stays in use */
        assert_int_equal(a.status, 200);
}

static void a_server_with_bad_certificates_does_not_start_and_leaves_the_socket(void **state _unused_)
{
        struct http_server_config config = {
                .cert_pem = server_id.cert, .key_pem = server_id.key, .client_ca_pem = "nonsense"};
        _cleanup_error_ struct error *e = NULL;
        struct fixture f = {};
        char address[64];

        assert_int_equal(loop_new(&f.loop), 0);
        config.listen_fd = fixture_listen(address);
        assert_int_equal(http_server_new(f.loop, &config, &f.server, &e), -EINVAL);
        assert_int_equal(close(config.listen_fd), 0); /* still ours */
        loop_free(f.loop);
}

static void a_handshake_that_breaks_off_bothers_nobody(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        _cleanup_answer_ struct answer a = {};
        int fd;

        start_server(&f, true);
        fd = raw_connect(&f, "\x16\x03\x01\x02");
        for (int i = 0; i < 5; i++)
                assert_int_equal(loop_iterate(f.loop, 1), 0);
        close(fd);
        call_as(&f, &ca, &client_id, SERVER_NAME, &a);
        assert_int_equal(a.status, 200);
}

static void a_client_that_vanishes_over_tls_is_noticed(void **state _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f;
        const struct http_client_config config = {
                .ca_pem = ca.cert, .cert_pem = client_id.cert, .key_pem = client_id.key};
        struct http_call_spec spec = {
                .method = "GET", .peer_name = SERVER_NAME, .path = "/park", .timeout_ms = WAIT_MS};
        struct answer a = {};

        start_server(&f, true);
        spec.address = f.address;
        assert_int_equal(http_client_new(f.loop, &config, &f.client, NULL), 0);
        assert_int_equal(http_client_call(f.client, &spec, on_reply, &a, NULL, NULL), 0);
        assert_int_equal(loop_wait(f.loop, &f.parked_arrived, WAIT_MS), 0);
        http_client_free(TAKE_PTR(f.client));
        assert_int_equal(loop_wait(f.loop, &f.aborted, WAIT_MS), 0);
}

static void call_body(void *arg _unused_)
{
        const struct http_client_config client = {
                .ca_pem = ca.cert, .cert_pem = client_id.cert, .key_pem = client_id.key};
        struct http_server_config server = {.cert_pem = server_id.cert,
                .key_pem = server_id.key,
                .client_ca_pem = ca.cert,
                .client_cert_required = true};
        struct http_call_spec spec = {
                .method = "GET", .peer_name = SERVER_NAME, .path = "/who", .timeout_ms = WAIT_MS};
        _cleanup_(fixture_deinit) struct fixture f = {};
        _cleanup_answer_ struct answer a = {};

        if (torture_failed(loop_new(&f.loop) < 0) ||
                torture_failed(fixture_start_server(&f, &server, NULL) < 0) ||
                torture_failed(http_client_new(f.loop, &client, &f.client, NULL) < 0))
                return;
        spec.address = f.address;
        if (torture_failed(http_client_call(f.client, &spec, on_reply, &a, NULL, NULL) < 0))
                return;
        assert_int_equal(loop_wait(f.loop, &a.done, WAIT_MS), 0);
        if (torture_failed(a.status != 200))
                return;
        /* Whatever failed, nobody is let in without a name. */
        assert_string_equal(answer_text(&a, "peer"), "manager.drover");
}

static void without_memory_nobody_is_let_in_unnamed(void **state _unused_)
{
        torture_loop(call_body, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_client_of_the_cluster_is_known_by_its_first_name),
                cmocka_unit_test(a_client_without_a_certificate_is_refused_in_the_handshake),
                cmocka_unit_test(where_no_certificate_is_needed_the_client_has_no_name),
                cmocka_unit_test(a_client_of_another_authority_is_refused),
                cmocka_unit_test(a_server_with_another_name_is_refused),
                cmocka_unit_test(a_server_of_another_authority_is_refused),
                cmocka_unit_test(plain_http_is_not_answered_on_a_tls_port),
                cmocka_unit_test(a_new_certificate_is_used_from_then_on),
                cmocka_unit_test(a_certificate_that_does_not_fit_its_key_is_refused),
                cmocka_unit_test(a_server_with_bad_certificates_does_not_start_and_leaves_the_socket),
                cmocka_unit_test(a_handshake_that_breaks_off_bothers_nobody),
                cmocka_unit_test(a_client_that_vanishes_over_tls_is_noticed),
                cmocka_unit_test(without_memory_nobody_is_let_in_unnamed),
        };

        return cmocka_run_group_tests(tests, make_identities, free_identities);
}
