/* SPDX-License-Identifier: Apache-2.0 */
/* The guest of accel_probe.c: a boot sector of 512 bytes, put into the program as data. It does what a kernel does
 * first, because that is where accelerators break that run firmware well: real mode, protected mode, long mode
 * with paging; in each it works a little and checks the result. At the end it writes PROBE_GUEST_SUCCESS, or the
 * number of the mode that failed, to the port of isa-debug-exit; QEMU's exit code is then 2 * value + 1.
 *
 * The firmware loads it to 0x7c00. The assembler does not know that, so addresses are made with AT().
 * References: Intel SDM volume 3, 9.8 and 9.9 (initialisation, mode switching), 4.5 (paging). */
#include "vmm/probe_guest.h"

#define AT(label) (0x7c00 + label - probe_guest)
#define PAGE_TABLES 0x100000 /* three pages; above 1 MiB: needs the A20 gate */
#define DATA 0x200000        /* checked at its own address, and through ALIAS */
#define ALIAS 0x400000
#define IDT (DATA + 0x1000)
#define VECTOR 0x20
#define PATTERN 0x5a17c0de
#define EXPECTED 0x577239fc5fc42481 /* of the work in long mode */

        .section .rodata
        .globl probe_guest
probe_guest:
        .code16
        cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x7c00, %sp
        ljmp $0, $AT(real_mode) /* some firmware jumps to 07c0:0000 */

real_mode: /* the sum of 1 to 1,000 */
        xorl %eax, %eax
        movl $1000, %ecx
1:      addl %ecx, %eax
        decl %ecx
        jnz 1b
        movb $1, %bl
        cmpl $500500, %eax
        jne fail
        inb $0x92, %al /* fast A20 gate */
        orb $2, %al
        andb $0xfe, %al
        outb %al, $0x92
        lgdtl AT(gdt_register)
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $0x08, $AT(protected_mode)

        /* Reached in any mode: the instructions mean the same in all three. */
fail:   movb %bl, %al
        outb %al, $PROBE_GUEST_PORT
1:      hlt
        jmp 1b

        .code32
protected_mode:
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $0x7c00, %esp
        movb $2, %bl
        movl $PATTERN, DATA /* through the stack, to memory above 1 MiB, and back */
        pushl DATA
        popl %eax
        cmpl $PATTERN, %eax
        jne fail

        movl $PAGE_TABLES, %edi /* PML4, PDPT, PD: zero, then one entry each and three pages of 2 MiB */
        xorl %eax, %eax
        movl $(3 * 4096 / 4), %ecx
        cld
        rep stosl
        movl $(PAGE_TABLES + 0x1000 + 3), PAGE_TABLES
        movl $(PAGE_TABLES + 0x2000 + 3), PAGE_TABLES + 0x1000
        movl $0x83, PAGE_TABLES + 0x2000              /* 0: itself */
        movl $(DATA + 0x83), PAGE_TABLES + 0x2000 + 8 /* DATA: itself */
        movl $(DATA + 0x83), PAGE_TABLES + 0x2000 + 16 /* ALIAS: DATA */
        movl %cr4, %eax
        orl $0x620, %eax /* PAE; SSE: OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        movl $PAGE_TABLES, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx /* EFER.LME */
        rdmsr
        orl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        ljmp $0x18, $AT(long_mode)

        .code64
long_mode:
        movb $3, %bl
        movl $ALIAS, %edi /* the pattern is seen through the page tables */
        cmpl $PATTERN, (%rdi)
        jne fail64

        movl $(IDT + VECTOR * 16), %edi /* an interrupt, there and back */
        movl $(0x180000 + (AT(interrupt))), (%rdi)
        movl $0x8e00, 4(%rdi)
        lidt AT(idt_register)
        int $VECTOR
        cmpb $4, %bl
        jne fail64

        movl $PATTERN, %eax /* the vector unit: emulators of single instructions do not have it */
        movd %eax, %xmm0
        paddd %xmm0, %xmm0
        movd %xmm0, %ecx
        addl %eax, %eax
        cmpl %eax, %ecx
        jne fail64

        /* 50,000,000 steps of a linear congruential generator (Knuth's MMIX): 0.1 s of a CPU, but minutes where
         * each instruction of the guest is emulated and KVM only looks as if it worked. */
        movabsq $6364136223846793005, %rsi
        movabsq $1442695040888963407, %rdx
        movl $50000000, %ecx
        movl $1, %eax
1:      imulq %rsi, %rax
        addq %rdx, %rax
        decl %ecx
        jnz 1b
        movabsq $EXPECTED, %rdx
        cmpq %rdx, %rax
        jne fail64
        movb $PROBE_GUEST_SUCCESS, %bl
fail64: jmp fail

interrupt:
        incb %bl
        iretq

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9a000000ffff /* 0x08: 32-bit code */
        .quad 0x00cf92000000ffff /* 0x10: data */
        .quad 0x00af9a000000ffff /* 0x18: 64-bit code */
gdt_register:
        .word gdt_register - gdt - 1
        .long AT(gdt)
idt_register:
        .word VECTOR * 16 + 15
        .quad IDT

        .skip PROBE_GUEST_SIZE - 2 - (. - probe_guest)
        .word 0xaa55

        .section .note.GNU-stack, "", %progbits
