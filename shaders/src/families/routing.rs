//! Routed experts: logits, choices, rows sorted by expert.

use super::{
    common::{DENSE, REDUCE},
    elementwise::sizes,
};
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[source!("router"), source!("route"), source!("group_rows")],
    kernels: &[
        Kernel {
            name: "router",
            hot: true,
            specializations: router,
        },
        Kernel {
            name: "route",
            hot: true,
            specializations: route,
        },
        Kernel {
            name: "group_rows",
            hot: false,
            specializations: sizes,
        },
    ],
};

fn router() -> Vec<Specialization> {
    let mut all = Vec::new();
    for format in DENSE {
        for reduce in REDUCE {
            all.push(
                Specialization::new([("WG", 128), ("PER_GROUP", 2), ("MAX_EXPERTS", 512)])
                    .with("FORMAT", format)
                    .with("REDUCE", reduce),
            );
        }
    }
    all
}

fn route() -> Vec<Specialization> {
    let with =
        |reduce| Specialization::new([("WG", 128), ("MAX_EXPERTS", 512)]).with("REDUCE", reduce);
    REDUCE.map(with).to_vec()
}
