//! The Viterbi search for trellis codes, written out for a rate.

use std::fmt::Write;

use crate::Specialization;
use crate::linear::lines;

/// A kernel `encode/trellis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisEncode {
    /// Bits per weight, 1 to 8.
    pub bits: usize,
    /// Lanes that share a tile: a power of two from 256 to 1024; fewer where there are fewer registers.
    pub lanes: usize,
    /// Costs that lanes show one another at a time, a power of two from 4096: four bytes each of workgroup memory.
    pub shown: usize,
}

/// States of the trellis.
const STATES: usize = 1 << 16;
/// Weights of a vector of the codebook.
const VECTOR: usize = 8;
/// Branches that are written out where there are too many to write out all: as many as make whole vectors.
const UNROLLED: usize = VECTOR;
/// Up to this rate costs carry their branch.
const MOST_TAGGED: usize = 4;

impl TrellisEncode {
    /// The kernel's source.
    pub const SOURCE: &str = "encode/trellis";

    /// The constants that make [`TrellisEncode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let lanes = self.lanes();
        let metric = if self.is_tagged() { "tagged" } else { "exact" };
        let specialization = Specialization::new([
            ("K", self.bits.to_string()),
            ("LANES", lanes.to_string()),
            ("RUN", self.run().to_string()),
            ("WORDS", self.trace_words().to_string()),
            ("PER_WORD", self.per_word().to_string()),
            ("ROOM", self.room().max(lanes).max(256).to_string()),
            ("METRIC", metric.to_owned()),
            ("PLACES", self.places()),
            ("BEGIN", self.begin()),
            ("RENORMALIZE", self.renormalize()),
            ("EXTEND", self.extend()),
            ("TRACE", self.trace()),
            (
                "KEEP",
                self.each_held(|j, _, _| format!("c{j} = cost_of(n{j});")),
            ),
            ("FIRST", self.register(0, 0)),
            ("CHEAPEST", self.cheapest()),
        ]);
        if !self.is_tagged() {
            return specialization;
        }
        specialization
            .with("STEP", format!("{:?}", f64::from(self.step())))
            .with("NEVER", format!("{:?}", self.never()))
    }

    /// Lanes of its workgroup.
    pub fn lanes(&self) -> usize {
        self.lanes.min(self.registers())
    }

    /// Whether costs carry branches, so that targets are on a grid.
    pub fn is_tagged(&self) -> bool {
        self.bits <= MOST_TAGGED
    }

    /// What weights and targets are multiples of, where costs are tagged: their squares leave the tag alone.
    pub fn step(&self) -> u16 {
        1 << self.bits.div_ceil(2)
    }

    /// After how many steps the least cost is taken off all, where costs are tagged: by then all registers have been reached.
    pub fn interval(&self) -> usize {
        if self.bits <= 2 { 16 } else { 8 }
    }

    /// Words of a workgroup's traces.
    pub fn slot_words(&self) -> usize {
        256 * self.trace_words() * self.lanes()
    }

    /// The states in the order in which their weights lie in the first binding.
    pub fn order(&self) -> Vec<u16> {
        let (lanes, run) = (self.lanes(), self.run());
        let mut order = vec![0; STATES];
        for u in 0..self.runs() {
            for q in 0..1 << self.bits {
                for r in 0..run {
                    let place = ((u << self.bits) + q) * run + r;
                    for lane in 0..lanes {
                        let register = (u * lanes + lane) * run + r;
                        let at = (place / VECTOR * lanes + lane) * VECTOR + place % VECTOR;
                        order[at] = (q << (16 - self.bits) | register) as u16;
                    }
                }
            }
        }
        order
    }

    fn registers(&self) -> usize {
        STATES >> self.bits
    }

    /// Registers of a lane.
    fn held(&self) -> usize {
        self.registers() / self.lanes()
    }

    /// Neighbouring registers of a lane: all have the same predecessors.
    fn run(&self) -> usize {
        self.held().min(1 << self.bits)
    }

    /// Runs of a lane.
    fn runs(&self) -> usize {
        self.held() / self.run()
    }

    /// Branches in a word of the traces: a power of two.
    fn per_word(&self) -> usize {
        (32 / self.bits + 1).next_power_of_two() / 2
    }

    fn trace_words(&self) -> usize {
        self.held().div_ceil(self.per_word())
    }

    /// Costs shown at a time: at least a run of each lane, so that all lanes show at once.
    fn room(&self) -> usize {
        let least = self.lanes() * self.run();
        self.registers().min(self.shown.max(least))
    }

    /// Shown costs of registers at one place in their runs.
    fn rows(&self) -> usize {
        self.room() / self.run()
    }

    /// How far costs one place further in their run are moved against those before, by xor, so that lanes meet different banks
    /// both when they write runs and when they read along registers.
    fn twist(&self) -> usize {
        32.min(self.stride()) / self.run()
    }

    /// From the cost that a branch comes from to the next branch's.
    fn stride(&self) -> usize {
        (1 << (16 - 2 * self.bits)) / self.run()
    }

    /// The highest cost.
    fn never(&self) -> f64 {
        f64::from((1 << 24) - i32::from(self.step()).pow(2))
    }

    /// Text for each register of a lane: its number, that of its run, its place in it.
    fn each_held(&self, text: impl Fn(usize, usize, usize) -> String) -> String {
        let run = self.run();
        lines((0..self.held()).map(|j| text(j, j / run, j % run)))
    }

    /// The number of register `r` of a lane's run `u`.
    fn register(&self, u: usize, r: usize) -> String {
        let first = u * self.lanes() * self.run() + r;
        format!("{first}u + lane * RUN")
    }

    /// What a lane needs to know of where it is.
    fn places(&self) -> String {
        let (run, rows, twist) = (self.run(), self.rows(), self.twist());
        let mut text = format!(
            "let before_group = lane >> {}u;
let before_run = before_group % {run}u;
let before = before_run * {rows}u + ((before_group / {run}u) ^ (before_run * {twist}u));
",
            self.bits - run.ilog2() as usize
        );
        for u in 0..self.runs() {
            let own = match self.is_tagged() {
                true => format!("({}) >> {}u", self.register(u, 0), 16 - 2 * self.bits),
                false => "0u".to_owned(),
            };
            let _ = writeln!(text, "let own{u} = {own};");
        }
        text
    }

    fn begin(&self) -> String {
        self.each_held(|j, u, r| {
            let register = self.register(u, r);
            format!("var c{j} = select(BEGIN, NEVER, tied && {register} != seam);")
        })
    }

    fn renormalize(&self) -> String {
        if !self.is_tagged() {
            return String::new();
        }
        let least =
            (1..self.held()).fold("c0".to_owned(), |least, j| format!("min({least}, c{j})"));
        format!(
            "if step % {}u == 0u && step > 0u {{
let surplus = least({least}, lane) - BEGIN;
{}}}",
            self.interval(),
            self.each_held(|j, _, _| format!("c{j} -= surplus;"))
        )
    }

    /// One step: show costs, extend what is shown, as often as it takes to show all.
    fn extend(&self) -> String {
        let mut text = self.each_held(|j, _, _| format!("var n{j} = nobody();"));
        text.push('\n');
        for part in 0..self.registers() / self.room() {
            self.show(&mut text, part);
            text.push_str("workgroupBarrier();\n");
            if self.bits <= MOST_TAGGED {
                self.extend_all(&mut text, part);
            } else {
                self.extend_some(&mut text);
            }
            text.push_str("workgroupBarrier();\n");
        }
        text
    }

    fn show(&self, text: &mut String, part: usize) {
        let (lanes, run, rows) = (self.lanes(), self.run(), self.rows());
        for j in 0..self.held() {
            let (u, r) = (j / run, j % run);
            if u * lanes * run / self.room() == part {
                let start = r * rows + u * lanes % rows;
                let twist = r * self.twist();
                let _ = writeln!(
                    text,
                    "costs[{start}u + (lane ^ {twist}u)] = shown(c{j}, own{u});"
                );
            }
        }
    }

    /// All branches from what is shown, each written out.
    fn extend_all(&self, text: &mut String, part: usize) {
        let (lanes, run) = (self.lanes(), self.run());
        let mut loaded = None;
        for u in 0..self.runs() {
            for q in 0..1 << self.bits {
                // The lane's own part aside, the register that the branch comes from.
                let from = (q << (16 - 2 * self.bits)) + u * lanes % (1 << (16 - 2 * self.bits));
                if from / self.room() != part {
                    continue;
                }
                let from = from % self.room() / run;
                let _ = writeln!(text, "let b{u}_{q} = costs[before + {from}u];");
                for r in 0..run {
                    let place = ((u << self.bits) + q) * run + r;
                    if loaded != Some(place / VECTOR) {
                        loaded = Some(place / VECTOR);
                        let name = format!("{part}_{}", place / VECTOR);
                        vector(text, &name, &format!("{}u + lane", place / VECTOR * lanes));
                    }
                    let weight = weight(&format!("{part}_{}", place / VECTOR), place % VECTOR);
                    edge(
                        text,
                        u * run + r,
                        &weight,
                        &format!("b{u}_{q}"),
                        &format!("{q}.0"),
                    );
                }
            }
        }
    }

    /// Branches a few at a time.
    fn extend_some(&self, text: &mut String) {
        let (lanes, run, stride) = (self.lanes(), self.run(), self.stride());
        let _ = writeln!(
            text,
            "for (var q = 0u; q < {}u; q += {UNROLLED}u) {{",
            1 << self.bits
        );
        for q in 0..UNROLLED {
            let _ = writeln!(
                text,
                "let b{q} = costs[before + (q + {q}u) * {stride}u];
let q{q} = f32(q + {q}u);"
            );
        }
        for v in 0..run {
            let at = format!("(q / {UNROLLED}u * {run}u + {v}u) * {lanes}u + lane");
            vector(text, &v.to_string(), &at);
        }
        for place in 0..run * UNROLLED {
            let (q, r) = (place / run, place % run);
            let weight = weight(&(place / VECTOR).to_string(), place % VECTOR);
            edge(text, r, &weight, &format!("b{q}"), &format!("q{q}"));
        }
        text.push_str("}\n");
    }

    fn trace(&self) -> String {
        let per_word = self.per_word();
        let words = (0..self.trace_words()).map(|w| {
            let held = w * per_word..((w + 1) * per_word).min(self.held());
            let branches: Vec<String> = held
                .map(|j| format!("(branch_of(n{j}) << {}u)", j % per_word * self.bits))
                .collect();
            format!(
                "traces[to + {}u] = {};",
                w * self.lanes(),
                branches.join(" | ")
            )
        });
        lines(words)
    }

    fn cheapest(&self) -> String {
        let run = self.run();
        lines((1..self.held()).map(|j| {
            let register = self.register(j / run, j % run);
            format!(
                "at = select(at, {register}, c{j} < cheapest);\ncheapest = min(cheapest, c{j});"
            )
        }))
    }
}

/// Takes a vector of the codebook apart.
fn vector(text: &mut String, name: &str, at: &str) {
    let _ = writeln!(text, "let w{name} = weights[{at}];");
    for component in ["x", "y", "z", "w"] {
        let _ = writeln!(
            text,
            "let w{name}{component} = unpack2x16float(w{name}.{component});"
        );
    }
}

/// The weight at `place` of a vector.
fn weight(name: &str, place: usize) -> String {
    let component = ["x", "y", "z", "w"][place / 2];
    let half = ["x", "y"][place % 2];
    format!("w{name}{component}.{half}")
}

/// Whether a lane's register `j` is better reached by `branch`.
fn edge(text: &mut String, j: usize, weight: &str, before: &str, branch: &str) {
    let _ = writeln!(
        text,
        "n{j} = nearer(n{j}, wanted - {weight}, {before}, {branch});"
    );
}
