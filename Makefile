# make demo    see it work, in a throw-away laboratory
# make test    everything that CI runs
# make setup   install what these need (apt, as root); without root it tells what to install
# make bench   Paraglider beside its peers; tables in target/bench and benches/README.md
# make fuzz    bytes -> config -> rules, for SECONDS (needs a nightly toolchain and cargo-fuzz)

SECONDS ?= 60

.PHONY: all demo test bench setup fmt clippy fuzz

all:
	cargo build --release --locked

demo: setup
	cargo build --locked --quiet --bin paraglider --example demo
	cargo run --locked --quiet --example demo

test: setup fmt clippy
	cargo test --locked --lib --test cli --test golden
	cargo build --locked --example demo
	cargo test --locked --test netns

setup:
	@tests/setup

# A toolchain may come without these two; then it is said, not hidden.
fmt:
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "skipped: fmt: this toolchain has no rustfmt"; fi

clippy:
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --locked --all-targets -- -D warnings; \
	else echo "skipped: clippy: this toolchain has no clippy"; fi

# Peers that cannot be installed are said to be missing, and the rest is measured.
bench: setup
	-@[ "$$(id -u)" != 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		haproxy iperf3 libnginx-mod-stream nftlb nginx >/dev/null
	cargo build --release --locked
	cargo bench --locked --bench peers

fuzz:
	mkdir -p fuzz/corpus/config
	cargo +nightly fuzz run config fuzz/corpus/config tests/golden/configs -- -max_total_time=$(SECONDS) -max_len=4096
