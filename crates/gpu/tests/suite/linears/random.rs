//! Random weights of every format.

use std::sync::Arc;

use half::{bf16, f16};
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_gptq::{Element, GroupedLinear, Parts, Rotation, Scales};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

/// xorshift64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in ±1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }

    pub(super) fn trellis(
        &mut self,
        shape: LinearShape,
        bits: usize,
        codebook: Codebook,
        bias: bool,
    ) -> LinearWeights {
        let inputs = shape.in_features.next_multiple_of(128);
        let outputs = shape.out_features.next_multiple_of(128);
        let tiles = [inputs / 16, outputs / 16, 16 * bits];
        let words: Vec<u16> = (0..tiles.iter().product())
            .map(|_| self.next() as u16)
            .collect();
        let mut halves =
            |count: usize| -> Vec<f16> { (0..count).map(|_| f16::from_f32(self.unit())).collect() };
        let packed = PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape: tiles,
            codebook,
            suh: halves(inputs),
            svh: halves(outputs),
            bias: bias.then(|| halves(outputs)),
        });
        let packed = packed.unwrap();
        assert_eq!(packed.bits(), Bits::new(bits).unwrap());
        LinearWeights::Trellis(Arc::new(packed))
    }

    pub(super) fn dense(&mut self, shape: LinearShape, form: usize, bias: bool) -> LinearWeights {
        let values = self.values(shape.weights());
        let data = match form {
            0 => DenseData::F32(Arc::new(values)),
            1 => DenseData::F16(Arc::new(
                values.into_iter().map(f16::from_f32).collect::<Vec<_>>(),
            )),
            _ => DenseData::Bf16(Arc::new(
                values.into_iter().map(bf16::from_f32).collect::<Vec<_>>(),
            )),
        };
        LinearWeights::Dense {
            weight: DenseWeights::new(shape.out_features, shape.in_features, data).unwrap(),
            bias: bias.then(|| self.values(shape.out_features)),
        }
    }

    pub(super) fn grouped(
        &mut self,
        shape: LinearShape,
        element: Element,
        group: usize,
        scales: usize,
        (zeros, order, rotation): (bool, bool, Rotation),
    ) -> LinearWeights {
        let (inputs, outputs) = (shape.in_features, shape.out_features);
        let levels = match element {
            Element::Int(bits) => bits.levels() as u64,
            Element::E2m1 => 16,
        };
        let code = |rng: &mut Self| (rng.next() >> 20) % levels;
        let codes: Vec<u8> = (0..inputs * outputs * element.code_bits() / 8)
            .map(|_| match element.code_bits() {
                8 => code(self) as u8,
                _ => (code(self) | code(self) << 4) as u8,
            })
            .collect();
        let groups = outputs * (inputs / group);
        let floats: Vec<f32> = (0..groups).map(|_| 0.1 + self.unit().abs()).collect();
        let scales = match scales {
            0 => Scales::F32(floats),
            1 => Scales::F16(floats.into_iter().map(f16::from_f32).collect()),
            2 => Scales::Bf16(floats.into_iter().map(bf16::from_f32).collect()),
            // Every E4M3 number but NaN; subnormal ones too.
            3 => Scales::E4m3 {
                bytes: (0..groups).map(|i| (i % 127) as u8).collect(),
                global: 300.0,
            },
            _ => Scales::E8m0 {
                bytes: (0..groups).map(|i| 120 + (i % 9) as u8).collect(),
                global: 3.0,
            },
        };
        let mut inputs_in_order: Vec<u32> = (0..inputs as u32).collect();
        for i in (1..inputs).rev() {
            inputs_in_order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        let parts = Parts {
            in_features: inputs,
            out_features: outputs,
            element,
            group,
            codes,
            scales,
            zeros: zeros.then(|| (0..groups).map(|_| code(self) as u8).collect()),
            order: order.then_some(inputs_in_order),
            rotation,
            bias: Some(self.values(outputs)),
        };
        LinearWeights::Grouped(Arc::new(GroupedLinear::new(parts).unwrap()))
    }
}
