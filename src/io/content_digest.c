/* SPDX-License-Identifier: Apache-2.0 */
#include "io/content_digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/alloc.h"

struct content_digester {
        EVP_MD *md;
        EVP_MD_CTX *keyed; /* has taken the key in */
        EVP_MD_CTX *work;
};

int content_digester_new(const uint8_t key[static CONTENT_KEY_SIZE], struct content_digester **ret_digester)
{
        _cleanup_(content_digester_freep) struct content_digester *d = ALLOC(struct content_digester);

        if (!d)
                return -ENOMEM;
        d->md = EVP_MD_fetch(NULL, "SHA2-256", NULL);
        if (!d->md)
                return -ENOTSUP;
        d->keyed = EVP_MD_CTX_new();
        d->work = EVP_MD_CTX_new();
        if (!d->keyed || !d->work || EVP_DigestInit_ex2(d->keyed, d->md, NULL) != 1 ||
                EVP_DigestUpdate(d->keyed, key, CONTENT_KEY_SIZE) != 1)
                return -ENOMEM;
        *ret_digester = TAKE_PTR(d);
        return 0;
}

void content_digester_free(struct content_digester *d)
{
        if (!d)
                return;
        EVP_MD_CTX_free(d->keyed);
        EVP_MD_CTX_free(d->work);
        EVP_MD_free(d->md);
        free(d);
}

int content_digest(struct content_digester *d, const void *data, size_t len,
        uint8_t ret_digest[static CONTENT_DIGEST_SIZE])
{
        uint8_t full[EVP_MAX_MD_SIZE];

        if (EVP_MD_CTX_copy_ex(d->work, d->keyed) != 1 || EVP_DigestUpdate(d->work, data, len) != 1 ||
                EVP_DigestFinal_ex(d->work, full, NULL) != 1)
                return -ENOMEM;
        memcpy(ret_digest, full, CONTENT_DIGEST_SIZE);
        return 0;
}
