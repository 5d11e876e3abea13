# `make help` lists the targets; .ci/run has those that continuous integration runs.

GOLANGCI_LINT = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   = go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME      = 10s

# ./... skips directories that begin with an underscore, so the example is named.
PACKAGES = ./... ./_example
# Every module below this one: those that `make test` tests with the root, those with a target of their own, and the
# others, which `make check` adds.
MODULES  = $(shell find . -mindepth 2 -name go.mod -not -path '*/.*' -exec dirname {} \; | sort)
QUICK    = $(filter ./extra/% ./_example/%,$(MODULES))
APART    = ./_compat ./console/browser
SLOW     = $(filter-out $(QUICK) $(APART),$(MODULES))

# No test may be skipped for want of a Redis, no go.work may change what is built,
# and a checkout that belongs to another user (a container's volume) is no reason to fail.
export REQUIRE_REDIS = 1
# The metrics' tests that run a Prometheus skip where there is none, but not in continuous integration.
export REQUIRE_PROMTOOL = $(if $(CI),1)
browser: export REQUIRE_CHROMIUM = 1
export GOWORK        = off
export GOFLAGS      += -buildvcs=false

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test check lint test-slow test-386 compat browser bench verify verify-quick fuzz govulncheck tools chromium

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Tests of everything are not vetted again: lint does that, and more.
TEST = test -shuffle=on -vet=off

# $(call test-module,directory,flags) tests a module.
define test-module
	go -C $(1) $(TEST) $(2) ./...

endef

test: tools ## the root, the console, the example and extra/*, under the race detector: minutes
	go $(TEST) -race $(PACKAGES)
	$(foreach module,$(QUICK),$(call test-module,$(module),-race))

check: lint test test-slow test-386 ## test, lint, the modules that take longer, and 32 bits: what every change has to pass

lint: ## gofmt, go mod tidy, go build and golangci-lint, which includes go vet, in every module
	@set -e; files=$$(gofmt -s -l .); \
	if [ -n "$$files" ]; then echo "not formatted, run gofmt -s -w on:" $$files >&2; exit 1; fi
	@set -e; for module in . $(MODULES); do \
		packages=./...; if [ $$module = . ]; then packages="$(PACKAGES)"; fi; \
		echo "lint $$module"; \
		go -C $$module mod tidy -diff; \
		go -C $$module build -o /dev/null $$packages; \
		(cd $$module && $(GOLANGCI_LINT) run $$packages); \
	done

# What _bench measures is too slow under the race detector.
test-slow: tools ## _bench, _release and the short _verify
	$(foreach module,$(SLOW),$(call test-module,$(module),-short $(if $(filter-out ./_bench,$(module)),-race)))

test-386: tools ## the root module where int has 32 bits; only compiled where such programs do not run
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	GOOS=linux GOARCH=386 CGO_ENABLED=0 go test -c -o "$$dir/probe" ./internal/bucket; \
	if "$$dir/probe" -test.run '^$$' >/dev/null 2>&1; then \
		GOARCH=386 CGO_ENABLED=0 go test -short -shuffle=on ./...; \
	else \
		echo "this machine cannot run linux/386: compiled, not run"; \
		GOOS=linux GOARCH=386 CGO_ENABLED=0 go test -short -exec true ./... >/dev/null; \
	fi

compat: tools ## limiters among gin-contrib's middlewares and otelgin, in every legal order
	$(call test-module,./_compat,-race)

browser: chromium ## the console in headless Chromium
	$(call test-module,./console/browser,-race)

bench: tools ## this library against its peers, side by side
	go -C _bench run .

verify: tools ## model checking, linearizability, faults, many processes: minutes
	go -C _verify test -count=1 -timeout 30m ./...

verify-quick: tools ## the same, cut short for every change
	go -C _verify test -count=1 -short -race ./...

fuzz: tools ## each fuzz target of the root package in turn, for FUZZTIME (default 10s)
	@set -e; targets=$$(go test -list '^Fuzz' . | sed -n '/^Fuzz/p'); \
	for target in $$targets; do \
		echo "fuzz $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .; \
	done

govulncheck: ## known vulnerabilities in what we call, in every module; needs the network
	@set -e; for module in . $(MODULES); do \
		echo "govulncheck $$module"; \
		$(GOVULNCHECK) -C $$module ./...; \
	done

# Installs $$missing, if it can.
install = if [ -z "$$missing" ]; then exit 0; fi; \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	if ! command -v apt-get >/dev/null || ! command -v $${sudo:-sh} >/dev/null; then \
		echo "Missing here: $$missing. Install it (redis-server: version 6 or later), then run make again." >&2; exit 1; \
	fi; \
	echo "install $$missing"; \
	$$sudo apt-get -qq update || true; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null

tools: # a redis-server for the tests and the C compiler that the race detector needs
	@set -e; missing=; \
	command -v redis-server >/dev/null || missing="redis-server"; \
	command -v $$(go env CC) >/dev/null || missing="$$missing gcc libc6-dev"; \
	if [ -n "$(CI)" ] && ! command -v promtool >/dev/null; then missing="$$missing prometheus"; fi; \
	if [ -n "$(CI)" ] && ! command -v lua5.4 >/dev/null; then missing="$$missing lua5.4"; fi; \
	$(install)

chromium: tools
	@set -e; missing=; \
	command -v chromium >/dev/null || missing="chromium"; \
	$(install)
