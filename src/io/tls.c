/* SPDX-License-Identifier: Apache-2.0 */
#include "io/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"

/* One read of the socket fetches up to this much, and one write hands over up to this much: a system call
 * for every 16 KiB record would cost a tenth of a core at 1 GB/s. */
#define IO_BUFFER_BYTES (128 * 1024)
#define CIPHERSUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

#define AGREED_MAX 200

struct tls_context {
        SSL_CTX *ssl_ctx;
        bool server;
        unsigned char pin[32];
        unsigned char protocol[1 + AGREED_MAX]; /* its length, and its name; 0: any */
};

struct tls_stream {
        SSL *ssl;
        BIO *write_bio; /* buffers records; owned by ssl */
        int fd;
        bool broken; /* no good-bye can be sent any more */
};

/* Replaces chain verification: the peer is right if its certificate is the pinned one. Its possession of the
 * key is proven by the handshake itself (CertificateVerify). */
static int verify_pin(X509_STORE_CTX *store, void *userdata)
{
        const struct tls_context *context = userdata;
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned int len = 0;
        X509 *cert = X509_STORE_CTX_get0_cert(store);

        if (cert && X509_digest(cert, EVP_sha256(), digest, &len) == 1 && len == sizeof(context->pin) &&
                CRYPTO_memcmp(digest, context->pin, len) == 0)
                return 1;
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        return 0;
}

static int load_identity(
        SSL_CTX *ssl_ctx, const char *cert_pem, const char *key_pem, struct error **ret_error)
{
        BIO *cert_bio = BIO_new_mem_buf(cert_pem, -1);
        BIO *key_bio = BIO_new_mem_buf(key_pem, -1);
        X509 *cert = cert_bio ? PEM_read_bio_X509(cert_bio, NULL, NULL, NULL) : NULL;
        EVP_PKEY *key = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, NULL) : NULL;
        int r = 0;

        if (!cert || !key || SSL_CTX_use_certificate(ssl_ctx, cert) != 1 ||
                SSL_CTX_use_PrivateKey(ssl_ctx, key) != 1 || SSL_CTX_check_private_key(ssl_ctx) != 1)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give one PEM certificate and the PEM private key that belongs to it",
                        "The TLS certificate or its key cannot be used");
        X509_free(cert);
        EVP_PKEY_free(key);
        BIO_free(cert_bio);
        BIO_free(key_bio);
        ERR_clear_error();
        return r;
}

int tls_context_new(bool server, const char *cert_pem, const char *key_pem, const char *peer_fingerprint,
        struct tls_context **ret_context, struct error **ret_error)
{
        _cleanup_(tls_context_freep) struct tls_context *context = ALLOC(struct tls_context);
        int r;

        if (!context)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a TLS context");
        context->server = server;
        if (strlen(peer_fingerprint) != 2 * sizeof(context->pin) ||
                text_hex_decode(peer_fingerprint, context->pin, sizeof(context->pin)) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give the SHA-256 of the peer's certificate as 64 hex digits",
                        "The fingerprint of the peer's certificate is malformed");

        context->ssl_ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
        if (!context->ssl_ctx)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a TLS context");
        SSL_CTX_set_min_proto_version(context->ssl_ctx, TLS1_3_VERSION);
        SSL_CTX_set_options(
                context->ssl_ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
        SSL_CTX_set_num_tickets(context->ssl_ctx, 0); /* nothing is ever resumed */
        SSL_CTX_set_session_cache_mode(context->ssl_ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_read_ahead(context->ssl_ctx, 1);
        SSL_CTX_set_default_read_buffer_len(context->ssl_ctx, IO_BUFFER_BYTES);
        SSL_CTX_set_verify(context->ssl_ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_cert_verify_callback(context->ssl_ctx, verify_pin, context);
        if (SSL_CTX_set_ciphersuites(context->ssl_ctx, CIPHERSUITES) != 1)
                return error_set(ret_error, ERROR_INTERNAL, NULL, "OpenSSL offers no TLS 1.3 cipher");
        r = load_identity(context->ssl_ctx, cert_pem, key_pem, ret_error);
        if (r < 0)
                return r;
        *ret_context = TAKE_PTR(context);
        return 0;
}

/* The server's choice: ours, or nothing. */
static int select_protocol(SSL *ssl _unused_, const unsigned char **ret, unsigned char *ret_len,
        const unsigned char *offered, unsigned int len, void *userdata)
{
        const struct tls_context *context = userdata;

        if (len != 1u + context->protocol[0] || CRYPTO_memcmp(offered, context->protocol, len) != 0)
                return SSL_TLSEXT_ERR_ALERT_FATAL;
        *ret = context->protocol + 1;
        *ret_len = context->protocol[0];
        return SSL_TLSEXT_ERR_OK;
}

int tls_context_agree_on(struct tls_context *context, const char *text, struct error **ret_error)
{
        size_t len = strlen(text);

        if (len == 0 || len > AGREED_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "what both ends of a connection are to agree on is too long");
        context->protocol[0] = (unsigned char)len;
        memcpy(context->protocol + 1, text, len);
        SSL_CTX_set_alpn_select_cb(context->ssl_ctx, select_protocol, context);
        if (SSL_CTX_set_alpn_protos(context->ssl_ctx, context->protocol, (unsigned int)len + 1) != 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a TLS context");
        return 0;
}

/* A peer that says nothing of it was told nothing. */
static bool agreed(const struct tls_context *context, const SSL *ssl)
{
        const unsigned char *name = NULL;
        unsigned int len = 0;

        SSL_get0_alpn_selected(ssl, &name, &len);
        return context->protocol[0] == 0 ||
               (len == context->protocol[0] && CRYPTO_memcmp(name, context->protocol + 1, len) == 0);
}

void tls_context_free(struct tls_context *context)
{
        if (!context)
                return;
        SSL_CTX_free(context->ssl_ctx);
        free(context);
}

static int set_blocking(int fd, bool blocking)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) < 0)
                return -errno;
        return 0;
}

/* TLS 1.3 lets a client go on before the server has looked at its certificate; the refusal is an alert later. */
static bool alert_is_about_certificate(int alert)
{
        return alert == SSL_AD_BAD_CERTIFICATE || alert == SSL_AD_CERTIFICATE_UNKNOWN ||
               alert == SSL_AD_UNKNOWN_CA || alert == SSL_AD_ACCESS_DENIED ||
               alert == SSL_AD_CERTIFICATE_REQUIRED || alert == SSL_AD_UNSUPPORTED_CERTIFICATE;
}

/* Errno for a failed OpenSSL call, by SSL_get_error() and what the socket said. */
static int stream_error(struct tls_stream *stream, int ssl_result)
{
        int saved_errno = errno;
        int code = SSL_get_error(stream->ssl, ssl_result);
        int reason = code == SSL_ERROR_SSL ? ERR_GET_REASON(ERR_peek_error()) : 0;

        ERR_clear_error();
        stream->broken = true;
        if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
                return -ECONNRESET;
        if (alert_is_about_certificate(reason - SSL_AD_REASON_OFFSET))
                return -EKEYREJECTED;
        if (code == SSL_ERROR_ZERO_RETURN)
                return -ENODATA;
        /* In blocking mode "want" means that SO_RCVTIMEO or SO_SNDTIMEO passed. */
        if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
                return -ETIMEDOUT;
        if (code == SSL_ERROR_SYSCALL)
                return saved_errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
        return -EPROTO;
}

static int handshake_step_wait(struct tls_stream *stream, int ssl_result, uint64_t deadline_ms)
{
        int code = SSL_get_error(stream->ssl, ssl_result);
        struct pollfd pfd = {.fd = stream->fd, .events = code == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN};
        uint64_t now_ms = clock_now_ms(&clock_system);

        if (code != SSL_ERROR_WANT_READ && code != SSL_ERROR_WANT_WRITE)
                return stream_error(stream, ssl_result);
        if (now_ms >= deadline_ms || poll(&pfd, 1, (int)(deadline_ms - now_ms)) == 0)
                return -ETIMEDOUT;
        return 0;
}

static int handshake(struct tls_stream *stream, bool server, uint64_t timeout_ms, struct error **ret_error)
{
        uint64_t deadline_ms = clock_now_ms(&clock_system) + timeout_ms;
        int r;

        for (;;) {
                errno = 0;
                ERR_clear_error();
                int result = server ? SSL_accept(stream->ssl) : SSL_connect(stream->ssl);
                if (result == 1)
                        return 0;
                r = handshake_step_wait(stream, result, deadline_ms);
                if (r < 0)
                        break;
        }
        if (SSL_get_verify_result(stream->ssl) == X509_V_ERR_CERT_REJECTED)
                return error_set(ret_error, ERROR_UNAUTHENTICATED,
                        "Both movers must have been started for the same migration",
                        "The peer's certificate is not the one that was announced");
        if (r == -ETIMEDOUT)
                return error_set(ret_error, ERROR_TIMED_OUT, "Check the network between the two hosts",
                        "The TLS handshake was not done within %llu ms", (unsigned long long)timeout_ms);
        return error_set(ret_error, ERROR_UNREACHABLE, NULL,
                "The peer broke the TLS handshake off (it may refuse our certificate)");
}

static int attach_socket(struct tls_stream *stream)
{
        BIO *socket_bio = BIO_new_socket(stream->fd, BIO_NOCLOSE);
        BIO *buffer_bio = BIO_new(BIO_f_buffer());

        if (!socket_bio || !buffer_bio || BIO_set_write_buffer_size(buffer_bio, IO_BUFFER_BYTES) != 1) {
                BIO_free(socket_bio);
                BIO_free(buffer_bio);
                return -ENOMEM;
        }
        BIO_up_ref(socket_bio); /* one reference for reading, one under the write buffer */
        SSL_set0_rbio(stream->ssl, socket_bio);
        stream->write_bio = BIO_push(buffer_bio, socket_bio);
        SSL_set0_wbio(stream->ssl, stream->write_bio);
        return 0;
}

int tls_stream_new(struct tls_context *context, int fd, uint64_t timeout_ms, uint64_t io_timeout_ms,
        struct tls_stream **ret_stream, struct error **ret_error)
{
        _cleanup_fd_ int owned_fd = fd;
        struct timeval limit = {.tv_sec = (time_t)(io_timeout_ms / 1000),
                .tv_usec = (suseconds_t)(io_timeout_ms % 1000 * 1000)};
        _cleanup_(tls_stream_freep) struct tls_stream *stream = ALLOC(struct tls_stream);
        int r;

        if (!stream)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a TLS stream");
        stream->fd = TAKE_FD(owned_fd);
        stream->broken = true;
        stream->ssl = SSL_new(context->ssl_ctx);
        if (!stream->ssl || attach_socket(stream) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a TLS stream");
        r = set_blocking(stream->fd, false);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot use the data socket");
        r = handshake(stream, context->server, timeout_ms, ret_error);
        if (r < 0)
                return r;
        if (!agreed(context, stream->ssl))
                return error_set(ret_error, ERROR_UNAUTHENTICATED,
                        "Both movers must have been started for the same migration",
                        "The peer was not given the same specification of the migration");
        r = set_blocking(stream->fd, true);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot use the data socket");
        if (setsockopt(stream->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
                setsockopt(stream->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
                return error_from_errno(ret_error, errno, "Cannot limit the waits of the data socket");
        stream->broken = false;
        *ret_stream = TAKE_PTR(stream);
        return 0;
}

void tls_stream_free(struct tls_stream *stream)
{
        if (!stream)
                return;
        if (stream->ssl && !stream->broken) {
                (void)SSL_shutdown(stream->ssl);
                (void)BIO_flush(stream->write_bio);
        }
        SSL_free(stream->ssl);
        ERR_clear_error();
        fd_closep(&stream->fd);
        free(stream);
}

const char *tls_stream_cipher(const struct tls_stream *stream)
{
        return SSL_get_cipher_name(stream->ssl);
}

int tls_stream_fd(const struct tls_stream *stream)
{
        return stream->fd;
}

int tls_stream_read(struct tls_stream *stream, void *data, size_t len)
{
        size_t done = 0;

        while (done < len) {
                size_t n = 0;
                errno = 0;
                int result = SSL_read_ex(stream->ssl, (char *)data + done, len - done, &n);
                if (result == 1) {
                        done += n;
                        continue;
                }
                int r = stream_error(stream, result);
                return r == -ENODATA && done > 0 ? -ECONNRESET : r;
        }
        return 0;
}

int tls_stream_write(struct tls_stream *stream, const void *data, size_t len)
{
        size_t done = 0;

        while (done < len) {
                size_t n = 0;
                errno = 0;
                int result = SSL_write_ex(stream->ssl, (const char *)data + done, len - done, &n);
                if (result != 1)
                        return stream_error(stream, result);
                done += n;
        }
        errno = 0;
        if (BIO_flush(stream->write_bio) != 1) {
                int saved_errno = errno;

                stream->broken = true;
                ERR_clear_error();
                return saved_errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
        }
        return 0;
}

int tls_stream_wait_readable(struct tls_stream *stream, int timeout_ms)
{
        struct pollfd pfd = {.fd = stream->fd, .events = POLLIN};

        if (SSL_has_pending(stream->ssl))
                return 1;
        return poll(&pfd, 1, timeout_ms) != 0;
}

void tls_stream_interrupt(struct tls_stream *stream)
{
        (void)shutdown(stream->fd, SHUT_RDWR);
}
