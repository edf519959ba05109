# SPDX-License-Identifier: GPL-2.0-or-later
#
# Front door: each target is a thin call of configure, meson, ninja or a script. `make` lists them.

BUILD ?= build
PREFIX ?= /usr/local

# Targets that are there; those of a part whose script is missing are neither listed nor defined.
TARGETS := help deps build check asan tsan format install clean
have = $(if $(wildcard $(2)),$(1))
TARGETS += $(call have,demo,scripts/demo) $(call have,demo-linux,scripts/demo-linux) $(call have,bench,tests/bench/run)
TARGETS += $(call have,fuzz,tests/fuzz/run) $(call have,soak,tests/soak/run)
TARGETS += $(call have,lab,tests/lab/run)
.PHONY: $(TARGETS)
.DEFAULT_GOAL := help

help: ## this list
	@echo 'Ferry, a virtual machine monitor made for live migration.'
	@for target in $(TARGETS); do \
		sed -n "s/^$$target:.*## \(.*\)/  make $$target\t\1/p" Makefile; done | expand -t 16

deps: ## install the Debian packages that are missing
	@scripts/install-deps

$(BUILD)/build.ninja:
	./configure --build-dir=$(BUILD) --prefix=$(PREFIX)

build: $(BUILD)/build.ninja ## compile into build/ (BUILD=DIR for another folder)
	ninja -C $(BUILD)

check: deps ## build with gcc and clang, run every test, also under sanitizers
	@scripts/check

asan: deps ## only the address and undefined-behaviour sanitizer run
	@scripts/check asan

tsan: deps ## only the thread sanitizer run
	@scripts/check tsan

ifneq ($(filter demo,$(TARGETS)),)
demo: deps build ## a guest moves while it works; what happened is printed
	@scripts/demo $(BUILD)
endif

ifneq ($(filter demo-linux,$(TARGETS)),)
demo-linux: deps build ## Debian's Linux moves while it works on its disk; in the lab where this host's KVM cannot run it
	@scripts/demo-linux $(BUILD)
endif

ifneq ($(filter bench,$(TARGETS)),)
bench: deps build ## measure migrations, also against the installed qemu-system-x86_64
	@tests/bench/run --build-dir $(BUILD)
endif

ifneq ($(filter fuzz,$(TARGETS)),)
fuzz: deps ## fuzz every target for an hour (SECONDS=N for another time)
	@tests/fuzz/run --seconds $(or $(SECONDS),3600)
endif

ifneq ($(filter soak,$(TARGETS)),)
soak: deps build ## migrate for hours, at every cut point
	@tests/soak/run --build-dir $(BUILD)
endif

ifneq ($(filter lab,$(TARGETS)),)
lab: deps build ## stock Linux guests on a complete KVM inside an emulated host
	@tests/lab/run --build-dir $(BUILD)
endif

format: ## clang-format every C file
	git ls-files '*.c' '*.h' | xargs clang-format -i

install: build ## install the program and its man page under PREFIX
	meson install -C $(BUILD) --no-rebuild

clean: ## remove the build folders
	rm -rf build build-clang build-asan build-tsan build-fuzz
