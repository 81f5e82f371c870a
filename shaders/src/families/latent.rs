//! Latents: queries to their side, the cache, attention, values.

use super::common::REDUCE;
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("latent_append"),
        source!("latent_attend"),
        source!("latent_project"),
        source!("latent_queries"),
        source!("latent_values"),
        source!("common/head_product"),
        source!("common/latent_token"),
    ],
    kernels: &[
        Kernel {
            name: "latent_queries",
            hot: true,
            specializations: token,
        },
        Kernel {
            name: "latent_append",
            hot: true,
            specializations: token,
        },
        Kernel {
            name: "latent_project",
            hot: true,
            specializations: || vec![Specialization::default()],
        },
        Kernel {
            name: "latent_attend",
            hot: true,
            specializations: attend,
        },
        Kernel {
            name: "latent_values",
            hot: true,
            specializations: values,
        },
    ],
};

fn token() -> Vec<Specialization> {
    let shapes = [(512, 576, "interleaved"), (64, 88, "half_split")];
    let with = |((rank, width, pairing), reduce)| {
        Specialization::new([("RANK", rank), ("WIDTH", width), ("WG", 128)])
            .with("PAIRING", pairing)
            .with("REDUCE", reduce)
    };
    shapes.into_iter().zip(REDUCE).map(with).collect()
}

fn attend() -> Vec<Specialization> {
    let with = |(rank, width, heads, size)| {
        Specialization::new([("RANK", rank), ("WIDTH", width)])
            .with("HEADS", heads)
            .with("WG", size)
    };
    [
        (512, 576, 4, 128),
        (64, 88, 10, 64),
        (192, 200, 2, 256),
        (128, 256, 2, 256),
    ]
    .map(with)
    .to_vec()
}

fn values() -> Vec<Specialization> {
    [512, 64]
        .map(|rank| Specialization::new([("RANK", rank), ("WG", 128)]))
        .to_vec()
}
