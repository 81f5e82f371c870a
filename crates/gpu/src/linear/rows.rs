//! Products with matrices that are stored row by row.

use treillage_backend::Error;
use treillage_shaders::matmul::Matmul;
use treillage_shaders::rows::{Arrange, Format, RowsGemv, RowsMatmul, Scales};

use super::dispatch::{BUSY, Job, Product};
use super::kernels::Kernel;
use super::store::{Kind, chunks};
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
            format, rotation, ..
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
                job.multiply_rows(&arranged, kind, format, &[product])?;
            }
            return Ok(());
        }
        self.multiply_rows(x, kind, format, products)
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

    /// By the kernel that is for so many rows.
    ///
    /// Groups go through halves where matrix units multiply them: codes are small and their scales near one another, so that weights
    /// lose no more than activations do. What is beyond 65504 there is not finite, and is computed again on the plain path. Plain
    /// numbers never go through halves, which do not hold bfloat16's range: what is stored plainly is what others are measured
    /// against.
    fn multiply_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        format: Format,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let experts = products[0].0.experts;
        if !self.are_many(experts) {
            return self.few_at_a_time(x, kind, format, products);
        }
        let exact = self.context.gpu().options().exact || self.context.guard.is_plain();
        let halves = format.scales != Scales::None
            && !exact
            && self.context.linears.matrices(self.context)?;
        let mut rest = Vec::with_capacity(products.len());
        for &product in products {
            if !halves || !self.by_tiles(x, kind, product, true)? {
                rest.push(product);
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        let blocks =
            |(linear, _): &Product<'_>| linear.shape.out_features.div_ceil(Matmul::COLUMNS);
        let columns: usize = rest.iter().map(blocks).sum();
        // Nothing is cut along the inputs, so that sums do not depend on how many rows there are: a narrow matrix is faster a few rows at a
        // time than by a few workgroups.
        match columns * self.groups(Matmul::ROWS, experts) < BUSY {
            true => self.few_at_a_time(x, kind, format, &rest),
            false => self.all_in_floats(x, kind, format, &rest),
        }
    }

    fn all_in_floats(
        &self,
        x: &Tensor,
        kind: Kind,
        format: Format,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let mut params = self.params(&[kind], products, Matmul::COLUMNS);
        params.blocks = chunks(products[0].0.shape.in_features) as u32;
        let kernel = Kernel::RowsMatmul(RowsMatmul {
            format,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
        });
        let groups = self.groups(Matmul::ROWS, products[0].0.experts);
        let grid = [params.ends[3] as usize, 1, groups];
        let work = self.work(&[kind], products, x);
        self.record(kernel, &[&x.slice()], products, &[], &params, grid, work)
    }

    pub(super) fn few_at_a_time(
        &self,
        x: &Tensor,
        kind: Kind,
        format: Format,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let experts = products[0].0.experts;
        let rows = self.rows_at_once(experts);
        let mut params = self.params(&[kind], products, 4 * TEAMS);
        params.blocks = chunks(products[0].0.shape.in_features) as u32;
        let kernel = Kernel::Rows(RowsGemv {
            format,
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
