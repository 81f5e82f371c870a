//! Trellis kernels, written out for a rate, a codebook and a number of rows.

use std::fmt::Write;

mod whole;

pub use whole::{TrellisDecode, TrellisMatmul};

use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, lines, store};

/// How states become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// Two halves cut from a multiply-add.
    ThreeInst,
    /// Two halves cut from a product.
    Mcg,
    /// The sum of a product's bytes.
    Mul1,
}

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

/// Some of the rates from 1 to 8 bits per weight, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rates(u8);

impl Rates {
    /// This one.
    pub fn one(bits: usize) -> Self {
        Self(1 << (bits - 1))
    }

    /// These, and `bits`.
    #[must_use]
    pub fn and(self, bits: usize) -> Self {
        Self(self.0 | 1 << (bits - 1))
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (1..=8).filter(move |bits| self.0 >> (bits - 1) & 1 != 0)
    }

    fn highest(self) -> usize {
        8 - self.0.leading_zeros() as usize
    }

    /// `text` of the only rate, or of each where the header says which it is.
    fn switch(self, text: impl Fn(usize) -> String) -> String {
        let highest = self.highest();
        if self == Self::one(highest) {
            return text(highest);
        }
        let cases = self.iter().map(|bits| match bits == highest {
            true => format!("default: {{\n{}\n}}", text(bits)),
            false => format!("case {bits}u: {{\n{}\n}}", text(bits)),
        });
        format!("switch pair_fours / 32u {{\n{}\n}}", lines(cases))
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

/// What MCG and 3INST flip of a product's bits. Kernels find it in a matrix' header.
pub const FLIP: u32 = 0x3B60_3B60;
/// The names of a vector's components.
const COMPONENTS: [char; 4] = ['x', 'y', 'z', 'w'];
/// MUL1's step per unit of the byte sum.
const MUL1_SCALE: f64 = 1774.0 / 262_144.0;
/// What a byte sum of -1024 would weigh. Both are halves exactly.
const MUL1_OFFSET: f64 = -10.382_812_5;
/// MUL1's weight at the middle byte sum, 510.
const MUL1_MIDDLE: f64 = 1534.0 * MUL1_SCALE + MUL1_OFFSET;
/// The block of a team, of those that begin at block `base`.
const OWN: &str = "base + team / PARTS";
/// Workgroup memory for sums, in rows times teams: of eight teams, and of more, which only roomy devices are given.
const SUMS: [usize; 2] = [16, 32];

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
            ("AWAIT_READERS", self.await_readers().to_owned()),
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
        let sums = SUMS[usize::from(self.teams > 8)];
        self.rows.min((sums / self.teams).max(1))
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
    fn await_readers(&self) -> &'static str {
        match (self.rows, self.parts) {
            _ if self.once => "",
            // Teams with a block each read what they prepared themselves. Faster for single rows alone.
            (1, 1) => "if base != first {\nawait_readers();\n}",
            _ => "if base != first {\nworkgroupBarrier();\n}",
        }
    }

    /// Whether a team asks for the first words of its next block while it decodes this one. Signs take the registers for it, and with
    /// many rows there are none.
    fn ahead(&self) -> bool {
        !self.once && self.rows == 1 && self.activations != Activations::Sign
    }

    /// Before all passes: where asked to, finds a team's first block, and asks for its first words.
    fn fetch_first(&self) -> String {
        match self.ahead() {
            true => format!(
                "var mine = {};\n{}",
                OWN.replace("base", "first"),
                self.fetch()
            ),
            false => String::new(),
        }
    }

    /// At the start of a pass: finds a team's block, and asks for its first words if nobody did.
    fn fetch_own(&self) -> String {
        match self.ahead() {
            true => format!("mine = {OWN};"),
            false => format!("let mine = {OWN};\n{}", self.fetch()),
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
        let mut text = straddling(bits, 4);
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
                            for r in 0..self.rows {
                                let acc = format!("acc{r}_{to}");
                                let _ = writeln!(
                                    text,
                                    "{acc} = fma({name}, a{r}_{at}.{inputs}, {acc});"
                                );
                            }
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
                return;
            }
            Activations::Half => {
                let word = self.codebook.word(state);
                let _ = writeln!(text, "let {name} = two_halves({word});");
                for r in 0..self.rows {
                    let acc = format!("acc{r}_{to}");
                    let _ = writeln!(text, "{acc} = fma({name}, a{r}_{q}.{from}{from}, {acc});");
                }
                return;
            }
            Activations::Exact => text.push_str(&unscaled(self.codebook, state, name)),
        }
        for r in 0..self.rows {
            let _ = writeln!(
                text,
                "acc{r}.{to} = fma({name}, a{r}_{q}.{from}, acc{r}.{to});"
            );
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

impl Codebook {
    /// Scale and offset that make weights of [`unscaled`] ones.
    fn affine(self) -> (f64, f64) {
        match self {
            Codebook::Mul1 => (MUL1_SCALE, MUL1_MIDDLE),
            _ => (1.0, 0.0),
        }
    }

    /// What a state is multiplied to; of MCG and 3INST made to two halves that add up to a weight.
    fn word(self, state: &str) -> String {
        match self {
            Codebook::Mul1 => format!("{state} * 0x83DCD12Du"),
            Codebook::Mcg => format!("(({state} * 0xCBAC1FEDu) & 0x8FFF8FFFu) ^ flip"),
            Codebook::ThreeInst => {
                format!("(({state} * 89226354u + 64248484u) & 0x8FFF8FFFu) ^ flip")
            }
        }
    }

    /// Scale and offset that make weights of [`halves`]: rounded once if `fma` is fused, as hardware's is; otherwise they are 0.2 % off.
    fn affine_of_halves(self) -> (f64, f64) {
        match self {
            Codebook::Mul1 => (MUL1_SCALE, MUL1_OFFSET),
            _ => (1.0, 0.0),
        }
    }
}

/// Step `e` of a run, component `of` of its words: the 16 bits that end with its own.
fn state(bits: usize, of: char, e: usize) -> String {
    let end = 32 + (e + 1) * bits;
    let (first, last) = ((end - 16) / 32, (end - 1) / 32);
    // Windows across two words are in the word that begins with the second half of the first.
    let (word, end) = match first == last {
        true => (format!("v{last}.{of}"), end - 32 * last),
        false => (format!("s{first}.{of}"), end - 32 * first - 16),
    };
    match 32 - end {
        16 => format!("({word} >> 16u)"),
        0 => format!("({word} & 0xFFFFu)"),
        shift => format!("(({word} >> {shift}u) & 0xFFFFu)"),
    }
}

/// Four `j` of a lane's words of its runs, and four 0 the words before them. They lie word by word, so that a team reads whole lines.
fn four(bits: usize, j: usize) -> String {
    let (word, lane) = match j {
        0 => (bits - 1, "before"),
        _ => (j - 1, "lane"),
    };
    format!("codes[word + {}u + {lane}]", 32 * word)
}

/// `text` of each four of words; four 0 has the words before a lane's runs.
fn each_four(bits: usize, text: impl Fn(usize) -> String) -> String {
    lines((0..=bits).map(text))
}

fn fetch_ahead(bits: usize) -> String {
    each_four(bits, |j| format!("n{j} = {};", four(bits, j)))
}

/// The words across two, one operation for all windows in them, of vectors of `size` runs.
fn straddling(bits: usize, size: usize) -> String {
    lines((0..bits).map(|first| {
        let last = first + 1;
        format!(
            "let s{first} = (v{first} << vec{size}<u32>(16u)) | (v{last} >> vec{size}<u32>(16u));"
        )
    }))
}

/// Declares `name`, the f32 weight of `state` before its codebook's scale and offset, and before it is rounded to half
/// precision.
fn unscaled(codebook: Codebook, state: &str, name: &str) -> String {
    let word = codebook.word(state);
    match codebook {
        // Added to the bits of 2^23, the sum is added to its value; 510 is the middle.
        Codebook::Mul1 => format!(
            "let {name} = bitcast<f32>(dot4U8Packed({word}, 0x01010101u) + 0x4B000000u) - 8389118.0;\n"
        ),
        Codebook::Mcg | Codebook::ThreeInst => format!(
            "let h{name} = unpack2x16float({word});
let {name} = h{name}.x + h{name}.y;
"
        ),
    }
}

/// Declares `name`, the weights of two `states` as halves, before [`Codebook::affine_of_halves`].
fn halves(codebook: Codebook, states: &[String; 2], name: &str) -> String {
    let [a, b] = states.each_ref().map(|state| codebook.word(state));
    match codebook {
        // Added to the bits of 1024, the sum is added to its value. The dot product adds for nothing; the halves do not overlap, and
        // a sum of them is one operation where compilers make two of an or.
        Codebook::Mul1 => {
            let [a, b] =
                [a, b].map(|word| format!("(dot4U8Packed({word}, 0x01010101u) + 0x6400u)"));
            format!("let {name} = two_halves({a} + ({b} << 16u));\n")
        }
        Codebook::Mcg | Codebook::ThreeInst => format!(
            "let a{name} = {a};
let b{name} = {b};
let {name} = two_halves((a{name} & 0xFFFFu) | (b{name} << 16u))
    + two_halves((a{name} >> 16u) | (b{name} & 0xFFFF0000u));
"
        ),
    }
}

/// Declares `name`, the weights of two `states` as halves: what [`unscaled`] makes of each.
fn unscaled_halves(codebook: Codebook, states: &[String; 2], name: &str) -> String {
    match codebook {
        Codebook::Mul1 => {
            let above = format!("u{name}");
            let text = halves(codebook, states, &above);
            format!("{text}let {name} = {above} - vec2<f16>(1534.0h);\n")
        }
        Codebook::Mcg | Codebook::ThreeInst => halves(codebook, states, name),
    }
}
