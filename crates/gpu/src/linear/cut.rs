//! How the work of trellis kernels is cut among workgroups.

use treillage_shaders::trellis::{Splits, TrellisFew};

use super::dispatch::BUSY;
use super::matmul::split;

/// How the kernel for one row is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowCut {
    pub(super) teams: usize,
    /// Teams that share an input block.
    pub(super) parts: usize,
    /// Input blocks of a workgroup.
    pub(super) per_split: usize,
    pub(super) splits: usize,
}

impl RowCut {
    /// For `units` workgroups without splits, over `blocks` input blocks; activations are `halves` or something else.
    pub(super) fn new(units: usize, blocks: usize, most_teams: usize, halves: bool) -> Self {
        let mut cut = Self {
            teams: most_teams,
            parts: 1,
            per_split: blocks,
            splits: 1,
        };
        // Of many workgroups, several small ones share a processor, and the last leave less of it idle. With halves, which take few
        // registers, large ones do too, and are kept where each of their teams has one block.
        if units >= 6 * BUSY && (!halves || blocks > most_teams) {
            cut.teams = 8;
        }
        if units < BUSY {
            (cut.per_split, cut.splits) = split(units, blocks, 2 * BUSY);
        }
        // Teams without a block of their own help with another's.
        while cut.teams / cut.parts >= 2 * cut.per_split && cut.parts < 4 && cut.teams > cut.parts {
            match cut.teams > 8 {
                true => cut.teams /= 2,
                false => cut.parts *= 2,
            }
        }
        cut
    }
}

/// How the kernel for a few rows is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FewCut {
    pub(super) teams: usize,
    /// Input blocks of a workgroup.
    pub(super) per_split: usize,
    /// Workgroups that have a part of a unit, at the most.
    pub(super) splits: usize,
    pub(super) straddles: bool,
}

impl FewCut {
    /// Most bytes of workgroup memory that pay: what a processor of a large device has for all of its workgroups (docs/performance.md).
    const MEMORY: usize = 48 << 10;

    /// For `units` of `blocks` input blocks each by `kernel`, which is yet to be told how; `memory` is how many bytes workgroups may
    /// have. They may straddle units only if all units have work.
    pub(super) fn new(
        units: usize,
        blocks: usize,
        kernel: &TrellisFew,
        most_teams: usize,
        may_straddle: bool,
        memory: usize,
    ) -> Self {
        let rows = kernel.rows;
        // Eight rows take more registers than sixteen teams have.
        let mut teams = match rows {
            2 | 4 if units >= BUSY => most_teams,
            2 | 4 | 8 => 8,
            _ => 4,
        };
        // However it is cut.
        let bytes = |blocks| {
            let (splits, straddles) = (Splits::Count, true);
            let cut = TrellisFew {
                teams,
                blocks,
                splits,
                straddles,
                ..*kernel
            };
            cut.workgroup_bytes()
        };
        let room = memory.min(Self::MEMORY);
        let fits = (1..=blocks).rev().find(|&blocks| bytes(blocks) <= room);
        let most = fits.unwrap_or(1);
        let all = units * blocks;
        // As many for each workgroup as keep a large device busy, in as many rounds as they fit.
        let rounds = all.div_ceil(2 * BUSY * most);
        let even = all.div_ceil(2 * BUSY * rounds).max(2);
        let cut = |per_split: usize, straddles| {
            // A unit may begin anywhere in a range.
            let apart = if straddles { per_split - 1 } else { 0 };
            Self {
                teams,
                per_split,
                splits: (blocks + apart).div_ceil(per_split),
                straddles,
            }
        };
        let even = even.min(most);
        let mut cut = match may_straddle && units < 8 * BUSY && !blocks.is_multiple_of(even) {
            true => cut(even, true),
            // Whole units, or as few parts of them as keep the device busy.
            false => {
                let parts = blocks.div_ceil(if units < BUSY { even } else { most });
                cut(blocks.div_ceil(parts), false)
            }
        };
        // A pair of rows of tiles for each team at the least.
        while teams > 4 * cut.per_split {
            teams /= 2;
        }
        cut.teams = teams;
        cut
    }
}

#[cfg(test)]
mod tests {
    use treillage_shaders::linear::{Exchange, Route};
    use treillage_shaders::trellis::{Activations, Codebook, Rates};

    use super::*;

    const UNITS: [usize; 10] = [1, 2, 3, 16, 40, 63, 64, 112, 191, 1000];

    #[test]
    fn cuts_for_one_row_are_legal() {
        for (most, halves) in [(8, false), (8, true), (16, false), (16, true)] {
            for blocks in 1..40 {
                for units in UNITS {
                    let cut = RowCut::new(units, blocks, most, halves);
                    let what = format!("{units} {blocks} {most} {halves}: {cut:?}");
                    assert!([1, 2, 4].contains(&cut.parts), "{what}");
                    assert!(cut.teams.is_multiple_of(cut.parts), "{what}");
                    assert!(cut.teams <= most, "{what}");
                    assert!(cut.per_split * cut.splits >= blocks, "{what}");
                    assert!(cut.per_split * (cut.splits - 1) < blocks, "{what}");
                }
            }
        }
    }

    /// A kernel for `rows` rows, however its work is cut.
    fn few(rows: usize, activations: Activations, exchange: Exchange) -> TrellisFew {
        TrellisFew {
            rates: Rates::one(3),
            codebook: Codebook::Mul1,
            activations,
            rows,
            teams: 8,
            blocks: 1,
            outputs: 1,
            route: Route::All,
            residual: false,
            splits: Splits::Count,
            straddles: true,
            tiny: false,
            exchange,
        }
    }

    #[test]
    fn cuts_for_a_few_rows_are_legal() {
        use {Activations::*, Exchange::*};
        for (teams, memory, exchange) in [
            (8, 32 << 10, Workgroup),
            (16, 48 << 10, Subgroup),
            (16, 64 << 10, Workgroup),
        ] {
            for (activations, straddle) in [(Exact, false), (Half, true), (Half, false)] {
                for rows in [2, 4, 8, 16] {
                    let kernel = few(rows, activations, exchange);
                    for (blocks, units) in (1..60).flat_map(|b| UNITS.map(|units| (b, units))) {
                        let cut = FewCut::new(units, blocks, &kernel, teams, straddle, memory);
                        let what = format!("{units} {blocks} {kernel:?}: {cut:?}");
                        assert!(cut.teams.is_power_of_two(), "{what}");
                        assert!((2..=teams).contains(&cut.teams), "{what}");
                        assert!((1..=blocks).contains(&cut.per_split), "{what}");
                        assert!(straddle || !cut.straddles, "{what}");
                        let cut_kernel = TrellisFew {
                            teams: cut.teams,
                            blocks: cut.per_split,
                            ..kernel
                        };
                        let used = cut_kernel.workgroup_bytes();
                        assert!(used <= memory, "{what}: {used}");
                        // Of all workgroups, as many as have a part of a unit.
                        let sharing = |unit: usize| {
                            let (begin, end) = (unit * blocks, (unit + 1) * blocks);
                            match cut.straddles {
                                true => end.div_ceil(cut.per_split) - begin / cut.per_split,
                                false => blocks.div_ceil(cut.per_split),
                            }
                        };
                        let most = (0..units).map(sharing).max();
                        assert!(most <= Some(cut.splits), "{what}: {most:?}");
                        assert!(cut.straddles || most == Some(cut.splits), "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn large_devices_have_as_much_to_do_everywhere() {
        let kernel = few(4, Activations::Half, Exchange::Subgroup);
        let cut = |units, blocks| FewCut::new(units, blocks, &kernel, 16, true, 48 << 10);
        // 112 units of 32 blocks are 128 ranges of 28.
        let whole = cut(112, 32);
        assert_eq!((whole.per_split, whole.teams), (28, 16));
        assert!(whole.straddles);
        // Where units are as many parts of the same length, none straddles.
        let parts = cut(32, 16);
        assert_eq!((parts.per_split, parts.splits), (4, 4));
        assert!(!parts.straddles);
    }
}
