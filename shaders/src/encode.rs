//! The Viterbi search for trellis codes, written out for a rate.

use std::fmt::Write;

use crate::Specialization;
use crate::linear::lines;

/// A kernel `encode/trellis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisEncode {
    /// Bits per weight, 1 to 8.
    pub bits: usize,
    /// In what numbers it computes.
    pub metric: EncodeMetric,
    /// Lanes that share two tiles: a power of two from 64 to 1024; fewer where there are fewer registers.
    pub lanes: usize,
    /// Costs that lanes show one another at a time, a power of two from 2048: of each tile 2 or 4 bytes of workgroup memory.
    pub shown: usize,
}

/// In what numbers costs of paths are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncodeMetric {
    /// Whole numbers below 2²⁴ in f32, which are exact.
    Whole,
    /// Any numbers in f32.
    Single,
    /// Half precision. Needs the feature f16.
    Halves,
}

/// States of the trellis.
const STATES: usize = 1 << 16;
/// Weights of a vector of the codebook.
const VECTOR: usize = 8;
/// Up to this rate all branches are written out.
const MOST_WRITTEN_OUT: usize = 4;
/// Branches that are written out where there are too many to write out all: as many as make whole vectors.
const UNROLLED: usize = VECTOR;

impl EncodeMetric {
    /// Bytes of a cost.
    pub fn bytes(self) -> usize {
        match self {
            EncodeMetric::Whole | EncodeMetric::Single => 4,
            EncodeMetric::Halves => 2,
        }
    }

    /// The highest cost.
    fn never(self) -> &'static str {
        match self {
            // With the largest difference's square, that of twice the largest weight, it is 2²⁴.
            EncodeMetric::Whole => "12582912.0",
            // More than any path costs, and so much that its extensions are equal.
            EncodeMetric::Single => "1.0e30",
            // No interval's extensions make it infinite.
            EncodeMetric::Halves => "30000.0h",
        }
    }
}

impl TrellisEncode {
    /// The kernel's source.
    pub const SOURCE: &str = "encode/trellis";
    /// Tiles that a workgroup searches at a time: it reads the codebook once for both.
    pub const TILES: usize = 2;

    /// The constants that make [`TrellisEncode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let numbers = match self.metric {
            EncodeMetric::Whole | EncodeMetric::Single => "single",
            EncodeMetric::Halves => "half",
        };
        let specialization = Specialization::new([
            ("K", self.bits.to_string()),
            ("LANES", self.lanes().to_string()),
            ("RUN", self.run().to_string()),
            ("HELD", self.held().to_string()),
            ("KEPT_STEPS", self.kept_steps().to_string()),
            ("ROOM", self.room().to_string()),
            ("NUMBERS", numbers.to_owned()),
            ("NEVER", self.metric.never().to_owned()),
            ("PLACES", self.places()),
            (
                "BEGIN",
                self.each_held(|j, u, r| {
                    format!("var c{j} = begun({}, tied);", self.register(u, r))
                }),
            ),
            ("LEAST", self.least()),
            (
                "SUBTRACT",
                self.each_held(|j, _, _| format!("c{j} -= surplus;")),
            ),
            (
                "SAVE",
                self.each_held(|j, _, _| format!("kept[to + {j}u * LANES] = c{j};")),
            ),
            ("EXTEND", self.extend()),
            (
                "KEEP",
                self.each_held(|j, _, _| format!("c{j} = possible(n{j});")),
            ),
            ("CHEAPEST", self.cheapest()),
        ]);
        let (on_grid, ordered) = match self.metric {
            EncodeMetric::Whole => ("round", "u32(cost) << 8u"),
            EncodeMetric::Single | EncodeMetric::Halves => ("", "bitcast<u32>(cost) & 0xFFFFFF00u"),
        };
        let possible = match self.metric {
            EncodeMetric::Whole | EncodeMetric::Single => "min(costs, Cost(NEVER))",
            // Between two intervals nothing grows to infinity.
            EncodeMetric::Halves => "costs",
        };
        specialization
            .with("POSSIBLE", possible.to_owned())
            .with("ON_GRID", on_grid.to_owned())
            .with("ORDERED", ordered.to_owned())
    }

    /// Lanes of its workgroup.
    pub fn lanes(&self) -> usize {
        self.lanes.min(self.registers())
    }

    /// Costs are kept every so many steps, of which a pass takes a multiple: a walk back tries all ways between, 256 at the most.
    fn kept_steps(&self) -> usize {
        match self.bits {
            1 => 8,
            2 => 4,
            3 | 4 => 2,
            _ => 1,
        }
    }

    /// Bytes of workgroup memory: of costs shown, and of what lanes tell one another when they walk back.
    pub fn workgroup_bytes(&self) -> usize {
        let cost = Self::TILES * self.metric.bytes();
        self.room() * cost + 4 * (256 + 1 + 3) * Self::TILES + 4
    }

    /// Bytes of the costs that a workgroup keeps.
    pub fn slot_bytes(&self) -> usize {
        256 / self.kept_steps() * self.registers() * Self::TILES * self.metric.bytes()
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
        // Of what is moved, nothing is added but the lane's own.
        32.min(self.stride()).min(self.lanes() >> self.bits) / self.run()
    }

    /// From the cost that a branch comes from to the next branch's.
    fn stride(&self) -> usize {
        (1 << (16 - 2 * self.bits)) / self.run()
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

    /// Where a lane finds what its registers come from.
    fn places(&self) -> String {
        let (run, rows, twist) = (self.run(), self.rows(), self.twist());
        format!(
            "let before_group = lane >> {}u;
let before_run = before_group % {run}u;
let before = before_run * {rows}u + ((before_group / {run}u) ^ (before_run * {twist}u));",
            self.bits - run.ilog2() as usize
        )
    }

    /// The least cost of a lane.
    fn least(&self) -> String {
        (1..self.held()).fold("c0".to_owned(), |least, j| format!("min({least}, c{j})"))
    }

    /// One step: show costs, extend what is shown, as often as it takes to show all.
    fn extend(&self) -> String {
        let mut text = match self.bits <= MOST_WRITTEN_OUT {
            true => String::new(),
            false => self.each_held(|j, _, _| format!("var n{j} = Cost(NEVER);")) + "\n",
        };
        for part in 0..self.registers() / self.room() {
            self.show(&mut text, part);
            text.push_str("workgroupBarrier();\n");
            if self.bits <= MOST_WRITTEN_OUT {
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
                let _ = writeln!(text, "costs[{start}u + (lane ^ {twist}u)] = c{j};");
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
                    let (j, before) = (u * run + r, format!("b{u}_{q}"));
                    if q == 0 {
                        let extended = extended(&weight, &before);
                        let _ = writeln!(text, "var n{j} = {extended};");
                    } else {
                        edge(text, j, &weight, &before);
                    }
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
            let _ = writeln!(text, "let b{q} = costs[before + (q + {q}u) * {stride}u];");
        }
        for v in 0..run {
            let at = format!("(q / {UNROLLED}u * {run}u + {v}u) * {lanes}u + lane");
            vector(text, &v.to_string(), &at);
        }
        for place in 0..run * UNROLLED {
            let (q, r) = (place / run, place % run);
            let weight = weight(&(place / VECTOR).to_string(), place % VECTOR);
            edge(text, r, &weight, &format!("b{q}"));
        }
        text.push_str("}\n");
    }

    /// The first of a lane's registers that are reached at `cost`.
    fn cheapest(&self) -> String {
        let run = self.run();
        lines((0..self.held()).rev().map(|j| {
            let register = self.register(j / run, j % run);
            format!("at = select(at, vec2<u32>({register}), c{j} == least);")
        }))
    }
}

/// Takes a vector of the codebook apart.
fn vector(text: &mut String, name: &str, at: &str) {
    let _ = writeln!(text, "let w{name} = weights[{at}];");
    for component in ["x", "y", "z", "w"] {
        let _ = writeln!(
            text,
            "let w{name}{component} = two_weights(w{name}.{component});"
        );
    }
}

/// The cost of a path that is extended by a state.
fn extended(weight: &str, before: &str) -> String {
    format!("extended(wanted - Cost({weight}), {before})")
}

/// A lane's register `j` may be better reached by a branch.
fn edge(text: &mut String, j: usize, weight: &str, before: &str) {
    let extended = extended(weight, before);
    let _ = writeln!(text, "n{j} = min(n{j}, {extended});");
}

/// The weight at `place` of a vector.
fn weight(name: &str, place: usize) -> String {
    let component = ["x", "y", "z", "w"][place / 2];
    let half = ["x", "y"][place % 2];
    format!("w{name}{component}.{half}")
}
