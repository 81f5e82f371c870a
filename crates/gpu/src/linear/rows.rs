//! Products with matrices that are stored row by row.

use treillage_backend::Error;
use treillage_shaders::rows::{Arrange, RowsGemv, Scales, Weights};

use super::dispatch::{Job, Product};
use super::kernels::Kernel;
use super::store::Kind;
use crate::{Tensor, Work};

/// Teams of 32 lanes of a workgroup.
const TEAMS: usize = 4;

impl Job<'_> {
    pub(super) fn by_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let Kind::Rows {
            weights,
            scales,
            group,
            rotation,
            ..
        } = kind
        else {
            return Ok(());
        };
        if kind.prepares_input() {
            // Each has an order of its own.
            for &product in products {
                let arranged = self.arrange(x, kind, rotation, product)?;
                let job = Job {
                    per_row: 1,
                    up: 0,
                    ..*self
                };
                job.multiply_rows(&arranged, kind, (weights, scales, group), &[product])?;
            }
            return Ok(());
        }
        self.multiply_rows(x, kind, (weights, scales, group), products)
    }

    fn arrange(
        &self,
        x: &Tensor,
        kind: Kind,
        rotation: usize,
        (linear, _): Product<'_>,
    ) -> Result<Tensor, Error> {
        let width = linear.shape.in_features;
        let arranged = self.context.tensor(self.rows, width)?;
        let per_group = 128 * TEAMS;
        let mut params = self.params(&[kind], &[(linear, &arranged)], per_group);
        let columns = width.div_ceil(per_group);
        params.ends = [columns as u32; 4];
        let kernel = Kernel::Arrange(Arrange {
            rotation,
            teams: TEAMS,
            route: self.route,
            exchange: self.exchange(),
        });
        let grid = [columns, 1, self.groups(1, linear.experts)];
        let work = Work {
            bytes: 2 * arranged.slice().size(),
            operations: 0,
        };
        let product = [(linear, &arranged)];
        self.record(kernel, &[&x.slice()], &product, &[], &params, grid, work)?;
        Ok(arranged)
    }

    fn multiply_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        (weights, scales, group): (Weights, Scales, usize),
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let experts = products[0].0.experts;
        let rows = self.rows_at_once(experts);
        let mut params = self.params(&[kind], products, 4 * TEAMS);
        params.blocks = products[0].0.shape.in_features.div_ceil(8) as u32;
        let kernel = Kernel::Rows(RowsGemv {
            weights,
            scales,
            group,
            rows,
            teams: TEAMS,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            exchange: self.exchange(),
        });
        let grid = [params.ends[3] as usize, 1, self.groups(rows, experts)];
        let work = self.work(&[kind], products, x);
        self.record(kernel, &[&x.slice()], products, &[], &params, grid, work)
    }
}
