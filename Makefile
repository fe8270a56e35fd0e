# make         the program, for this machine
# make demo    see it work, in a throw-away laboratory
# make quick   half a minute of tests, for every day
# make test    everything that CI runs, 10 minutes; ends with a summary
# make setup   install what the tests need (apt, as root); without root it tells what to install
# make bench   Paraglider beside its peers; tables in target/bench and benches/README.md
# make cross   the small static binaries of every board, or of TARGET; in target/dist/TARGET
# make dist    archives of them, with SHA256SUMS
# make ipk     packages for OpenWrt up to 24.10, for all architectures of openwrt/archs, or for ARCH; in target/dist
# make apk     the same for OpenWrt from 25.12 on; needs apk-tools 3
# make deb     Debian packages of them, or of ARCH (amd64, arm64, armhf, armel, mipsel); in target/dist
# make install what `make` built, under PREFIX (/usr/local), for systemd; make uninstall takes it out, not the config
# make boards  the package on an emulated board of every architecture; the table in tests/boards/README.md
# make board   the same on the quickest of them, aarch64
# make size    what each dependency and each module takes of the binary
# make fuzz    bytes -> config -> rules, for SECONDS (needs a nightly toolchain and cargo-fuzz)

SECONDS ?= 60
ARCHS = $(or $(ARCH),$(shell sed -n 's/^\([a-z0-9_-]*\) .*/\1/p' openwrt/archs))
TARGETS = $(shell sed -n 's/^\([a-z0-9_-]*\) .*/\1/p' cross/targets)

DEBS = amd64 arm64 armel armhf mipsel

PREFIX ?= /usr/local
DESTDIR ?=
BINARY ?= $(or $(BUILT_IN),target)/release/paraglider
BUILT_IN := $(CARGO_TARGET_DIR)
SBIN = $(DESTDIR)$(PREFIX)/sbin
MAN = $(DESTDIR)$(PREFIX)/share/man/man8
DOC = $(DESTDIR)$(PREFIX)/share/doc/paraglider
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
SYSTEMD = paraglider.service paraglider-watch.service paraglider-again.service paraglider-flushed.service
# Their starts take paraglider-again.service along, by links.
FIREWALLS := $(sort $(shell sed -n 's/^PartOf=//p' contrib/systemd/paraglider-flushed.service))

.PHONY: all help demo quick test test-cross test-openwrt bench cross dist ipk apk size setup fmt clippy shellcheck fuzz test-buildroot install uninstall test-linux test-twoboxes deb board boards owner

all:
	@tests/setup rust
	cargo build --release --locked

# It builds nothing: what root would build, the user could not clean. The config is the administrator's to write.
install:
	@[ -e "$(BINARY)" ] || { echo "$(BINARY) is missing: run make first, without sudo, or say BINARY=… if cargo builds elsewhere" >&2; exit 1; }
	install -d "$(SBIN)" "$(MAN)" "$(DOC)" "$(UNITS)"
	install -m 755 "$(BINARY)" "$(SBIN)/paraglider"
	install -m 644 man/paraglider.8 "$(MAN)/paraglider.8"
	install -m 644 man/glider.yaml "$(DOC)/glider.yaml"
	for unit in $(SYSTEMD); do \
		sed 's|/usr/sbin/|$(PREFIX)/sbin/|' "contrib/systemd/$$unit" >"$(UNITS)/$$unit" && chmod 644 "$(UNITS)/$$unit" || exit; \
	done
	for unit in $(FIREWALLS); do \
		install -d "$(UNITS)/$$unit.wants" && ln -sf ../paraglider-again.service "$(UNITS)/$$unit.wants/" || exit; \
	done

uninstall:
	rm -f "$(SBIN)/paraglider" "$(MAN)/paraglider.8" "$(DOC)/glider.yaml" $(SYSTEMD:%="$(UNITS)/%") \
		$(FIREWALLS:%="$(UNITS)/%.wants/paraglider-again.service")
	-@rmdir "$(DOC)" $(FIREWALLS:%="$(UNITS)/%.wants") 2>/dev/null || :

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

# What root builds, the user who called sudo could not replace: it goes into a directory of root's own, below one that is
# the user's.
ifdef SUDO_UID
demo quick test test-%: export CARGO_TARGET_DIR := $(or $(BUILT_IN),$(CURDIR)/target/root)
endif
owner:
	@[ -z "$$SUDO_UID" ] || [ -e target ] || install -d -o "$$SUDO_UID" -g "$$SUDO_GID" target

demo: owner
	@tests/setup demo
	cargo build --locked --quiet --bin paraglider --example demo
	cargo run --locked --quiet --example demo

quick: owner fmt
	@tests/setup demo
	@tests/quick

test: owner setup
	@tests/all

# tests/all has set up and built everything before it asks for the suites.
READY ?=
NEEDED = $(if $(READY),,setup cross)

# The recipe of docs/two-boxes.md in namespaces, with what it says of the time that a change of boxes takes.
test-twoboxes: $(if $(READY),,setup)
	cargo test --locked --test twoboxes -- --nocapture --test-threads=2

# The binaries of the boards, each of which does its job under qemu.
test-cross: $(NEEDED)
	cargo test --locked --test cross -- --nocapture --test-threads=2

# The packages, on a router that is made of busybox and namespaces.
test-openwrt: $(NEEDED)
	cargo test --locked --test openwrt -- --test-threads=2

# The Buildroot tree: its init script with the binary of a board like this machine, its recipe with crates in a place of
# their own, as Buildroot has them. What cannot be tried here is left out and said.
BOARD = target/dist/$(shell uname -m)-unknown-linux-musl/paraglider
test-buildroot: $(if $(READY),,setup)
	@skip=; \
	if [ ! -x $(BOARD) ]; then \
		echo "skipped: Buildroot's init script: $(BOARD) is missing (make cross)"; \
		skip="--skip init:: --skip watch::"; \
	fi; \
	if ! CARGO_HOME='$(CURDIR)/target/buildroot/dl/br-cargo-home' cargo fetch --locked --quiet; then \
		echo "skipped: Buildroot's build from source: cargo cannot fetch the crates"; \
		skip="$$skip --skip from_source"; \
	fi; \
	cargo test --locked --test buildroot -- --test-threads=2 $$skip

# What `make install` and `make deb` install, under a systemd of its own where that can be had.
test-linux: $(if $(READY),,setup)
	cargo test --locked --test linux -- --nocapture --test-threads=2

# Real kernels in qemu. The kernel and the programs of this board, the quickest to come and to boot, have three minutes.
board: $(NEEDED)
	@if tests/boards/setup first; then PARAGLIDER_FETCH_SECONDS=180 timeout -k 9 900 \
		cargo test --locked --test boards -- --exact --nocapture --test-threads=1 \
		story::aarch64 clock::the_date_jumps_while_backends_are_checked; \
	else echo "skipped: board: what tests/boards/setup needs is missing"; fi

boards: setup cross
	@if tests/boards/setup; then rm -rf target/boards/seen && timeout -k 9 7200 \
		cargo test --locked --test boards -- --nocapture --test-threads=1 && tests/boards/table; \
	else echo "skipped: boards: what tests/boards/setup needs is missing"; fi

setup:
	@tests/setup

# A toolchain may come without these two; then it is said, not hidden.
fmt:
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "skipped: fmt: this toolchain has no rustfmt"; fi

clippy:
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --locked --all-targets -- -D warnings; \
	else echo "skipped: clippy: this toolchain has no clippy"; fi

# All scripts: what makes one is its first line. (Variables of init scripts are read by others, and files of routers are
# not here.)
shellcheck:
	@grep -rlE -e '^#!/bin/(ba)?sh' -e '^#!/usr/bin/env bash' -e '^# shellcheck shell=' \
		.ci buildroot contrib cross openwrt/files openwrt/pack tests --exclude='*.rs' | \
		xargs shellcheck -e SC1090,SC1091,SC2016,SC2034

# Peers that cannot be installed are said to be missing, and the rest is measured, with the binary of the boards.
bench: setup
	-@[ "$$(id -u)" != 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		haproxy iperf3 libnginx-mod-stream nftlb nginx >/dev/null
	-@tests/boards/setup $$(uname -m)
	@cross/setup
	cross/build $$(uname -m)-unknown-linux-musl
	cargo build --release --locked
	PARAGLIDER_PROGRAM='$(CURDIR)/$(BOARD)' cargo bench --locked --bench peers

cross:
	@cross/setup
	@printf '%s\n' $(or $(TARGET),$(TARGETS)) | xargs -P "$$(nproc)" -n 1 cross/build

dist: cross
	@set -e; for target in $(or $(TARGET),$(TARGETS)); do cross/archive $$target; done

ipk apk:
	@cross/setup
	@set -e; for arch in $(ARCHS); do target=$$(openwrt/pack target $$arch); cross/build $$target; done; \
	for arch in $(ARCHS); do openwrt/pack $@ $$arch || failed=1; done; [ -z "$$failed" ]

# A word that is no architecture ends it before anything is installed or built.
deb: TARGET = $(foreach arch,$(or $(ARCH),$(DEBS)),$(or $(shell contrib/debian/build target $(arch)),$(error no package for $(arch))))
deb: cross
	@set -e; for arch in $(or $(ARCH),$(DEBS)); do contrib/debian/build $$arch; done

size:
	@cross/setup
	@cross/size $(TARGET)

fuzz:
	mkdir -p fuzz/corpus/config
	cargo +nightly fuzz run config fuzz/corpus/config tests/golden/configs -- -max_total_time=$(SECONDS) -max_len=4096
