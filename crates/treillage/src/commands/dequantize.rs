//! `treillage dequantize`

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use treillage_checkpoint::{
    Checkpoint, DenseSettings, DenseTensor, DenseWriter, HalfDtype, StoredLinear,
};
use treillage_model::plan::{LinearPlan, plan};
use treillage_trellis::PackedLinear;

use crate::{output, runtime, table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    source: PathBuf,
    /// Folder to write to: new, empty, or that of a run that was interrupted and goes on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of all weights
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

#[derive(Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Dtype {
    Bf16,
    F16,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let start = Instant::now();
    let source = Checkpoint::open(&args.source)?;
    let linears = write(&source, &args.out, args.dtype)?;
    let report = Report {
        out: args.out.clone(),
        dtype: args.dtype,
        linears,
        source_bytes: runtime::weight_bytes(&args.source)?,
        bytes: runtime::weight_bytes(&args.out)?,
        seconds: start.elapsed().as_secs_f64(),
    };
    output::print(&report, json)
}

/// Tensors that are written together: a block's, or those around the blocks.
struct Group {
    name: String,
    linears: Vec<LinearPlan>,
    kept: Vec<String>,
}

/// Writes all tensors of the model, a block at a time, and gives the number of linears that were codes.
fn write(source: &Checkpoint, out: &Path, dtype: Dtype) -> Result<usize> {
    let groups = groups(source);
    let settings = DenseSettings {
        dtype: match dtype {
            Dtype::Bf16 => HalfDtype::Bf16,
            Dtype::F16 => HalfDtype::F16,
        },
        ..DenseSettings::default()
    };
    let names = groups.iter().map(|group| group.name.clone()).collect();
    let writer = DenseWriter::create_or_resume(out, settings, names)?;
    let pending: Vec<String> = writer.pending().map(str::to_owned).collect();
    let mut linears = 0;
    for group in &groups {
        let mut tensors = Vec::new();
        let kept = group.kept.iter().map(|name| source.dense(name));
        tensors.extend(kept.collect::<Result<Vec<_>, _>>()?);
        for plan in &group.linears {
            let LinearPlan { prefix, shape, .. } = plan;
            match source.linear(prefix, shape.in_features, shape.out_features)? {
                StoredLinear::Dense { weight, bias } => {
                    tensors.push(weight);
                    tensors.extend(bias.map(|bias| bias_tensor(plan, bias)).transpose()?);
                }
                StoredLinear::Trellis(packed) => {
                    linears += 1;
                    if pending.contains(&group.name) {
                        tensors.extend(dequantized(plan, &packed)?);
                    }
                }
                StoredLinear::Grouped(grouped) => {
                    linears += 1;
                    if pending.contains(&group.name) {
                        let name = format!("{prefix}.weight");
                        let size = [shape.out_features, shape.in_features];
                        tensors.push(DenseTensor::new(name, size, grouped.dequantize())?);
                        let bias = grouped.into_parts().bias;
                        tensors.extend(bias.map(|bias| bias_tensor(plan, bias)).transpose()?);
                    }
                }
            }
        }
        if pending.contains(&group.name) {
            writer.write_group(&group.name, &tensors)?;
        }
        source.evict(&group.name);
    }
    writer.finish(source)?;
    Ok(linears)
}

fn groups(source: &Checkpoint) -> Vec<Group> {
    let plan = plan(source.config());
    let blocks = plan.blocks.into_iter().map(|block| Group {
        name: format!("model.layers.{}.", block.index),
        linears: block.linears,
        kept: block.kept,
    });
    // A tied head is the embedding, unless it was quantized by itself.
    let head = Some(plan.head).filter(|head| source.has_linear(&head.prefix));
    let around = Group {
        name: "model.".to_owned(),
        linears: head.into_iter().collect(),
        kept: plan.kept,
    };
    blocks.chain([around]).collect()
}

/// The weight without its padding, and the bias.
fn dequantized(plan: &LinearPlan, packed: &PackedLinear) -> Result<Vec<DenseTensor>> {
    let shape = plan.shape;
    // Column-major [in, out] is row-major [out, in].
    let weights = packed.dequantize();
    let columns = weights.as_slice().chunks_exact(packed.in_features());
    let rows: Vec<f32> = columns
        .take(shape.out_features)
        .flat_map(|row| &row[..shape.in_features])
        .copied()
        .collect();
    let name = format!("{}.weight", plan.prefix);
    let mut tensors = vec![DenseTensor::new(
        name,
        [shape.out_features, shape.in_features],
        rows,
    )?];
    if let Some(bias) = packed.bias() {
        let bias = bias[..shape.out_features].iter().map(|b| b.to_f32());
        tensors.push(bias_tensor(plan, bias.collect())?);
    }
    Ok(tensors)
}

fn bias_tensor(plan: &LinearPlan, bias: Vec<f32>) -> Result<DenseTensor> {
    let name = format!("{}.bias", plan.prefix);
    Ok(DenseTensor::new(name, [plan.shape.out_features], bias)?)
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    dtype: Dtype,
    /// Linears that were codes.
    linears: usize,
    source_bytes: u64,
    bytes: u64,
    seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} linears decoded; {} became {}; {:.1} s",
            self.linears,
            table::bytes(self.source_bytes),
            table::bytes(self.bytes),
            self.seconds
        )?;
        write!(f, "{}", self.out.display())
    }
}
