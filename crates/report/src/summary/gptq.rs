use serde::Serialize;

use crate::{
    evidence::Evidence,
    figure::{Figure, per_cent},
    results::{Device, GptqResult, StageTimes},
};

/// The workloads of the design, GLM first.
pub const WORKLOADS: [&str; 2] = ["glm47_moe", "qwen3_coder_next"];

/// Stages of quantizing one linear, the sum last.
pub const STAGES: [&str; 4] = ["Hessian", "Cholesky", "quantize", "total"];

/// What is quantized if nothing was measured.
const FORMAT: &str = "int4";

/// Times of MR-GPTQ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gptq {
    /// One backend against the other.
    pub backends: Vec<BackendRow>,
    /// One model against the other.
    pub models: Vec<ModelRow>,
}

/// A stage of a workload on both backends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendRow {
    /// One of [`WORKLOADS`].
    pub workload: &'static str,
    /// Outputs and inputs, where it was measured.
    pub shape: Option<[usize; 2]>,
    /// What the linear became.
    pub format: String,
    /// One of [`STAGES`].
    pub stage: &'static str,
    /// Milliseconds of the baseline.
    pub cpu_ms: Figure,
    /// Milliseconds of the optimized backend.
    pub gpu_ms: Figure,
    /// What the second takes more than the first, milliseconds.
    pub delta_ms: Figure,
    /// How many times as long the first takes.
    pub ratio: Figure,
}

/// A stage of both workloads on one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelRow {
    /// The backend.
    pub device: Device,
    /// What the linear became.
    pub format: String,
    /// One of [`STAGES`].
    pub stage: &'static str,
    /// Milliseconds of `glm47_moe`.
    pub glm_ms: Figure,
    /// Milliseconds of `qwen3_coder_next`.
    pub qwen_ms: Figure,
    /// What the second takes more than the first, milliseconds.
    pub delta_ms: Figure,
    /// The same in per cent of the first.
    pub per_cent: Figure,
}

fn stages(times: &StageTimes) -> [f64; STAGES.len()] {
    [
        times.hessian_ms,
        times.cholesky_ms,
        times.quantize_ms,
        times.total_ms,
    ]
}

impl Gptq {
    pub(super) fn new(evidence: &Evidence) -> Self {
        let mut formats: Vec<&str> = Vec::new();
        for result in &evidence.gptq {
            let format = &*result.format;
            if WORKLOADS.contains(&&*result.workload) && !formats.contains(&format) {
                formats.push(format);
            }
        }
        if formats.is_empty() {
            formats.push(FORMAT);
        }
        let mut all = Self {
            backends: Vec::new(),
            models: Vec::new(),
        };
        for format in formats {
            let measured = |workload, device| Measured::find(evidence, workload, format, device);
            for workload in WORKLOADS {
                let [cpu, gpu] = [Device::Cpu, Device::Gpu].map(|d| measured(workload, d));
                for (at, stage) in STAGES.into_iter().enumerate() {
                    let (cpu_ms, gpu_ms) = (cpu.stage(at), gpu.stage(at));
                    all.backends.push(BackendRow {
                        workload,
                        shape: cpu.shape().or(gpu.shape()),
                        format: format.to_owned(),
                        stage,
                        delta_ms: cpu_ms.with(&gpu_ms, |cpu, gpu| gpu - cpu),
                        ratio: cpu_ms.with(&gpu_ms, |cpu, gpu| cpu / gpu),
                        cpu_ms,
                        gpu_ms,
                    });
                }
            }
            for device in [Device::Cpu, Device::Gpu] {
                let [glm, qwen] = WORKLOADS.map(|workload| measured(workload, device));
                for (at, stage) in STAGES.into_iter().enumerate() {
                    let (glm_ms, qwen_ms) = (glm.stage(at), qwen.stage(at));
                    all.models.push(ModelRow {
                        device,
                        format: format.to_owned(),
                        stage,
                        delta_ms: glm_ms.with(&qwen_ms, |glm, qwen| qwen - glm),
                        per_cent: glm_ms.with(&qwen_ms, per_cent),
                        glm_ms,
                        qwen_ms,
                    });
                }
            }
        }
        all
    }
}

/// A result, or why there is none.
struct Measured<'e>(Result<&'e GptqResult, String>);

impl<'e> Measured<'e> {
    /// The latest of its kind.
    fn find(evidence: &'e Evidence, workload: &str, format: &str, device: Device) -> Self {
        let mut latest_first = evidence.gptq.iter().rev();
        let found = latest_first.find(|result| {
            result.workload == workload && result.format == format && result.device == device
        });
        Self(found.ok_or_else(|| evidence.reason("gptq", device, Some(workload), None, None)))
    }

    fn stage(&self, at: usize) -> Figure {
        match &self.0 {
            Ok(result) => Figure::Measured(stages(&result.ours.median)[at]),
            Err(reason) => Figure::unavailable(reason),
        }
    }

    fn shape(&self) -> Option<[usize; 2]> {
        let result = self.0.as_ref().ok()?;
        Some([result.outputs, result.inputs])
    }
}
