package direct

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// slots is how many of the child's sockets are led to at most. One for each
// family would do while all goes well; the others are for those that outlive
// their neighbours. Within a group of SO_REUSEPORT the kernel chooses itself.
const slots = 8

// Offsets in struct bpf_sk_lookup of linux/bpf.h. The port is in the order of
// this machine, the addresses are in that of the network.
const (
	ctxFamily    = 8
	ctxProtocol  = 12
	ctxLocalIP4  = 40
	ctxLocalIP6  = 44
	ctxLocalPort = 60
)

const pass = "pass"

// program returns what the kernel runs for every first packet of a connection
// in this network namespace (bpf_sk_lookup in linux/bpf.h): unless it came for
// us and the gate is open, it decides nothing, and the usual listener gets it.
// So it does when no slot has a socket that takes the packet's family.
func program(at place, m *maps) *ebpf.ProgramSpec {
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	code = append(code, matches(at)...)
	code = append(code, lookUp(m.gate, 0, pass)...)
	code = append(code,
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JEq.Imm(asm.R1, 0, pass),
	)
	for i := range slots {
		code = append(code, try(m.sockets, i)...)
	}
	code = append(code, asm.Ja.Label(pass))
	code = append(code, count(m.begun)...)
	code = append(code, asm.Mov.Imm(asm.R0, skPass).WithSymbol(pass), asm.Return())
	return &ebpf.ProgramSpec{
		Name: "tiproxy", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup,
		Instructions: code, License: "MIT",
	}
}

// skPass is SK_PASS: go on with the socket that was assigned, or with the
// usual look-up.
const skPass = 1

// matches jumps to pass unless the packet is for a place.
func matches(at place) asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, ctxProtocol, asm.Word),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, pass),
		asm.LoadMem(asm.R1, asm.R6, ctxLocalPort, asm.Word),
		asm.JNE.Imm(asm.R1, int32(at.addr.Port()), pass),
	}
	if at.dual {
		return code
	}
	ip, family, field := at.addr.Addr(), int32(unix.AF_INET), int16(ctxLocalIP4)
	if ip.Is6() {
		family, field = unix.AF_INET6, ctxLocalIP6
	}
	code = append(code,
		asm.LoadMem(asm.R1, asm.R6, ctxFamily, asm.Word),
		asm.JNE.Imm(asm.R1, family, pass),
	)
	if ip.IsUnspecified() {
		return code
	}
	for b := ip.AsSlice(); len(b) > 0; b, field = b[4:], field+4 {
		code = append(code,
			asm.LoadMem(asm.R1, asm.R6, field, asm.Word),
			asm.JNE.Imm32(asm.R1, int32(binary.NativeEndian.Uint32(b)), pass), // 64 bits would compare the sign
		)
	}
	return code
}

// lookUp leaves the value of a map in R0, or jumps if there is none.
func lookUp(m *ebpf.Map, key int, none string) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, int64(key), asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	}
}

// try assigns the socket in a slot and jumps to counted, or goes on behind.
func try(sockets *ebpf.Map, slot int) asm.Instructions {
	next := fmt.Sprintf("behind slot %d", slot)
	code := lookUp(sockets, slot, next)
	return append(code,
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.JEq.Imm(asm.R8, 0, counted),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(next), // something to jump to
	)
}

const counted = "counted"

// count adds one to this processor's number.
func count(begun *ebpf.Map) asm.Instructions {
	code := lookUp(begun, 0, pass)
	code[0] = code[0].WithSymbol(counted)
	return append(code,
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
}
