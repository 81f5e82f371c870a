//! The kernel for a few rows, straight from packed words.

use std::fmt::Write;

use super::codes::{each_four, fetch_ahead};
use super::lanes::{Activations, Lanes, Splits};
use super::{Codebook, Rates};
use crate::Specialization;
use crate::linear::{Exchange, Route, lines};

/// A kernel `linear/trellis_few`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisFew {
    /// Bits per weight that matrices have.
    pub rates: Rates,
    /// How states become weights.
    pub codebook: Codebook,
    /// What activations are multiplied as: not as signs.
    pub activations: Activations,
    /// Rows that share decoded weights: 2, 4, 8 or 16.
    pub rows: usize,
    /// Teams of 32 lanes: two or more, a power of two.
    pub teams: usize,
    /// Input blocks of a workgroup.
    pub blocks: usize,
    /// Linears, 1 to 3.
    pub outputs: usize,
    /// Which rows meet which expert: all, or grouped.
    pub route: Route,
    /// Whether a residual is added, to a single linear.
    pub residual: bool,
    /// How the input axis is cut.
    pub splits: Splits,
    /// Whether a workgroup's blocks may begin in one unit of work and end in the next, where all rows meet the same matrix.
    pub straddles: bool,
    /// Whether the device keeps halves below the normal ones, as `linear/tiny_halves` asks it: products with MUL1 are faster then.
    pub tiny: bool,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl TrellisFew {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_few";
    /// Rows whose sums are in workgroup memory at a time.
    const SUM_ROWS: usize = 2;

    /// The constants that make [`TrellisFew::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let Self {
            rates,
            rows,
            teams,
            blocks,
            ..
        } = *self;
        let lanes = self.lanes();
        let jobs = (rows * blocks).next_multiple_of(teams);
        let constants = lanes.constants(
            teams,
            self.exchange,
            self.route,
            self.residual,
            self.outputs,
            self.splits,
        );
        let more = [
            ("JOBS", jobs.to_string()),
            ("SUM_ROWS", Self::SUM_ROWS.to_string()),
            (
                "SPAN",
                if self.straddles { "range" } else { "unit" }.to_owned(),
            ),
            ("ONE_FOURS", rates.pair_fours("span.one_header.kind")),
            ("NEXT_FOURS", rates.pair_fours("span.next_header.kind")),
            (
                "TOTALS",
                lanes.per_row(|r| format!("var total{r} = vec4<f32>();")),
            ),
            ("PREPARE", self.prepare(jobs / teams)),
            ("MULTIPLY", self.multiply()),
            ("SUM_UP", self.sum_up()),
        ];
        Specialization::new(constants.into_iter().chain(more))
    }

    /// Bytes of workgroup memory that it takes.
    pub fn workgroup_bytes(&self) -> usize {
        let (value, scales) = self.activations.bytes();
        let slots = self.rows * self.blocks;
        let carried = if self.straddles { self.rows } else { 1 };
        let arrived = match self.splits {
            Splits::Count => 8,
            Splits::None | Splits::Meet => 0,
        };
        128 * value * slots
            + scales * slots.next_multiple_of(self.teams)
            + 512 * (Self::SUM_ROWS * self.teams + carried)
            + arrived
            + self.exchange.bytes(32 * self.teams)
    }

    fn lanes(&self) -> Lanes {
        Lanes {
            codebook: self.codebook,
            activations: self.activations,
            rows: self.rows,
            stride: self.blocks,
            tiny: self.tiny,
        }
    }

    /// Prepares all of a team's `jobs`, each a row and a block of the input, and asks for its first words.
    fn prepare(&self, jobs: usize) -> String {
        let (teams, blocks) = (self.teams, self.blocks);
        let first = self.fetch_first();
        let ask = |job: usize, number: &str| {
            format!(
                "let number{job} = {number};
var job{job} = job_in(span, number{job} / {blocks}u, number{job} % {blocks}u, lane);"
            )
        };
        let prepare = |job: usize| format!("prepare_job(number{job}, job{job}, at);");
        match self.exchange {
            // Where each exchange is several barriers, they are what takes time; and software compiles every one for long.
            Exchange::Workgroup => format!(
                "{first}
for (var first = 0u; first < {}u; first += TEAMS) {{
{}
{}
}}",
                jobs * teams,
                ask(0, "first + team"),
                prepare(0)
            ),
            // All inputs are on their way at once.
            Exchange::Subgroup | Exchange::Shuffle => {
                let number = |job| format!("team + {}u", job * teams);
                let asked = lines((0..jobs).map(|job| ask(job, &number(job))));
                format!("{asked}\n{first}\n{}", lines((0..jobs).map(prepare)))
            }
        }
    }

    /// Before inputs are prepared: where all matrices have one rate, asks for a team's first words.
    fn fetch_first(&self) -> String {
        let highest = self.rates.highest();
        let text = each_four(highest, |j| format!("var n{j} = vec4<u32>();"));
        match self.rates.is_one() {
            true => format!(
                "{text}
var word = word_of(words, head);
if head < tail {{
{}
}}",
                fetch_ahead(highest)
            ),
            false => text + "\nvar word = 0u;",
        }
    }

    /// Multiplies with all pairs of a team.
    fn multiply(&self) -> String {
        if self.rates.is_one() {
            let pairs = self.pairs(self.rates.highest());
            return format!("let begin = head;\nlet stop = tail;\n{pairs}");
        }
        let pairs = |bits| format!("{}\n{}", fetch_ahead(bits), self.pairs(bits));
        format!(
            "for (var begin = head; begin < tail;) {{
let pair_fours = select(words.next_fours, words.one_fours, begin < words.cut);
let stop = select(tail, min(tail, words.cut), begin < words.cut);
word = word_of(words, begin);
{}
begin = stop;
}}",
            self.rates.switch(pairs)
        )
    }

    /// Multiplies with the pairs of rows of tiles from `begin` to before `stop`, at one rate.
    fn pairs(&self, bits: usize) -> String {
        let lanes = self.lanes();
        let carry = |r| Lanes::spread(r, "carried", &format!("{}u", 32 * r));
        // Of a workgroup with one unit, the end is no cut.
        let (next_words, at_cut) = match self.straddles {
            true => (
                "select(next_words, words.next, after == words.cut)",
                format!(
                    "if pair == words.cut && pair < tail {{
{}
{}
}}",
                    lanes.per_row(carry),
                    lanes.per_row(|r| format!("total{r} = vec4<f32>();"))
                ),
            ),
            false => ("next_words", String::new()),
        };
        format!(
            "for (var pair = begin; pair < stop;) {{
let block = pair / 4u;
// Constants of a block go to who begins with it.
let whole = (pair & 3u) == 0u;
let rest = min(4u * block + 4u, stop);
{}
for (; pair < rest; pair += 1u) {{
let near = 8u * pair;
{}
// The words of the pair after this one, or once more those of the last.
let after = pair + 1u;
let next_words = word + {}u;
word = select({next_words}, word, after == stop);
{}
{}
}}
{}
{at_cut}
}}",
            lanes.per_row(|r| lanes.zero(r)),
            each_four(bits, |j| format!("let v{j} = n{j};")),
            32 * bits,
            fetch_ahead(bits),
            lanes.decode(bits),
            lanes.per_row(|r| {
                format!(
                    "total{r} += scaled({}, scales[{}u + block], whole);",
                    lanes.sums(r),
                    r * self.blocks
                )
            }),
        )
    }

    fn sum_up(&self) -> String {
        let (rows, chunk) = (self.rows, Self::SUM_ROWS);
        let mut text = String::new();
        for start in (0..rows).step_by(chunk) {
            if start > 0 {
                text += "workgroupBarrier();\n";
            }
            for r in start..start + chunk {
                let from = format!("{}u * LANES + 32u * team", r - start);
                text += &Lanes::spread(r, "sums", &from);
                text.push('\n');
            }
            text += "workgroupBarrier();\n";
            let tasks = format!("SIDES * {chunk}u");
            // All teams, also those without a task: that is faster than if they were done.
            let _ = writeln!(
                text,
                "for (var first = 0u; first < {tasks}; first += TEAMS) {{
let task = first + team;
let nth = task / SIDES;
let row = select(ROWS, {start}u + nth, task < {tasks});
conclude(place, ends, row, gathered(team_sums, nth, row, task % SIDES == 1u, lane), at);
}}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What naga counts in the text.
    fn counted(kernel: &TrellisFew) -> usize {
        let text = kernel.specialization().compose(TrellisFew::SOURCE).unwrap();
        let module = naga::front::wgsl::parse_str(&text).unwrap();
        let variables = module.global_variables.iter();
        let shared = variables.filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
        let bytes = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()) as usize);
        bytes.sum()
    }

    #[test]
    fn workgroup_memory_is_as_stated() {
        for kernel in crate::families::linear::few_kernels() {
            assert_eq!(kernel.workgroup_bytes(), counted(&kernel), "{kernel:?}");
        }
    }
}
