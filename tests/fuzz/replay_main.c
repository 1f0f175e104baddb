/* SPDX-License-Identifier: Apache-2.0 */

/* Stands in for libFuzzer: runs the target once over every file of the folders and files named on the command
 * line, so that whatever a fuzzer once found is an ordinary test everywhere. */

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX_BYTES (16 * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
        FILE *f = fopen(path, "rb");
        uint8_t *data = f ? malloc(INPUT_MAX_BYTES) : NULL;
        uint8_t *exact;
        size_t n;

        if (!data) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                if (f)
                        fclose(f);
                return 1;
        }
        n = fread(data, 1, INPUT_MAX_BYTES, f);
        fclose(f);
        exact = malloc(n ? n : 1); /* of this very size, so that a sanitizer sees a read beyond it */
        if (exact) {
                memcpy(exact, data, n);
                (void)LLVMFuzzerTestOneInput(exact, n);
        }
        free(exact);
        free(data);
        return exact ? 0 : 1;
}

static int run_folder(const char *path, unsigned int *count)
{
        struct dirent **names;
        int n = scandir(path, &names, NULL, alphasort), failed = 0;

        if (n < 0) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                return 1;
        }
        for (int i = 0; i < n; i++) {
                char file[4096];

                snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
                if (names[i]->d_name[0] != '.') {
                        failed |= run_file(file);
                        (*count)++;
                }
                free(names[i]);
        }
        free(names);
        return failed;
}

int main(int argc, char **argv)
{
        unsigned int count = 0;
        int failed = 0;

        for (int i = 1; i < argc; i++) {
                struct stat st;

                if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
                        failed |= run_folder(argv[i], &count);
                } else {
                        failed |= run_file(argv[i]);
                        count++;
                }
        }
        printf("%u inputs\n", count);
        return failed || !count; /* an empty corpus tests nothing */
}
