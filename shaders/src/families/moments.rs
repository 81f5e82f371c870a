//! What calibration gathers of the inputs of linears.

use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[source!("moments/gram"), source!("moments/weigh")],
    kernels: &[
        Kernel {
            name: "moments/gram",
            hot: false,
            specializations: gram,
        },
        Kernel {
            name: "moments/weigh",
            hot: false,
            specializations: weigh,
        },
    ],
};

fn gram() -> Vec<Specialization> {
    ["true", "false"]
        .map(|grouped| Specialization::new([("GROUPED", grouped)]))
        .to_vec()
}

fn weigh() -> Vec<Specialization> {
    [("true", "true"), ("true", "false"), ("false", "false")]
        .map(|(routed, squared)| {
            Specialization::new([("WG", 256)])
                .with("ROUTED", routed)
                .with("SQUARED", squared)
        })
        .to_vec()
}
