/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mac.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define N_GENERATED UINT32_C(0xffffff) /* all of the lower 24 bits but zero */

static const uint8_t prefix[3] = {0x52, 0x54, 0x00};

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        c = (char)tolower((unsigned char)c);
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int mac_parse(const char *s, uint8_t ret_mac[static MAC_SIZE])
{
        uint8_t mac[MAC_SIZE];

        if (!s || strlen(s) != MAC_STRING_SIZE - 1)
                return -EINVAL;
        for (size_t i = 0; i < MAC_SIZE; i++) {
                const char *p = s + 3 * i;
                int high = hex_value(p[0]), low = hex_value(p[1]);

                /* One kind of separator throughout. */
                if (high < 0 || low < 0 ||
                        (i + 1 < MAC_SIZE && ((p[2] != ':' && p[2] != '-') || p[2] != s[2])))
                        return -EINVAL;
                mac[i] = (uint8_t)(high << 4 | low);
        }
        memcpy(ret_mac, mac, sizeof(mac));
        return 0;
}

char *mac_format(const uint8_t mac[static MAC_SIZE], char ret[static MAC_STRING_SIZE])
{
        snprintf(ret, MAC_STRING_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                mac[4], mac[5]);
        return ret;
}

bool mac_is_unicast(const uint8_t mac[static MAC_SIZE])
{
        static const uint8_t zero[MAC_SIZE];

        return !(mac[0] & 1) && memcmp(mac, zero, MAC_SIZE) != 0;
}

bool mac_is_generated(const uint8_t mac[static MAC_SIZE])
{
        return !memcmp(mac, prefix, sizeof(prefix));
}

int mac_next_free(uint32_t hint, mac_taken_fn taken, void *userdata, uint8_t ret_mac[static MAC_SIZE])
{
        for (uint32_t i = 0; i < N_GENERATED; i++) {
                uint32_t n = (uint32_t)(((uint64_t)(hint & N_GENERATED) + i) % N_GENERATED) + 1;
                uint8_t mac[MAC_SIZE] = {
                        prefix[0], prefix[1], prefix[2], (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
                char text[MAC_STRING_SIZE];

                if (taken(userdata, mac_format(mac, text)))
                        continue;
                memcpy(ret_mac, mac, sizeof(mac));
                return 0;
        }
        return -ENOSPC;
}
