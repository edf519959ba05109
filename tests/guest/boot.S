/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entry points of the workload guest: PVH start of vCPU 0, real-mode trampoline of the others,
 * interrupts. Everything here runs in ring 0, which some hosts emulate instruction by instruction:
 * tables are laid out by the assembler where possible, interrupt paths are as short as they can be.
 */
#include "guest.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18 /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start32

    .text
    .code32
    .globl start32
start32: /* EBX: start info */
    cli
    cld
    lgdtl gdt_ptr
    /* a reset brings the image back but not necessarily zeroes what follows it */
    xor %eax, %eax
    mov $bss_start, %edi
    mov $bss_dwords, %ecx
    rep stosl
    mov %ebx, start_info
    mov $(kstacks + GUEST_KSTACK), %esp
    movl $cpus, kstacks
    movl $0, kstacks + 4
    ljmp $SEL_CODE32, $to64

to64:
    mov $SEL_DATA0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax /* LME */
    wrmsr
    mov $0x80000033, %eax /* PG, NE, ET, MP, PE */
    mov %eax, %cr0
    ljmp $SEL_CODE0, $start64

    .code64
start64:
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %rsp, %rdi
    mov -GUEST_KSTACK(%rsp), %rdi
    call ring0_start /* does what must be done in ring 0, returns where to start ring 3 */
    mov -GUEST_KSTACK(%rsp), %rdi
    mov %rdx, %rcx
    pushq $SEL_DATA3
    pushq %rcx
    pushq $0x202
    pushq $SEL_CODE3
    pushq %rax
    iretq

/* Copied to GUEST_TRAMPOLINE. Real mode, CS = 0x800; DS is set to 0. */
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl GUEST_TRAMPOLINE + (trampoline_gdt - trampoline)
    mov $0x11, %eax
    mov %eax, %cr0
    ljmpl $SEL_CODE32, $ap32
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
ap32:
    mov $SEL_DATA0, %eax
    mov %eax, %ds
    mov ap_stack, %esp
    jmp to64
    .code64

/* ---- interrupts ---- */

/* RAX: the struct cpu of this vCPU, found through the stack it runs on */
.macro this_cpu
    mov %rsp, %rax
    and $-GUEST_KSTACK, %rax
    mov (%rax), %rax
.endm

/* End of interrupt; RAX: struct cpu, clobbered. */
.macro eoi
    btrl $0, CPU_PV_EOI(%rax)
    jc 1f
    cmpb $0, x2apic_on
    jne 2f
    movabs %eax, 0xfee000b0
1:
.endm

    .globl isr_timer
isr_timer:
    push %rax
    this_cpu
    incq CPU_TICKS(%rax)
    eoi
    pop %rax
    iretq
2:  jmp eoi_x2apic

    .globl isr_timer_rearm
isr_timer_rearm:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    this_cpu
    incq CPU_TICKS(%rax)
    mov %rax, %rdi
    call timer_rearm
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    this_cpu
    eoi
    pop %rax
    iretq
2:  jmp eoi_x2apic

/* the PIT through the PIC: no local APIC EOI */
    .globl isr_pit
isr_pit:
    push %rax
    this_cpu
    incq CPU_PIT_TICKS(%rax)
    mov $0x20, %al
    out %al, $0x20
    pop %rax
    iretq

    .globl isr_apf
isr_apf:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    this_cpu
    mov %rax, %rdi
    call apf_ready
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    this_cpu
    eoi
    pop %rax
    iretq
2:
eoi_x2apic: /* on the stack: RAX */
    push %rcx
    push %rdx
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    pop %rax
    .globl isr_ignore
isr_ignore:
    iretq

/* UD2 from ring 3 is a system call: RDI number, RSI and RDX arguments, result in RAX. */
    .globl isr_ud
isr_ud:
    testb $3, 8(%rsp)
    jz 3f
    addq $2, (%rsp)
    mov %rsp, %rcx
    and $-GUEST_KSTACK, %rcx
    mov (%rcx), %rcx
    call sys_dispatch
    iretq
3:  pushq $0
    pushq $6
    jmp trap_entry

    .globl isr_trap_table
.macro trap_stub vec, code
trap_\vec:
    .if \code == 0
    pushq $0
    .endif
    pushq $\vec
    jmp trap_entry
.endm
.altmacro
.set i, 0
.rept 32
    .if (i == 8) || (i == 10) || (i == 11) || (i == 12) || (i == 13) || (i == 14) || (i == 17) || (i == 21)
    trap_stub %i, 1
    .else
    trap_stub %i, 0
    .endif
    .set i, i + 1
.endr

trap_entry:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    mov %rsp, %rdi
    mov %rsp, %rsi
    and $-GUEST_KSTACK, %rsi
    mov (%rsi), %rsi
    call trap
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .section .rodata
    .balign 8
isr_trap_table:
.macro trap_address vec
    .quad trap_\vec
.endm
.set i, 0
.rept 32
    trap_address %i
    .set i, i + 1
.endr
.noaltmacro

/* ---- tables ---- */

    .data
    .globl gdt, gdt_end, gdt_ptr, start_info, ap_stack, pdpt
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* ring 0 code */
    .quad 0x00cf93000000ffff /* ring 0 data */
    .quad 0x00cf9b000000ffff /* 32-bit code */
    .quad 0x00cff3000000ffff /* ring 3 data */
    .quad 0x00affb000000ffff /* ring 3 code */
    .fill 2 * 16, 8, 0       /* a TSS for each vCPU */
gdt_end:
    .word 0
gdt_ptr:
    .word gdt_end - gdt - 1
    .quad gdt
start_info:
    .quad 0
ap_stack:
    .quad 0

/* The first 4 GiB, in 2 MiB pages, accessed and dirty from the start. main.c adds what is above. */
    .balign 4096
pml4:
    .quad pdpt + 0x67
    .fill 511, 8, 0
pdpt:
    .quad pd + 0x67
    .quad pd + 0x1067
    .quad pd + 0x2067
    .quad pd + 0x3067
    .fill 508, 8, 0
pd:
.set i, 0
.rept 2048
    .quad i * 0x200000 + 0xe7
    .set i, i + 1
.endr

    .section .note.GNU-stack, "", @progbits
