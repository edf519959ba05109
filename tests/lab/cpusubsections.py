# SPDX-License-Identifier: GPL-2.0-or-later
"""
The subsections of the stream's section `cpu`, all that QEMU 7.2 knows by name, and how each is
tested:

    LIVE     a stock Linux in the lab has it, and it is there after a move (test_cpu.py)
    CHANCE   the same, but only a stop at the right moment finds it
    WIRE     no guest here can have it: only bytes against bytes, the captured ones of QEMU where
             there are any (tests/unit/test_cpu_wire.py)
    REFUSED  Ferry offers the guest nothing of the kind; a stream that has it is refused

`fixture` says whether tests/stream/fixtures/mv-tcg-subsections-S, which QEMU loaded and sent back,
has it; what is not in it is known by its length only.
"""

from collections import namedtuple

LIVE, CHANCE, WIRE, REFUSED = "live", "chance", "wire", "refused"

Row = namedtuple("Row", "name how fixture why")

ROWS = [Row(*row) for row in (
    # QEMU's order; those that it was never seen to send are where Ferry sends them
    ("exception_info", WIRE, False, "an exception that waits at the very stop"),
    ("async_pf_msr", LIVE, True, "asynchronous page faults are on"),
    ("async_pf_int_msr", LIVE, True, "and their vector"),
    ("async_pv_eoi_msr", LIVE, True, "KVM's end of interrupt"),
    ("steal_time_msr", LIVE, True, "stolen time is told"),
    ("poll_control_msr", LIVE, True, "the host shall not poll for a halted vCPU"),
    ("fpop_ip_dp", WIRE, True, "the emulated CPU keeps no last x87 instruction"),
    ("msr_tsc_adjust", LIVE, True, "the guest moved its TSC"),
    ("msr_tscdeadline", CHANCE, True, "the local APIC's timer is armed"),
    ("msr_ia32_misc_enable", WIRE, True, "this KVM's reset value is 1, the power-on value"),
    ("msr_ia32_feature_control", WIRE, True, "VT-x"),
    ("msr_architectural_pmu", WIRE, True, "the emulated CPU has no such counters"),
    ("mpx", WIRE, True, "MPX"),
    ("msr_hyperv_hypercall", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_vapic", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_time", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_crash", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_runtime", REFUSED, False, "Hyper-V"),
    ("msr_hyperv_synic", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_stimer", REFUSED, True, "Hyper-V"),
    ("msr_hyperv_reenlightenment", REFUSED, False, "Hyper-V"),
    ("avx512", WIRE, True, "AVX-512, which the emulated CPU has not"),
    ("xss", WIRE, True, "KVM offers no supervisor state here"),
    ("umwait", WIRE, True, "UMWAIT"),
    ("tsc_khz", LIVE, True, "always with KVM"),
    ("msr_smi_count", WIRE, True, "the guest was in system management mode"),
    ("pkru", LIVE, True, "Linux turns protection keys on"),
    ("pkrs", WIRE, True, "protection keys for the supervisor"),
    ("spec_ctrl", WIRE, True, "the emulated CPU has no speculation to control"),
    ("intel_pt", REFUSED, True, "Processor Trace"),
    ("amd_tsc_scale_msr", WIRE, False, "TSC scaling for nested guests"),
    ("mcg_ext_ctl", WIRE, False, "local machine checks"),
    ("virt_ssbd", WIRE, True, "set where the guest asks for SSBD"),
    ("svn_npt", REFUSED, True, "nested guests"),
    ("svm_guest", REFUSED, True, "nested guests"),
    ("nested_state", REFUSED, None, "nested guests"),
    ("kvm_nested_state", REFUSED, None, "nested guests"),
    ("msr_tsx_ctrl", WIRE, False, "TSX"),
    ("intel_sgx", REFUSED, False, "SGX"),
    ("msr_xfd", WIRE, False, "AMX"),
    ("intel_amx_xtile", WIRE, False, "AMX"),
    ("arch_lbr", REFUSED, False, "branch records"),
    ("pdptrs", WIRE, True, "PAE paging; stock Linux for this CPU does not use it"),
    ("triple_fault", WIRE, True, "a triple fault at the very stop"),
)]


def names(*how):
    return [row.name for row in ROWS if row.how in how]
