#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the test guests: build.sh SOURCE-DIR OUTPUT-DIR [workload.elf|bootrom.bin]
# Needs only an x86-64 gcc or clang (CC) and GNU ld (LD); no libc, no host headers but <stdint.h>.
set -eu
src=$1
out=$2
what=$(basename "${3:-all}")
cc=${CC:-gcc}
ld=${LD:-ld}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

flags="-std=gnu17 -O2 -g0 -ffreestanding -m64 -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only
 -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing
 -fno-tree-loop-distribute-patterns -Wall -Wextra -Werror -Wmissing-prototypes"
case $("$cc" --version | head -n 1) in
*clang*) flags=$(echo "$flags" | sed 's/-fno-tree-loop-distribute-patterns/-fno-builtin/') ;;
esac

workload() {
    objs=
    for f in ring0 main work report devstate devices cpustate virtio disk nic; do
        # shellcheck disable=SC2086
        "$cc" $flags -c "$src/$f.c" -o "$tmp/$f.o"
        objs="$objs $tmp/$f.o"
    done
    # shellcheck disable=SC2086
    "$cc" $flags -c "$src/boot.S" -o "$tmp/boot.o"
    # shellcheck disable=SC2086
    "$ld" -m elf_x86_64 -static -nostdlib --no-warn-rwx-segments -z max-page-size=4096 \
        -z noexecstack --build-id=none -T "$src/workload.ld" "$tmp/boot.o" $objs -o "$out/workload.elf"
}

bootrom() {
    "$cc" -m32 -c "$src/bootrom.S" -o "$tmp/bootrom.o"
    "$ld" -m elf_i386 -Ttext=0 --oformat binary -e 0 "$tmp/bootrom.o" -o "$out/bootrom.bin"
}

case $what in
workload.elf) workload ;;
bootrom.bin) bootrom ;;
all)
    workload
    bootrom
    ;;
*)
    echo "Nothing is known about $what." >&2
    exit 2
    ;;
esac
