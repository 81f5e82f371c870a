//! How one linear layer is found in a checkpoint, whichever way it is stored.

use half::f16;
use treillage_gptq::GroupedLinear;
use treillage_trellis::{Codebook, PackedLinear, PackedParts, scales::expand_signs};

use crate::{Checkpoint, DenseData, DenseTensor, Dtype, Result, TensorError, TensorView};

/// A linear layer as the checkpoint stores it.
#[derive(Clone, Debug)]
pub enum StoredLinear {
    /// Every weight in 16 or 32 bits.
    Dense {
        /// `[out_features, in_features]`.
        weight: DenseTensor,
        /// Added to the output, `[out_features]`.
        bias: Option<Vec<f32>>,
    },
    /// Trellis codes; both axes are padded to a multiple of 128.
    Trellis(PackedLinear),
    /// Codes with a scale per group, unpadded.
    Grouped(GroupedLinear),
}

/// Axes of a trellis-coded linear are padded to a multiple of this.
const PAD: usize = 128;

impl Checkpoint {
    /// Whether there is a linear layer `prefix`, stored in any way that [`Checkpoint::linear`] reads.
    pub fn has_linear(&self, prefix: &str) -> bool {
        self.contains(&format!("{prefix}.trellis"))
            || self.contains(&format!("{prefix}.weight"))
            || self.has_packed(prefix)
            || Expert::parse(prefix).is_some_and(|e| self.contains(&e.fused_name()))
    }

    /// The linear layer `prefix`, for example `model.layers.0.self_attn.q_proj`.
    ///
    /// Reads trellis codes of every EXL3 variant, group-quantized weights of compressed-tensors, FP-Quant and GPTQ,
    /// 16- and 32-bit weights, FP8 with scales (as bf16), and answers for a single expert where the checkpoint has all
    /// experts of a layer in one tensor. Trellis words and dense weights stay in the mapped file. A dense weight that
    /// is stored padded is trimmed; a trellis is returned with its padding.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`], or [`crate::Error::Tensor`] where type or shape is not that of a linear with
    /// `in_features` and `out_features`.
    pub fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
    ) -> Result<StoredLinear> {
        if let Some(trellis) = self.tensor_if_any(&format!("{prefix}.trellis")) {
            let packed = self.trellis(prefix, &trellis, in_features, out_features)?;
            return Ok(StoredLinear::Trellis(packed));
        }
        if let Some(stored) = self.packed(prefix, in_features, out_features)? {
            return Ok(stored);
        }
        let name = format!("{prefix}.weight");
        let weight = match (self.tensor_if_any(&name), Expert::parse(prefix)) {
            (Some(view), _) => {
                trimmed(self.dense_or_fp8(&view)?, &view, in_features, out_features)?
            }
            (None, Some(expert)) if self.contains(&expert.fused_name()) => {
                let fused = self.tensor(&expert.fused_name())?;
                expert.slice(&fused, name, in_features, out_features)?
            }
            _ => return Err(self.missing(&name)),
        };
        let bias = format!("{prefix}.bias");
        let bias = self
            .contains(&bias)
            .then(|| self.vector(&bias, out_features));
        Ok(StoredLinear::Dense {
            weight,
            bias: bias.transpose()?,
        })
    }

    fn trellis(
        &self,
        prefix: &str,
        trellis: &TensorView<'_>,
        in_features: usize,
        out_features: usize,
    ) -> Result<PackedLinear> {
        expect_16_bits(trellis)?;
        let &[tiles_in, tiles_out, words_per_tile] = trellis.shape() else {
            let found = trellis.shape().to_vec();
            return Err(trellis.error(TensorError::Rank { expected: 3, found }));
        };
        let [rows, cols] = [in_features, out_features].map(|n| n.next_multiple_of(PAD));
        if [tiles_in, tiles_out] != [rows / 16, cols / 16] {
            return Err(trellis.error(TensorError::Shape {
                expected: vec![rows / 16, cols / 16, words_per_tile],
                found: trellis.shape().to_vec(),
            }));
        }
        let flag = |name| self.contains(&format!("{prefix}.{name}"));
        let codebook = match (flag("mcg"), flag("mul1")) {
            (true, true) => return Err(trellis.error(TensorError::TwoCodebooks)),
            (true, false) => Codebook::Mcg,
            (false, true) => Codebook::Mul1,
            (false, false) => Codebook::ThreeInst,
        };
        let bias = match self.tensor_if_any(&format!("{prefix}.bias")) {
            Some(view) => Some(halves(&view, cols)?),
            None => None,
        };
        PackedLinear::new(PackedParts {
            words: trellis.values(0..trellis.len()),
            shape: [tiles_in, tiles_out, words_per_tile],
            codebook,
            suh: self.scales(prefix, "suh", "su", rows)?,
            svh: self.scales(prefix, "svh", "sv", cols)?,
            bias,
        })
        .map_err(|reason| trellis.error(reason))
    }

    /// The scales `name` of `len` channels or, in checkpoints older than those, the sign bits `legacy`.
    fn scales(&self, prefix: &str, name: &str, legacy: &str, len: usize) -> Result<Vec<f16>> {
        let name = format!("{prefix}.{name}");
        if let Some(view) = self.tensor_if_any(&name) {
            return halves(&view, len);
        }
        match self.tensor_if_any(&format!("{prefix}.{legacy}")) {
            Some(view) => {
                expect_16_bits(&view)?;
                view.expect_shape(&[len / 16])?;
                let words = view.values::<u16>(0..view.len());
                Ok(expand_signs((*words).as_ref()))
            }
            None => Err(self.missing(&name)),
        }
    }
}

/// One expert's projection, asked for by its own name.
struct Expert<'a> {
    /// `….experts`
    experts: &'a str,
    number: usize,
    projection: Projection,
}

#[derive(Clone, Copy, PartialEq)]
enum Projection {
    Gate,
    Up,
    Down,
}

impl<'a> Expert<'a> {
    /// Takes `model.layers.0.mlp.experts.3.gate_proj` apart.
    fn parse(prefix: &'a str) -> Option<Self> {
        let (rest, projection) = prefix.rsplit_once('.')?;
        let (experts, number) = rest.rsplit_once('.')?;
        Some(Self {
            experts: experts.ends_with(".experts").then_some(experts)?,
            number: number.parse().ok()?,
            projection: match projection {
                "gate_proj" => Projection::Gate,
                "up_proj" => Projection::Up,
                "down_proj" => Projection::Down,
                _ => return None,
            },
        })
    }

    /// The tensor that would hold it together with all the others.
    fn fused_name(&self) -> String {
        match self.projection {
            Projection::Gate | Projection::Up => format!("{}.gate_up_proj", self.experts),
            Projection::Down => format!("{}.down_proj", self.experts),
        }
    }

    /// Its part of `fused`: `[experts, 2·out, in]` with all gate rows before all up rows, or `[experts, out, in]`.
    fn slice(
        &self,
        fused: &TensorView<'_>,
        name: String,
        in_features: usize,
        out_features: usize,
    ) -> Result<DenseTensor> {
        let &[experts, rows, cols] = fused.shape() else {
            let found = fused.shape().to_vec();
            return Err(fused.error(TensorError::Rank { expected: 3, found }));
        };
        let (parts, part) = match self.projection {
            Projection::Gate => (2, 0),
            Projection::Up => (2, 1),
            Projection::Down => (1, 0),
        };
        if rows % parts != 0 || [rows / parts, cols] != [out_features, in_features] {
            return Err(fused.error(TensorError::Shape {
                expected: vec![experts, parts * out_features, in_features],
                found: fused.shape().to_vec(),
            }));
        }
        if self.number >= experts {
            let expert = self.number;
            return Err(fused.error(TensorError::Expert { expert, experts }));
        }
        let first = (self.number * parts + part) * out_features * in_features;
        DenseTensor::part_of(fused, name, first, vec![out_features, in_features])
    }
}

/// `weight`, read from `view`, as `[out_features, in_features]`: itself, or without its padding to [`PAD`].
fn trimmed(
    weight: DenseTensor,
    view: &TensorView<'_>,
    in_features: usize,
    out_features: usize,
) -> Result<DenseTensor> {
    fn crop<T: Copy>(values: &[T], stored: usize, [rows, cols]: [usize; 2]) -> Vec<T> {
        let rows = values.chunks_exact(stored).take(rows);
        rows.flat_map(|row| &row[..cols]).copied().collect()
    }
    let logical = [out_features, in_features];
    let padded = logical.map(|n| n.next_multiple_of(PAD));
    if weight.shape() != padded {
        view.expect_shape(&logical)?;
    }
    if weight.shape() == logical {
        return Ok(weight);
    }
    let data: DenseData = match weight.data() {
        DenseData::F32(v) => crop((**v).as_ref(), padded[1], logical).into(),
        DenseData::F16(v) => crop((**v).as_ref(), padded[1], logical).into(),
        DenseData::Bf16(v) => crop((**v).as_ref(), padded[1], logical).into(),
    };
    let name = weight.name().to_owned();
    Ok(DenseTensor::computed_from(
        view,
        name,
        logical.to_vec(),
        data,
    ))
}

/// The `len` values of `view` in half precision.
fn halves(view: &TensorView<'_>, len: usize) -> Result<Vec<f16>> {
    view.expect_shape(&[len])?;
    let tensor = DenseTensor::from_view(view)?;
    tensor.check_finite()?;
    Ok(tensor.data().map(f16::from_f32))
}

/// Checks that `view` holds 16-bit words; PyTorch had no unsigned ones, so they are usually called I16.
fn expect_16_bits(view: &TensorView<'_>) -> Result<()> {
    match view.dtype() {
        Dtype::I16 | Dtype::U16 => Ok(()),
        found => {
            let expected = "I16";
            Err(view.error(TensorError::Dtype { expected, found }))
        }
    }
}
