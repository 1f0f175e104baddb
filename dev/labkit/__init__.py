# SPDX-License-Identifier: Apache-2.0
"""What dev/lab, dev/guest, dev/qemu, dev/demo and the system tests share. Standard library only."""
