/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The smallest guest: a 64 KiB firmware image for `-bios` that never leaves real mode and needs
 * nothing but RAM and, to be heard, a serial port at 0x3f8.
 *
 * It prints `BOOT`, then for ever: increments every 32-bit word of one page of a 64 KiB range,
 * checks all words of that page, and prints `TICK n bad=m`. Page p (0..15) of the range holds, in
 * each word, the number of rounds over the range, plus the word's offset in the range: after a
 * migration that lost a page the check finds words that are a round behind.
 *
 * Where ring 0 is emulated a turn takes some 20 ms, so the loops are small and use plain
 * instructions only.
 *
 * RAM (all little-endian 32 bits, to be read from outside):
 *   0x7000 magic "FBR1"    0x7004 ticks    0x7008 words found wrong
 *   0x700c last wrong address   0x7010 expected   0x7014 found   0x7018 rounds
 *   0x10000-0x1ffff the range
 */
    .code16
    .text

#define SERIAL 0x3f8
#define MAGIC  0x31524246

    .org 0xe000
start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp

    /* serial port: 8 bits, FIFO on, no interrupts */
    mov $SERIAL + 1, %dx
    xor %al, %al
    out %al, %dx
    mov $SERIAL + 3, %dx
    mov $3, %al
    out %al, %dx
    mov $SERIAL + 2, %dx
    mov $7, %al
    out %al, %dx

    /* every word of the range starts as its own offset */
    mov $0x1000, %ax
    mov %ax, %es
    xor %eax, %eax
    xor %di, %di
1:  stosl
    add $4, %eax
    cmp $0x10000, %eax
    jne 1b

    xor %eax, %eax
    mov %eax, 0x7004
    mov %eax, 0x7008
    mov %eax, 0x700c
    mov %eax, 0x7010
    mov %eax, 0x7014
    mov %eax, 0x7018
    movl $MAGIC, 0x7000
    mov $text_boot, %si
    call puts

/* One turn: ES:DI runs over a page; EBX is what to expect, less the offset. */
turn:
    mov 0x7004, %eax
    test $15, %al
    jnz 2f
    incl 0x7018
2:  shl $12, %ax
    mov %ax, %di
    mov $1024, %cx
    mov 0x7018, %ebx
    dec %ebx
    movzwl %di, %eax
    add %eax, %ebx
3:  mov %es:(%di), %eax
    cmp %ebx, %eax
    jne wrong
4:  inc %eax
    mov %eax, %es:(%di)
    add $4, %ebx
    add $4, %di
    loop 3b
    incl 0x7004
    mov $text_tick, %si
    call puts
    mov 0x7004, %eax
    call number
    mov $text_bad, %si
    call puts
    mov 0x7008, %eax
    call number
    mov $text_end, %si
    call puts
    jmp turn

wrong:
    incl 0x7008
    mov %eax, 0x7014
    mov %ebx, 0x7010
    movzwl %di, %eax
    add $0x10000, %eax
    mov %eax, 0x700c
    mov %ebx, %eax /* counts once */
    jmp 4b

/* Prints the string at CS:SI. */
puts:
    mov %cs:(%si), %al
    test %al, %al
    jz 5f
    call putc
    inc %si
    jmp puts
5:  ret

putc:
    push %ax
    mov $SERIAL + 5, %dx
6:  in %dx, %al
    test $0x20, %al
    jz 6b
    pop %ax
    mov $SERIAL, %dx
    out %al, %dx
    ret

/* Prints EAX in decimal. */
number:
    mov $10, %ebx
    xor %cx, %cx
7:  xor %edx, %edx
    div %ebx
    push %dx
    inc %cx
    test %eax, %eax
    jnz 7b
8:  pop %ax
    add $'0', %al
    call putc
    loop 8b
    ret

text_boot:
    .asciz "BOOT\n"
text_tick:
    .asciz "TICK "
text_bad:
    .asciz " bad="
text_end:
    .asciz "\n"

    .org 0xfff0
    /* reset: CS base 0xffff0000, a near jump stays in the image */
    jmp start
    .org 0x10000
