/* A boot sector that loads a program from the sectors after it, enters 64-bit mode with AVX-512 enabled, and jumps to
   the program. The first GiB of memory is mapped to itself.

       0x1000 page tables   0x7C00 this   0x10000 program   0x800000 end of the stack   0x1000000 heap */

    .set PROGRAM, 0x10000
    .set CHUNK_SECTORS, 64
    .set CHUNKS, 8

    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7C00, %sp
    movw $CHUNKS, %cx
load:
    pushw %cx
    movw $packet, %si
    movb $0x42, %ah
    int $0x13
    popw %cx
    jc stop
    addw $CHUNK_SECTORS * 512 / 16, packet + 6
    addl $CHUNK_SECTORS, packet + 8
    loop load

    inb $0x92, %al /* memory above 1 MiB */
    orb $2, %al
    outb %al, $0x92
    cld
    movl $0x1000, %edi
    xorl %eax, %eax
    movl $0x3000 / 4, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x3000, %edi
    movl $0x83, %eax /* present, writable, 2 MiB */
    movl $512, %ecx
map:
    movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop map

    lgdt table
    movl $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    movl %eax, %cr4
    movl $0x1000, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx /* EFER.LME */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000033, %eax /* PG, NE, ET, MP, PE */
    movl %eax, %cr0
    ljmp $8, $long_mode
stop:
    hlt
    jmp stop

    .code64
long_mode:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq $0x800000, %rsp
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0xE7, %eax /* x87, SSE, AVX, and the three parts of AVX-512 */
    xsetbv
    movq $PROGRAM, %rax
    call *%rax
    hlt

    .balign 8
packet: /* for int 13h, function 42h: size, sectors, address, first sector */
    .byte 16, 0
    .word CHUNK_SECTORS, 0, PROGRAM / 16
    .quad 1
descriptors:
    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
table:
    .word table - descriptors - 1
    .long descriptors

    .org 510
    .word 0xAA55
