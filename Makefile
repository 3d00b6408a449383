# Antipode. `make` lists the targets; Go is all that most of them need.

GO ?= go
# What `make run` passes on: make run ARGS="--regions eu,us --delay 80ms"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help build run up down ps logs demo sim fuzz soak test test-go test-race test-pure test-plain test-browser test-infra test-real deps bench bench-ipconf bench-log bench-replicator bench-routes bench-edge bench-restart lint vet fmt generate generate-check vuln clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/antipode
	$(GO) build -o bin/antipode ./cmd/antipode

run: build ## start three regions on this machine (ARGS="--fresh" forgets their data)
	@exec bin/antipode dev $(ARGS)

# What make up runs differently from cluster.yaml: make up KAFKA_BROKERS=3 DATABASES=2 IMSERVERS=2 ROUTERS=2
CLUSTER_SET := $(if $(KAFKA_BROKERS),--set kafka.brokers=$(KAFKA_BROKERS)) $(if $(DATABASES),--set postgres.databases=$(DATABASES)) \
	$(if $(IMSERVERS),--set services.imserver=$(IMSERVERS)) $(if $(ROUTERS),--set services.router=$(ROUTERS))

up: build deps ## start three regions of real servers, each part a process (ARGS=--fresh forgets their data)
	@bin/antipode cluster up --detach $(CLUSTER_SET) $(ARGS)

bin/antipode: # what runs is looked at and stopped by what is there, also where the code does not build now
	@$(MAKE) --no-print-directory build

down: bin/antipode ## stop what make up started
	@bin/antipode cluster down

ps: bin/antipode ## list the parts of make up and how they are
	@bin/antipode cluster ps

logs: bin/antipode ## show and follow what they say (ARGS=eu/kafka: of one part)
	@bin/antipode cluster logs -f $(ARGS)

demo: build ## send messages while links and a gateway fail, and check the invariants
	bin/antipode demo $(ARGS)

# An hour of three regions in each run, with faults; a run that breaks an invariant is made small and shown.
SIM_RUNS ?= 1000
SIM_FIRST ?= 1

sim: ## simulate the regions (SIM_RUNS=1000 worlds from the seed SIM_FIRST=1 on), and check that it finds deliberate bugs
	SIM_RUNS=$(SIM_RUNS) SIM_FIRST=$(SIM_FIRST) $(GO) test -count 1 -timeout 30m -v -run 'TestSimulator|TestMutations|TestRegressions' ./internal/simulator

# Each target takes so long, little of it to shorten inputs: those of the pure cores are long.
# What breaks one is kept in testdata/fuzz beside it, and tested from then on.
FUZZ ?= 30s

fuzz: ## fuzz what decodes others' bytes, and the pure cores (FUZZ=30s each; 12 minutes)
	@set -e; for at in ./gateway ./gateway/auth ./gateway/ws ./wire ./internal/proxied ./internal/kafka \
	    ./im ./imserver/view ./ipconf/rank ./router/routes ./client/timeline; do \
	  for target in $$($(GO) test -list '^Fuzz' $$at | grep '^Fuzz'); do \
	    echo "$$at $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ) -fuzzminimizetime 20x $$at; \
	  done; done

# Each part takes so long; make test plays a few seconds of it.
SOAK ?= 3m

soak: ## beset a gateway with garbage, and have clients talk through bad networks (SOAK=3m each)
	$(GO) test -race -count 1 -timeout 1h -v -run TestSoak ./gateway -soak.for $(SOAK)
	$(GO) test -race -count 1 -timeout 1h -v ./test/weak -weak.for $(SOAK) -weak.period 5s

# Both at once: either waits much of its time, for what it tests or for Chromium.
test: ## run every test
	@$(MAKE) --no-print-directory -j 2 --output-sync=target test-race test-plain

test-go: test-race test-pure ## run all but the browser and infrastructure tests

test-plain: # one after the other, as they compile the same
	@$(MAKE) --no-print-directory test-browser
	@$(MAKE) --no-print-directory test-pure

# Browser tests drive a real Chromium: the race detector would slow the servers beside it, and has seen all the Go code
# in the other tests already.
BROWSER := ./test/browser/...

# These need terraform and promtool, which a developer of the services need not have.
INFRA := ./test/terraform ./test/observability

# Nothing in these is concurrent, and they have much to compute: the race detector would only slow them.
PURE := ./imserver/view ./internal/simulator ./ipconf/storm

# The longest begin first, so that nothing waits for one of them alone at the end; two at once beside the browser: more would make each other late.
LONG := ./test/dev ./gateway ./internal/postgres ./replicator ./test/weak

# -timeout is for what hangs: a busy machine may take several times as long as a quiet one. make vet vets, and more than go test does.
test-race: ## run the tests with the race detector, but those that have nothing for it to see
	$(GO) test -race -p 2 -vet=off -timeout 15m $$($(GO) list $(LONG) ./... | grep -vFx "$$($(GO) list $(PURE) $(BROWSER) $(INFRA))")

test-pure: ## run those
	$(GO) test -vet=off -skip TestMutations $(PURE) # make sim runs these

test-browser: ## run the browser tests (they say so where no Chromium is found)
	$(GO) test -timeout 15m $(BROWSER)

test-infra: ## run the tests of terraform/ and observability/ (need terraform and promtool)
	cd terraform/modules/region-spec && terraform init -backend=false -input=false >/dev/null && terraform test
	$(GO) test -timeout 5m $(INFRA)

deps: ## fetch Kafka and build Consul for real regions on this machine (once; 3 minutes)
	@tools/deps

# They start real servers, which take the machine: one package at a time.
test-real: deps ## run the tests on real Kafka, PostgreSQL, Redis and Consul (15 minutes)
	$(GO) test -tags real -p 1 -count 1 -timeout 20m ./test/real/...

bench-log: deps ## print the figures of bench/README.md, a line each: name value unit
	@bench/log

bench-replicator: ## measure the replicator beside MirrorMaker 2 (ARGS="-records 1000000 -kills 100": as the goals say)
	@tools/deps mirror >&2
	@$(GO) run ./bench/replicator $(ARGS)

bench-routes: ## print what routes cost and how fast they are, a line each: name value unit
	@bench/routes/run

bench-ipconf: ## print ipconf's figures of bench/README.md, a line each: name value unit (2 minutes)
	@bench/ipconf

EDGE_PEER := bench/edge/centrifugo

bench-edge: deps ## measure the gateway's sockets beside Centrifugo and a bare write() loop, and what a killed gateway or region does to 2,000 clients (10 minutes; ARGS="-idle 2000" for less)
	cd $(EDGE_PEER) && $(GO) build -o ../../../bin/centrifugo github.com/centrifugal/centrifugo/v5
	$(GO) build -o bin/edge ./bench/edge
	@bin/edge -centrifugo bin/centrifugo $(ARGS)
	@bin/edge failover

bench-restart: deps ## measure what 5,000 clients see of a gateway's hot restart, in a region of real servers (2 minutes)
	@$(GO) test -tags real -count 1 -timeout 10m -run '^$$' -bench HotRestart -benchtime 1x ./test/real/service | tee /dev/stderr | grep ^Benchmark >/dev/null

bench: ## run the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint: ## run golangci-lint, the formatter's check, and the check of deploy/
	tools/run golangci-lint run ./...
	tools/run deploylint deploy/Dockerfile deploy/compose.yaml
	@unformatted=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs tools/run gofumpt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi

vet: ## run go vet
	$(GO) vet -tags real ./...

fmt: ## format the code
	git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs tools/run gofumpt -w

generate: ## generate code from the schema in proto/
	tools/run buf generate

generate-check: ## check the schema, its compatibility, and that its generated code is current
	tools/generate-check

vuln: ## look for known vulnerabilities in what is called (needs the Go vulnerability database)
	tools/run govulncheck ./...

clean: ## remove what was built; the data of make run stays (make run ARGS=--fresh)
	rm -rf bin
