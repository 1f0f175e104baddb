/* SPDX-License-Identifier: Apache-2.0 */

/* drover-mover: the data path of one migration on one host. Started by the agent as `drover-mover source` or
 * `drover-mover sink` with the control socket as descriptor 3; for people there is `drover-mover decode`. */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include <sodium.h>

#include "base/doc.h"
#include "base/log.h"
#include "io/file.h"
#include "mover/compare.h"
#include "mover/decode.h"
#include "mover/probe.h"
#include "mover/sample.h"
#include "mover/sink.h"
#include "mover/source.h"

#define CONTROL_FD 3
#define DECODE_MAX_BYTES (256 * 1024 * 1024)

static int usage(FILE *out)
{
        fputs("Usage: drover-mover source|sink|sample|compare|probe-source|probe-sink      (started by "
              "drover-agent; control socket on descriptor 3)\n"
              "       drover-mover decode FILE      print the frames of a recording\n"
              "       drover-mover --version\n",
                out);
        return out == stdout ? 0 : 2;
}

static int decode(const char *path)
{
        _cleanup_free_ char *data = NULL;
        _cleanup_error_ struct error *error = NULL;
        size_t len = 0;
        int r = file_read(path, DECODE_MAX_BYTES, &data, &len);

        if (r < 0) {
                fprintf(stderr, "drover-mover: cannot read %s: %s\n", path, strerror(-r));
                return 1;
        }
        if (decode_frames((const uint8_t *)data, len, stdout, &error) < 0) {
                fprintf(stderr, "drover-mover: %s\n", error_message(error));
                return 1;
        }
        return 0;
}

static int serve(int (*run)(int control_fd, bool sandbox))
{
        int type = 0;
        socklen_t len = sizeof(type);

        if (getsockopt(CONTROL_FD, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET) {
                fputs("drover-mover: descriptor 3 is no control socket; drover-agent starts this program\n",
                        stderr);
                return 2;
        }
        signal(SIGPIPE, SIG_IGN);
        if (sodium_init() < 0) { /* before the sandbox: finds the fastest code for this processor */
                fputs("drover-mover: libsodium cannot be used\n", stderr);
                return 2;
        }
        return run(CONTROL_FD, true);
}

int main(int argc, char **argv)
{
        log_init("drover-mover", LOG_LEVEL_INFO);
        doc_wipe_freed(); /* keys come in them */
        if (argc == 2 && strcmp(argv[1], "source") == 0)
                return serve(source_run);
        if (argc == 2 && strcmp(argv[1], "sink") == 0)
                return serve(sink_run);
        if (argc == 2 && strcmp(argv[1], "sample") == 0)
                return serve(sample_run);
        if (argc == 2 && strcmp(argv[1], "compare") == 0)
                return serve(compare_run);
        if (argc == 2 && strcmp(argv[1], "probe-source") == 0)
                return serve(probe_source_run);
        if (argc == 2 && strcmp(argv[1], "probe-sink") == 0)
                return serve(probe_sink_run);
        if (argc == 3 && strcmp(argv[1], "decode") == 0)
                return decode(argv[2]);
        if (argc == 2 && strcmp(argv[1], "--version") == 0) {
                puts("drover-mover " DROVER_VERSION);
                return 0;
        }
        return usage(argc == 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
}
