# Everything a contributor runs. `make run` and `make test` need Go, npm and make; they fetch the rest themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help

MODULES  := pkg/events pkg/service services/ingester services/query deploy deploy/auditlog
PACKAGES := $(addprefix ./,$(addsuffix /...,$(MODULES)))
# Tests of the files of deploy, outside the workspace: what they need is no program's business.
CHECKS := deploy/checks
export CGO_ENABLED ?= 0

# What the programs say they are. The linker is told, for the compiler does not ask Git: so the same source gives the same bytes everywhere.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
BUILDINFO := example.com/auditlog/pkg/service/buildinfo
export STAMP := -X $(BUILDINFO).version=$(VERSION) -X $(BUILDINFO).commit=$(COMMIT) -X main.version=$(VERSION) -X main.commit=$(COMMIT)
GOFLAGS_BUILD := -trimpath -buildvcs=false -ldflags "$(STAMP)"

LINT_VERSION := v2.15.0
LINT := .tools/golangci-lint-$(LINT_VERSION)

TEST_TIMEOUT ?= 15m
FUZZ_TIME    ?= 20s
CHAOS_TIME   ?= 2m
EVENTS       ?= 1000000
QUERY_EVENTS ?= 10000000

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: run
run: bin/auditlog ## Run the whole system here: NATS, ClickHouse, ingester, query service (data in .data/)
	@exec bin/auditlog

.PHONY: deps
deps: bin/auditlog ## Run NATS and ClickHouse alone, for running the services by hand
	@exec bin/auditlog --deps-only

.PHONY: demo
demo: bin/auditlog bin/publish ## Publish a generated day of a fictional company to the running system, or FILE=x.ndjson[.gz]
	@bin/auditlog demo $(if $(FILE),"$(FILE)")

.PHONY: build
build: bin/ingester bin/query bin/publish bin/auditlog ## Build bin/ingester, bin/query, bin/publish and bin/auditlog

# Go knows best what is out of date.
.PHONY: bin/ingester bin/query bin/publish bin/auditlog
bin/ingester: ; @go build $(GOFLAGS_BUILD) -o $@ ./services/ingester
bin/query:    ; @go build $(GOFLAGS_BUILD) -o $@ ./services/query
bin/publish:  ; @go build $(GOFLAGS_BUILD) -o $@ ./pkg/events/cmd/publish
bin/auditlog: ; @go build $(GOFLAGS_BUILD) -o $@ ./deploy/auditlog

.PHONY: engine
engine: bin/auditlog ## Install the ClickHouse engine for the local stack and the tests (npm ci)
	@bin/auditlog --install-only

.PHONY: test
test: engine ## Run every test, on real NATS and real ClickHouse
	go test -timeout $(TEST_TIMEOUT) $(PACKAGES)
	cd $(CHECKS) && GOWORK=off go test ./...

.PHONY: race
race: engine ## The same tests under the race detector
	CGO_ENABLED=1 go test -race -timeout 30m $(PACKAGES)

.PHONY: lint
lint: $(LINT) ## Vet, static analysis, formatting, tidy module files
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(CURDIR)/$(LINT) run ./...) || exit 1; done
	@echo "lint $(CHECKS)"; cd $(CHECKS) && GOWORK=off $(CURDIR)/$(LINT) run ./...
	@for m in $(MODULES) $(CHECKS); do (cd $$m && GOWORK=off go mod tidy -diff) || { echo "go.mod of $$m is not tidy: run make tidy"; exit 1; }; done

$(LINT):
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools GOWORK=off go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv .tools/golangci-lint $@

.PHONY: tidy
tidy: ## Tidy every module and format every file
	@for m in $(MODULES) $(CHECKS); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done
	gofmt -w $(MODULES) $(CHECKS)

.PHONY: fuzz
fuzz: ## Fuzz each fuzz target for FUZZ_TIME (20s)
	@grep -rlE '^func Fuzz' --include='*_test.go' $(MODULES) | while read -r f; do \
	  for t in $$(grep -oE '^func Fuzz[A-Za-z0-9_]+' $$f | cut -c6-); do \
	    echo "fuzz $$t ($$(dirname $$f))"; .ci/fuzz "$$t" $(FUZZ_TIME) ./$$(dirname $$f) || exit 1; \
	  done; done

.PHONY: bench
bench: build engine ## Measure publishing, ingest and freshness against the bare engines (EVENTS=1000000)
	go run ./deploy/auditlog/bench -events $(EVENTS)

.PHONY: bench-query
bench-query: build engine ## Measure reading through the API against the same SQL without it (QUERY_EVENTS=10000000)
	go run ./deploy/auditlog/bench -only query -events $(QUERY_EVENTS)

.PHONY: chaos
chaos: engine ## Break everything at random while events flow, then check the log (CHAOS_TIME=2m, SEED=N)
	go run ./deploy/auditlog/chaos -for $(CHAOS_TIME) $(if $(SEED),-seed $(SEED))

.PHONY: chaos-proof
chaos-proof: engine ## Show that the chaos run finds mistakes that are put into the ingester on purpose
	go run ./deploy/auditlog/chaos -proof

.PHONY: up
up: ## Run the system in containers, wait until it is ready, print a demo key and a curl line
	@deploy/up.sh

.PHONY: down
down: ## Stop the containers; the data volumes stay
	docker compose down

.PHONY: clean
clean: ## Remove what was built; .data/ stays
	rm -rf bin .tools
