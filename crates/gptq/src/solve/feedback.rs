use nalgebra::DMatrix;
use rayon::prelude::*;

/// Inputs that are swept together before the others hear of their errors.
pub(crate) const BLOCK: usize = 128;

/// Columns of the factor side by side in a panel.
pub(crate) const PANEL: usize = 8;

/// The factor `V`, upper triangular, in the order in which the sweep reads it.
#[derive(Debug)]
pub(crate) struct Feedback {
    pub(crate) diagonal: Vec<f32>,
    pub(crate) blocks: Vec<Block>,
}

/// Rows `first .. first + height` of `V`, from column `first` on.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) first: usize,
    pub(crate) height: usize,
    /// Panel after panel, `height` rows of each; the last panel is filled up with zeros.
    panels: Vec<[f32; PANEL]>,
}

impl Feedback {
    pub(crate) fn new(upper: &DMatrix<f32>) -> Self {
        let n = upper.nrows();
        let pack = |first: usize| {
            let height = BLOCK.min(n - first);
            let mut panels = vec![[0.0; PANEL]; (n - first).div_ceil(PANEL) * height];
            (panels.par_chunks_exact_mut(height))
                .zip((first..n).into_par_iter().step_by(PANEL))
                .for_each(|(panel, left)| {
                    for column in left..n.min(left + PANEL) {
                        let from = &upper.as_slice()[column * n + first..][..height];
                        for (row, &value) in panel.iter_mut().zip(from) {
                            row[column - left] = value;
                        }
                    }
                });
            Block {
                first,
                height,
                panels,
            }
        };
        Self {
            diagonal: upper.diagonal().as_slice().to_vec(),
            blocks: (0..n).step_by(BLOCK).map(pack).collect(),
        }
    }
}

impl Block {
    pub(crate) fn panels(&self) -> usize {
        self.panels.len() / self.height
    }

    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> &[[f32; PANEL]] {
        &self.panels[panel * self.height..][..self.height]
    }
}
