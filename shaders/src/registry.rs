//! What there is: sources, kernels, and the constants kernels are tested with.

use crate::{ComposeError, compose, families::FAMILIES};

/// One WGSL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path under `wgsl/`, without the ending.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// A source with an entry point.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Name of its source.
    pub name: &'static str,
    /// Whether its time shows in a token's: then its translation may carry no run-time checks, and that of its first
    /// specialization is kept as a golden file.
    pub hot: bool,
    /// The constants it is used with, those that matter most first.
    pub specializations: fn() -> Vec<Specialization>,
}

/// Constants of one kernel, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Specialization(pub Vec<(&'static str, String)>);

impl Specialization {
    /// Constants and their values.
    pub fn new<V: ToString>(constants: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        let owned = |(name, value): (&'static str, V)| (name, value.to_string());
        Self(constants.into_iter().map(owned).collect())
    }

    /// These constants and one more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// The constants as [`compose`] takes them.
    pub fn constants(&self) -> Vec<(&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect()
    }

    /// The module of source `name` with these constants.
    ///
    /// # Errors
    /// Those of [`compose`].
    pub fn compose(&self, name: &str) -> Result<String, ComposeError> {
        compose(name, &self.constants())
    }
}

/// Sources and kernels that belong together; each of `families/` has one.
pub(crate) struct Family {
    pub(crate) sources: &'static [Source],
    pub(crate) kernels: &'static [Kernel],
}

/// Every file under `wgsl/`.
pub fn sources() -> impl Iterator<Item = &'static Source> {
    FAMILIES.iter().flat_map(|family| family.sources)
}

/// Every kernel.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    FAMILIES.iter().flat_map(|family| family.kernels)
}

/// The kernel of that name.
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    kernels().find(|kernel| kernel.name == name)
}

/// The file `wgsl/<name>.wgsl` as a [`Source`].
macro_rules! source {
    ($name:literal) => {
        crate::Source {
            name: $name,
            text: include_str!(concat!("../../wgsl/", $name, ".wgsl")),
        }
    };
}
pub(crate) use source;
