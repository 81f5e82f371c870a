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

/// Scores of a softmax and of all that sigmoids may have with them.
const SCORES: [(bool, bool, u32); 3] = [(false, false, 1), (true, true, 2), (false, true, 1)];

fn scored(
    specialization: Specialization,
    (sigmoid, corrected, groups): (bool, bool, u32),
) -> Specialization {
    specialization
        .with("SIGMOID", sigmoid)
        .with("CORRECTED", corrected)
        .with("GROUPS", groups)
}

fn router() -> Vec<Specialization> {
    let with = |format, reduce, gated, scores, shared| {
        let sizes = Specialization::new([("WG", 128), ("PER_GROUP", 2), ("MAX_EXPERTS", 512)])
            .with("FORMAT", format)
            .with("REDUCE", reduce)
            .with("GATED", gated)
            .with("SHARED", shared);
        scored(sizes, scores)
    };
    let mut all = Vec::new();
    for format in DENSE {
        for (reduce, gated) in REDUCE.into_iter().zip([false, true]) {
            all.push(with(format, reduce, gated, SCORES[0], false));
        }
    }
    all.push(with(DENSE[0], REDUCE[0], true, SCORES[0], true));
    all.push(with(DENSE[2], REDUCE[1], false, SCORES[1], false));
    all.push(with(DENSE[2], REDUCE[0], false, SCORES[1], true));
    all
}

fn route() -> Vec<Specialization> {
    let mut all = Vec::new();
    for scores in SCORES {
        for reduce in REDUCE {
            let sizes = Specialization::new([("WG", 128), ("MAX_EXPERTS", 512)]);
            all.push(scored(sizes.with("REDUCE", reduce), scores));
        }
    }
    all
}
