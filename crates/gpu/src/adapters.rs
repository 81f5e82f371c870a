//! What computes there is on this machine, and which of it to use.

use wgpu::{AdapterInfo, DeviceType, Features, Limits};

use crate::Error;

/// All adapters of this machine, discrete ones first, software ones last.
#[derive(Clone, Debug)]
pub struct Adapters {
    adapters: Vec<Adapter>,
}

/// One adapter: a GPU as seen through one driver.
#[derive(Clone, Debug)]
pub struct Adapter {
    inner: wgpu::Adapter,
    info: AdapterInfo,
}

/// What an adapter is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A share of a GPU, in a virtual machine.
    Virtual,
    /// The driver does not say.
    Other,
    /// A driver that computes on the CPU: for tests, not for use.
    Software,
}

impl AdapterKind {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

impl Adapters {
    /// Asks all drivers. `Adapters::find().first()` is the best one.
    pub fn find() -> Self {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        // The default would validate each indirect dispatch with one of its own, in release too.
        descriptor.flags = match cfg!(debug_assertions) {
            true => wgpu::InstanceFlags::VALIDATION,
            false => wgpu::InstanceFlags::empty(),
        };
        let instance = wgpu::Instance::new(descriptor);
        let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        let mut adapters: Vec<Adapter> = found
            .into_iter()
            .map(|inner| Adapter {
                info: inner.get_info(),
                inner,
            })
            .collect();
        // Stable: drivers list in an order of their own, which stays among equals.
        adapters.sort_by_key(Adapter::kind);
        Self { adapters }
    }

    /// In the order that they are numbered in.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Adapter> {
        self.adapters.iter()
    }

    /// The first that is a GPU, and not a driver that computes on the CPU.
    pub fn hardware(&self) -> Option<&Adapter> {
        self.iter().find(|a| a.kind() != AdapterKind::Software)
    }

    /// The best one, be it software.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub fn first(&self) -> Result<&Adapter, Error> {
        self.adapters.first().ok_or(Error::NoAdapter)
    }

    /// Number `index`.
    ///
    /// # Errors
    /// [`Error::NoSuchAdapter`], [`Error::NoAdapter`] where there is none at all.
    pub fn get(&self, index: usize) -> Result<&Adapter, Error> {
        self.first()?;
        let count = self.adapters.len();
        self.adapters
            .get(index)
            .ok_or(Error::NoSuchAdapter { index, count })
    }
}

impl Adapter {
    /// The name that its driver gives it.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What it is made of.
    pub fn kind(&self) -> AdapterKind {
        match self.info.device_type {
            DeviceType::DiscreteGpu => AdapterKind::Discrete,
            DeviceType::IntegratedGpu => AdapterKind::Integrated,
            DeviceType::VirtualGpu => AdapterKind::Virtual,
            DeviceType::Cpu => AdapterKind::Software,
            DeviceType::Other => AdapterKind::Other,
        }
    }

    /// `vulkan`, `metal` or `dx12`.
    pub fn api(&self) -> &'static str {
        self.info.backend.to_str()
    }

    /// The driver and its version, as far as it tells.
    pub fn driver(&self) -> String {
        let parts = [&self.info.driver, &self.info.driver_info];
        let parts: Vec<&str> = parts
            .iter()
            .map(|p| p.trim())
            .filter(|p| !p.is_empty())
            .collect();
        parts.join(" ")
    }

    /// Fewest and most invocations that run in lockstep.
    pub fn subgroup_sizes(&self) -> (u32, u32) {
        (self.info.subgroup_min_size, self.info.subgroup_max_size)
    }

    /// What it can do.
    pub fn features(&self) -> Features {
        self.inner.features()
    }

    /// How much of it.
    pub fn limits(&self) -> Limits {
        self.inner.limits()
    }

    /// Sizes of the matrices that its subgroups multiply together; none without that unit.
    pub fn cooperative_matrices(&self) -> Vec<wgpu::CooperativeMatrixProperties> {
        match self
            .features()
            .contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        {
            true => self.inner.cooperative_matrix_properties(),
            false => Vec::new(),
        }
    }

    pub(crate) fn info(&self) -> &AdapterInfo {
        &self.info
    }

    pub(crate) fn inner(&self) -> &wgpu::Adapter {
        &self.inner
    }
}
