//! What every op works with.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytemuck::NoUninit;

use crate::{
    ALIGNMENT, Arena, Dispatch, Error, Gpu, Pipeline, Recorder, Slabs, Slice, Tensor, Work,
};

/// A device with memory for weights and activations, a recorder, and the kernels that were used so far.
#[derive(Debug)]
pub struct Context {
    /// Appends dispatches.
    pub recorder: Recorder,
    /// Lends memory for activations.
    pub arena: Arena,
    /// Cuts memory for weights.
    pub slabs: Slabs,
    kernels: Mutex<HashMap<Key, Pipeline>>,
    pub(crate) linears: crate::linear::Kernels,
    pub(crate) guard: crate::guard::Guard,
}

/// The name of a kernel's source, and its constants.
type Key = (&'static str, Vec<(&'static str, Constant)>);

/// The value of a constant of a kernel's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    /// A number.
    Number(u32),
    /// A word: the name of an import, or a piece of WGSL.
    Word(&'static str),
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Self::Number(value)
    }
}

impl From<&'static str> for Constant {
    fn from(value: &'static str) -> Self {
        Self::Word(value)
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Self::Word(if value { "true" } else { "false" })
    }
}

impl std::fmt::Display for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Constant::Number(number) => write!(f, "{number}"),
            Constant::Word(word) => f.write_str(word),
        }
    }
}

impl Context {
    /// For `gpu`, with nothing on it.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            recorder: Recorder::new(gpu),
            arena: Arena::new(gpu),
            slabs: Slabs::new(gpu),
            kernels: Mutex::default(),
            linears: crate::linear::Kernels::default(),
            guard: crate::guard::Guard::default(),
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.recorder.gpu()
    }

    /// The kernel of source `name` with `constants`, composed and compiled once. It is called by its source's name and its
    /// words in profiles.
    ///
    /// # Errors
    /// [`Error::Kernel`] if it cannot be composed or compiled.
    pub fn kernel(
        &self,
        name: &'static str,
        constants: &[(&'static str, Constant)],
    ) -> Result<Pipeline, Error> {
        let key = (name, constants.to_vec());
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(&key) {
            return Ok(kernel.clone());
        }
        let values: Vec<String> = constants.iter().map(|(_, v)| v.to_string()).collect();
        let named: Vec<(&str, &str)> = constants
            .iter()
            .zip(&values)
            .map(|((name, _), value)| (*name, value.as_str()))
            .collect();
        let composed = treillage_shaders::compose(name, &named);
        let source = composed.map_err(|error| Error::Kernel {
            kernel: name.to_owned(),
            reason: error.to_string(),
        })?;
        let kernel = self.gpu().pipeline(name, &source, &[])?;
        kernels.insert(key, kernel.clone());
        Ok(kernel)
    }

    /// How kernels add up over a workgroup on this device: the constant `REDUCE` of many.
    pub fn reduce(&self) -> Constant {
        Constant::Word(match self.gpu().has_subgroups() {
            true => "subgroup",
            false => "workgroup",
        })
    }

    /// Appends kernel `name` with `constants`, as [`Recorder::dispatch`] does.
    ///
    /// # Errors
    /// As [`Context::kernel`].
    pub fn run<P: NoUninit>(
        &self,
        name: &'static str,
        constants: &[(&'static str, Constant)],
        slices: &[&Slice],
        parameters: &P,
        grid: [u32; 3],
    ) -> Result<(), Error> {
        let work = Work::moving(slices.iter().copied());
        self.run_for(work, name, constants, slices, parameters, grid)
    }

    /// As [`Context::run`], for a kernel that computes, or touches a part of what it binds: `work` says how much.
    ///
    /// # Errors
    /// As [`Context::kernel`].
    pub fn run_for<P: NoUninit>(
        &self,
        work: Work,
        name: &'static str,
        constants: &[(&'static str, Constant)],
        slices: &[&Slice],
        parameters: &P,
        grid: [u32; 3],
    ) -> Result<(), Error> {
        self.recorder.record(&Dispatch {
            pipeline: &self.kernel(name, constants)?,
            slices,
            immediates: bytemuck::bytes_of(parameters),
            grid,
            work,
        });
        Ok(())
    }

    /// Room for `rows` rows of `width` values.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn tensor(&self, rows: usize, width: usize) -> Result<Tensor, Error> {
        Tensor::new(&self.arena, rows, width)
    }

    /// Room for `rows` rows of each of `widths` values, next to each other where kernels can bind that much at once.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn tensors(&self, rows: usize, widths: &[usize]) -> Result<Vec<Tensor>, Error> {
        let step = (ALIGNMENT / 4) as usize;
        let sizes = widths
            .iter()
            .map(|width| (rows * width).next_multiple_of(step));
        let total: usize = sizes.clone().sum();
        if widths.len() < 2 || 4 * total as u64 > self.gpu().max_binding() {
            return widths
                .iter()
                .map(|&width| self.tensor(rows, width))
                .collect();
        }
        let all = self.tensor(1, total)?;
        let mut start = 0;
        let parts = sizes.zip(widths).map(|(size, &width)| {
            let part = all.part(start, rows, width);
            start += size;
            part
        });
        Ok(parts.collect())
    }

    /// Room for `values` on the device, and them in it, in turn.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn bring<T: NoUninit>(&self, values: &[T]) -> Result<Tensor, Error> {
        let tensor = self.tensor(1, values.len())?;
        self.recorder
            .write(&tensor.slice(), bytemuck::cast_slice(values));
        Ok(tensor)
    }

    /// Waits for all recorded work and gives the values of `x`, row-major.
    ///
    /// # Errors
    /// What the device reports.
    pub fn read(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        let bytes = self.recorder.read(&x.slice())?;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        values.truncate(x.rows() * x.width());
        Ok(values)
    }
}

/// `count` workgroups as a grid of two dimensions: x·y of them, at least `count`, for kernels that number them so.
///
/// # Panics
/// If there are too many for any grid.
pub(crate) fn flat_grid(count: u64) -> [u32; 3] {
    const MOST: u64 = 65_535;
    let y = count.div_ceil(MOST).max(1);
    assert!(y <= MOST, "{count} workgroups");
    [count.div_ceil(y) as u32, y as u32, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_their_workgroups() {
        assert_eq!(flat_grid(0), [0, 1, 1]);
        for count in [1, 65_535, 65_536, 1 << 20, 4_000_000_000] {
            let [x, y, z] = flat_grid(count).map(u64::from);
            assert!(x <= 65_535 && y <= 65_535 && z == 1);
            assert!(x * y >= count && x * (y - 1) < count);
        }
    }
}
