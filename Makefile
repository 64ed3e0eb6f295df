# Every verb of the repository. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# An installed Rust of another name, where rustup would download the one that rust-toolchain.toml names.
ifndef RUSTUP_TOOLCHAIN
picked := $(shell . tests/toolchain; printf '%s' "$$RUSTUP_TOOLCHAIN")
ifneq ($(picked),)
export RUSTUP_TOOLCHAIN := $(picked)
endif
endif

.PHONY: help
help: ## List the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: ## Set everything up and watch Meshwright do its job on a real Kubernetes
	@tests/run demo

.PHONY: demo-down
demo-down: ## Take the demo's cluster down
	@tests/cluster/cluster down --own demo

.PHONY: test
test: ## Set everything up and run every test: pure, session, API, Envoy, node
	@tests/run all

.PHONY: test-fast
test-fast: ## The inner loop: unit tests only, no cluster, no Envoy
	@tests/run fast

.PHONY: test-api
test-api: ## Everything but the node tier: the tests that need an API server or an Envoy
	@tests/run api

.PHONY: test-node
test-node: ## The node tier alone: the promises of the README on a real node
	@tests/run node

.PHONY: test-floor
test-floor: ## The first promises again, on the oldest Kubernetes that we support
	@tests/run floor

.PHONY: bench
bench: ## Fleets, calls, pods and admission, measured next to the bare minimum (numbers only, release build)
	@tests/run bench

.PHONY: fuzz
fuzz: ## Feed the ways in (fuzz/) with made-up bytes: MINUTES=10 each; needs a nightly Rust and cargo-fuzz
	@tests/fuzz $(or $(MINUTES),10)

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: lint
lint: ## Formatting and clippy, warnings denied
	@cargo fmt --all -- --check
	@cargo clippy --workspace --all-targets -- -D warnings

.PHONY: generate
generate: ## Write the generated files (crds/yaml, docs/security/rights.md, the Helm chart's templates)
	@cargo run -q --example generate
	@cargo run -q --example rights
	@cargo run -q --example chart

.PHONY: check-generated
check-generated: generate ## Fail when a generated file is not up to date
	@git diff --exit-code --stat -- crds/yaml config/crd config/helm docs/security/rights.md \
	  || { echo 'generated files differ from what is committed: run "make generate" and commit'; exit 1; }

.PHONY: deny
deny: ## Licenses, banned crates, sources and known vulnerabilities of every dependency
	@tests/deny

.PHONY: admission
admission: ## Judge config/admission (fences around the operator) with CEL's own runtime
	@tests/admission

.PHONY: images
images: ## Build the images and load them into the cluster that `tests/cluster/cluster` runs (NAME=dev)
	@tests/run images $(or $(NAME),dev)

.PHONY: ci
ci: ## What CI runs
	@.ci/run
