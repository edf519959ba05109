# SPDX-License-Identifier: GPL-2.0-or-later
"""Built-in layouts of the microvm devices, for streams that carry no description.

One Vmsd per section name, in the version QEMU 7.2 to 10.0 send.  Field names are those of the
stream's description, so that decoding by table and by description can be compared.  All of it was
measured on streams; what is not here was never seen on microvm and is reported as unknown.
"""

from .layout import OPAQUE, Row, Vmsd

SIZES = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int32": 4, "int64": 8, "bool": 1,
         "timer": 8, "int32 le": 4, "int32 equal": 4}


def rows(kind, text):
    """Rows of one integer type; `name*N` is an array of N, `name*field` one as long as
    an earlier field says."""
    result = []
    for word in text.split():
        name, _, count = word.partition("*")
        length = int(count) if count.isdigit() else count or None
        result.append(Row(name, kind, SIZES[kind], length))
    return result


def u8(text):
    return rows("uint8", text)


def u16(text):
    return rows("uint16", text)


def u32(text):
    return rows("uint32", text)


def u64(text):
    return rows("uint64", text)


def i32(text):
    return rows("int32", text)


def i64(text):
    return rows("int64", text)


def timer(text):
    return rows("timer", text)


def flag(text):
    return rows("bool", text)


def buffer(name, size, kind="buffer"):
    return [Row(name, kind, size)]


def unused(name, size):
    return buffer(name, size, "unused_buffer")


def opaque(size):
    """A part of known length whose fields are not known."""
    return buffer("data", size, OPAQUE)


def struct(name, vmsd, count=None, kind="struct"):
    return [Row(name, kind, 0, count, 0, vmsd)]


def sub(name, fields, version=1):
    return Vmsd(name, version, fields)


def vmsd(name, version, *groups, subs=()):
    return Vmsd(name, version, [row for group in groups for row in group], list(subs))


SEGMENT = vmsd("segment", 1, u32("selector"), u64("base"), u32("limit flags"))
FPREG = vmsd("fpreg", 0, struct("tmp", vmsd("fpreg_tmp", 0, u64("tmp_mant"), u16("tmp_exp")),
                                kind="tmp"))
XMM_LOW = vmsd("xmm_reg", 1, u64("_q_ZMMReg[0] _q_ZMMReg[1]"))
XMM_HIGH = vmsd("ymmh_reg", 1, u64("_q_ZMMReg[2] _q_ZMMReg[3]"))
MTRR_VAR = vmsd("mtrr_var", 1, u64("base mask"))

BOUND = vmsd("bnd_regs", 1, u64("lb ub"))
ZMM_HIGH = vmsd("zmmh_reg", 1, u64("_q_ZMMReg[4] _q_ZMMReg[5] _q_ZMMReg[6] _q_ZMMReg[7]"))
ZMM_16_31 = vmsd("hi16_zmm_reg", 1, u64(" ".join("_q_ZMMReg[%d]" % part for part in range(8))))

# In the order QEMU sends them.
CPU_SUBSECTIONS = [
    sub("cpu/async_pf_msr", u64("env.async_pf_en_msr")),
    sub("cpu/async_pf_int_msr", u64("env.async_pf_int_msr")),
    sub("cpu/async_pv_eoi_msr", u64("env.pv_eoi_en_msr")),
    sub("cpu/steal_time_msr", u64("env.steal_time_msr")),
    sub("cpu/poll_control_msr", u64("env.poll_control_msr")),
    sub("cpu/fpop_ip_dp", u16("env.fpop") + u64("env.fpip env.fpdp")),
    sub("cpu/msr_tsc_adjust", u64("env.tsc_adjust")),
    sub("cpu/msr_tscdeadline", u64("env.tsc_deadline")),
    sub("cpu/msr_ia32_misc_enable", u64("env.msr_ia32_misc_enable")),
    sub("cpu/msr_ia32_feature_control", u64("env.msr_ia32_feature_control")),
    sub("cpu/msr_architectural_pmu",
        u64("env.msr_fixed_ctr_ctrl env.msr_global_ctrl env.msr_global_status "
            "env.msr_global_ovf_ctrl env.msr_fixed_counters*3 env.msr_gp_counters*18 "
            "env.msr_gp_evtsel*18")),
    sub("cpu/mpx", struct("env.bnd_regs", BOUND, 4)
        + u64("env.bndcs_regs.cfgu env.bndcs_regs.sts env.msr_bndcfgs")),
    sub("cpu/msr_hyperv_hypercall", u64("env.msr_hv_guest_os_id env.msr_hv_hypercall")),
    sub("cpu/msr_hyperv_vapic", u64("env.msr_hv_vapic")),
    sub("cpu/msr_hyperv_time", u64("env.msr_hv_tsc")),
    sub("cpu/msr_hyperv_crash", u64("env.msr_hv_crash_params*5")),
    sub("cpu/msr_hyperv_synic", u64("env.msr_hv_synic_control env.msr_hv_synic_evt_page "
                                    "env.msr_hv_synic_msg_page env.msr_hv_synic_sint*16")),
    sub("cpu/msr_hyperv_stimer", u64("env.msr_hv_stimer_config*4 env.msr_hv_stimer_count*4")),
    sub("cpu/avx512", u64("env.opmask_regs*8") + struct("env.xmm_regs[0]", ZMM_HIGH, 16)
        + struct("env.xmm_regs[1]", ZMM_16_31, 16)),
    sub("cpu/xss", u64("env.xss")),
    sub("cpu/umwait", u32("env.umwait")),
    sub("cpu/tsc_khz", i64("env.tsc_khz")),
    sub("cpu/msr_smi_count", u64("env.msr_smi_count")),
    sub("cpu/pkru", u32("env.pkru")),
    sub("cpu/pkrs", u32("env.pkrs")),
    sub("cpu/spec_ctrl", u64("env.spec_ctrl")),
    sub("cpu/intel_pt", u64("env.msr_rtit_ctrl env.msr_rtit_status env.msr_rtit_output_base "
                            "env.msr_rtit_output_mask env.msr_rtit_cr3_match "
                            "env.msr_rtit_addrs*8")),
    sub("cpu/virt_ssbd", u64("env.virt_ssbd")),
    sub("cpu/svn_npt", u64("env.nested_cr3") + u32("env.nested_pg_mode")),
    sub("cpu/svm_guest", u32("env.int_ctl")),
    sub("cpu/pdptrs", u64("env.pdptrs*4")),
    sub("cpu/triple_fault", u8("env.triple_fault_pending")),
    # Only the length of these is known; their place in the order is not.
    sub("cpu/amd_tsc_scale_msr", opaque(8)),
    sub("cpu/arch_lbr", opaque(784)),
    sub("cpu/exception_info", opaque(11)),
    sub("cpu/intel_amx_xtile", opaque(8256)),
    sub("cpu/intel_sgx", opaque(32)),
    sub("cpu/mcg_ext_ctl", opaque(8)),
    sub("cpu/msr_hyperv_reenlightenment", opaque(24)),
    sub("cpu/msr_hyperv_runtime", opaque(8)),
    sub("cpu/msr_tsx_ctrl", opaque(4)),
    sub("cpu/msr_xfd", opaque(16)),
]

CPU = vmsd(
    "cpu", 12,
    u64("env.regs*16 env.eip env.eflags"),
    u32("env.hflags"),
    u16("env.fpuc env.fpus_vmstate env.fptag_vmstate env.fpregs_format_vmstate"),
    struct("env.fpregs", FPREG, 8),
    struct("env.segs", SEGMENT, 6),
    struct("env.ldt", SEGMENT), struct("env.tr", SEGMENT),
    struct("env.gdt", SEGMENT), struct("env.idt", SEGMENT),
    u32("env.sysenter_cs"), u64("env.sysenter_esp env.sysenter_eip"),
    u64("env.cr[0] env.cr[2] env.cr[3] env.cr[4] env.dr*8"),
    i32("env.a20_mask"), u32("env.mxcsr"),
    struct("env.xmm_regs[0]", XMM_LOW, 16),
    u64("env.efer env.star env.lstar env.cstar env.fmask env.kernelgsbase"),
    u32("env.smbase"), u64("env.pat"), u32("env.hflags2"),
    u64("env.vm_hsave env.vm_vmcb env.tsc_offset env.intercept"),
    u16("env.intercept_cr_read env.intercept_cr_write env.intercept_dr_read "
        "env.intercept_dr_write"),
    u32("env.intercept_exceptions"), u8("env.v_tpr"),
    u64("env.mtrr_fixed*11 env.mtrr_deftype"), struct("env.mtrr_var", MTRR_VAR, 8),
    i32("env.interrupt_injected"), u32("env.mp_state"), u64("env.tsc"), i32("env.exception_nr"),
    u8("env.soft_interrupt env.nmi_injected env.nmi_pending env.has_error_code"),
    u32("env.sipi_vector"), u64("env.mcg_cap env.mcg_status env.mcg_ctl env.mce_banks*40"),
    u64("env.tsc_aux env.system_time_msr env.wall_clock_msr env.xcr0 env.xstate_bv"),
    struct("env.xmm_regs[1]", XMM_HIGH, 16),
    subs=CPU_SUBSECTIONS)

VAPIC_HANDLERS = vmsd("kvmvapic-handlers", 1,
                      u32("set_tpr set_tpr_eax get_tpr*8 get_tpr_stack"))
VAPIC_ROM = vmsd("kvmvapic-guest-rom", 1, unused("unused", 8),
                 u32("vaddr fixup_start fixup_end vapic_vaddr vapic_size vcpu_shift "
                     "real_tpr_addr"),
                 struct("up", VAPIC_HANDLERS), struct("mp", VAPIC_HANDLERS))

PIT_CHANNEL = vmsd("pit channel", 2, i32("count"), u16("latched_count"),
                   u8("count_latched status_latched status read_state write_state write_latch "
                      "rw_mode mode bcd gate"),
                   i64("count_load_time next_transition_time"))

FIFO16 = vmsd("Fifo8", 1, buffer("data", 16), u32("head num"))
SERIAL_CORE = vmsd(
    "serial", 3, u16("divider"), u8("rbr ier iir lcr mcr lsr msr scr fcr_vmstate"),
    subs=[sub("serial/thr_ipending", i32("thr_ipending")),
          sub("serial/tsr", u32("tsr_retry") + u8("thr tsr")),
          sub("serial/recv_fifo", struct("recv_fifo", FIFO16)),
          sub("serial/xmit_fifo", struct("xmit_fifo", FIFO16)),
          sub("serial/fifo_timeout_timer", timer("fifo_timeout_timer")),
          sub("serial/timeout_ipending", i32("timeout_ipending")),
          sub("serial/poll", i32("poll_msl") + timer("modem_status_poll"))])

PCI_DEVICE = vmsd("PCIDevice", 2, rows("int32 le", "version_id"),
                  buffer("config[0]", 256, "pci config"), buffer("irq_state", 16, "pci irq state"))

XHCI = vmsd(
    "xhci-core", 1,
    struct("ports", vmsd("xhci-port", 1, u32("portsc")), 16),
    struct("slots", vmsd("xhci-slot", 1, flag("enabled addressed")), 64),
    struct("intr", vmsd("xhci-intr", 1,
                        u32("iman imod erstsz erstba_low erstba_high erdp_low erdp_high"),
                        flag("msix_used er_pcs"), u64("er_start"), u32("er_size er_ep_idx"),
                        flag("er_full_unused"))),
    u32("usbcmd usbsts dnctrl crcr_low crcr_high dcbaap_low dcbaap_high config"),
    i64("mfindex_start"), timer("mfwrap_timer"),
    struct("cmd_ring", vmsd("xhci-ring", 1, u64("dequeue"), flag("ccs"))))

TABLE = {layout.name: layout for layout in [
    vmsd("timer", 2, i64("cpu_ticks_offset"), unused("unused", 8), i64("cpu_clock_offset")),
    vmsd("fw_cfg", 2, u16("cur_entry"), u32("cur_offset[1]"),
         subs=[sub("fw_cfg/dma", u64("dma_addr"), 0),
               sub("fw_cfg/acpi_mr", u64("table_mr_size linker_mr_size rsdp_mr_size"))]),
    vmsd("cpu_common", 1, u32("halted interrupt_request"),
         subs=[sub("cpu_common/exception_index", i32("exception_index")),
               sub("cpu_common/crash_occurred", flag("crash_occurred"))]),
    CPU,
    vmsd("kvm-tpr-opt", 1, struct("rom_state", VAPIC_ROM),
         u32("state real_tpr_addr rom_state_vaddr vapic_paddr rom_state_paddr")),
    vmsd("apic", 3, u32("apicbase"), u8("id arb_id tpr"), u32("spurious_vec"),
         u8("log_dest dest_mode"), u32("isr*8 tmr*8 irr*8 lvt*6 esr icr*2 divide_conf"),
         i32("count_shift"), u32("initial_count"),
         i64("initial_count_load_time next_time timer_expiry"),
         subs=[sub("apic_sipi", i32("sipi_vector wait_for_sipi"))]),
    vmsd("ioapic", 3, u8("id ioregsel"), unused("unused", 8), u32("irr"), u64("ioredtbl*24")),
    vmsd("kvmclock", 1, u64("clock"),
         subs=[sub("kvmclock/clock_is_reliable", flag("clock_is_reliable"))]),
    vmsd("acpi-ged", 1, struct("ged_state", vmsd("acpi-ged-state", 1, u32("sel"))),
         subs=[sub("acpi-ged/memhp",
                   struct("memhp_state", vmsd("memory hotplug state", 1, u32("selector")))),
               sub("acpi-ged/ghes",
                   struct("ghes_state", vmsd("acpi-ghes", 1, u64("ghes_addr_le"))))]),
    vmsd("i8259", 1, u8("last_irr irr imr isr priority_add irq_base read_reg_select poll "
                        "special_mask init_state auto_eoi rotate_on_auto_eoi "
                        "special_fully_nested_mode init4 single_mode elcr")),
    vmsd("i8254", 3, u32("channels[0].irq_disabled"), struct("channels", PIT_CHANNEL, 3),
         i64("channels[0].next_transition_time")),
    vmsd("mc146818rtc", 3, buffer("cmos_data", 128), u8("cmos_index"), unused("unused[0]", 28),
         timer("periodic_timer"), i64("next_periodic_time"), unused("unused[1]", 24),
         u32("irq_coalesced period"), u64("base_rtc last_update"), i64("offset"),
         timer("update_timer"), u64("next_alarm_time"),
         subs=[sub("mc146818rtc/irq_reinject_on_ack_count", u16("irq_reinject_on_ack_count"))]),
    vmsd("serial", 3, struct("state", SERIAL_CORE)),
    vmsd("globalstate", 1, u32("size"), buffer("runstate", 100)),
    vmsd("gpex_root", 1, struct("parent_obj", PCI_DEVICE)),
    vmsd("PCIHost", 1, u32("config_reg")),
    vmsd("PCIBUS", 1, rows("int32 equal", "nirq"), i32("irq_count*nirq")),
    vmsd("xhci-sysbus", 1, struct("xhci", XHCI)),
    vmsd("virtio-blk", 2, buffer("virtio", 0, "virtio")),
    vmsd("virtio-net", 11, buffer("virtio", 0, "virtio")),
    vmsd("virtio-console", 3, buffer("virtio", 0, "virtio")),
    vmsd("virtio-rng", 1, buffer("virtio", 0, "virtio")),
    vmsd("virtio-balloon", 1, buffer("virtio", 0, "virtio")),
]}


# The same bytes under another division, as a later QEMU describes them.
DIALECTS = {
    # 10.0: a name of at most 32 bytes, and what used to be its padding has a meaning.
    "globalstate": vmsd("globalstate", 1, u32("size"), buffer("runstate", 32),
                        u8("has_vm_was_suspended vm_was_suspended"), buffer("unused", 66)),
}


def lookup(idstr):
    """The layout for a section name, or None.  A device path before the name does not matter."""
    return TABLE.get(idstr) or TABLE.get(idstr.rpartition("/")[2])


def dialects(layout):
    """All divisions of a layout's bytes, the one that gives the field names first."""
    other = DIALECTS.get(layout.name)
    return [layout] if other is None else [layout, other]
