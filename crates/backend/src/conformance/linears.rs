//! Linears of every kind, behind a norm and before a residual.

use treillage_gptq::{Format, IntBits, Rotation};
use treillage_trellis::Codebook;

use super::grouped::Make;
use super::layer::{Layer, Storage, shape};
use super::noise::Noise;
use super::reference::{Matrix, rms_norm};
use super::{Failure, compare, ensure};
use crate::{Error, Inference, LinearShape};

/// Tokens: one, a few, and more than a block of rows.
const TOKENS: [usize; 3] = [1, 3, 70];
const EPSILON: f32 = 1e-5;

/// Checks `norm_project` of `layers` on `tokens` random rows.
fn check<B: Inference, const N: usize>(
    backend: &B,
    tolerance: f64,
    what: &str,
    tokens: usize,
    layers: &[Layer; N],
) -> Result<(), Failure> {
    let width = layers[0].shape.in_features;
    let mut noise = Noise::new(tokens as u64);
    let (x, weight) = (noise.values(tokens * width), noise.scales(width));
    let normed = Matrix::new(&x, width).map_rows(|row| rms_norm(row, &weight, EPSILON));
    let norm = backend.load_norm(weight, EPSILON)?;
    let mut linears = Vec::new();
    for layer in layers {
        linears.push(layer.load(backend)?);
    }
    let linears = std::array::from_fn(|i| &linears[i]);
    let x = backend.upload(&x, width)?;
    let found: [B::Tensor; N] = backend.norm_project(&x, &norm, linears)?;
    for (i, (found, layer)) in found.iter().zip(layers).enumerate() {
        let expected = normed.map_rows(|row| layer.apply(row));
        compare(
            format!("{what}, {tokens} tokens, linear {i}"),
            &expected.values,
            &backend.read(found)?,
            tolerance,
        )?;
    }
    Ok(())
}

fn dense<B: Inference>(backend: &B, tolerance: f64, storage: Storage) -> Result<(), Failure> {
    let mut noise = Noise::new(10);
    let layers = [
        Layer::new(&mut noise, storage, shape(200, 300), true)?,
        Layer::new(&mut noise, storage, shape(200, 7), false)?,
        Layer::new(&mut noise, storage, shape(200, 128), false)?,
    ];
    for tokens in TOKENS {
        check(backend, tolerance, &format!("{storage:?}"), tokens, &layers)?;
    }
    Ok(())
}

/// Dense linears stored in f32, of widths that fill no block.
pub fn dense_f32_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    dense(backend, tolerance, Storage::F32)
}

/// Dense linears stored in f16.
pub fn dense_f16_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    dense(backend, tolerance, Storage::F16)
}

/// Dense linears stored in bf16.
pub fn dense_bf16_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    dense(backend, tolerance, Storage::Bf16)
}

fn trellis<B: Inference>(backend: &B, tolerance: f64, codebook: Codebook) -> Result<(), Failure> {
    let mut noise = Noise::new(11);
    for bits in 1..=8 {
        let storage = Storage::Trellis(bits, codebook);
        let layers = [Layer::new(&mut noise, storage, shape(200, 130), true)?];
        for tokens in TOKENS {
            check(backend, tolerance, &format!("{storage:?}"), tokens, &layers)?;
        }
    }
    Ok(())
}

/// Packed linears of codebook 3INST, every rate, padded on both axes.
pub fn trellis_3inst_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    trellis(backend, tolerance, Codebook::ThreeInst)
}

/// Packed linears of codebook MCG.
pub fn trellis_mcg_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    trellis(backend, tolerance, Codebook::Mcg)
}

/// Packed linears of codebook MUL1.
pub fn trellis_mul1_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    trellis(backend, tolerance, Codebook::Mul1)
}

fn grouped<B: Inference>(backend: &B, tolerance: f64, makes: &[Make]) -> Result<(), Failure> {
    let mut noise = Noise::new(15);
    for &make in makes {
        let storage = Storage::Grouped(make);
        // Groups of the format's own size, then ones that no other format has, in rows of bytes that fill no vector.
        for width in [384, 200] {
            let Make { rotation, .. } = make;
            let fits = match rotation {
                Rotation::None => true,
                Rotation::Block(block) => width % block == 0,
            };
            if fits {
                let layers = [Layer::new(&mut noise, storage, shape(width, 130), true)?];
                for tokens in TOKENS {
                    check(backend, tolerance, &format!("{storage:?}"), tokens, &layers)?;
                }
            }
        }
    }
    Ok(())
}

/// Linears of integer codes, every width of them.
pub fn grouped_int_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    let bits = [IntBits::Two, IntBits::Three, IntBits::Four, IntBits::Eight];
    grouped(
        backend,
        tolerance,
        &bits.map(|bits| Make::new(Format::Int(bits))),
    )
}

/// Linears of integer codes whose zero is any code.
pub fn grouped_asymmetric_linears<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let bits = [IntBits::Two, IntBits::Three, IntBits::Four, IntBits::Eight];
    let makes = bits.map(|bits| Make {
        asymmetric: true,
        ..Make::new(Format::Int(bits))
    });
    grouped(backend, tolerance, &makes)
}

/// Linears of four-bit floats, with each type of scale.
pub fn grouped_fp4_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    let formats = [Format::NvFp4, Format::MxFp4, Format::Fp4];
    grouped(backend, tolerance, &formats.map(Make::new))
}

/// Grouped linears that reorder and rotate what they read.
pub fn grouped_rotated_linears<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    for format in [Format::Int(IntBits::Four), Format::NvFp4] {
        for rotation in Rotation::BLOCKS.map(Rotation::Block) {
            for reordered in [false, true] {
                let make = Make {
                    reordered,
                    rotation,
                    ..Make::new(format)
                };
                grouped(backend, tolerance, &[make])?;
            }
        }
        let make = Make {
            reordered: true,
            ..Make::new(format)
        };
        grouped(backend, tolerance, &[make])?;
    }
    Ok(())
}

/// Linears of different kinds read one input.
pub fn mixed_linears_share_an_input<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let mut noise = Noise::new(12);
    let size: LinearShape = shape(256, 256);
    let layers = [
        Layer::new(&mut noise, Storage::Trellis(3, Codebook::Mul1), size, false)?,
        Layer::new(&mut noise, Storage::Bf16, size, true)?,
        Layer::new(&mut noise, Storage::Trellis(5, Codebook::Mcg), size, false)?,
    ];
    check(backend, tolerance, "mixed", 3, &layers)?;
    // All of one format, each of which wants its input otherwise but the second.
    let plain = Make::new(Format::Int(IntBits::Four));
    let rotated = Make {
        rotation: Rotation::Block(32),
        ..plain
    };
    let reordered = Make {
        reordered: true,
        ..rotated
    };
    let mut layer = |make| Layer::new(&mut noise, Storage::Grouped(make), size, false);
    let layers = [
        layer(plain)?,
        layer(plain)?,
        layer(rotated)?,
        layer(reordered)?,
        layer(reordered)?,
    ];
    check(backend, tolerance, "mixed grouped", 3, &layers)
}

/// `project_add` is residual plus product.
pub fn residuals_are_added<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    let int4 = Storage::Grouped(Make::new(Format::Int(IntBits::Four)));
    for storage in [Storage::Bf16, Storage::Trellis(4, Codebook::Mul1), int4] {
        let mut noise = Noise::new(13);
        let layer = Layer::new(&mut noise, storage, shape(150, 90), true)?;
        let linear = layer.load(backend)?;
        for tokens in TOKENS {
            let (x, residual) = (noise.values(tokens * 150), noise.values(tokens * 90));
            let mut expected = Matrix::new(&x, 150).map_rows(|row| layer.apply(row));
            for (y, r) in expected.values.iter_mut().zip(&residual) {
                *y += f64::from(*r);
            }
            let sum = backend.project_add(
                &backend.upload(&x, 150)?,
                &linear,
                &backend.upload(&residual, 90)?,
            )?;
            compare(
                format!("residual and {storage:?}, {tokens} tokens"),
                &expected.values,
                &backend.read(&sum)?,
                tolerance,
            )?;
        }
    }
    Ok(())
}

/// Weights and activations of another size than the layer's are errors.
pub fn misshapen_weights_are_refused<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let nvfp4 = Storage::Grouped(Make::new(Format::NvFp4));
    for storage in [Storage::F32, Storage::Trellis(2, Codebook::Mcg), nvfp4] {
        let layer = Layer::new(&mut Noise::new(14), storage, shape(256, 128), false)?;
        for wrong in [shape(128, 128), shape(256, 300)] {
            let refused = matches!(
                backend.load_linear(layer.weights.clone(), wrong),
                Err(Error::Shape { .. })
            );
            ensure(refused, || {
                format!("{storage:?} of 256 × 128 was loaded as {wrong:?}")
            })?;
        }
        let linear = layer.load(backend)?;
        let norm = backend.load_norm(vec![1.0; 64], EPSILON)?;
        let x = backend.upload(&[1.0; 64], 64)?;
        ensure(backend.norm_project(&x, &norm, [&linear]).is_err(), || {
            format!("{storage:?} of 256 × 128 multiplied rows of 64")
        })?;
    }
    Ok(())
}
