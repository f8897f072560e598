//! Rules as a BPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. Pure.

use super::{DeviceKind, DeviceRule, DeviceRules, Permissions};
use husk_oci::sys::bpf::{self, Insn};

/// What our programs are called, in `bpftool prog` too.
pub const NAME: bpf::Name = bpf::named(c"husk_devices");

// Operations; `linux/bpf_common.h`, `linux/bpf.h`. All on the lower 32 bits, which the kernel's numbers fit in, so that no operand is extended by
// its sign. KERNEL(5.1) for jumps on 32 bits.
const LOAD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_IF: u8 = 0x16;
const JUMP_UNLESS: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers: the answer, the address of `struct bpf_cgroup_dev_ctx`, and what was read from there.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program that allows what `rules` allow, and nothing else. What loading it costs grows with its length (a microsecond or two an
/// instruction), so what rules have in common is asked once: the kind, the major number, the permissions.
pub(super) fn compile(rules: &DeviceRules) -> Vec<Insn> {
    let mut code = Code {
        program: vec![
            // `access_type` has the access in its upper half and the kind in its lower.
            Insn::new(LOAD, KIND, CONTEXT, 0, 0),
            Insn::new(MOVE, ACCESS, KIND, 0, 0),
            Insn::new(AND, KIND, 0, 0, 0xffff),
            Insn::new(SHIFT_RIGHT, ACCESS, 0, 0, 16),
            Insn::new(LOAD, MAJOR, CONTEXT, 4, 0),
            Insn::new(LOAD, MINOR, CONTEXT, 8, 0),
        ],
        allowing: Vec::new(),
    };
    for kind in [DeviceKind::Char, DeviceKind::Block] {
        let of_kind: Vec<&DeviceRule> = rules.iter().filter(|rule| rule.kind == kind).collect();
        if !of_kind.is_empty() {
            code.kind(kind, &of_kind);
        }
    }
    code.finish()
}

/// A program that grows.
struct Code {
    program: Vec<Insn>,
    /// Where it jumps to when an access is allowed; the place is known at the end.
    allowing: Vec<usize>,
}

impl Code {
    /// Appends an instruction and says where it is.
    fn push(&mut self, code: u8, register: u8, operand: i32) -> usize {
        self.program.push(Insn::new(code, register, 0, 0, operand));
        self.program.len() - 1
    }

    /// Lets the jump at `from` lead to what is appended next. A program has some thousand instructions: it is about the devices
    /// that a container was given.
    fn land(&mut self, from: usize) {
        self.program[from].off = (self.program.len() - from - 1) as i16;
    }

    fn kind(&mut self, kind: DeviceKind, rules: &[&DeviceRule]) {
        // `BPF_DEVCG_DEV_*`
        let number = match kind {
            DeviceKind::Block => 1,
            DeviceKind::Char => 2,
        };
        let others = self.push(JUMP_UNLESS, KIND, number);
        let alike = |a: &DeviceRule, b: &DeviceRule| (a.major, a.permissions) == (b.major, b.permissions);
        for (i, rule) in rules.iter().enumerate() {
            if rules[..i].iter().any(|before| alike(before, rule)) {
                continue;
            }
            let minors: Vec<Option<u32>> = rules[i..].iter().filter(|r| alike(r, rule)).map(|r| r.minor).collect();
            if !self.group(rule, &minors) {
                break;
            }
        }
        self.land(others);
    }

    /// Rules that differ in the minor number only. `false` when nothing can get past them: code behind that is refused by the kernel.
    fn group(&mut self, rule: &DeviceRule, minors: &[Option<u32>]) -> bool {
        let mut past = Vec::with_capacity(2);
        if let Some(major) = rule.major {
            past.push(self.push(JUMP_UNLESS, MAJOR, major as i32));
        }
        if rule.permissions != Permissions::ALL {
            self.program.push(Insn::new(MOVE, ANSWER, ACCESS, 0, 0));
            self.push(AND, ANSWER, !i32::from(rule.permissions.bits()));
            past.push(self.push(JUMP_UNLESS, ANSWER, 0));
        }
        let every = minors.contains(&None);
        if every {
            let jump = self.push(JUMP, 0, 0);
            self.allowing.push(jump);
        } else {
            for minor in minors.iter().flatten() {
                let jump = self.push(JUMP_IF, MINOR, *minor as i32);
                self.allowing.push(jump);
            }
        }
        let passable = !every || !past.is_empty();
        past.into_iter().for_each(|jump| self.land(jump));
        passable
    }

    fn finish(mut self) -> Vec<Insn> {
        self.push(SET, ANSWER, 0);
        self.push(EXIT, 0, 0);
        if !self.allowing.is_empty() {
            for jump in std::mem::take(&mut self.allowing) {
                self.land(jump);
            }
            self.push(SET, ANSWER, 1);
            self.push(EXIT, 0, 0);
        }
        self.program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One question of the kernel: kind and access by `BPF_DEVCG_*`.
    #[derive(Debug, Clone, Copy)]
    struct Asked {
        kind: u32,
        access: u32,
        major: u32,
        minor: u32,
    }

    /// What the rules say, by their definition.
    fn allowed(rules: &DeviceRules, asked: Asked) -> bool {
        rules.iter().any(|rule| {
            let kind = if rule.kind == DeviceKind::Block { 1 } else { 2 };
            kind == asked.kind
                && rule.major.is_none_or(|n| n == asked.major)
                && rule.minor.is_none_or(|n| n == asked.minor)
                && asked.access & !u32::from(rule.permissions.bits()) == 0
        })
    }

    /// What the program says, as the kernel would run it. It refuses what the kernel's verifier would: reading a register before it was set,
    /// jumping backwards, running out of the program.
    fn run(program: &[Insn], asked: Asked) -> bool {
        let context = [asked.access << 16 | asked.kind, asked.major, asked.minor];
        let mut registers: [Option<u32>; 11] = [None; 11];
        let mut at = 0;
        loop {
            let insn = program[at];
            let (dst, src) = (usize::from(insn.dst()), usize::from(insn.src()));
            let operand = insn.imm as u32;
            at += 1;
            match insn.code {
                LOAD => {
                    assert_eq!(insn.src(), CONTEXT);
                    registers[dst] = Some(context[usize::try_from(insn.off).unwrap() / 4]);
                }
                MOVE => registers[dst] = Some(registers[src].unwrap()),
                SET => registers[dst] = Some(operand),
                AND => registers[dst] = Some(registers[dst].unwrap() & operand),
                SHIFT_RIGHT => registers[dst] = Some(registers[dst].unwrap() >> operand),
                JUMP_UNLESS => {
                    if registers[dst].unwrap() != operand {
                        at += usize::try_from(insn.off).unwrap();
                    }
                }
                JUMP_IF => {
                    if registers[dst].unwrap() == operand {
                        at += usize::try_from(insn.off).unwrap();
                    }
                }
                JUMP => at += usize::try_from(insn.off).unwrap(),
                EXIT => return registers[usize::from(ANSWER)].unwrap() == 1,
                other => panic!("operation {other:#x} is not among those that are used"),
            }
        }
    }

    #[track_caller]
    fn agree(rules: &DeviceRules, asked: Asked) {
        assert_eq!(run(&compile(rules), asked), allowed(rules, asked), "{asked:?} under {rules:?}");
    }

    #[test]
    fn every_container_has_null_and_none_has_a_disk() {
        let program = compile(&DeviceRules::container());
        let ask = |kind, access, major, minor| run(&program, Asked { kind, access, major, minor });
        assert!(ask(2, 6, 1, 3), "read and write /dev/null");
        assert!(ask(2, 6, 136, 77), "any pseudo-terminal");
        assert!(ask(1, 1, 8, 0), "make a node of a disk");
        for (kind, access, major, minor) in [(1, 2, 8, 0), (2, 2, 1, 11), (2, 6, 10, 200), (1, 3, 7, 0), (1, 2, 1, 3)] {
            assert!(!ask(kind, access, major, minor), "{kind} {major}:{minor} {access}");
        }
    }

    /// The kernel refuses a program with code that nothing leads to.
    fn is_all_reachable(program: &[Insn]) -> bool {
        let mut reached = vec![false; program.len()];
        reached[0] = true;
        for (at, insn) in program.iter().enumerate().filter(|(_, insn)| insn.code != EXIT) {
            if insn.code != JUMP {
                reached[at + 1] |= reached[at];
            }
            if [JUMP, JUMP_IF, JUMP_UNLESS].contains(&insn.code) {
                reached[at + 1 + usize::try_from(insn.off).unwrap()] |= reached[at];
            }
        }
        reached.iter().all(|reached| *reached)
    }

    #[test]
    fn what_allows_everything_has_nothing_behind_it() {
        for lines in
            [&["c *:* rwm", "c 1:3 r", "b 7:0 r"][..], &["c 1:3 r", "c *:* rwm"], &["c *:* rwm", "b *:* rwm"], &[]]
        {
            let rules: DeviceRules = lines.iter().map(|line| line.parse::<DeviceRule>().unwrap()).collect();
            let program = compile(&rules);
            assert!(is_all_reachable(&program), "{program:?}");
            for (kind, minor, access) in [(1, 0, 2), (1, 0, 6), (2, 3, 2), (2, 3, 6), (2, 9, 7)] {
                agree(&rules, Asked { kind, access, major: if kind == 1 { 7 } else { 1 }, minor });
            }
        }
    }

    #[test]
    fn the_program_of_every_container_is_short() {
        let program = compile(&DeviceRules::container());
        assert_eq!(program.len(), 32);
    }

    #[test]
    fn no_rule_allows_nothing() {
        for access in 0..8 {
            assert!(!run(&compile(&DeviceRules::default()), Asked { kind: 2, access, major: 1, minor: 3 }));
        }
    }

    #[test]
    fn an_access_needs_one_rule_that_allows_all_of_it() {
        let rules: DeviceRules = ["c 10:* r", "c 10:5 w"].iter().map(|r| r.parse::<DeviceRule>().unwrap()).collect();
        for access in 0..8 {
            agree(&rules, Asked { kind: 2, access, major: 10, minor: 5 });
        }
        assert!(!run(&compile(&rules), Asked { kind: 2, access: 6, major: 10, minor: 5 }));
    }

    /// Numbers that repeat and lie at the edges, so that rules and questions meet.
    const NUMBERS: [u32; 8] = [0, 1, 3, 7, 136, 0x7fff_ffff, 0x8000_0000, u32::MAX];

    #[test]
    fn rules_and_program_agree_about_everything() {
        // A small generator with a fixed seed: the same lists in every run.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut dice = |sides: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % sides
        };
        for _ in 0..300 {
            let count = dice(12);
            let rules: DeviceRules = (0..count)
                .map(|_| {
                    let mut number = || match dice(NUMBERS.len() as u64 + 3) {
                        i if (i as usize) < NUMBERS.len() => Some(NUMBERS[i as usize]),
                        _ => None,
                    };
                    let (major, minor) = (number(), number());
                    let kind = if dice(2) == 0 { DeviceKind::Char } else { DeviceKind::Block };
                    DeviceRule { kind, major, minor, permissions: Permissions(1 + dice(7) as u8) }
                })
                .collect();
            let program = compile(&rules);
            assert!(is_all_reachable(&program), "{rules:?}");
            for kind in [1, 2] {
                for access in 0..8 {
                    for major in NUMBERS {
                        for minor in NUMBERS {
                            let asked = Asked { kind, access, major, minor };
                            assert_eq!(run(&program, asked), allowed(&rules, asked), "{asked:?} under {rules:?}");
                        }
                    }
                }
            }
        }
    }
}
