/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/tar_index.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"

#define BLOCK 512u
/* Offsets in a header block: IEEE Std 1003.1, pax, "ustar Interchange Format". */
#define AT_SIZE 124
#define SIZE_LEN 12
#define AT_CHECKSUM 148
#define CHECKSUM_LEN 8
#define AT_TYPE 156
#define AT_MAGIC 257
#define AT_PREFIX 345

static int bad(const char *name, const char *what, struct error **ret_error)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Copy it there again, or export it again.",
                "%s is no appliance: %s", name, what);
}

/* Octal digits, with blanks before and a blank or NUL behind. */
static bool read_octal(const uint8_t *field, size_t len, uint64_t *ret)
{
        uint64_t value = 0;
        size_t i = 0, n_digits = 0;

        while (i < len && field[i] == ' ')
                i++;
        for (; i < len && field[i] >= '0' && field[i] <= '7'; i++, n_digits++)
                value = value * 8 + (uint64_t)(field[i] - '0');
        if (!n_digits || (i < len && field[i] != ' ' && field[i] != '\0'))
                return false;
        *ret = value;
        return true;
}

/* GNU's form for what octal digits cannot hold: the first bit is set, the rest is a number in big endian. */
static bool read_size(const uint8_t *field, uint64_t *ret)
{
        uint64_t value = 0;

        if (!(field[0] & 0x80))
                return read_octal(field, SIZE_LEN, ret);
        if (field[0] != 0x80)
                return false;
        for (size_t i = 1; i < SIZE_LEN; i++) {
                if (value >> 55)
                        return false;
                value = value << 8 | field[i];
        }
        *ret = value;
        return true;
}

static bool has_checksum(const uint8_t *block)
{
        uint64_t wanted = 0, sum = 0;

        for (size_t i = 0; i < BLOCK; i++)
                sum += i >= AT_CHECKSUM && i < AT_CHECKSUM + CHECKSUM_LEN ? ' ' : block[i];
        return read_octal(block + AT_CHECKSUM, CHECKSUM_LEN, &wanted) && wanted == sum;
}

static bool is_zero(const uint8_t *block)
{
        for (size_t i = 0; i < BLOCK; i++)
                if (block[i])
                        return false;
        return true;
}

static int read_header(
        const uint8_t *block, const char *archive, struct tar_member *member, struct error **ret_error)
{
        if (!has_checksum(block) || memcmp(block + AT_MAGIC, "ustar", 5) != 0)
                return bad(archive, "it is no tar archive, or a damaged one", ret_error);
        if ((block[AT_TYPE] != '0' && block[AT_TYPE] != '\0') || block[AT_PREFIX])
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Make it with tar --format=ustar, of files in one folder.",
                        "%s holds something that is no plain file of one folder", archive);
        memcpy(member->name, block, TAR_NAME_SIZE - 1);
        member->name[TAR_NAME_SIZE - 1] = '\0';
        if (!text_is_relative_path(member->name) || strchr(member->name, '/'))
                return bad(archive, "a file in it has a name that could lead elsewhere", ret_error);
        if (!read_size(block + AT_SIZE, &member->size))
                return bad(archive, "a file in it has no size", ret_error);
        return 0;
}

static int add(const struct tar_member *member, const char *archive, struct tar_member *members, size_t *n,
        struct error **ret_error)
{
        if (*n == TAR_MEMBERS_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL, "%s holds more than %d files", archive,
                        TAR_MEMBERS_MAX);
        for (size_t i = 0; i < *n; i++)
                if (!strcmp(members[i].name, member->name))
                        return bad(archive, "two files in it have one name", ret_error);
        members[(*n)++] = *member;
        return 0;
}

int tar_index(tar_read_fn read, void *userdata, uint64_t archive_bytes, const char *name,
        struct tar_member *members, size_t *ret_n_members, struct error **ret_error)
{
        uint8_t block[BLOCK];
        uint64_t at = 0;
        size_t n_members = 0;
        int r;

        while (at < archive_bytes) {
                struct tar_member member = {};
                ssize_t n = read(userdata, at, block, BLOCK);

                if (n < 0)
                        return error_from_errno(ret_error, (int)n, "%s", name);
                if (n != (ssize_t)BLOCK)
                        return bad(name, "it is cut off", ret_error);
                if (is_zero(block))
                        break;
                r = read_header(block, name, &member, ret_error);
                if (r < 0)
                        return r;
                member.offset = at + BLOCK;
                if (member.size > archive_bytes || member.offset > archive_bytes - member.size)
                        return bad(name, "it is cut off", ret_error);
                r = add(&member, name, members, &n_members, ret_error);
                if (r < 0)
                        return r;
                at = member.offset + (member.size + BLOCK - 1) / BLOCK * BLOCK;
        }
        *ret_n_members = n_members;
        return 0;
}
