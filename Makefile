# Everything a contributor runs. `make run` and `make test` need Go, npm and make; they fetch the rest themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help

MODULES  := pkg/events pkg/service services/ingester services/query deploy deploy/auditlog
# The two that take longest begin first, or the last would run alone for minutes.
PACKAGES := ./deploy/auditlog/e2e ./services/ingester/app $(addprefix ./,$(addsuffix /...,$(MODULES)))
# Outside the workspace, for what they need is no program's business: tests of the files of deploy, and what packs a release.
APART := deploy/checks deploy/release
export CGO_ENABLED ?= 0

# What the programs say they are. The linker is told, for the compiler does not ask Git: so the same source gives the same bytes everywhere.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
BUILDINFO := example.com/auditlog/pkg/service/buildinfo
export STAMP := -X $(BUILDINFO).version=$(VERSION) -X $(BUILDINFO).commit=$(COMMIT) -X main.version=$(VERSION) -X main.commit=$(COMMIT)
GOFLAGS_BUILD := -trimpath -buildvcs=false -ldflags "$(STAMP)"
PROGRAMS := ./services/ingester ./services/query ./pkg/events/cmd/publish ./deploy/auditlog

# What a release is built for, and the time of its files: the commit's.
SYSTEMS ?= linux_amd64 linux_arm64 darwin_amd64 darwin_arm64
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

LINT_VERSION := v2.15.0
LINT := .tools/golangci-lint-$(LINT_VERSION)
SBOM_VERSION := v1.10.0
SBOM := .tools/cyclonedx-gomod-$(SBOM_VERSION)
VULN_VERSION := v1.9.0
VULN := .tools/govulncheck-$(VULN_VERSION)

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

.PHONY: backup
backup: bin/ingester ## Copy streams, buckets and table of the running system to DIR (a new folder below backups/)
	@bin/ingester backup "$(or $(DIR),backups/$(shell date -u +%Y%m%dT%H%M%SZ))"

.PHONY: restore
restore: bin/ingester ## Restore the backup in DIR into an empty NATS and ClickHouse: docs/backup.md
	@[ -n "$(DIR)" ] || { echo "say which one: make restore DIR=backups/..."; exit 2; }
	@bin/ingester restore "$(DIR)"

.PHONY: build
build: bin/ingester bin/query bin/publish bin/auditlog ## Build bin/ingester, bin/query, bin/publish and bin/auditlog

# Go knows best what is out of date.
.PHONY: bin/ingester bin/query bin/publish bin/auditlog
bin/ingester: ; @go build $(GOFLAGS_BUILD) -o $@ ./services/ingester
bin/query:    ; @go build $(GOFLAGS_BUILD) -o $@ ./services/query
bin/publish:  ; @go build $(GOFLAGS_BUILD) -o $@ ./pkg/events/cmd/publish
bin/auditlog: ; @go build $(GOFLAGS_BUILD) -o $@ ./deploy/auditlog

.PHONY: release
release: $(SBOM) ## Build dist/: an archive for each of SYSTEMS, with SBOMs and licences, and SHA256SUMS
	@rm -rf dist
	@for s in $(SYSTEMS); do echo "build $$s"; GOOS=$${s%_*} GOARCH=$${s#*_} go build $(GOFLAGS_BUILD) -o dist/build/$$s/ $(PROGRAMS) || exit 1; done
	@cd deploy/release && GOWORK=off go run . -version "$(VERSION)" -epoch "$(SOURCE_DATE_EPOCH)" -sbom-tool $(CURDIR)/$(SBOM)
	@rm -r dist/build

.PHONY: licences
licences: build $(SBOM) ## List what the programs link and under which licence; fails for one that is not permitted
	@cd deploy/release && GOWORK=off go run . -list $(CURDIR)/bin -sbom-tool $(CURDIR)/$(SBOM)

.PHONY: vulncheck
vulncheck: $(VULN) ## Look for known vulnerabilities in what is called (VULNDB=URL: of another database than vuln.go.dev)
	@for m in $(MODULES); do echo "vulncheck $$m"; (cd $$m && $(CURDIR)/$(VULN) $(if $(VULNDB),-db $(VULNDB)) ./...); rc=$$?; \
	  if [ $$rc = 3 ]; then echo "$$m calls what is known to be vulnerable, see above"; exit 1; fi; \
	  if [ $$rc != 0 ]; then echo "NOTHING WAS CHECKED: govulncheck could not do its work, see above. Its data are at vuln.go.dev; VULNDB=file:///FOLDER names a copy."; exit 1; fi; done

$(SBOM):
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools GOWORK=off go install -trimpath github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(SBOM_VERSION)
	@mv .tools/cyclonedx-gomod $@

$(VULN):
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools GOWORK=off go install golang.org/x/vuln/cmd/govulncheck@$(VULN_VERSION)
	@mv .tools/govulncheck $@

.PHONY: engine
engine: bin/auditlog ## Install the ClickHouse engine for the local stack and the tests (npm ci)
	@bin/auditlog --install-only

.PHONY: test
test: engine ## Run every test, on real NATS and real ClickHouse
	go test -timeout $(TEST_TIMEOUT) $(PACKAGES)
	@for m in $(APART); do echo "test $$m"; (cd $$m && GOWORK=off go test ./...) || exit 1; done

.PHONY: race
race: engine ## The same tests under the race detector
	CGO_ENABLED=1 go test -race -timeout 30m $(PACKAGES)

.PHONY: lint
lint: $(LINT) ## Vet, static analysis, formatting, tidy module files
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(CURDIR)/$(LINT) run ./...) || exit 1; done
	@for m in $(APART); do echo "lint $$m"; (cd $$m && GOWORK=off $(CURDIR)/$(LINT) run ./...) || exit 1; done
	@for m in $(MODULES) $(APART); do (cd $$m && GOWORK=off go mod tidy -diff) || { echo "go.mod of $$m is not tidy: run make tidy"; exit 1; }; done

$(LINT):
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools GOWORK=off go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv .tools/golangci-lint $@

.PHONY: tidy
tidy: ## Tidy every module and format every file
	@for m in $(MODULES) $(APART); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done
	gofmt -w $(MODULES) $(APART)

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
	rm -rf bin dist .tools
