/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The handshake before a migration (docs/decisions/0022-signed-specification.md): the manager makes one specification, signs its bytes, and both hosts get
 * these bytes before anything moves. An agent takes a specification only as it was signed; what it was signed for (hosts, VM, owner
 * epoch) is checked where the migration is made. */

#include <jansson.h>

#include "base/error.h"
#include "io/pki.h"

struct agent;
struct handshake;

/* How old a signature may be, and how far ahead by another clock. */
#define HANDSHAKE_PURPOSE \
        "drover migration specification" /* signed with it: the key signs nothing else for this */
#define HANDSHAKE_FRESH_MS (10 * 60000)

int handshake_new(struct agent *agent, struct handshake **ret_handshake, struct error **ret_error);
void handshake_free(struct handshake *handshake);
DEFINE_CLEANUP(struct handshake *, handshake_free)

/* A specification that was found to be signed and fresh. */
struct handshake_spec {
        json_t *spec;                      /* as in agent-api.md, without what is about the signature */
        bool both;                         /* the other host takes signed ones too */
        char digest[PKI_FINGERPRINT_SIZE]; /* SHA-256 of the bytes that were signed */
};
void handshake_spec_deinit(struct handshake_spec *spec);
#define _cleanup_handshake_spec_ _cleanup_(handshake_spec_deinit)

/* `signed_spec` is {"spec": text, "signature": hex, "certificate": PEM}. UNAUTHENTICATED for another signer, other bytes, or,
 * where it was not the manager that brought it or told of it, a signature that is not fresh; BAD_DOCUMENT. From the first one that the manager brought
 * on, the agent knows, durably, that the manager that leads signs. */
int handshake_open(struct handshake *handshake, const json_t *signed_spec, bool by_manager,
        struct handshake_spec *ret_spec, struct error **ret_error);

/* True once the manager that leads now has signed: of another host, what is not signed is refused then. (The manager itself is known by its
 * certificate: what it brings unsigned is taken.) A leader that comes after it may be of an earlier version, and begins anew. */
bool handshake_is_needed(const struct handshake *handshake);
/* The error for that. */
int handshake_refuse(const struct handshake *handshake, struct error **ret_error);
#define handshake_refuse(...) error_is_negative(handshake_refuse(__VA_ARGS__)) /* see base/error.h */

/* The destination is told by the manager itself what will come from the source. Kept for HANDSHAKE_FRESH_MS, or until the agent ends. */
int handshake_expect(
        struct handshake *handshake, const char *id, const json_t *signed_spec, struct error **ret_error);
/* What was told of this migration, borrowed; NULL: nothing. */
const struct handshake_spec *handshake_expected(struct handshake *handshake, const char *id);
