//! The kernel for a few rows, straight from packed words.

use std::fmt::Write;

use super::codes::{
    COMPONENTS, each_four, fetch_ahead, state, straddling, unscaled, unscaled_halves,
};
use super::{Codebook, Rates};
use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, lines, store};

/// What activations are multiplied as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32.
    Exact,
    /// Halves, two products to an operation, relative to the largest of their Hadamard block.
    Half,
    /// Sign and eight bits with a step per Hadamard block; MUL1 and one row alone.
    Sign,
}

/// How sums come together where the input axis is cut among workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Splits {
    /// It is not cut.
    None,
    /// Each sum is exchanged for another's, two by two: soon done.
    Meet,
    /// All are left for the last workgroup: less to do for each sum.
    Count,
}

impl Splits {
    /// The constant `SPLITS`.
    fn name(self) -> &'static str {
        match self {
            Splits::None => "none",
            Splits::Meet => "meet",
            Splits::Count => "count",
        }
    }

    /// The buffers that it takes, atomic.
    fn buffers(self) -> &'static [&'static str] {
        match self {
            Splits::None => &[],
            Splits::Meet => &["meetings"],
            Splits::Count => &["partials", "counters"],
        }
    }
}

/// A kernel `linear/trellis_gemv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisGemv {
    /// Bits per weight that matrices have.
    pub rates: Rates,
    /// How states become weights.
    pub codebook: Codebook,
    /// What activations are multiplied as.
    pub activations: Activations,
    /// Rows that share decoded weights: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Teams of 32 lanes.
    pub teams: usize,
    /// Teams that share an input block: 1, 2 or 4, dividing `teams`.
    pub parts: usize,
    /// Linears, 1 to 3.
    pub outputs: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added, to a single linear.
    pub residual: bool,
    /// How the input axis is cut.
    pub splits: Splits,
    /// Whether each team has one block at the most, of all that a workgroup makes.
    pub once: bool,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl TrellisGemv {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_gemv";

    /// The constants that make [`TrellisGemv::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let Self {
            rates,
            rows,
            teams,
            parts,
            ..
        } = *self;
        let blocks = teams / parts;
        let activations = match self.activations {
            Activations::Exact => "exact",
            Activations::Half => "half",
            Activations::Sign => "sign",
        };
        let (scale, offset) = self.codebook.affine();
        let jobs = (rows * blocks).next_multiple_of(teams);
        let per_job = |line: &dyn Fn(usize) -> String| lines((0..jobs / teams).map(line));
        let per_row = |line: &dyn Fn(usize) -> String| lines((0..rows).map(line));
        Specialization::new([
            ("ACTIVATIONS", activations.to_owned()),
            ("SCALE", format!("{scale:?}")),
            ("OFFSET", format!("{offset:?}")),
            ("EXCHANGE", self.exchange.name().to_owned()),
            ("LANES", (32 * teams).to_string()),
            ("TEAMS", teams.to_string()),
            ("PARTS", parts.to_string()),
            ("BLOCKS", blocks.to_string()),
            ("ROWS", rows.to_string()),
            ("SLOTS", (rows * blocks).to_string()),
            ("JOBS", jobs.to_string()),
            (
                "ASK_FIRST",
                per_job(&|i| format!("var job{i} = {};", self.job(i, "first"))),
            ),
            (
                "PREPARE",
                per_job(&|i| format!("prepare_job({}, job{i}, at);", self.number(i))),
            ),
            ("SPLITS", self.splits.name().to_owned()),
            ("PASSES", self.passes().to_owned()),
            ("AWAIT_READERS", self.await_readers()),
            (
                "ASK_NEXT",
                match self.once {
                    true => String::new(),
                    false => per_job(&|i| format!("job{i} = {};", self.job(i, "base + BLOCKS"))),
                },
            ),
            ("SUM_ROWS", self.sum_rows().to_string()),
            (
                "PAIR_FOURS",
                match rates == Rates::one(rates.highest()) {
                    true => format!("{}u", 32 * rates.highest()),
                    // Where headers say what kind they are of.
                    false => "32u * ((weights[place.header] >> 4u) & 15u)".to_owned(),
                },
            ),
            ("BINDINGS", self.bindings()),
            ("STORE", store(self.residual, self.outputs)),
            ("GATHER", self.gather()),
            ("ROUTE", self.route.name().to_owned()),
            (
                "TOTALS",
                per_row(&|r| format!("var total{r} = vec4<f32>();")),
            ),
            ("FETCH_FIRST", self.fetch_first()),
            ("FETCH", self.fetch_own()),
            ("ZERO", per_row(&|r| self.zero(r))),
            ("MULTIPLY", rates.switch(|bits| self.multiply(bits))),
            (
                "FLUSH",
                per_row(&|r| {
                    format!(
                        "total{r} += scaled({}, scales[{}u + team / PARTS], part == 0u);",
                        self.sums(r),
                        r * blocks
                    )
                }),
            ),
            ("SUM_UP", self.sum_up()),
        ])
    }

    /// Rows whose sums are in workgroup memory at a time.
    fn sum_rows(&self) -> usize {
        // Rows times teams. Only roomy devices are given more than eight.
        let most = if self.teams > 8 { 32 } else { 16 };
        self.rows.min((most / self.teams).max(1))
    }

    fn bindings(&self) -> String {
        bindings(
            &["weights", "codes"],
            self.route,
            self.residual,
            self.outputs,
            self.splits.buffers(),
        )
    }

    /// Goes through a workgroup's input blocks, one for each team at a time.
    fn passes(&self) -> &'static str {
        match self.once {
            true => "let base = first;",
            false => "for (var base = first; base < end; base += BLOCKS)",
        }
    }

    /// Waits until who reads the last activations is done with them.
    fn await_readers(&self) -> String {
        if self.once {
            return String::new();
        }
        let wait = match (self.rows, self.parts) {
            // Teams with a block each read what they prepared themselves. Faster for single rows alone.
            (1, 1) => "await_readers",
            _ => "workgroupBarrier",
        };
        format!("if base != first {{\n{wait}();\n}}")
    }

    /// Whether a team asks for the first words of its next block while it decodes this one. Signs take the registers for it, and with
    /// many rows there are none.
    fn ahead(&self) -> bool {
        !self.once && self.rows == 1 && self.activations != Activations::Sign
    }

    /// Before all passes: where asked to, finds a team's first block, and asks for its first words.
    fn fetch_first(&self) -> String {
        match self.ahead() {
            true => format!("var mine = {};\n{}", own("first"), self.fetch()),
            false => String::new(),
        }
    }

    /// At the start of a pass: finds a team's block, and asks for its first words if nobody did.
    fn fetch_own(&self) -> String {
        let own = own("base");
        match self.ahead() {
            true => format!("mine = {own};"),
            false => format!("let mine = {own};\n{}", self.fetch()),
        }
    }

    fn fetch(&self) -> String {
        let highest = self.rates.highest();
        format!(
            "var word = words + (4u * mine + part * p.pairs) * pair_fours;
{}
if mine < end {{
{}
}}",
            each_four(highest, |j| format!("var n{j} = vec4<u32>();")),
            self.rates.switch(fetch_ahead)
        )
    }

    /// Multiplies with the pairs of rows of tiles of a block, at one rate.
    fn multiply(&self, bits: usize) -> String {
        let after = match self.ahead() {
            true => "select(0u, (4u * BLOCKS + 1u - p.pairs) * pair_fours, mine + BLOCKS < end)",
            false => "0u",
        };
        format!(
            "for (var pair = 0u; pair < p.pairs; pair += 1u) {{
{}
// The words of the pair after this one, or of what comes after the last, or once more those of the last.
word += select({after}, {}u, pair + 1u < p.pairs);
{}
{}
near += 8u;
}}",
            each_four(bits, |j| format!("let v{j} = n{j};")),
            32 * bits,
            fetch_ahead(bits),
            self.decode(bits)
        )
    }

    /// Whether the two halves that add up to a weight are multiplied each by itself: their sum is an operation less for each weight, but
    /// one more for each row.
    fn apart(&self) -> bool {
        self.activations == Activations::Half && self.codebook != Codebook::Mul1 && self.rows <= 4
    }

    /// The number of a team's job `i`.
    fn number(&self, i: usize) -> String {
        format!("team + {}u", i * self.teams)
    }

    /// A team's job `i` of those that begin at block `base`.
    fn job(&self, i: usize, base: &str) -> String {
        format!("job_of(place, {}, {base}, end, suh, lane)", self.number(i))
    }

    /// Declares what row `r` adds up in.
    fn zero(&self, r: usize) -> String {
        match self.activations {
            Activations::Exact => format!("var acc{r} = vec4<f32>();"),
            Activations::Half => {
                lines(COMPONENTS.map(|c| format!("var acc{r}_{c} = vec2<f16>();")))
            }
            Activations::Sign => format!("var acc{r} = vec4<u32>();"),
        }
    }

    /// What row `r` added up, four columns.
    fn sums(&self, r: usize) -> String {
        match self.activations {
            Activations::Half => {
                let both = COMPONENTS.map(|c| format!("f32(acc{r}_{c}.x) + f32(acc{r}_{c}.y)"));
                format!("vec4<f32>({})", both.join(", "))
            }
            _ => format!("acc{r}"),
        }
    }

    fn decode(&self, bits: usize) -> String {
        let blocks = self.teams / self.parts;
        let mut text = straddling(bits);
        text.push('\n');
        for tile in 0..2 {
            for q in 0..4 {
                let at = 4 * tile + q;
                for r in 0..self.rows {
                    let near = format!("[near + {}u]", 32 * r * blocks + at);
                    let _ = writeln!(text, "let a{r}_{at} = activations{near};");
                    if self.activations == Activations::Sign {
                        let _ = writeln!(text, "let m{r}_{at} = multipliers{near};");
                        let _ = writeln!(text, "let d{r}_{at} = addends{near};");
                    }
                }
                // Steps 8 q… of a run: two pairs of rows, of one column and of the one eight further on.
                let state = |place: usize, column: usize| {
                    let (c, half) = (column / 2, column % 2);
                    state(bits, COMPONENTS[2 * tile + c], 8 * q + 4 * half + place)
                };
                if self.activations == Activations::Half && !self.apart() {
                    for (pair, inputs) in ["xy", "zw"].iter().enumerate() {
                        for (column, to) in COMPONENTS.iter().enumerate() {
                            let states = [0, 1].map(|i| state(2 * pair + i, column));
                            let name = format!("w{at}_{pair}_{column}");
                            text.push_str(&unscaled_halves(self.codebook, &states, &name));
                            self.products(&mut text, &name, at, inputs, *to);
                        }
                    }
                    continue;
                }
                for (place, from) in COMPONENTS.iter().enumerate() {
                    for (column, to) in COMPONENTS.iter().enumerate() {
                        let name = format!("w{at}_{place}_{column}");
                        self.weight(&mut text, &state(place, column), &name, at, *from, *to);
                    }
                }
            }
        }
        text
    }

    /// One weight, and its products with all rows.
    fn weight(&self, text: &mut String, state: &str, name: &str, q: usize, from: char, to: char) {
        match self.activations {
            Activations::Sign => {
                let product = format!("{state} * m0_{q}.{from} + d0_{q}.{from}");
                let _ = writeln!(text, "acc0.{to} += dot4U8Packed({product}, a0_{q}.{from});");
            }
            Activations::Half => {
                let word = self.codebook.word(state);
                let _ = writeln!(text, "let {name} = two_halves({word});");
                self.products(text, name, q, &format!("{from}{from}"), to);
            }
            Activations::Exact => {
                text.push_str(&unscaled(self.codebook, state, name));
                self.products(text, name, q, &from.to_string(), to);
            }
        }
    }

    /// Adds the products of `weight` with these `inputs` of all rows to their sums `to`.
    fn products(&self, text: &mut String, weight: &str, q: usize, inputs: &str, to: char) {
        // As `zero` declares them.
        let of = if self.activations == Activations::Half {
            '_'
        } else {
            '.'
        };
        for r in 0..self.rows {
            let sum = format!("acc{r}{of}{to}");
            let _ = writeln!(text, "{sum} = fma({weight}, a{r}_{q}.{inputs}, {sum});");
        }
    }

    /// Adds up what all teams have of some rows, `row…`, in `sums`.
    fn gather(&self) -> String {
        let rows = self.sum_rows();
        format!(
            "fn gathered(row: u32, lane: u32) -> vec4<f32> {{
    var y = vec4<f32>();
    if row < {rows}u {{
        for (var t = 0u; t < TEAMS; t += 1u) {{
            y += sums[32u * (row * TEAMS + t) + lane];
        }}
    }}
    return y;
}}
"
        )
    }

    fn sum_up(&self) -> String {
        let (rows, chunk) = (self.rows, self.sum_rows());
        let mut text = String::new();
        for start in (0..rows).step_by(chunk) {
            if start > 0 {
                text += "workgroupBarrier();\n";
            }
            for r in start..(start + chunk).min(rows) {
                for (column, from) in COMPONENTS.iter().enumerate() {
                    // Column 16 (4 c + lane / 8) + lane mod 8 + 8 half, as a vector and a place in it.
                    let (c, half) = (column / 2, column % 2);
                    let _ = writeln!(
                        text,
                        "sums[{}u * LANES + 32u * team + {}u + 4u * (lane >> 3u) + ((lane >> 2u) & 1u)][lane & 3u] = total{r}.{from};",
                        r - start,
                        16 * c + 2 * half
                    );
                }
            }
            text += "workgroupBarrier();\n";
            let bound = chunk.next_multiple_of(self.teams);
            let _ = writeln!(
                text,
                "for (var r = team; r < {bound}u; r += TEAMS) {{
conclude(place, ends, select(ROWS, {start}u + r, r < {chunk}u), gathered(r, lane), at);
}}"
            );
        }
        text
    }
}

/// The block of a team, of those that begin at block `base`.
fn own(base: &str) -> String {
    format!("{base} + team / PARTS")
}
