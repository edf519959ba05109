/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The 16550A serial port (data sheet: National Semiconductor PC16550D).
 *
 * Transmitting takes no time: a byte the guest writes goes to the chardev at once. When the chardev
 * does not take it, it waits in the transmit shift register (tsr), the following ones in the
 * holding register (thr) or the FIFO, and the line status says so; the vCPU never waits. A guest
 * that looks at "holding register empty" before it writes thus loses nothing, however slow the
 * chardev is.
 *
 * Nothing passes between port and chardev while the machine is stopped. Bytes that wait on either
 * side at the stop are in the saved state, and must then come from, or go to, the destination only.
 * What was held up is taken up again by the kick timer: it stands with the virtual clock, so it
 * fires when the machine runs again, here or at a destination.
 *
 * A received byte that does not reach the FIFO's trigger level interrupts after four character
 * times of silence, on the virtual clock.
 *
 * Break: a guest that sends one sees it in the line control register; chardevs do not carry it.
 * Modem lines: carrier, data set ready and clear to send are always on.
 */
#include <string.h>

#include "hw/char/serial.h"

#include "chardev/chardev.h"
#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "system/memory.h"
#include "system/vm.h"

#define FIFO_SIZE  16
#define BASE_CLOCK 115200 /* baud at divider 1 */

/* Registers; the first two are the divider's halves while LCR_DLAB is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

enum {
    IER_RECEIVE = 0x01,
    IER_TRANSMIT = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_ALL = 0x0f,

    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_TRANSMIT = 0x02,
    IIR_RECEIVE = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_ID = 0x0f,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVE = 0x02,
    FCR_CLEAR_TRANSMIT = 0x04,
    FCR_KEPT = 0xc9, /* the clear bits clear themselves */
    FCR_TRIGGER_SHIFT = 6,

    LCR_BITS = 0x03,
    LCR_STOP = 0x04,
    LCR_PARITY = 0x08,
    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_ALL = 0x1f,

    LSR_READY = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_PARITY = 0x04,
    LSR_FRAMING = 0x08,
    LSR_BREAK = 0x10,
    LSR_HOLDING_EMPTY = 0x20,
    LSR_ALL_EMPTY = 0x40,
    LSR_ERRORS = LSR_OVERRUN | LSR_PARITY | LSR_FRAMING | LSR_BREAK,

    MSR_DELTAS = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

static const uint8_t trigger_levels[4] = { 1, 4, 8, 14 };

struct fifo {
    uint8_t data[FIFO_SIZE];
    uint32_t head, num; /* oldest byte, bytes in use */
};

/* What is saved, in the shape the wire has. */
struct serial_registers {
    uint16_t divider;
    uint8_t rbr, ier, iir, lcr, mcr, lsr, msr, scr, fcr;
    int32_t thr_ipending;
    int32_t tsr_retry; /* not 0: a byte waits in tsr */
    uint8_t thr, tsr;
    struct fifo receive, transmit;
    int64_t fifo_timeout; /* timer */
    int32_t timeout_ipending;
    int32_t poll_msl;   /* always -1: no modem lines to poll */
    int64_t modem_poll; /* timer, never armed */
};

struct serial_state {
    struct serial_registers reg;
};

struct serial {
    struct device dev;
    unsigned base, irq;
    struct chardev *chr;
    struct serial_registers reg; /* fifo_timeout lives in the timer */
    struct vm_timer *timeout, *kick;
};

static void fifo_clear(struct fifo *f)
{
    f->head = f->num = 0;
}

/* A push into a full FIFO drops the oldest byte. */
static void fifo_push(struct fifo *f, uint8_t byte)
{
    if (f->num == FIFO_SIZE) {
        f->head = (f->head + 1) % FIFO_SIZE;
        f->num--;
    }
    f->data[(f->head + f->num++) % FIFO_SIZE] = byte;
}

static uint8_t fifo_pop(struct fifo *f)
{
    uint8_t byte = f->data[f->head];

    f->head = (f->head + 1) % FIFO_SIZE;
    f->num--;
    return byte;
}

static bool fifo_enabled(const struct serial *s)
{
    return s->reg.fcr & FCR_ENABLE;
}

static uint8_t interrupt_cause(const struct serial_registers *r)
{
    unsigned trigger = trigger_levels[r->fcr >> FCR_TRIGGER_SHIFT];

    if ((r->ier & IER_LINE) && (r->lsr & LSR_ERRORS)) {
        return IIR_LINE;
    }
    if ((r->ier & IER_RECEIVE) && r->timeout_ipending) {
        return IIR_TIMEOUT;
    }
    if ((r->ier & IER_RECEIVE) && (r->lsr & LSR_READY) &&
        (!(r->fcr & FCR_ENABLE) || r->receive.num >= trigger)) {
        return IIR_RECEIVE;
    }
    if ((r->ier & IER_TRANSMIT) && r->thr_ipending) {
        return IIR_TRANSMIT;
    }
    if ((r->ier & IER_MODEM) && (r->msr & MSR_DELTAS)) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void update_interrupt(struct serial *s)
{
    uint8_t cause = interrupt_cause(&s->reg);

    s->reg.iir = cause | (s->reg.iir & IIR_FIFO);
    vm_irq_set(s->dev.vm, s->irq, cause != IIR_NONE);
}

static int64_t character_time_ns(const struct serial_registers *r)
{
    unsigned bits =
        1 + 5 + (r->lcr & LCR_BITS) + !!(r->lcr & LCR_PARITY) + (r->lcr & LCR_STOP ? 2 : 1);
    unsigned divider = r->divider ? r->divider : 1;

    return (int64_t)bits * divider * 1000000000 / BASE_CLOCK;
}

static void start_timeout(struct serial *s)
{
    vm_timer_mod(s->timeout, vm_clock_ns(s->dev.vm) + 4 * character_time_ns(&s->reg));
}

/* A byte arrives at the receiver. */
static void receive_byte(struct serial *s, uint8_t byte)
{
    if (fifo_enabled(s)) {
        if (s->reg.receive.num == FIFO_SIZE) {
            s->reg.lsr |= LSR_OVERRUN; /* the new byte is lost, as the data sheet says */
        } else {
            fifo_push(&s->reg.receive, byte);
        }
        s->reg.lsr |= LSR_READY;
        start_timeout(s);
    } else {
        if (s->reg.lsr & LSR_READY) {
            s->reg.lsr |= LSR_OVERRUN;
        }
        s->reg.rbr = byte;
        s->reg.lsr |= LSR_READY;
    }
}

static void on_writable(void *opaque);

/* Hands over the byte in tsr; false: it waits. */
static bool send_tsr(struct serial *s)
{
    if (s->reg.mcr & MCR_LOOP) {
        receive_byte(s, s->reg.tsr);
    } else if (!vm_is_running(s->dev.vm)) {
        s->reg.tsr_retry = 1;
        vm_timer_mod(s->kick, 0);
        return false;
    } else if (chardev_write(s->chr, &s->reg.tsr, 1) == 0) {
        s->reg.tsr_retry = 1;
        chardev_notify_writable(s->chr, on_writable, s);
        return false;
    }
    s->reg.tsr_retry = 0;
    return true;
}

/* Sends what there is to send, until nothing is left or the chardev takes no more. */
static void transmit(struct serial *s)
{
    struct serial_registers *r = &s->reg;

    while (!(r->lsr & LSR_ALL_EMPTY)) {
        if (!r->tsr_retry) {
            if (fifo_enabled(s) && r->transmit.num) {
                r->tsr = fifo_pop(&r->transmit);
            } else if (!(r->lsr & LSR_HOLDING_EMPTY)) {
                r->tsr = r->thr;
            }
            if (!r->transmit.num && !(r->lsr & LSR_HOLDING_EMPTY)) {
                r->lsr |= LSR_HOLDING_EMPTY;
                r->thr_ipending = 1;
            }
        }
        if (!send_tsr(s)) {
            break;
        }
        if (r->lsr & LSR_HOLDING_EMPTY) {
            r->lsr |= LSR_ALL_EMPTY;
        }
    }
    update_interrupt(s);
}

static void on_writable(void *opaque)
{
    struct serial *s = opaque;

    if (s->reg.tsr_retry) {
        transmit(s); /* waits for the kick where the machine has been stopped */
    }
}

/* The machine runs again: take up what was held up while it did not. */
static void on_kick(void *opaque)
{
    struct serial *s = opaque;

    if (s->reg.tsr_retry) {
        transmit(s);
    }
    update_interrupt(s);
    chardev_accept_input(s->chr);
}

static void on_timeout(void *opaque)
{
    struct serial *s = opaque;

    if (s->reg.receive.num) {
        s->reg.timeout_ipending = 1;
        update_interrupt(s);
    }
}

static size_t can_receive(void *opaque)
{
    struct serial *s = opaque;

    if (!vm_is_running(s->dev.vm)) {
        vm_timer_mod(s->kick, 0);
        return 0;
    }
    if (s->reg.mcr & MCR_LOOP) {
        return 0; /* the receiver hears only the transmitter */
    }
    return fifo_enabled(s) ? FIFO_SIZE - s->reg.receive.num : !(s->reg.lsr & LSR_READY);
}

static void receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct serial *s = opaque;

    for (size_t i = 0; i < len; i++) {
        receive_byte(s, buf[i]);
    }
    update_interrupt(s);
}

static const struct chardev_frontend serial_frontend = {
    .can_receive = can_receive,
    .receive = receive,
};

static uint8_t read_data(struct serial *s)
{
    struct serial_registers *r = &s->reg;
    uint8_t byte = r->rbr;

    if (fifo_enabled(s)) {
        byte = r->receive.num ? fifo_pop(&r->receive) : 0;
        r->timeout_ipending = 0;
        if (r->receive.num) {
            start_timeout(s);
        } else {
            r->lsr &= (uint8_t) ~(LSR_READY | LSR_BREAK);
            vm_timer_del(s->timeout);
        }
    } else {
        r->lsr &= (uint8_t) ~(LSR_READY | LSR_BREAK);
    }
    update_interrupt(s);
    if (!(r->mcr & MCR_LOOP)) {
        chardev_accept_input(s->chr);
    }
    return byte;
}

static void write_data(struct serial *s, uint8_t byte)
{
    struct serial_registers *r = &s->reg;

    if (fifo_enabled(s)) {
        fifo_push(&r->transmit, byte);
    } else {
        r->thr = byte;
    }
    r->thr_ipending = 0;
    r->lsr &= (uint8_t) ~(LSR_HOLDING_EMPTY | LSR_ALL_EMPTY);
    /* the line goes low for a moment even where the byte goes at once: an edge-triggered interrupt
     * controller must see the next edge */
    update_interrupt(s);
    if (!r->tsr_retry) {
        transmit(s); /* else behind a byte that waits */
    }
}

static void write_ier(struct serial *s, uint8_t value)
{
    struct serial_registers *r = &s->reg;
    uint8_t raised = (uint8_t)(value & ~r->ier);

    r->ier = value & IER_ALL;
    if ((raised & IER_TRANSMIT) && (r->lsr & LSR_HOLDING_EMPTY)) {
        r->thr_ipending = 1;
    }
    update_interrupt(s);
}

static void write_fcr(struct serial *s, uint8_t value)
{
    struct serial_registers *r = &s->reg;

    if ((value ^ r->fcr) & FCR_ENABLE) {
        value |= FCR_CLEAR_RECEIVE | FCR_CLEAR_TRANSMIT;
    }
    if (value & FCR_CLEAR_RECEIVE) {
        fifo_clear(&r->receive);
        r->lsr &= (uint8_t) ~(LSR_READY | LSR_BREAK);
        r->timeout_ipending = 0;
        vm_timer_del(s->timeout);
    }
    if (value & FCR_CLEAR_TRANSMIT) {
        /* a byte that is in the shift register is sent all the same */
        fifo_clear(&r->transmit);
        r->lsr |= LSR_HOLDING_EMPTY | (r->tsr_retry ? 0 : LSR_ALL_EMPTY);
        r->thr_ipending = 1;
    }
    r->fcr = value & FCR_KEPT;
    r->iir = (uint8_t)((r->iir & IIR_ID) | (value & FCR_ENABLE ? IIR_FIFO : 0));
    update_interrupt(s);
    chardev_accept_input(s->chr);
}

static void write_mcr(struct serial *s, uint8_t value)
{
    uint8_t was = s->reg.mcr;

    s->reg.mcr = value & MCR_ALL;
    if ((was & MCR_LOOP) && !(value & MCR_LOOP)) {
        chardev_accept_input(s->chr);
    }
}

static uint8_t read_msr(struct serial *s)
{
    uint8_t mcr = s->reg.mcr, msr = s->reg.msr;

    if (mcr & MCR_LOOP) {
        return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
                         (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
    }
    if (msr & MSR_DELTAS) {
        s->reg.msr &= (uint8_t)~MSR_DELTAS;
        update_interrupt(s);
    }
    return msr;
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size G_GNUC_UNUSED)
{
    struct serial *s = opaque;
    struct serial_registers *r = &s->reg;
    uint8_t value;

    switch (offset) {
    case REG_DATA:
        return r->lcr & LCR_DLAB ? r->divider & 0xff : read_data(s);
    case REG_IER:
        return r->lcr & LCR_DLAB ? r->divider >> 8 : r->ier;
    case REG_IIR_FCR:
        value = r->iir;
        if ((value & IIR_ID) == IIR_TRANSMIT) {
            r->thr_ipending = 0;
            update_interrupt(s);
        }
        return value;
    case REG_LCR:
        return r->lcr;
    case REG_MCR:
        return r->mcr;
    case REG_LSR:
        value = r->lsr;
        if (value & LSR_ERRORS) {
            r->lsr &= (uint8_t)~LSR_ERRORS;
            update_interrupt(s);
        }
        return value;
    case REG_MSR:
        return read_msr(s);
    default:
        return r->scr;
    }
}

static void serial_write(void *opaque, uint64_t offset, uint64_t value64,
                         unsigned size G_GNUC_UNUSED)
{
    struct serial *s = opaque;
    struct serial_registers *r = &s->reg;
    uint8_t value = (uint8_t)value64;

    switch (offset) {
    case REG_DATA:
        if (r->lcr & LCR_DLAB) {
            r->divider = (uint16_t)((r->divider & 0xff00) | value);
        } else {
            write_data(s, value);
        }
        break;
    case REG_IER:
        if (r->lcr & LCR_DLAB) {
            r->divider = (uint16_t)((r->divider & 0xff) | value << 8);
        } else {
            write_ier(s, value);
        }
        break;
    case REG_IIR_FCR:
        write_fcr(s, value);
        break;
    case REG_LCR:
        r->lcr = value;
        break;
    case REG_MCR:
        write_mcr(s, value);
        break;
    case REG_SCR:
        r->scr = value;
        break;
    default:
        break; /* LSR and MSR are read only */
    }
}

static const struct io_ops serial_ops = {
    .read = serial_read,
    .write = serial_write,
    .max_size = 1,
};

static bool serial_realize(struct device *dev, GError **err)
{
    struct serial *s = (struct serial *)dev;

    /* a chardev that is connected asks for room at once, and the answer may arm a timer */
    s->timeout = vm_timer_new(dev->vm, on_timeout, s);
    s->kick = vm_timer_new(dev->vm, on_kick, s);
    if (!chardev_attach(s->chr, &serial_frontend, s, err)) {
        vm_timer_free(s->timeout);
        vm_timer_free(s->kick);
        return false;
    }
    memory_add_io(dev->vm->memory, IO_SPACE_PORT, s->base, REG_COUNT, &serial_ops, s, "serial");
    return true;
}

/*
 * What still waits goes to the chardev's own queue, because the port forgets it now: the last words
 * of a guest that resets or powers off. Not when the machine is stopped: after a migration they are
 * the destination's.
 */
static void flush_waiting(struct serial *s)
{
    struct serial_registers *r = &s->reg;

    if (!r->tsr_retry || !vm_is_running(s->dev.vm)) {
        return;
    }
    chardev_write_queued(s->chr, &r->tsr, 1);
    if (fifo_enabled(s)) {
        while (r->transmit.num) {
            uint8_t byte = fifo_pop(&r->transmit);

            chardev_write_queued(s->chr, &byte, 1);
        }
    } else if (!(r->lsr & LSR_HOLDING_EMPTY)) {
        chardev_write_queued(s->chr, &r->thr, 1);
    }
    r->tsr_retry = 0;
}

static void serial_unrealize(struct device *dev)
{
    struct serial *s = (struct serial *)dev;

    flush_waiting(s);
    chardev_detach(s->chr);
    vm_timer_free(s->timeout);
    vm_timer_free(s->kick);
}

static void registers_reset(struct serial_registers *r)
{
    *r = (struct serial_registers){
        .divider = 12, /* 9600 baud */
        .iir = IIR_NONE,
        .mcr = MCR_OUT2,
        .lsr = LSR_HOLDING_EMPTY | LSR_ALL_EMPTY,
        .msr = MSR_DCD | MSR_DSR | MSR_CTS,
        .fifo_timeout = -1,
        .poll_msl = -1,
        .modem_poll = -1,
    };
}

static void serial_reset(struct device *dev)
{
    struct serial *s = (struct serial *)dev;

    flush_waiting(s);
    registers_reset(&s->reg);
    vm_timer_del(s->timeout);
    vm_irq_set(dev->vm, s->irq, false);
    chardev_accept_input(s->chr);
}

/* vmstate */

static bool thr_ipending_needed(const void *state)
{
    const struct serial_registers *r = state;

    /* what a reader assumes who does not find it */
    return r->thr_ipending != ((r->iir & IIR_ID) == IIR_TRANSMIT);
}

static bool tsr_needed(const void *state)
{
    return ((const struct serial_registers *)state)->tsr_retry != 0;
}

static bool receive_needed(const void *state)
{
    return ((const struct serial_registers *)state)->receive.num != 0;
}

static bool transmit_needed(const void *state)
{
    return ((const struct serial_registers *)state)->transmit.num != 0;
}

static bool timeout_timer_needed(const void *state)
{
    return ((const struct serial_registers *)state)->fifo_timeout >= 0;
}

static bool timeout_ipending_needed(const void *state)
{
    return ((const struct serial_registers *)state)->timeout_ipending != 0;
}

static bool poll_needed(const void *state)
{
    return ((const struct serial_registers *)state)->poll_msl >= 0;
}

static const struct vmstate fifo_vmstate = {
    .name = "Fifo8",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct fifo),
    .fields =
        (const struct vmstate_field[]){
            VMS_BYTES(struct fifo, "data", data, FIFO_SIZE),
            VMS_RANGE(struct fifo, "head", VMS_U32, head, 0, FIFO_SIZE - 1),
            VMS_RANGE(struct fifo, "num", VMS_U32, num, 0, FIFO_SIZE),
            {},
        },
};

#define SUBSECTION(id, ...)                                                                        \
    static const struct vmstate id##_vmstate = {                                                   \
        .name = "serial/" #id,                                                                     \
        .version = 1,                                                                              \
        .min_version = 1,                                                                          \
        .size = sizeof(struct serial_registers),                                                   \
        .fields = (const struct vmstate_field[]){ __VA_ARGS__, {} },                               \
    }

SUBSECTION(thr_ipending, VMS_F(struct serial_registers, "thr_ipending", VMS_I32, thr_ipending));
SUBSECTION(tsr, VMS_F(struct serial_registers, "tsr_retry", VMS_I32, tsr_retry),
           VMS_F(struct serial_registers, "thr", VMS_U8, thr),
           VMS_F(struct serial_registers, "tsr", VMS_U8, tsr));
SUBSECTION(recv_fifo, VMS_NEST(struct serial_registers, "recv_fifo", receive, &fifo_vmstate));
SUBSECTION(xmit_fifo, VMS_NEST(struct serial_registers, "xmit_fifo", transmit, &fifo_vmstate));
SUBSECTION(fifo_timeout_timer,
           VMS_F(struct serial_registers, "fifo_timeout_timer", VMS_TIMER, fifo_timeout));
SUBSECTION(timeout_ipending,
           VMS_F(struct serial_registers, "timeout_ipending", VMS_I32, timeout_ipending));
SUBSECTION(poll, VMS_F(struct serial_registers, "poll_msl", VMS_I32, poll_msl),
           VMS_F(struct serial_registers, "modem_status_poll", VMS_TIMER, modem_poll));

static const struct vmstate registers_vmstate = {
    .name = "serial",
    .version = 3,
    .min_version = 3,
    .size = sizeof(struct serial_registers),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct serial_registers, "divider", VMS_U16, divider),
            VMS_F(struct serial_registers, "rbr", VMS_U8, rbr),
            VMS_F(struct serial_registers, "ier", VMS_U8, ier),
            VMS_F(struct serial_registers, "iir", VMS_U8, iir),
            VMS_F(struct serial_registers, "lcr", VMS_U8, lcr),
            VMS_F(struct serial_registers, "mcr", VMS_U8, mcr),
            VMS_F(struct serial_registers, "lsr", VMS_U8, lsr),
            VMS_F(struct serial_registers, "msr", VMS_U8, msr),
            VMS_F(struct serial_registers, "scr", VMS_U8, scr),
            VMS_F(struct serial_registers, "fcr_vmstate", VMS_U8, fcr),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &thr_ipending_vmstate, .needed = thr_ipending_needed },
            { .vmstate = &tsr_vmstate, .needed = tsr_needed },
            { .vmstate = &recv_fifo_vmstate, .needed = receive_needed },
            { .vmstate = &xmit_fifo_vmstate, .needed = transmit_needed },
            { .vmstate = &fifo_timeout_timer_vmstate, .needed = timeout_timer_needed },
            { .vmstate = &timeout_ipending_vmstate, .needed = timeout_ipending_needed },
            { .vmstate = &poll_vmstate, .needed = poll_needed },
            {},
        },
};

static void serial_defaults(void *opaque G_GNUC_UNUSED, void *state)
{
    struct serial_registers *r = &((struct serial_state *)state)->reg;

    registers_reset(r);
    r->thr_ipending = -1; /* as iir says */
}

static bool serial_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    const struct serial *s = opaque;
    struct serial_registers *r = &((struct serial_state *)state)->reg;

    *r = s->reg;
    r->fifo_timeout = vm_timer_expire_ns(s->timeout);
    return true;
}

static bool serial_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                        GError **err G_GNUC_UNUSED)
{
    struct serial *s = opaque;
    struct serial_registers *r = &s->reg;

    *r = ((const struct serial_state *)state)->reg;
    if (r->thr_ipending < 0) {
        r->thr_ipending = (r->iir & IIR_ID) == IIR_TRANSMIT;
    }
    r->ier &= IER_ALL;
    r->mcr &= MCR_ALL;
    r->fcr &= FCR_KEPT;
    r->poll_msl = -1;
    r->modem_poll = -1;
    if (!(r->fcr & FCR_ENABLE)) {
        fifo_clear(&r->receive);
        fifo_clear(&r->transmit);
    }
    if (r->receive.num) {
        r->lsr |= LSR_READY;
    }
    if (r->tsr_retry) {
        r->tsr_retry = 1;
        r->lsr &= (uint8_t)~LSR_ALL_EMPTY;
    } else if (r->transmit.num) {
        /* bytes in the FIFO and none in front of them: send them like freshly written ones */
        r->lsr &= (uint8_t) ~(LSR_HOLDING_EMPTY | LSR_ALL_EMPTY);
        r->tsr = fifo_pop(&r->transmit);
        r->tsr_retry = 1;
        if (!r->transmit.num) {
            r->lsr |= LSR_HOLDING_EMPTY;
        }
    }
    if (r->fifo_timeout >= 0) {
        vm_timer_mod(s->timeout, r->fifo_timeout);
    } else {
        vm_timer_del(s->timeout);
    }
    vm_timer_mod(s->kick, 0);
    return true;
}

static const struct vmstate serial_vmstate = {
    .name = "serial",
    .version = 3,
    .min_version = 3,
    .size = sizeof(struct serial_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_NEST(struct serial_state, "state", reg, &registers_vmstate),
            {},
        },
    .save = serial_save,
    .load = serial_load,
    .defaults = serial_defaults,
};

static const struct device_class serial_class = {
    .name = "isa-serial",
    .description = "ISA serial port (16550A)",
    .size = sizeof(struct serial),
    .realize = serial_realize,
    .unrealize = serial_unrealize,
    .reset = serial_reset,
    .vmstate = &serial_vmstate,
};
DEVICE_CLASS(serial_class);

struct device *serial_create(struct vm *vm, unsigned base, unsigned irq, struct chardev *chr,
                             GError **err)
{
    struct device *dev = device_new(vm, &serial_class, NULL, err);
    struct serial *s = (struct serial *)dev;

    if (!dev) {
        return NULL;
    }
    s->base = base;
    s->irq = irq;
    s->chr = chr;
    registers_reset(&s->reg);
    dev->savevm_order = SAVEVM_ORDER_SERIAL;
    return device_realize(dev, err) ? dev : NULL;
}
