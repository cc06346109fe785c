# Everything a contributor types. `make test` is what CI runs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The systems that must build. Linux comes first: only there are all promises kept.
PLATFORMS := linux/amd64 linux/arm64 darwin/arm64 freebsd/amd64

# The linters are pinned in tools.mod, apart from what the program links.
TOOL := go tool -modfile=tools.mod

CYCLES       ?= 10000
SOAK_TIME    ?= 5m
SOAK_SEED    ?=
SOAK_TIMEOUT ?= 120m
FUZZ_TIME    ?= 1m
BENCH_ROUNDS ?= 5
TEST_TIMEOUT ?= 15m
DIRECT       ?= ^Test(Idle|ChildDeath|Stop|SuddenDeath|Bytes)_
FAULTS       ?= ^Test(Start|Readiness|Bytes|Idle|ChildDeath|Stop|SuddenDeath|Signal|Limits|Clients|Log|Container)_

.PHONY: build test test-docker check demo cycles soak faults fuzz compare bench packages clean

## build: one static binary, ./tiproxy
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o tiproxy .

## test: every test, with the race detector, in random order (root; installs what is missing)
test: packages
	go vet ./...
	CGO_ENABLED=1 go test -race -shuffle=on -timeout $(TEST_TIMEOUT) $$(go list ./... | grep -v '/test/docker$$')
	E2E_PATH=direct CGO_ENABLED=1 go test -race -shuffle=on -timeout $(TEST_TIMEOUT) -run '$(DIRECT)' ./test/
	$(MAKE) test-docker

## test-docker: the Docker files, on a real engine of the test's own (root; part of test)
test-docker:
	@if ! scripts/packages.sh; then echo "*** NOT TESTED: the Docker files: the packages above are not to be had here" >&2; exit 0; fi; \
	(cd docker/testdata/standin && go vet ./...) && \
	CGO_ENABLED=1 go test -v -race -shuffle=on -count=1 -timeout 30m ./test/docker/

## packages: the Debian packages the tests need
packages:
	@scripts/packages.sh

## check: formatting, vet and builds for every system, linters
check:
	@files=$$(gofmt -l .); if [[ -n $$files ]]; then echo "not formatted (gofmt -w):" $$files; exit 1; fi
	@for p in $(PLATFORMS); do \
		echo "vet and build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go vet ./...; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -o /dev/null ./...; \
	done
	$(TOOL) staticcheck ./...
	$(TOOL) golangci-lint run ./...

## demo: see it work, with nothing to install
demo:
	go run . demo

## cycles: CYCLES start/stop cycles with clients arriving at bad moments
cycles:
	E2E_CYCLES=$(CYCLES) CGO_ENABLED=1 go test -race -count=1 -v -timeout $(SOAK_TIMEOUT) -run '^TestSoak' ./test/

## soak: SOAK_TIME of clients, faults and bad links; ends with one table (root; SOAK_SEED repeats a plan)
soak:
	SOAK_TIME=$(SOAK_TIME) SOAK_SEED=$(SOAK_SEED) CGO_ENABLED=1 go test -race -count=1 -v -parallel 4 -timeout $(SOAK_TIMEOUT) ./test/soak/

## faults: the faults of docs/faults.md in their long forms, on the copy path and on the direct one
faults: packages
	E2E_LONG=1 CGO_ENABLED=1 go test -race -count=1 -v -timeout $(SOAK_TIMEOUT) -run '$(FAULTS)' ./test/
	E2E_PATH=direct E2E_LONG=1 CGO_ENABLED=1 go test -race -count=1 -v -timeout $(SOAK_TIMEOUT) -run '$(FAULTS)' ./test/

## fuzz: every fuzz test for FUZZ_TIME, one after the other (FUZZ=REGEXP for some of them)
fuzz:
	@FUZZ_TIME=$(FUZZ_TIME) scripts/fuzz.sh '$(FUZZ)'

## compare: the same faults on tiproxy and on its peers; writes docs/compare.md and its table into docs/faults.md (root, about six minutes)
compare: packages
	go run ./test/compare --out docs/compare.md --table docs/faults.md

## bench: tiproxy beside other proxies and none, for docs/performance.md (BENCH_ROUNDS=n for more than about eight minutes)
bench: packages build
	go run ./bench --tiproxy ./tiproxy --docs docs --rounds $(BENCH_ROUNDS)

clean:
	rm -f tiproxy
