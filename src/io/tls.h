/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* TLS 1.3 over a blocking socket, for the data path's threads (OpenSSL). Both ends present a certificate and
 * pin the SHA-256 fingerprint of the other's; nothing else is trusted. */

#include "base/error.h"

struct tls_context; /* one per mover: key, certificate, pin */
struct tls_stream;  /* one per channel; one thread may read while another writes only under the caller's rules
                     */

int tls_context_new(bool server, const char *cert_pem, const char *key_pem, const char *peer_fingerprint,
        struct tls_context **ret_context, struct error **ret_error);
void tls_context_free(struct tls_context *context);
DEFINE_CLEANUP(struct tls_context *, tls_context_free)

/* Takes over the connected socket and does the handshake within timeout_ms. */
int tls_stream_new(struct tls_context *context, int fd, uint64_t timeout_ms, struct tls_stream **ret_stream,
        struct error **ret_error);
void tls_stream_free(struct tls_stream *stream);
DEFINE_CLEANUP(struct tls_stream *, tls_stream_free)
/* "TLS_AES_128_GCM_SHA256" */
const char *tls_stream_cipher(const struct tls_stream *stream);
int tls_stream_fd(const struct tls_stream *stream);
