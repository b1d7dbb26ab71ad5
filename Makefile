# Tether. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Upstream's packages that are compiled without inlining, which makes edgecore 4 MB smaller: what runs at start or now and
# then (validation, conversion, CEL, etcd's types, YAML), the kubelet, which waits for the kernel and the runtime, and the
# types of the API, whose encoding it slows by about a tenth. Not what objects and bytes go through all the time
# (apimachinery, caches, protobuf, TLS, HTTP, the store), and not go.opentelemetry.io, which grows without.
COLD := k8s.io/kubernetes k8s.io/api k8s.io/apiserver/pkg/cel github.com/google/cel-go go.etcd.io go.yaml.in/yaml gopkg.in/yaml.v3

# One set of flags for every build, vet and test, so that all share one build cache: a cold one costs six minutes.
#   grpcnotrace  keeps html/template out of edgecore (25 MB)
#   buildvcs     the commit is stamped below; Go's own look at git fails in a clone that another user owns
#   gcflags      -l for the packages above, and for no others
export GOFLAGS := -trimpath -tags=grpcnotrace -buildvcs=false $(foreach p,$(COLD),-gcflags=$(p)/...=-l)
# SQLite is C.
export CGO_ENABLED := 1

BIN   ?= bin
STATE := .tether
MODULE := github.com/tether-edge/tether
PROGRAMS := ./cloud/cmd/cloudcore ./edge/cmd/edgecore ./common/cmd/keadm ./cloud/cmd/controlplane

VERSION ?= $(shell git describe --tags --match 'v*' 2>/dev/null || echo v0.1.0-dev)
COMMIT  ?= $(shell git -c safe.directory='*' describe --always --dirty --exclude '*' --abbrev=12 2>/dev/null || echo unknown)
# The commit's time, not the build's: the same commit gives the same binaries. An edge takes it for past.
COMMITTED ?= $(shell TZ=UTC git -c safe.directory='*' log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
# Taken from go.mod, as everything that asks for a Kubernetes version.
KUBERNETES = $(shell awk '$$1 == "k8s.io/kubernetes" { print $$2 }' go.mod)
K8S_PARTS  = $(subst ., ,$(KUBERNETES:v%=%))
# client-go has a version of its own, which the User-Agent carries.
STAMP_K8S = $(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,\
  -X $(p).gitVersion=$(KUBERNETES) -X $(p).gitMajor=$(word 1,$(K8S_PARTS)) -X $(p).gitMinor=$(word 2,$(K8S_PARTS)) \
  -X $(p).gitCommit=unknown -X $(p).gitTreeState=clean)
# Functions aligned to 16 bytes, as code fetches want them, and not to the default 32: 0.6 MB less of edgecore.
LDFLAGS = -s -w -funcalign=16 $(strip $(STAMP_K8S)) \
  -X $(MODULE)/common/version.version=$(VERSION) -X $(MODULE)/common/version.commit=$(COMMIT) \
  -X $(MODULE)/common/version.kubernetes=$(KUBERNETES) -X $(MODULE)/common/version.committed=$(COMMITTED)

# With -v, Go names each package that it compiles: counted instead of shown.
PROGRESS = awk '/^[A-Za-z0-9._\/-]+$$/ { if (++n % 200 == 0) print "  " n " packages compiled"; next } { print } END { if (n >= 200) print "  " n " packages compiled" }'

# Race-checked are all whose tests link neither k8s.io/kubernetes nor k8s.io/apiserver: with them the detector would
# compile all of Kubernetes once more and find upstream's races, not ours. Of those that link the latter alone ours are
# checked too, beside the unit tests. Those under tests/ bring up real things and go
# one at a time.
TEST_LIST = go list -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... | \
  awk '$$1 ~ /\.test$$/ { kube = / k8s\.io\/(kubernetes|apiserver)\// && $$1 !~ /\/(cloud\/tunnel|edge\/kubeapi)\.test$$/; real = $$1 ~ /\/tests\//; sub(/\.test$$/, "", $$1); print (kube ? "kube" : real ? "real" : "unit"), $$1 }'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: goflags
goflags: ## print the flags, for go by hand: export CGO_ENABLED=1 GOFLAGS="$(make goflags)"
	@echo "$(GOFLAGS)"

.PHONY: tools
tools:
	@command -v go >/dev/null || { echo "make: expected Go $(shell awk '$$1 == "go" { print $$2 }' go.mod) or newer in PATH, found none. Install it from https://go.dev/dl and put its bin directory into PATH." >&2; exit 1; }
	@go version >/dev/null || { echo "make: expected Go $(shell awk '$$1 == "go" { print $$2 }' go.mod) or newer, found $$(GOTOOLCHAIN=local go version | cut -d' ' -f3), which could not fetch it. Install it from https://go.dev/dl." >&2; exit 1; }
	@command -v "$$(go env CC)" >/dev/null || { echo "make: expected a C compiler ($$(go env CC)) for SQLite, found none. Install one: apt-get install gcc libc6-dev" >&2; exit 1; }

.PHONY: build
build: tools ## build cloudcore, edgecore, keadm and controlplane into bin/
	@echo "building cloudcore, edgecore, keadm and controlplane $(VERSION) with Kubernetes $(KUBERNETES) into $(BIN)/ (seconds when the cache is warm, about 6 minutes on 2 cores when it is cold)"
	@mkdir -p $(BIN)
	@go build -v -ldflags '$(LDFLAGS)' -o $(BIN)/ $(PROGRAMS) 2>&1 | $(PROGRESS)
	@du -h --apparent-size $(addprefix $(BIN)/,$(notdir $(PROGRAMS))) | sed 's/^/  /'

.PHONY: mapper
mapper: tools ## build the mappers for simulated devices and Modbus into bin/mapper
	@mkdir -p $(BIN)
	@go build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./edge/cmd/mapper
	@du -h --apparent-size $(BIN)/mapper | sed 's/^/  /'

.PHONY: man
man: $(STATE)/bin/man ## write keadm's manual pages into bin/man
	@$(STATE)/bin/man $(BIN)/man
	@echo "wrote $$(ls $(BIN)/man | wc -l) pages; man -l $(BIN)/man/keadm-join.8 shows one"

.PHONY: image
image: $(STATE)/bin/image ## write CloudCore's image into bin/cloudcore.tar (REPOSITORY=registry.example.org/tether)
	@[ -n "$(REPOSITORY)" ] || { echo "make image: expected REPOSITORY=where the image will be, as keadm init --image-repository is told" >&2; exit 1; }
	@mkdir -p $(BIN)
	@$(STATE)/bin/image "$(REPOSITORY)/cloudcore:$(VERSION)" $(BIN) "$(LDFLAGS)"

.PHONY: swtpm
swtpm:
	@command -v swtpm >/dev/null || { echo "installing swtpm, the TPM of the tests"; apt-get -o DPkg::Lock::Timeout=120 install -q --yes --no-install-recommends swtpm >/dev/null || \
	{ echo "make: expected swtpm (Debian's package swtpm) in PATH, found none: install it" >&2; exit 1; }; }

.PHONY: test
test: build swtpm ## run every test (brings what it needs, cleans up after itself; root)
	@echo "listing tests"
	@export TETHER_BIN=$(abspath $(BIN)); list=$$($(TEST_LIST)); \
	of() { awk -v kind="$$1" '$$1 == kind { print $$2 }' <<<"$$list"; }; \
	failed=; \
	echo "unit tests with the race detector: $$(of unit | wc -w) packages"; \
	go test -vet=off -race -timeout 10m $$(of unit) || failed=1; \
	echo "tests that link Kubernetes, one package at a time: $$(of kube | wc -w) packages"; \
	go test -vet=off -p 1 -timeout 30m $$(of kube) || failed=1; \
	echo "tests on the real thing with the race detector, one package at a time: $$(of real | wc -w) packages"; \
	go test -vet=off -race -p 1 -timeout 60m $$(of real) || failed=1; \
	if [ -n "$$failed" ]; then echo "make test: failed; see FAIL above" >&2; exit 1; fi; \
	echo "all tests passed"

.PHONY: policy
policy: tools ## check the house rules: imports, sizes, documents
	@go test -vet=off -timeout 30m ./tests/policy

.PHONY: lint
lint: tools ## check formatting, run go vet and staticcheck
	@echo "gofmt"
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "make lint: expected gofmt's form, found otherwise (mend with gofmt -w):" >&2; echo "$$unformatted" >&2; exit 1; fi
	@echo "go vet"
	@go vet ./...
	@echo "staticcheck, on packages without Kubernetes' server code"
	@go run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) $$($(LINT_LIST))

STATICCHECK := v0.8.2
# staticcheck reads the source of every dependency; with client-go beneath, that is minutes and gigabytes.
LINT_LIST = go list -f '{{.ImportPath}} {{join .Deps " "}}' ./... | awk '!/ k8s\.io\/(client-go|kubernetes|apiserver)\// { print $$1 }'

.PHONY: generate
generate: tools ## regenerate code (needs protoc, protoc-gen-go and protoc-gen-go-grpc v1.6.1; the network once)
	@go generate ./...

# Programs of tests/cmd run as built files, not by `go run`, which stands between them and the signals of a terminal.
$(STATE)/bin/%: tools
	@mkdir -p $(@D)
	@go build -ldflags '$(LDFLAGS)' -o $@ ./tests/cmd/$*
.PRECIOUS: $(STATE)/bin/%

.PHONY: quickstart
quickstart: build mapper $(STATE)/bin/quickstart ## bring up a cluster, an edge node and devices, cut the cable, watch it carry on (root)
	@TETHER_BIN=$(BIN) $(STATE)/bin/quickstart up

.PHONY: status cut heal down
status: $(STATE)/bin/quickstart ## show what the quickstart runs
cut: $(STATE)/bin/quickstart ## cut the edge node's cable
heal: $(STATE)/bin/quickstart ## join the cable again
down: $(STATE)/bin/quickstart ## end the quickstart and leave nothing behind
status cut heal down:
	@TETHER_BIN=$(BIN) $(STATE)/bin/quickstart $@

.PHONY: bench
bench: build mapper $(STATE)/bin/bench ## measure, into .tether/bench.json and a table (root)
	@$(STATE)/bin/bench

# Without SEEDS a short run of one seed, of which this one needs no build and is short; SLOTS=0 runs the whole of it. ONLY=NAME,NAME draws from those faults alone.
SEED  ?= $(if $(SEEDS),1,6)
SLOTS ?= 5
.PHONY: chaos chaos-docs chaos-mutants
chaos: build mapper $(STATE)/bin/chaos ## break a whole system by a seed and check what is left: SEED=n, SEEDS=n whole ones (root)
	@TETHER_BIN=$(BIN) $(STATE)/bin/chaos -commit $(COMMIT) -seed $(SEED) $(if $(SEEDS),-seeds $(SEEDS),-slots $(SLOTS)) $(if $(ONLY),-only $(ONLY))
chaos-mutants: build mapper $(STATE)/bin/chaos ## take mechanisms of Tether away, one at a time, and see that the chaos suite notices: MUTANT=name (root)
	@TETHER_BIN=$(BIN) $(STATE)/bin/chaos -seed $(SEED) -mutants $(or $(MUTANT),all)
chaos-docs: $(STATE)/bin/chaos ## write the results in docs/reliability.jsonl into docs/reliability.md
	@$(STATE)/bin/chaos -results docs/reliability.jsonl -write-docs docs/reliability.md

# SCENARIO=NAME,NAME runs those alone; OPTIONS are further flags, such as OPTIONS=--small.
NODES ?= 10000
.PHONY: fleet
fleet: build $(STATE)/bin/fleet ## put simulated edges through idle, storm, rollout and more, into .tether/fleet and tables: NODES=n SCENARIO=name,name (root)
	@TETHER_BIN=$(BIN) $(STATE)/bin/fleet --commit $(COMMIT) --nodes $(NODES) $(if $(SCENARIO),--scenarios $(SCENARIO)) $(OPTIONS)

.PHONY: ci
ci: ## lint, build, policy, test, chaos: what .ci/run runs
	@for step in lint build policy test chaos; do echo "== make $$step"; $(MAKE) $$step; done
