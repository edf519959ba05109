/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an interrupt costs its sender, and how long it takes to the guest's handler, by the two ways
 * that KVM has for a message: KVM_SIGNAL_MSI, and an eventfd bound to a route (KVM_IRQFD). A
 * virtual machine of 1 MiB whose vCPU halts, and counts in its handler. The ways take turns.
 *
 *   interrupt [CALLS [INTERRUPTS]]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MEMORY        (1u << 20)
#define CODE          0x1000u
#define HANDLER       0x2000u
#define COUNTER       0x5000u
#define STACK         0x8000u
#define VECTOR        0x40u
#define GSI           24u
#define CPUID_ENTRIES 256u
#define ROUNDS        6u
#define SETTLE_US     30.0
#define PATIENCE_S    2.0

/* In real mode with an x2APIC: switch the APIC on, allow interrupts, halt for ever. */
static const uint8_t code[] = {
    0x66, 0xb9, 0x0f, 0x08, 0, 0, /* mov ecx, 0x80f: spurious interrupt register */
    0x66, 0x31, 0xd2,             /* xor edx, edx */
    0x66, 0xb8, 0xff, 0x01, 0, 0, /* mov eax, 0x1ff */
    0x0f, 0x30,                   /* wrmsr */
    0xfb,                         /* sti */
    0xf4,                         /* hlt */
    0xeb, 0xfd,                   /* jmp to the hlt */
};

static const uint8_t handler[] = {
    0x66, 0xff, 0x06, COUNTER & 0xff, COUNTER >> 8, /* inc dword [COUNTER] */
    0x66, 0xb9, 0x0b, 0x08,           0,
    0,                /* mov ecx, 0x80b: end of interrupt */
    0x66, 0x31, 0xc0, /* xor eax, eax */
    0x66, 0x31, 0xd2, /* xor edx, edx */
    0x0f, 0x30,       /* wrmsr */
    0xcf,             /* iret */
};

static int vm_fd, vcpu_fd, event_fd;
static uint8_t *memory;

static int must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void *make(size_t size)
{
    void *zeroed = calloc(1, size);

    if (!zeroed) {
        abort();
    }
    return zeroed;
}

static double now_us(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void *run(void *unused)
{
    for (;;) {
        if (ioctl(vcpu_fd, KVM_RUN, 0) < 0 && errno != EINTR) {
            perror("KVM_RUN");
            exit(1);
        }
    }
    return unused;
}

static void make_vcpu(int kvm)
{
    struct kvm_cpuid2 *cpuid =
        make(sizeof(*cpuid) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = STACK };
    struct kvm_sregs sregs;

    vcpu_fd = must(ioctl(vm_fd, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    cpuid->nent = CPUID_ENTRIES;
    must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    must(ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
    free(cpuid);
    must(ioctl(vcpu_fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.apic_base |= 0xc00; /* x2APIC */
    must(ioctl(vcpu_fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must(ioctl(vcpu_fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void make_machine(void)
{
    struct kvm_irq_routing *routing = make(sizeof(*routing) + sizeof(struct kvm_irq_routing_entry));
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
    int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    struct kvm_irqfd irqfd;

    vm_fd = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    must(ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    must(ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        must(-1, "mmap");
    }
    memcpy(memory + CODE, code, sizeof(code));
    memcpy(memory + HANDLER, handler, sizeof(handler));
    memcpy(memory + 4 * VECTOR, &(uint32_t){ HANDLER }, 4);
    region.userspace_addr = (uintptr_t)memory;
    must(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    make_vcpu(kvm);
    routing->nr = 1;
    routing->entries[0] = (struct kvm_irq_routing_entry){
        .gsi = GSI,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = { .address_lo = 0xfee00000, .data = VECTOR },
    };
    must(ioctl(vm_fd, KVM_SET_GSI_ROUTING, routing), "KVM_SET_GSI_ROUTING");
    free(routing);
    event_fd = must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    irqfd = (struct kvm_irqfd){ .fd = (uint32_t)event_fd, .gsi = GSI };
    must(ioctl(vm_fd, KVM_IRQFD, &irqfd), "KVM_IRQFD");
}

static void interrupt(int by_irqfd)
{
    static struct kvm_msi msi = { .address_lo = 0xfee00000, .data = VECTOR };
    uint64_t one = 1;

    if (by_irqfd) {
        must((int)write(event_fd, &one, sizeof(one)), "write");
    } else {
        must(ioctl(vm_fd, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* With a vCPU that is not in the guest and has the interrupt waiting already: only the call. */
static void measure_calls(int by_irqfd, unsigned count)
{
    double begun = now_us(CLOCK_THREAD_CPUTIME_ID);

    for (unsigned i = 0; i < count; i++) {
        interrupt(by_irqfd);
    }
    printf("%-14s %.0f ns of CPU time a call\n", by_irqfd ? "irqfd" : "KVM_SIGNAL_MSI",
           (now_us(CLOCK_THREAD_CPUTIME_ID) - begun) * 1e3 / count);
}

static void measure_latency(int by_irqfd, unsigned count)
{
    volatile uint32_t *counter = (volatile uint32_t *)(void *)(memory + COUNTER);
    double *took = calloc(count, sizeof(*took));

    for (unsigned i = 0; took && i < count; i++) {
        uint32_t before = *counter;
        double begun = now_us(CLOCK_MONOTONIC);

        while (now_us(CLOCK_MONOTONIC) < begun + SETTLE_US) {
        }
        begun = now_us(CLOCK_MONOTONIC);
        interrupt(by_irqfd);
        while (*counter == before) {
            if (now_us(CLOCK_MONOTONIC) > begun + PATIENCE_S * 1e6) {
                fprintf(stderr, "An interrupt did not arrive\n");
                exit(1);
            }
        }
        took[i] = now_us(CLOCK_MONOTONIC) - begun;
    }
    if (took) {
        qsort(took, count, sizeof(*took), compare);
        printf("%-14s %.1f us until the handler has run (median; 90 %%: %.1f)\n",
               by_irqfd ? "irqfd" : "KVM_SIGNAL_MSI", took[count / 2], took[count * 9 / 10]);
    }
    free(took);
}

int main(int argc, char **argv)
{
    unsigned calls = argc > 1 ? (unsigned)atoi(argv[1]) : 200000;
    unsigned interrupts = argc > 2 ? (unsigned)atoi(argv[2]) : 2000;
    pthread_t thread;

    if (!calls || !interrupts) {
        fprintf(stderr, "usage: interrupt [CALLS [INTERRUPTS]]\n");
        return 2;
    }
    make_machine();
    for (unsigned i = 0; i < ROUNDS; i++) {
        measure_calls(i & 1, calls);
    }
    if (pthread_create(&thread, NULL, run, NULL)) {
        return 1;
    }
    usleep(200000);
    for (unsigned i = 0; i < ROUNDS; i++) {
        measure_latency(i & 1, interrupts);
    }
    return 0;
}
