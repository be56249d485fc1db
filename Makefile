# What one does with this repository; `make` lists it.
#
# Every target installs what it is missing (ops/deps.sh, Debian packages), so each works
# on a fresh machine that has a Rust toolchain. Builds go to `target`, or to
# CARGO_TARGET_DIR if that is set.

TARGET := $(or $(CARGO_TARGET_DIR),target)

# Arguments of `tierkv dev`, for `make dev ARGS=--ephemeral`.
ARGS ?=
# The cells of `make bench`; none means all but steady-writes, which takes ten minutes; with
# FULL=1 that one, too.
CELLS ?=
FULL ?=
# Another tierkv binary, which `make bench` then compares the one just built with.
BASELINE ?=
# They go as arguments; an empty variable in its environment would be a cell without a name.
unexport CELLS FULL BASELINE
# The platform of `make cluster`: its folder, how many data clusters it has and how many nodes each,
# and the ports of its first client coordinator.
CLUSTER_DIR ?= tierkv-cluster
CLUSTERS ?= 2
NODES ?= 3
REST ?= 7480
GRPC ?= 7400
# How often `make soak` kills the platform, and how many data folders of the last release
# it kills the migration of.
ROUNDS ?= 200

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: deps
deps: ## Install what the build needs
	ops/deps.sh build

.PHONY: build
build: deps ## Build the release binary
	cargo build --release --package tierkv-cli

.PHONY: dev
dev: build ## Run the whole platform in one process (ARGS=...)
	$(TARGET)/release/tierkv dev $(ARGS)

.PHONY: cluster
cluster: build ## Run a platform of many processes on this machine (CLUSTERS=2 NODES=3 REST=7480 GRPC=7400 CLUSTER_DIR=tierkv-cluster)
	ops/deps.sh cluster
	exec $(TARGET)/release/tierkv cluster --dir $(CLUSTER_DIR) --clusters $(CLUSTERS) --nodes $(NODES) --rest $(REST) --grpc $(GRPC)

# The tests start the binary that is built with them; building both in one go keeps cargo
# from building their dependencies twice.
.PHONY: test
test: ## Run every test, also against real servers
	ops/deps.sh test
	python3 -B -m unittest discover --quiet --start-directory ops/tests --top-level-directory ops
	cargo build --workspace --tests --bin tierkv
	cargo test --workspace

.PHONY: verify
verify: ## Check formats, lints, docs, licences and sources; changes nothing
	ops/deps.sh verify
	sh -n ops/deps.sh
	for script in .ci/run ops/bootstrap/scripts/*.sh; do bash -n $$script || exit 1; done
	python3 -c 'import ast, sys; [ast.parse(open(path).read(), path) for path in sys.argv[1:]]' ops/*.py ops/tierkv-ops ops/bootstrap/*.py ops/tests/*.py tests/outside/*.py
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --workspace
	cargo deny --locked check bans licenses sources

.PHONY: fix
fix: ## Format, and apply what clippy knows how to repair
	ops/deps.sh build
	cargo clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
	cargo fmt --all

.PHONY: soak
soak: ## Kill the platform many times under load (ROUNDS=200), play the deck of faults 20 times, and 100 failovers
	ops/deps.sh test
	cargo build --workspace --tests --bin tierkv
	TIERKV_DECK_ROUNDS=20 TIERKV_FAILOVER_ROUNDS=100 TIERKV_KILL_ROUNDS=$(ROUNDS) cargo test --workspace --test kill --test migration --test deck --test failover -- --nocapture

.PHONY: bench
bench: ## Measure the platform beside its peers (CELLS="hit-unary put-one"; FULL=1: the 10 minutes of steady-writes, too), or BASELINE=BINARY, another build of it
	ops/deps.sh test
	cargo build --release --package tierkv-cli --package tierkv-bench
	$(TARGET)/release/tierkv-bench $(if $(filter 1,$(FULL)),--full) $(if $(BASELINE),--baseline $(BASELINE)) $(CELLS)
