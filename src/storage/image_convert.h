/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Disk images in the formats of other products: what they are, their checksums, and their conversion by a qemu-img that is shut in
 * (image_tool.h). All of it blocks: for helper processes (offload.h).
 *
 * An image that others have made is refused before qemu-img sees it when it refers to other files (a backing file, a vmdk descriptor with
 * extents), and would find none if one got through. What it would take is measured before a byte is written: a small file that
 * would unpack to more than there is room for is refused, and one that takes more room than there is
 * for it, whatever was measured, is ended. */

#include "base/error.h"

/* Formats of files; those of disks are in image.h. */
#define IMAGE_KINDS(X) \
        X(RAW, "raw", "raw") \
        X(QCOW2, "qcow2", "qcow2") \
        X(VMDK, "vmdk", "vmdk") \
        X(VHDX, "vhdx", "vhdx") \
        X(VDI, "vdi", "vdi") \
        X(VHD, "vhd", "vpc")
enum image_kind {
#define X(name, word, driver) IMAGE_KIND_##name,
        IMAGE_KINDS(X)
#undef X
                N_IMAGE_KINDS
};
#define IMAGE_KIND_WORDS "raw, qcow2, vmdk, vhdx, vdi or vhd"
const char *image_kind_to_string(enum image_kind kind);
/* 0 or -EINVAL. */
int image_kind_from_string(const char *word, enum image_kind *ret_kind);

enum image_hash { IMAGE_SHA1, IMAGE_SHA256, IMAGE_SHA512, N_IMAGE_HASHES };
#define IMAGE_HASH_HEX_SIZE 129 /* of the longest */
/* As in the manifests of appliances: "SHA1", "SHA256", "SHA512". 0 or -EINVAL. */
int image_hash_from_string(const char *word, enum image_hash *ret_hash);

/* How far a step has come, in bytes; `total` may be an estimate. Called a few times a second. */
typedef void (*image_progress_fn)(void *userdata, const char *step, uint64_t done, uint64_t total);

/* Of `length` bytes from `offset`, or with length 0 to the end; as many as were read are in *ret_bytes (may be NULL). The file's position does not
 * matter. */
int image_digest(int fd, uint64_t offset, uint64_t length, enum image_hash hash, image_progress_fn progress,
        void *userdata, char ret_hex[static IMAGE_HASH_HEX_SIZE], uint64_t *ret_bytes,
        struct error **ret_error);

/* Refuses by its header an image that refers to other files, or is no such image: CHECK_FAILED, BAD_DOCUMENT. `offset`: where it begins in
 * the file; length 0: to its end. */
int image_kind_check(int fd, uint64_t offset, uint64_t length, enum image_kind kind, const char *name,
        struct error **ret_error);

/* NO_SPACE once the file system of `fd` has less room than what is kept free there for guests: a hundredth of it, but at least 64 MiB and at
 * most 1 GiB. `name` is for messages. For whoever writes much, again and again. */
int image_keep_room(int fd, const char *name, struct error **ret_error);

struct image_conversion {
        const char *name; /* of the source, for messages */
        int fd;           /* open for reading */
        enum image_kind kind;
        uint64_t offset, length; /* the image within the file, such as an archive; length 0: all of it */

        int to_fd; /* open for writing; what is in it is lost */
        enum image_kind to_kind;
        bool stream; /* of vmdk: compressed, to be read from its beginning to its end */

        image_progress_fn progress; /* may be NULL */
        void *userdata;
};
struct image_converted {
        uint64_t virtual_bytes;
        uint64_t bytes;           /* size of the file */
        uint64_t allocated_bytes; /* and what it takes */
};
/* Durable on success; a failed one leaves to_fd half written. NO_SPACE, CHECK_FAILED, BAD_DOCUMENT, LOCKED, TOO_LARGE, QEMU_FAILED. */
int image_convert(const struct image_conversion *conversion, struct image_converted *ret_converted,
        struct error **ret_error);
