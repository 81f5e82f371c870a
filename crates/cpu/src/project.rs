//! Projections: one or more linears at once.

use rayon::prelude::*;
use treillage_backend::Error;

use crate::blocks::{Output, for_each_block};
use crate::compute::Compute;
use crate::linear::{Input, Linear};
use crate::moments::observe;
use crate::tensor::Tensor;

/// `x Wᵀ` for each of `linears`, which share one input.
pub(crate) fn project<const N: usize>(
    compute: Compute,
    x: &Tensor,
    linears: [&Linear; N],
) -> Result<[Tensor; N], Error> {
    for linear in linears {
        linear.check_input(x.cols())?;
    }
    observe(x.values(), linears.iter().filter_map(|l| l.watched()))?;
    let inputs = Inputs::new(compute, &linears, x.values());
    let mut outputs = linears.map(|l| Tensor::zeros(x.rows(), l.shape().out_features));
    let products = outputs.iter_mut().enumerate().map(|(i, out)| Product {
        linear: linears[i],
        input: inputs.of(i),
        out: out.values_mut(),
    });
    match compute.plain {
        true => products.for_each(|product| add_products(compute, [product])),
        false => add_products(compute, products),
    }
    Ok(outputs)
}

/// `residual + x Wᵀ`.
pub(crate) fn project_add(
    compute: Compute,
    x: &Tensor,
    linear: &Linear,
    residual: &Tensor,
) -> Result<Tensor, Error> {
    let width = linear.shape().out_features;
    linear.check_input(x.cols())?;
    Error::check_shape("width of a residual", width, residual.cols())?;
    Error::check_shape("tokens of a residual", x.rows(), residual.rows())?;
    observe(x.values(), linear.watched().into_iter())?;
    let mut sum = residual.clone();
    let product = Product {
        linear,
        input: &linear.prepare(compute, x.values()),
        out: sum.values_mut(),
    };
    add_products(compute, [product]);
    Ok(sum)
}

/// What several linears read, prepared once for all that want it alike.
pub(crate) struct Inputs<'a> {
    prepared: Vec<Input<'a>>,
    /// For each linear, which of them it reads.
    of: Vec<usize>,
}

impl<'a> Inputs<'a> {
    /// Prepares rows `x` for `linears`.
    pub(crate) fn new(compute: Compute, linears: &[&Linear], x: &'a [f32]) -> Self {
        let mut distinct: Vec<&Linear> = Vec::with_capacity(linears.len());
        let mut of = Vec::with_capacity(linears.len());
        for linear in linears {
            let known = distinct.iter().position(|l| l.shares_input(linear));
            of.push(known.unwrap_or(distinct.len()));
            if known.is_none() {
                distinct.push(linear);
            }
        }
        let prepared = distinct.par_iter().map(|l| l.prepare(compute, x)).collect();
        Self { prepared, of }
    }

    /// What linear number `linear` reads.
    pub(crate) fn of(&self, linear: usize) -> &Input<'a> {
        &self.prepared[self.of[linear]]
    }
}

/// `out += input Wᵀ`, row-major.
pub(crate) struct Product<'a> {
    pub(crate) linear: &'a Linear,
    pub(crate) input: &'a Input<'a>,
    pub(crate) out: &'a mut [f32],
}

/// Computes all `products`, in parallel over blocks of all their columns.
pub(crate) fn add_products<'a>(compute: Compute, products: impl IntoIterator<Item = Product<'a>>) {
    let mut factors = Vec::new();
    let mut outputs = Vec::new();
    for Product { linear, input, out } in products {
        factors.push((linear, input));
        outputs.push(Output {
            values: out,
            cols: linear.shape().out_features,
        });
    }
    for_each_block(outputs, |i, columns, rows| {
        let (linear, input) = factors[i];
        let count = columns.len();
        let mut products = vec![0.0; rows.len() * count];
        linear.multiply(compute, input, columns, &mut products);
        for (row, products) in rows.iter_mut().zip(products.chunks_exact(count)) {
            for (y, product) in row.iter_mut().zip(products) {
                *y += product;
            }
        }
    });
}
