//! Keys and values as kernels keep them.

use half::f16;

use crate::harness::assert_close;

/// A cache in one of its forms.
pub(crate) struct Cache {
    /// Whether in f16, and not in eight bits.
    halves: bool,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) capacity: usize,
    pub(crate) keys: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

impl Cache {
    /// Of zeros.
    pub(crate) fn new(form: &str, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let halves = form == "f16";
        let values = kv_heads * head_dim * capacity;
        let (width, scales) = if halves {
            (2, 0)
        } else {
            (1, 8 * kv_heads * capacity)
        };
        Self {
            halves,
            kv_heads,
            head_dim,
            capacity,
            keys: vec![0; width * values + scales],
            values: vec![0; width * values],
        }
    }

    /// Where a channel of a key is.
    pub(crate) fn key(&self, h: usize, at: usize, channel: usize) -> usize {
        let eights = (h * (self.head_dim / 8) + channel / 8) * self.capacity + at;
        eights * 8 + channel % 8
    }

    /// Where a channel of a value is.
    pub(crate) fn value(&self, h: usize, at: usize, channel: usize) -> usize {
        (h * self.capacity + at) * self.head_dim + channel
    }

    /// The first byte of the two scales of a position.
    fn scales(&self, h: usize, at: usize) -> usize {
        let codes = self.kv_heads * self.head_dim * self.capacity;
        codes + 8 * (h * self.capacity + at)
    }

    /// Puts a token of one head in.
    pub(crate) fn set(&mut self, h: usize, at: usize, k: &[f32], v: &[f32]) {
        for (which, row) in [k, v].into_iter().enumerate() {
            let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
            let scale = largest / 127.0;
            if !self.halves {
                let place = self.scales(h, at) + 4 * which;
                self.keys[place..place + 4].copy_from_slice(&scale.to_le_bytes());
            }
            for (channel, &x) in row.iter().enumerate() {
                let place = match which {
                    0 => self.key(h, at, channel),
                    _ => self.value(h, at, channel),
                };
                let to = if which == 0 {
                    &mut self.keys
                } else {
                    &mut self.values
                };
                if self.halves {
                    let half = f16::from_f32(x.clamp(-65504.0, 65504.0));
                    to[2 * place..2 * place + 2].copy_from_slice(&half.to_le_bytes());
                } else {
                    to[place] = (x / scale).round() as i8 as u8;
                }
            }
        }
    }

    /// What `keys` and `values`, laid out as these, stand for.
    pub(crate) fn decode(&self, keys: &[u8], values: &[u8]) -> (Vec<f64>, Vec<f64>) {
        let count = self.kv_heads * self.head_dim * self.capacity;
        if self.halves {
            let widened = |bytes: &[u8]| -> Vec<f64> {
                let halves: Vec<f16> = bytemuck::pod_collect_to_vec(bytes);
                halves.into_iter().map(f64::from).collect()
            };
            return (widened(keys), widened(values));
        }
        let scale = |h: usize, at: usize, which: usize| {
            let place = self.scales(h, at) + 4 * which;
            let word: [u8; 4] = keys[place..place + 4].try_into().unwrap();
            f64::from(f32::from_le_bytes(word))
        };
        let (mut decoded_keys, mut decoded_values) = (vec![0.0; count], vec![0.0; count]);
        for h in 0..self.kv_heads {
            for at in 0..self.capacity {
                for channel in 0..self.head_dim {
                    let (k, v) = (self.key(h, at, channel), self.value(h, at, channel));
                    decoded_keys[k] = scale(h, at, 0) * f64::from(keys[k] as i8);
                    decoded_values[v] = scale(h, at, 1) * f64::from(values[v] as i8);
                }
            }
        }
        (decoded_keys, decoded_values)
    }

    /// Asserts that `keys` and `values` stand for the same as these.
    pub(crate) fn assert_close(&self, what: &str, keys: Vec<u8>, values: Vec<u8>) {
        let (expected_keys, expected_values) = self.decode(&self.keys, &self.values);
        let (keys, values) = self.decode(&keys, &values);
        // A step of the largest, or of the last bit of a half.
        let tolerance = if self.halves { 6e-4 } else { 1.0 / 127.0 };
        for (found, expected) in [(keys, expected_keys), (values, expected_values)] {
            let found: Vec<f32> = found.into_iter().map(|x| x as f32).collect();
            assert_close(what, &found, &expected, tolerance);
        }
    }
}
