# postbox: what people type. The work is done by cargo and by the scripts in tests/vm.
KERNEL ?= 7.3
KDIR ?=
PREFIX ?= /usr/local
DESTDIR ?=
# `make test T=name F=part-of-a-test's-name`
T ?=
F ?=

VM := tests/vm
VM_RELEASE := target/vm/x86_64-unknown-linux-gnu/release
.DEFAULT_GOAL := help
.PHONY: help setup run test test-debug attack shell kmod bench bench-count bench-holds bench-native check build install clean

help:
	@echo 'make run          boot a VM, load the module, and show every kind of object (first time up to 15 min, then a minute)'
	@echo 'make test         host tests, then the VM suites (T=program, F=test choose; first time up to 15 min, then some minutes)'
	@echo 'make test-debug   the VM suites in a kernel with KASAN, lockdep, kmemleak (first time builds it: about 12 min more)'
	@echo 'make attack       the attack suite alone (KERNEL=debug: in the debug kernel)'
	@echo 'make shell        a VM with a prompt, the module loaded and the command on the path'
	@echo 'make kmod         build the module: target/kmod/<release>/postbox.ko (KDIR=/lib/modules/$$(uname -r)/build for this machine;'
	@echo '                  CLIPPY=1 runs clippy over it)'
	@echo 'make setup        only fetch and prepare what the VM needs (about 6 min)'
	@echo 'make bench        the same as bench-count, and how costs grow with what is outstanding, to target/bench/bench.json (some min)'
	@echo 'make bench-count  instructions per round trip, mailboxes and their peers, to target/bench/count.json (a few min)'
	@echo 'make bench-holds  instructions under the lock of a mailbox with a million messages (a few min)'
	@echo 'make bench-native time of rings on this machine, beside iceoryx2, to target/bench/native.json (two CPUs that are idle; some min)'
	@echo 'make check        formatting, clippy, rustdoc, bindings, checkpatch'
	@echo 'make install      module, command, man pages, completions, header, udev rule, DKMS source (PREFIX=, DESTDIR=)'
	@echo 'make clean        remove target/ (CACHE=1: and what setup fetched and built)'
	@echo
	@echo 'KERNEL=7.3 (default) or 7.2 chooses the kernel of the VM. What is fetched and built for the VM is kept in'
	@echo '$$POSTBOX_CACHE (default: ~/.cache/postbox); deleting it is safe.'

setup:
	@$(VM)/setup $(KERNEL)

run:
	@$(VM)/with-programs --kernel $(KERNEL) --timeout 600 -- postbox-tour

shell:
	@$(VM)/with-programs --kernel $(KERNEL) --interactive

bench-count:
	@mkdir -p target/bench
	@$(VM)/with-programs --kernel $(KERNEL) --icount --timeout 1800 --out target/bench -- postbox-bench count --out /out/count.json $(if $(F),--only $(F))

bench:
	@mkdir -p target/bench
	@$(VM)/with-programs --kernel $(KERNEL) --icount --timeout 3600 --out target/bench -- postbox-bench all --out /out/bench.json $(if $(F),--only $(F))

bench-holds:
	@$(VM)/with-programs --kernel $(KERNEL) --icount --mem 2048 --timeout 1800 -- postbox-bench holds

bench-native:
	@$(VM)/bench-native target/bench/native.json

kmod:
	@$(VM)/kmod $(if $(KDIR),--kdir '$(KDIR)',--kernel $(KERNEL))

test:
	$(if $(T),,@$(VM)/host-tests)
	@$(VM)/suite --kernel $(KERNEL) $(if $(T),--test '$(T)') $(if $(F),--filter '$(F)')

test-debug:
	@$(VM)/suite --kernel debug $(if $(T),--test '$(T)') $(if $(F),--filter '$(F)')

attack:
	@$(VM)/suite --kernel $(KERNEL) --test attack $(if $(F),--filter '$(F)')

check:
	@$(VM)/check $(KERNEL)

build:
	@$(VM)/install build '$(KDIR)'

install:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' $(VM)/install install '$(KDIR)'

clean:
	rm -rf target
	@if [ -n "$(CACHE)" ]; then $(VM)/setup remove; fi
