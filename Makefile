# SPDX-License-Identifier: Apache-2.0
# A thin front: what each word does is in dev/ and meson.build.

BUILD ?= build
PREFIX ?= /usr/local

.PHONY: all demo test check bench fuzz coverage install uninstall clean

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup --prefix=$(PREFIX) $(BUILD)

# Boots a guest on one host of a lab and moves it to another (needs root).
demo:
	dev/install-packages
	$(MAKE) all
	dev/demo

# Unit tests, sanitizers, handoff model, system tests (needs root).
test:
	dev/install-packages
	dev/test

# Formatter, layers, ceilings, static analysis.
check:
	dev/install-packages
	dev/check

# Compares migrations with QEMU's own (needs root).
bench:
	dev/install-packages
	$(MAKE) all
	dev/bench

# Each fuzzer for some minutes; its corpus also runs in `make test`.
fuzz:
	dev/install-packages
	dev/fuzz

# Line coverage of src/ by unit, corpus and system tests (needs root).
coverage:
	dev/install-packages
	dev/coverage

install: all
	meson install -C $(BUILD) --no-rebuild

uninstall:
	ninja -C $(BUILD) uninstall

clean:
	rm -rf build build-* out
