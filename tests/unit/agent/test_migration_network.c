/* SPDX-License-Identifier: Apache-2.0 */

/* A migration that ends takes its network proof with it, on a real agent with a real QEMU. As the source, its peer is a server of the test that answers when the
 * test wants it; as the destination, the test asks. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/migration_state.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/child.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "io/sock.h"
#include "rig.h"

#define ID "44444444-4444-4444-8444-444444444444"
#define SETTLE_MS 20000
/* Of a certificate that nobody ever shows. */
#define FINGERPRINT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MIGRATION "/agent/v1/migrations/" ID
#define PEER_MIGRATION "/agent/v1/peer/migrations/" ID

static struct rig rig;
static bool possible;

/* The other host's agent. */
static struct {
        struct http_server *server;
        char address[64];
        struct http_request *asked; /* for the network; not answered before the test wants it */
        bool aborted;               /* whoever asked has gone away */
        unsigned int n_asked;
} peer;

/* --- The peer ------------------------------------------------------------------------------------------- */

static void handle_prepare(struct http_request *q, void *userdata)
{
        http_request_reply_json(
                q, 201, json_pack("{s:s, s:s}", "data_address", "127.0.0.1:9", "fingerprint", FINGERPRINT));
}

static void answer_into_the_void(void *userdata)
{
        http_request_reply_empty(userdata, 503);
}

/* The clocks are never compared: so far the migration goes, and no further. */
static void handle_get(struct http_request *q, void *userdata)
{
        http_request_on_abort(q, answer_into_the_void, q);
}

static void on_abort(void *userdata)
{
        peer.aborted = true;
        answer_into_the_void(TAKE_PTR(peer.asked));
}

static void handle_network(struct http_request *q, void *userdata)
{
        assert_null(peer.asked);
        peer.asked = q;
        peer.n_asked++;
        http_request_on_abort(q, on_abort, NULL);
}

static void handle_abort(struct http_request *q, void *userdata)
{
        http_request_reply_json(q, 200, json_pack("{s:s, s:s}", "record", "abandoned", "qemu", "gone"));
}

static void start_peer(void)
{
        static const struct http_route routes[] = {
                {"POST", "/agent/v1/peer/migrations", handle_prepare},
                {"GET", "/agent/v1/peer/migrations/{id}", handle_get},
                {"POST", "/agent/v1/peer/migrations/{id}/network", handle_network},
                {"POST", "/agent/v1/peer/migrations/{id}/abort", handle_abort},
        };
        struct http_server_config config = {.client_ca_pem = rig.ca_pem,
                .client_cert_required = true,
                .routes = routes,
                .n_routes = ARRAY_SIZE(routes)};
        struct sock_address any, local;
        char *cert, *key;

        rig_issue(&rig, RIG_OTHER_UID ".host.drover", &cert, &key);
        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &any, NULL), 0);
        assert_int_equal(sock_listen_tcp(&any, 8, &config.listen_fd, NULL), 0);
        assert_int_equal(sock_local_address(config.listen_fd, &local), 0);
        sock_address_format(&local, peer.address);
        config.cert_pem = cert;
        config.key_pem = key;
        assert_int_equal(http_server_new(rig.loop, &config, &peer.server, NULL), 0);
        free(cert);
        pki_key_free(key);
}

/* --- What is there -------------------------------------------------------------------------------------- */

/* In this network namespace. */
static unsigned int n_packet_sockets(void)
{
        _cleanup_free_ char *text = NULL;
        unsigned int n = 0;
        size_t len;

        assert_int_equal(file_read("/proc/self/net/packet", 1 << 20, &text, &len), 0);
        for (const char *at = text; (at = strchr(at, '\n')); at++)
                n++;
        return n - 1; /* the heading */
}

static void iterate_until(bool (*there)(void), const char *what)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + SETTLE_MS;

        while (!there()) {
                if (clock_now_ms(&clock_system) > until_ms)
                        fail_msg("gave up waiting until %s", what);
                (void)loop_iterate(rig.loop, 50);
        }
}

static bool is_quiet(void)
{
        return n_packet_sockets() == 0;
}

/* One is there for as long as the guest runs: where it is listened to. */
static bool only_guest_is_heard(void)
{
        return n_packet_sockets() == 1;
}

static bool is_asked(void)
{
        return peer.asked != NULL;
}

static bool is_aborted(void)
{
        return peer.aborted;
}

static struct migration *migration(void)
{
        return migration_find(rig.agent, ID);
}

static bool is_settled(void)
{
        return migration()->settled;
}

static json_t *document(void)
{
        json_t *body = NULL;

        assert_int_equal(rig_call(&rig, rig.manager, "GET", MIGRATION, NULL, &body), 200);
        return body;
}

/* --- As the source -------------------------------------------------------------------------------------- */

static json_t *vm_as_it_ran; /* its document, with what its host decided; of the group */

/* A running VM, and what its agent listens at by then. */
static int source_setup(void **state)
{
        if (!possible)
                return 0;
        peer.aborted = false;
        peer.n_asked = 0;
        assert_int_equal(rig_vm(&rig, "create", rig_vm_document(), NULL), 200);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), NULL), 200);
        iterate_until(only_guest_is_heard, "what was listened for before is over");
        return 0;
}

static int source_teardown(void **state)
{
        json_t *vm;

        if (!possible)
                return 0;
        (void)rig_call(&rig, rig.manager, "DELETE", MIGRATION, NULL, NULL);
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), &vm), 200);
        assert_int_equal(rig_vm(&rig, "delete", vm, NULL), 200);
        return 0;
}

static json_t *make_spec(json_t *vm, const char *source, const char *destination, const char *peer_address)
{
        return json_pack("{s:s, s:o, s:i, s:{s:s, s:s}, s:{s:s, s:s}}", "id", ID, "vm", vm, "epoch", 1,
                "source", "host", source, "address", peer_address, "destination", "host", destination,
                "address", peer_address);
}

static void begin(uint64_t timeout_ms)
{
        json_t *spec = make_spec(
                vm_document(vm_find(rig.agent, RIG_VM_UID)), RIG_HOST_UID, RIG_OTHER_UID, peer.address);

        json_object_set_new(
                spec, "network_proof", json_pack("{s:s, s:s}", "source", "host1", "destination", "host2"));
        json_object_set_new(spec, "timeout_ms", json_integer((json_int_t)timeout_ms));
        assert_int_equal(rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", spec, NULL), 202);
}

static void begin_until_asked(uint64_t timeout_ms)
{
        begin(timeout_ms);
        iterate_until(is_asked, "the destination is asked for the network");
        assert_int_equal(n_packet_sockets(), 3); /* it asks, and counts what the guest answers */
}

/* Whatever the other host would say of it: nothing was found, and nobody waits. */
static void assert_ended(const char *phase, bool (*nothing_more)(void))
{
        _cleanup_json_ json_t *told = NULL;

        iterate_until(is_aborted, "nobody waits for the destination");
        iterate_until(nothing_more, "nothing is listened for");
        iterate_until(is_settled, "the migration has settled");
        told = document();
        assert_string_equal(json_string_value(json_object_get(told, "phase")), phase);
        assert_null(json_object_get(told, "network"));
        assert_int_equal(peer.n_asked, 1);
}

static void test_cancelling_ends_the_proof_at_the_source(void **state)
{
        if (!possible)
                skip();
        begin_until_asked(0);
        assert_int_equal(rig_call(&rig, rig.manager, "POST", MIGRATION "/cancel", NULL, NULL), 202);
        assert_ended("cancelled", only_guest_is_heard);
}

static void test_time_limit_ends_the_proof_at_the_source(void **state)
{
        if (!possible)
                skip();
        begin_until_asked(500);
        assert_ended("failed", only_guest_is_heard);
}

static void test_end_of_the_guest_ends_the_proof_at_the_source(void **state)
{
        if (!possible)
                skip();
        begin_until_asked(0);
        assert_int_equal(child_kill(vm_find(rig.agent, RIG_VM_UID)->qemu, SIGKILL), 0);
        assert_ended("failed", is_quiet);
}

static void test_handing_the_guest_over_ends_the_proof_at_the_source(void **state)
{
        if (!possible)
                skip();
        begin_until_asked(0);
        assert_int_equal(migration_set_record(migration(), HANDOFF_HANDED_OFF, 2, NULL), 0);
        iterate_until(is_aborted, "nobody waits for the destination");
        iterate_until(only_guest_is_heard, "nothing is listened for");
        migration_stop(migration(), NULL);
        assert_ended("failed", only_guest_is_heard);
}

static void test_nothing_is_begun_for_a_migration_that_is_to_end(void **state)
{
        struct migration *m;

        if (!possible)
                skip();
        begin(0);
        m = migration();
        migration_stop(m, NULL);
        migration_network_begin(m); /* as when the destination has prepared just then */
        assert_true(only_guest_is_heard());
        iterate_until(is_settled, "the migration has settled");
        migration_network_begin(m);
        assert_true(only_guest_is_heard());
        assert_int_equal(peer.n_asked, 0);
}

static char *hold_at(const char *point)
{
        char *gate = alloc_printf("%s/gate", rig.folder), *variable = alloc_printf("%s:%s", point, gate);

        assert_true(gate && variable);
        assert_int_equal(setenv("DROVER_HOLD_AT", variable, 1), 0);
        free(variable);
        return gate;
}

static void release(const char *gate)
{
        _cleanup_free_ char *held = alloc_printf("%s.held", gate);

        (void)unlink(held);
        (void)unlink(gate);
        assert_int_equal(unsetenv("DROVER_HOLD_AT"), 0);
}

static void nothing(void *userdata)
{
}

/* False in a build without crash points. */
static bool can_hold(void)
{
        _cleanup_(crash_hold_freep) struct crash_hold *hold = NULL;
        _cleanup_free_ char *gate = hold_at("test");
        bool holds = crash_point_hold(rig.loop, "test", nothing, NULL, &hold);

        release(gate);
        return holds;
}

static bool is_held(void)
{
        _cleanup_free_ char *held = alloc_printf("%s/gate.held", rig.folder);

        return access(held, F_OK) == 0;
}

/* The destination found the guest's address at a port of its own. */
static void answer_with_port(const char *port)
{
        http_request_reply_json(TAKE_PTR(peer.asked), 200,
                json_pack("{s:[{s:i, s:s, s:i, s:[], s:b, s:b, s:s}]}", "nics", "nic", 0, "mac",
                        "02:00:00:00:00:09", "mtu", 1500, "answers", "small", 1, "large", 1, "local_port",
                        port));
        iterate_until(is_held, "the answer has come");
}

static void test_proof_that_is_held_for_a_test_ends_with_its_migration(void **state)
{
        _cleanup_free_ char *gate = NULL;
        _cleanup_json_ json_t *told = NULL;

        if (!possible || !can_hold())
                skip();
        gate = hold_at("source-network");
        begin_until_asked(0);
        answer_with_port("eth7");
        assert_true(migration_network_pending(migration()));
        assert_int_equal(rig_call(&rig, rig.manager, "POST", MIGRATION "/cancel", NULL, NULL), 202);
        iterate_until(is_settled, "the migration has settled");
        iterate_until(only_guest_is_heard, "nothing is listened for");
        told = document();
        assert_string_equal(json_string_value(json_object_get(told, "phase")), "cancelled");
        assert_null(json_object_get(told, "network"));
        release(gate);
}

static void test_what_the_destination_named_outlives_its_answer(void **state)
{
        _cleanup_free_ char *gate = NULL;
        const char *why;

        if (!possible || !can_hold())
                skip();
        gate = hold_at("source-network");
        begin_until_asked(0);
        answer_with_port("eth7");
        close(open(gate, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        iterate_until(is_settled, "the migration has settled");
        why = error_message(migration()->stop_reason);
        assert_string_equal(why, "network-mac: the MAC address 52:54:00:00:00:07 is taken on host host2: "
                                 "something at its port eth7 uses it");
        release(gate);
}

/* --- As the destination --------------------------------------------------------------------------------- */

static struct {
        bool came;
        char code[32];
} answer;

static void on_answer(void *userdata, int status, json_t *body, struct error *error)
{
        answer.came = true;
        snprintf(answer.code, sizeof(answer.code), "%s", error ? error_code_to_string(error->code) : "");
}

static bool has_come(void)
{
        return answer.came;
}

/* The source asks for the network, which takes 600 ms where nobody answers. */
static void ask(void)
{
        json_t *body = json_pack("{s:[{s:i, s:[s], s:[], s:[], s:s, s:s, s:i}]}", "nics", "nic", 0,
                "addresses", "192.0.2.9", "gateways", "neighbours", "peer_mac", "02:00:00:00:00:09", "nonce",
                "00112233445566778899aabbccddeeff", "mtu", 1500);
        const struct http_call_spec spec = {.method = "POST",
                .address = agent_listen_address(rig.agent),
                .peer_name = RIG_HOST_UID ".host.drover",
                .path = PEER_MIGRATION "/network",
                .body = body,
                .timeout_ms = SETTLE_MS};

        answer.came = false;
        assert_int_equal(http_client_call(rig.host, &spec, on_answer, NULL, NULL, NULL), 0);
        json_decref(body);
}

/* A guest that waits here for its migration, which has prepared. */
static int destination_setup(void **state)
{
        _cleanup_free_ char *folder = NULL, *file = NULL, *text = NULL;
        json_t *spec;

        if (!possible)
                return 0;
        folder = alloc_printf("%s/store/t1", rig.folder); /* on the datastore that both hosts have */
        assert_int_equal(mkdir(folder, 0700), 0);
        file = alloc_printf("%s/vm.json", folder);
        text = doc_to_text(vm_as_it_ran);
        assert_int_equal(file_write_atomic(file, text, strlen(text), 0600), 0);
        spec = make_spec(json_deep_copy(vm_as_it_ran), RIG_OTHER_UID, RIG_HOST_UID, "127.0.0.1:9");
        json_object_set_new(spec, "source_fingerprint", json_string(FINGERPRINT));
        assert_int_equal(rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", spec, NULL), 201);
        return 0;
}

static bool is_tried(void)
{
        return migration()->destination.network != NULL;
}

static bool is_gone(void)
{
        return vm_find(rig.agent, RIG_VM_UID) == NULL;
}

static int destination_teardown(void **state)
{
        _cleanup_free_ char *folder = alloc_printf("%s/store/t1", rig.folder);

        if (!possible)
                return 0;
        assert_int_equal(rig_call(&rig, rig.host, "POST", PEER_MIGRATION "/abort", NULL, NULL), 200);
        iterate_until(is_gone, "the guest is gone");
        iterate_until(is_quiet, "nothing is listened for");
        migration()->destination.released = true; /* the source, which there is none of, does not tell */
        migration_kick(migration());
        iterate_until(is_settled, "the migration has settled");
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", MIGRATION, NULL, NULL), 204);
        assert_int_equal(file_remove_tree(folder), 0);
        return 0;
}

static void test_end_at_the_source_ends_the_proof_at_the_destination(void **state)
{
        if (!possible)
                skip();
        ask();
        iterate_until(is_tried, "the network is being tried");
        assert_int_equal(rig_call(&rig, rig.host, "POST", PEER_MIGRATION "/abort", NULL, NULL), 200);
        iterate_until(has_come, "the source has its answer");
        assert_string_equal(answer.code, "cancelled");
        assert_null(migration()->destination.network);
        ask();
        iterate_until(has_come, "the source has its answer");
        assert_string_equal(answer.code, "conflict");
}

static void test_record_of_the_outcome_ends_the_proof_at_the_destination(void **state)
{
        if (!possible)
                skip();
        ask();
        iterate_until(is_tried, "the network is being tried");
        assert_int_equal(migration_set_record(migration(), HANDOFF_ABANDONED, 2, NULL), 0);
        iterate_until(has_come, "the source has its answer");
        assert_string_equal(answer.code, "cancelled");
}

static void test_answer_that_is_held_for_a_test_ends_with_its_migration(void **state)
{
        _cleanup_free_ char *gate = NULL;

        if (!possible || !can_hold())
                skip();
        gate = hold_at("destination-network");
        ask();
        iterate_until(is_held, "the network has been tried");
        assert_false(answer.came);
        assert_int_equal(rig_call(&rig, rig.host, "POST", PEER_MIGRATION "/abort", NULL, NULL), 200);
        iterate_until(has_come, "the source has its answer");
        assert_string_equal(answer.code, "cancelled");
        release(gate);
}

static int group_setup(void **state)
{
        possible = rig_setup(&rig);
        if (!possible)
                return 0;
        rig_configure(&rig);
        start_peer();
        (void)source_setup(state);
        vm_as_it_ran = vm_document(vm_find(rig.agent, RIG_VM_UID));
        return source_teardown(state);
}

static int group_teardown(void **state)
{
        json_decref(vm_as_it_ran);
        http_server_free(peer.server);
        rig_teardown(&rig);
        return 0;
}

int main(void)
{
#define SOURCE(name) cmocka_unit_test_setup_teardown(name, source_setup, source_teardown)
#define DESTINATION(name) cmocka_unit_test_setup_teardown(name, destination_setup, destination_teardown)
        const struct CMUnitTest tests[] = {
                SOURCE(test_cancelling_ends_the_proof_at_the_source),
                SOURCE(test_time_limit_ends_the_proof_at_the_source),
                SOURCE(test_end_of_the_guest_ends_the_proof_at_the_source),
                SOURCE(test_handing_the_guest_over_ends_the_proof_at_the_source),
                SOURCE(test_nothing_is_begun_for_a_migration_that_is_to_end),
                DESTINATION(test_end_at_the_source_ends_the_proof_at_the_destination),
                DESTINATION(test_record_of_the_outcome_ends_the_proof_at_the_destination),
                SOURCE(test_proof_that_is_held_for_a_test_ends_with_its_migration),
                SOURCE(test_what_the_destination_named_outlives_its_answer),
                DESTINATION(test_answer_that_is_held_for_a_test_ends_with_its_migration),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
