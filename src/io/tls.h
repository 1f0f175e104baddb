/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* TLS 1.3 over a blocking socket, for the data path's threads (OpenSSL). Both ends present a certificate and
 * pin the SHA-256 fingerprint of the other's; nothing else is trusted: no CA, no names, no dates. AES-GCM is
 * preferred (3.5 GB/s a core against 0.5 GB/s for ChaCha20 in some libraries). One thread owns a stream; only
 * tls_stream_interrupt() may be called from another. */

#include "base/error.h"

struct tls_context; /* one per mover: key, certificate, pin */
struct tls_stream;  /* one per channel */

/* `peer_fingerprint` is 64 hex digits (see pki_fingerprint). All files and algorithms are loaded here, so
 * that a sandbox can be entered afterwards. */
int tls_context_new(bool server, const char *cert_pem, const char *key_pem, const char *peer_fingerprint,
        struct tls_context **ret_context, struct error **ret_error);
/* Both ends have to have been told the same text (up to 200 printable characters), or there is no handshake: it is their application
 * protocol (ALPN, RFC 7301), which anybody on the network can read. Before the first stream. */
int tls_context_agree_on(struct tls_context *context, const char *text, struct error **ret_error);
void tls_context_free(struct tls_context *context);
DEFINE_CLEANUP(struct tls_context *, tls_context_free)

/* Takes over the connected socket (also on failure) and does the handshake within timeout_ms. The socket is
 * blocking afterwards, and every later read or write that makes no progress for io_timeout_ms fails with
 * -ETIMEDOUT. UNAUTHENTICATED when the peer's certificate is not the pinned one. */
int tls_stream_new(struct tls_context *context, int fd, uint64_t timeout_ms, uint64_t io_timeout_ms,
        struct tls_stream **ret_stream, struct error **ret_error);
/* Says good-bye if the stream is still healthy, then closes. */
void tls_stream_free(struct tls_stream *stream);
DEFINE_CLEANUP(struct tls_stream *, tls_stream_free)

/* "TLS_AES_128_GCM_SHA256" */
const char *tls_stream_cipher(const struct tls_stream *stream);
int tls_stream_fd(const struct tls_stream *stream);

/* Exactly `len` bytes. 0; -ENODATA when the peer ended the stream before the first of them; -ETIMEDOUT;
 * -ECONNRESET for every other end of the connection; -EKEYREJECTED when the peer refuses our
 * certificate; -EPROTO when its TLS records are not valid. */
int tls_stream_read(struct tls_stream *stream, void *data, size_t len);
/* All of it, handed to the kernel on return. Same errors. */
int tls_stream_write(struct tls_stream *stream, const void *data, size_t len);
/* Waits until tls_stream_read() would have something to work on: 1 yes, 0 not within timeout_ms (0: just
 * look). */
int tls_stream_wait_readable(struct tls_stream *stream, int timeout_ms);
/* Makes a blocked and all later calls of the owner fail: shuts the socket down. Callable from any thread
 * while the stream exists. */
void tls_stream_interrupt(struct tls_stream *stream);
