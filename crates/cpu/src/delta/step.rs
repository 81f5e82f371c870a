//! The rule for one token.

use treillage_trellis::lanes::{Kernel, Lanes};

/// One token of one value head: moves `state`, `[key_dim, value_dim]`, on, and overwrites `out`.
pub(super) struct Step<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// Factor of the state.
    pub(super) decay: f32,
    pub(super) beta: f32,
    pub(super) state: &'a mut [f32],
    /// Room for a value.
    pub(super) update: &'a mut [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    /// The output is read of the state before its update, `Sᵀq + (k·q) u`, so that the state is written once.
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Step {
            q,
            k,
            v,
            decay,
            beta,
            state,
            update,
            out,
        } = self;
        let width = out.len();
        out.fill(0.0);
        update.fill(0.0);
        for ((row, q), k) in state.chunks_exact(width).zip(q).zip(k) {
            for ((out, predicted), s) in out.iter_mut().zip(update.iter_mut()).zip(row) {
                *out += q * s;
                *predicted += k * s;
            }
        }
        let mut overlap = 0.0;
        for (q, k) in q.iter().zip(k) {
            overlap += q * k;
        }
        for ((out, update), v) in out.iter_mut().zip(update.iter_mut()).zip(v) {
            *update = beta * (v - decay * *update);
            *out = decay * *out + overlap * *update;
        }
        for (row, k) in state.chunks_exact_mut(width).zip(k) {
            for (s, update) in row.iter_mut().zip(update.iter()) {
                *s = decay * *s + k * update;
            }
        }
    }
}
