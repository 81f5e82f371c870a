//! The kernel for one row, straight from packed words.

use super::codes::{each_four, fetch_ahead};
use super::lanes::{Activations, Lanes, Splits};
use super::{Codebook, Rates};
use crate::Specialization;
use crate::linear::{Exchange, Route};

/// A kernel `linear/trellis_gemv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisGemv {
    /// Bits per weight that matrices have.
    pub rates: Rates,
    /// How states become weights.
    pub codebook: Codebook,
    /// What activations are multiplied as.
    pub activations: Activations,
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
    /// Whether the input axis is cut, so that sums meet.
    pub meets: bool,
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
            teams,
            parts,
            ..
        } = *self;
        let blocks = teams / parts;
        let lanes = self.lanes();
        let constants = lanes.constants(
            teams,
            self.exchange,
            self.route,
            self.residual,
            self.outputs,
            self.splits(),
        );
        let more = [
            ("PARTS", parts.to_string()),
            ("BLOCKS", blocks.to_string()),
            ("PASSES", self.passes().to_owned()),
            ("AWAIT_READERS", self.await_readers().to_owned()),
            (
                "ASK_NEXT",
                match self.once {
                    true => String::new(),
                    false => {
                        "job = own_job(place, suh, team, base + BLOCKS, end, lane);".to_owned()
                    }
                },
            ),
            ("PAIR_FOURS", rates.pair_fours("weights[place.header]")),
            ("FETCH_FIRST", self.fetch_first()),
            ("FETCH", self.fetch_own()),
            ("ZERO", lanes.zero(0)),
            ("MULTIPLY", rates.switch(|bits| self.multiply(bits))),
            ("SUMS", lanes.sums(0)),
            ("SPREAD", Lanes::spread(0, "sums", "32u * team")),
        ];
        Specialization::new(constants.into_iter().chain(more))
    }

    /// How sums come together.
    pub fn splits(&self) -> Splits {
        match self.meets {
            true => Splits::Meet,
            false => Splits::None,
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes {
            codebook: self.codebook,
            activations: self.activations,
            rows: 1,
            stride: self.teams / self.parts,
            tiny: false,
        }
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
        match (self.once, self.parts) {
            (true, _) => "",
            // Teams with a block each read what they prepared themselves.
            (false, 1) => "if base != first {\nawait_readers();\n}",
            (false, _) => "if base != first {\nworkgroupBarrier();\n}",
        }
    }

    /// Whether a team asks for the first words of its next block while it decodes this one. Signs take the registers for it.
    fn ahead(&self) -> bool {
        !self.once && self.activations != Activations::Sign
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
        format!(
            "var word = words + (4u * mine + part * p.pairs) * pair_fours;
{}
if mine < end {{
{}
}}",
            each_four(self.rates.highest(), |j| format!("var n{j} = vec4<u32>();")),
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
            self.lanes().decode(bits)
        )
    }
}

/// The block of a team, of those that begin at block `base`.
fn own(base: &str) -> String {
    format!("{base} + team / PARTS")
}
