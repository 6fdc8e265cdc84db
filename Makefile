# The commands that people use. Everything runs inside a Debian 13 container that tools/in-container
# makes on first use; MOE_IN_CONTAINER=1 runs on the host itself, for those who have the packages.
#
#   make demo          serve the demo model with 64 expert-parallel workers, ask it a question
#   make demo ONCE=1   the same, and leave after the answer
#   make test          build and run every test: the next two
#   make test-programs what ctest runs: tests of the programs, lint, sanitizers, fuzzers
#   make test-cluster  the tests on a Kubernetes of their own (ARGS="-k rollout": arguments of pytest)
#   make test-sanitizers   only the in-process tests under ASan+UBSan, then TSan
#   make test-gpu      the tests of the GPU kernels; fails where there is no GPU
#   make bench         benchmarks: kernels, exchange, planner, simulator, engine (FULL=1: 16 layers)
#   make bench-gpu     the engine on a GPU beside what bounds it (ARGS="--batches 1,64")
#   make bench-cluster times of the operator beside bare pods (ARGS="--rounds 1": arguments)
#   make images        build the images localhost/moe-{controller,worker,gateway,demo}
#   make cluster-up    a Kubernetes on one node with 64 GPUs on paper, with the images; cluster-down ends it
#   make build         build the programs into build/bin
#   make format lint   clang-format over the tree; clang-format and clang-tidy as checks
#   make shell         a shell in the build container

.PHONY: demo test test-programs test-cluster test-sanitizers test-gpu bench bench-gpu bench-cluster images cluster-up cluster-down build format lint shell
.DEFAULT_GOAL := build

export ONCE FULL JOBS PORT

demo:
	@tools/in-container tools/demo

test:
	@tools/test-all

test-programs:
	@tools/in-container tools/test

test-cluster:
	@tools/test-cluster $(ARGS)

test-sanitizers:
	@tools/in-container tools/sanitized-tests

test-gpu:
	@tools/test-gpu

bench:
	@tools/in-container tools/bench

bench-gpu:
	@tools/bench-gpu $(ARGS)

bench-cluster:
	@tools/bench-cluster $(ARGS)

images:
	@tools/images

cluster-up:
	@tools/cluster/with-operator

cluster-down:
	@tools/cluster/node down

build:
	@tools/in-container tools/build

format:
	@tools/in-container tools/format

lint:
	@tools/in-container tools/lint

shell:
	@tools/in-container bash
