/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "base/torture.h"

#define PATH_MAX_CHARS 255
#define RANDOM_MAX_BYTES 64

bool text_is_name(const char *s)
{
        size_t n;

        if (!s || !isascii((unsigned char)*s) || !isalnum((unsigned char)*s))
                return false;
        for (n = 0; s[n]; n++)
                if (n >= NAME_MAX_CHARS || !isascii((unsigned char)s[n]) ||
                        !(isalnum((unsigned char)s[n]) || strchr("._-", s[n])))
                        return false;
        return true;
}

bool text_is_uuid(const char *s)
{
        if (!s || strlen(s) != UUID_STRING_SIZE - 1)
                return false;
        for (size_t i = 0; s[i]; i++) {
                bool dash = i == 8 || i == 13 || i == 18 || i == 23;

                if (dash ? s[i] != '-' : !strchr("0123456789abcdef", s[i]))
                        return false;
        }
        return true;
}

static int random_bytes(void *to, size_t len)
{
        if (torture_point())
                return -EIO;
        return getrandom(to, len, 0) == (ssize_t)len ? 0 : -EIO;
}

int text_uuid_new(char ret_uuid[static UUID_STRING_SIZE])
{
        uint8_t b[16];
        char h[33];
        int r = random_bytes(b, sizeof(b));

        if (r < 0)
                return r;
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        text_hex_encode(b, sizeof(b), h);
        snprintf(ret_uuid, UUID_STRING_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16, h + 20);
        return 0;
}

int text_random_hex(size_t n_bytes, char *ret_hex)
{
        uint8_t b[RANDOM_MAX_BYTES];
        int r;

        if (n_bytes > sizeof(b))
                return -EINVAL;
        r = random_bytes(b, n_bytes);
        if (r < 0)
                return r;
        text_hex_encode(b, n_bytes, ret_hex);
        explicit_bzero(b, sizeof(b));
        return 0;
}

size_t text_fitting(const char *s, size_t max_bytes)
{
        size_t n = strnlen(s, max_bytes + 1);

        if (n <= max_bytes)
                return n;
        /* What follows must not be the rest of a character (10xxxxxx). */
        for (n = max_bytes; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;)
                n--;
        return n;
}

void text_hex_encode(const void *data, size_t len, char *ret_hex)
{
        static const char digits[] = "0123456789abcdef";
        const uint8_t *b = data;

        for (size_t i = 0; i < len; i++) {
                ret_hex[2 * i] = digits[b[i] >> 4];
                ret_hex[2 * i + 1] = digits[b[i] & 15];
        }
        ret_hex[2 * len] = '\0';
}

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        c = (char)tolower((unsigned char)c);
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int text_hex_decode(const char *hex, void *ret_data, size_t len)
{
        uint8_t *out = ret_data;

        if (strlen(hex) != 2 * len)
                return -EINVAL;
        for (size_t i = 0; i < 2 * len; i++)
                if (hex_digit(hex[i]) < 0)
                        return -EINVAL;
        for (size_t i = 0; i < len; i++)
                out[i] = (uint8_t)(hex_digit(hex[2 * i]) * 16 + hex_digit(hex[2 * i + 1]));
        return 0;
}

bool text_is_relative_path(const char *s)
{
        size_t len = s ? strlen(s) : 0;

        if (!len || len > PATH_MAX_CHARS)
                return false;
        for (size_t i = 0; i < len; i++)
                if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
                        return false;
        for (const char *part = s;;) {
                size_t n = strcspn(part, "/");

                if (!n || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
                        return false;
                if (!part[n])
                        return true;
                part += n + 1;
        }
}

int text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
        unsigned long long v;
        char *end;

        if (!s || !isdigit((unsigned char)*s))
                return -EINVAL;
        errno = 0;
        v = strtoull(s, &end, 10);
        if (*end)
                return -EINVAL;
        if (errno == ERANGE || v < min || v > max)
                return -ERANGE;
        *ret = v;
        return 0;
}

struct unit {
        const char *name;
        double factor;
};

static int parse_with_unit(const char *s, const struct unit *units, size_t n_units, uint64_t *ret)
{
        double value;
        char *end;

        if (!s || !isdigit((unsigned char)*s) || strpbrk(s, "xXpP")) /* no hexadecimal floats */
                return -EINVAL;
        value = strtod(s, &end);
        while (*end == ' ')
                end++;
        for (size_t i = 0; i < n_units; i++) {
                if (strcasecmp(end, units[i].name))
                        continue;
                value *= units[i].factor;
                if (!(value < 9.2e18)) /* what a JSON integer holds */
                        return -ERANGE;
                *ret = (uint64_t)value;
                return 0;
        }
        return -EINVAL;
}

int text_parse_size(const char *s, uint64_t *ret_bytes)
{
        static const struct unit units[] = {{"", 1}, {"B", 1}, {"K", 0x1p10}, {"KiB", 0x1p10}, {"KB", 1e3},
                {"M", 0x1p20}, {"MiB", 0x1p20}, {"MB", 1e6}, {"G", 0x1p30}, {"GiB", 0x1p30}, {"GB", 1e9},
                {"T", 0x1p40}, {"TiB", 0x1p40}, {"TB", 1e12}};

        return parse_with_unit(s, units, ARRAY_SIZE(units), ret_bytes);
}

int text_parse_duration_ms(const char *s, uint64_t *ret_ms)
{
        static const struct unit units[] = {
                {"", 1}, {"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"min", 60e3}, {"h", 3600e3}, {"d", 86400e3}};

        return parse_with_unit(s, units, ARRAY_SIZE(units), ret_ms);
}

int text_parse_rate(const char *s, uint64_t *ret_bits_per_s)
{
        static const struct unit units[] = {{"", 1}, {"bit", 1}, {"k", 1e3}, {"kbit", 1e3}, {"m", 1e6},
                {"mbit", 1e6}, {"g", 1e9}, {"gbit", 1e9}, {"kbit/s", 1e3}, {"mbit/s", 1e6}, {"gbit/s", 1e9}};

        return parse_with_unit(s, units, ARRAY_SIZE(units), ret_bits_per_s);
}

char *text_format_size(uint64_t bytes, char ret[static 16])
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
        double v = (double)bytes;
        size_t u = 0;

        while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
                v /= 1024;
                u++;
        }
        snprintf(ret, 16, v < 10 && u ? "%.1f %s" : "%.0f %s", v, units[u]);
        return ret;
}

char *text_format_duration_ms(uint64_t ms, char ret[static 24])
{
        if (ms < 1000)
                snprintf(ret, 24, "%" PRIu64 " ms", ms);
        else if (ms < 60000)
                snprintf(ret, 24, "%.1f s", (double)ms / 1e3);
        else if (ms < 3600000)
                snprintf(ret, 24, "%" PRIu64 " min %" PRIu64 " s", ms / 60000, ms / 1000 % 60);
        else
                snprintf(ret, 24, "%" PRIu64 " h %" PRIu64 " min", MIN(ms / 3600000, (uint64_t)99999999),
                        ms / 60000 % 60);
        return ret;
}

char *text_format_rate(uint64_t bits_per_s, char ret[static 20])
{
        static const char *const units[] = {"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"};
        double v = (double)bits_per_s;
        size_t u = 0;

        while (v >= 1000 && u + 1 < ARRAY_SIZE(units)) {
                v /= 1000;
                u++;
        }
        snprintf(ret, 20, v < 10 && u ? "%.1f %s" : "%.0f %s", v, units[u]);
        return ret;
}

char *text_format_time(int64_t unix_ms, char ret[static 32])
{
        int ms = (int)((unix_ms % 1000 + 1000) % 1000); /* also before 1970 */
        time_t s = (time_t)(unix_ms / 1000 - (unix_ms % 1000 < 0));
        char day[24];
        struct tm tm;

        if (!gmtime_r(&s, &tm) || !strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm))
                snprintf(day, sizeof(day), "?");
        snprintf(ret, 32, "%s.%03dZ", day, ms);
        return ret;
}
